//! Stand-alone route reflectors: calico-rr in a namespace of its own.

use std::fs;

use crate::error::LabError;
use crate::process::Program;
use crate::record::Record;
use crate::topology::{Reflector, Topology};
use crate::{fabric, netns, programs};

/// Makes the reflector's namespace and starts calico-rr in it, with every node as a client.
pub(crate) fn start(
    record: &Record,
    topology: &Topology,
    reflector: &Reflector,
) -> Result<Program, LabError> {
    fabric::attach(&topology.name, &reflector.name, &reflector.addresses)?;
    let directory = record.member(&reflector.name)?;
    let path = directory.join("rr.toml");
    fs::write(&path, configuration(topology, reflector)).map_err(LabError::file("write", &path))?;
    Program::start(
        format!("calico-rr on {}", reflector.name),
        &netns::name_of(&topology.name, &reflector.name),
        &programs::own("calico-rr")?,
        &["--config", &path.to_string_lossy()],
        directory.join("rr.log"),
    )
}

fn configuration(_topology: &Topology, _reflector: &Reflector) -> String {
    String::new()
}
