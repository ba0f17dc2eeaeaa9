//! The topologies that come with the program.

use std::path::Path;

use crate::error::LabError;
use crate::topology::{Topology, TopologyError};

/// Name, contents.
const ALL: &[(&str, &str)] = &[
    ("mesh", include_str!("../topologies/mesh.yaml")),
    ("rr", include_str!("../topologies/rr.yaml")),
    ("rr2", include_str!("../topologies/rr2.yaml")),
    ("bird", include_str!("../topologies/bird.yaml")),
    ("racks", include_str!("../topologies/racks.yaml")),
    ("nodes_as", include_str!("../topologies/nodes_as.yaml")),
    ("bigip", include_str!("../topologies/bigip.yaml")),
    ("leaves", include_str!("../topologies/leaves.yaml")),
    ("ipip", include_str!("../topologies/ipip.yaml")),
    ("vxlan", include_str!("../topologies/vxlan.yaml")),
    ("downward", include_str!("../topologies/downward.yaml")),
];

/// A topology by its file, or by the name of one that comes with the program, and its text.
///
/// # Errors
///
/// [`LabError::Topology`].
pub fn find(name: &str) -> Result<(Topology, String), LabError> {
    if let Some((name, text)) = ALL.iter().find(|(known, _)| *known == name) {
        return Ok((Topology::parse(name, text)?, (*text).to_owned()));
    }
    let path = Path::new(name);
    let text = std::fs::read_to_string(path)
        .map_err(|source| TopologyError::Read { path: path.to_owned(), source })?;
    Ok((Topology::read(path)?, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_topology_that_comes_with_the_program_is_sound() {
        for (name, _) in ALL {
            let (topology, _) = find(name).unwrap();
            assert_eq!(topology.name, *name);
        }
    }
}
