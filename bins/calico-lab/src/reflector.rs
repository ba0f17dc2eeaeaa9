//! Stand-alone route reflectors: calico-rr in a namespace of its own.

use std::fmt::Write as _;
use std::fs;

use crate::error::LabError;
use crate::process::Program;
use crate::record::Record;
use crate::topology::{FABRIC_NETWORK, Reflector, Topology, address_of, router_id};
use crate::{fabric, programs};

/// Makes the reflector's namespace and starts calico-rr in it, with every node as a client.
pub(crate) fn start(
    record: &Record,
    topology: &Topology,
    reflector: &Reflector,
) -> Result<Program, LabError> {
    let interface = (FABRIC_NETWORK, &reflector.addresses[..]);
    let namespace = fabric::attach(&topology.name, &reflector.name, [interface])?;
    let directory = record.member(&reflector.name)?;
    let path = directory.join("rr.toml");
    let text = format!("run_dir = {directory:?}\n{}", configuration(topology, reflector));
    fs::write(&path, text).map_err(LabError::file("write", &path))?;
    Program::start(
        format!("calico-rr on {}", reflector.name),
        &namespace,
        &programs::own("calico-rr")?,
        &["--config", &path.to_string_lossy()],
        directory.join("rr.log"),
    )
}

/// One client per node and family. The reflector waits for the nodes to connect, which know of
/// it from a BGPPeer.
fn configuration(topology: &Topology, reflector: &Reflector) -> String {
    let mut text = format!(
        "as = {}\nrouter_id = \"{}\"\n",
        reflector.as_number,
        router_id(&reflector.addresses)
    );
    if let Some(cluster_id) = reflector.cluster_id {
        let _ = writeln!(text, "cluster_id = \"{cluster_id}\"");
    }
    for node in &topology.nodes {
        for v6 in [false, true] {
            let own = address_of(&reflector.addresses, v6);
            let Some(client) = address_of(&node.addresses, v6).filter(|_| own.is_some()) else {
                continue;
            };
            let _ = writeln!(
                text,
                "\n[[neighbor]] # {}\naddress = \"{client}\"\nas = {}\npassive = true",
                node.name,
                topology.as_of(node),
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_is_a_client_per_family() {
        let text = include_str!("../topologies/rr.yaml");
        let topology = Topology::parse("rr.yaml", text).unwrap();
        let text = configuration(&topology, &topology.reflectors[0]);
        assert!(
            text.starts_with(
                "as = 64512\nrouter_id = \"172.30.0.2\"\ncluster_id = \"224.0.0.2\"\n"
            )
        );
        assert_eq!(text.matches("[[neighbor]]").count(), 6, "{text}");
        assert!(text.contains("address = \"fd30::13\"\nas = 64512\n"), "{text}");
    }
}
