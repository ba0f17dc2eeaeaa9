//! The short commands.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use calico_lab::record::{Record, Standing};
use calico_lab::topology::{StoreKind, Topology};
use calico_lab::{Lab, LabError, builtin, cleanup, lab, netns, probe};

pub(crate) async fn up(topology: &str, store: Option<StoreKind>) -> Result<(), LabError> {
    let (mut topology, text) = builtin::find(topology)?;
    topology.store = store.unwrap_or(topology.store);
    let name = topology.name.clone();
    let lab = Lab::up(topology, &text).await?;
    for pod in lab.pods() {
        let addresses = pod.attachment.addresses.iter().map(ToString::to_string);
        let addresses: Vec<String> = addresses.collect();
        println!("{} on {}: {}", pod.pod.id(), pod.pod.node, addresses.join(" "));
    }
    lab.keep()?;
    println!("lab {name} is up; `calico-lab down {name}` removes it");
    Ok(())
}

pub(crate) fn down(lab: Option<String>) -> Result<ExitCode, LabError> {
    let lab = the_lab(lab)?;
    let removed = cleanup::remove(&lab)?;
    println!(
        "removed lab {lab}: {} processes, {} namespaces",
        removed.processes, removed.namespaces
    );
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn exec(
    lab: Option<String>,
    member: &str,
    command: &[String],
) -> Result<ExitCode, LabError> {
    let lab = the_lab(lab)?;
    let record = Record::open(&lab)?;
    let topology = Topology::parse(&lab, record.topology())?;
    let namespace = match topology.pod(member) {
        Some(pod) => netns::name_of(&lab, &lab::member_of(pod)),
        None => netns::name_of(&lab, member),
    };
    if !netns::path(&namespace).exists() {
        let members: Vec<String> = netns::list()
            .iter()
            .filter(|name| netns::lab_of(name) == Some(&lab))
            .filter_map(|name| {
                Some(name.strip_prefix(&netns::name_of(&lab, ""))?.replace('.', "/"))
            })
            .collect();
        return Err(LabError::Request(format!(
            "lab {lab} has no member {member}; members: {}",
            members.join(", ")
        )));
    }
    let mut ip = Command::new("ip");
    let failure = ip.args(["netns", "exec", &namespace]).args(command).exec();
    Err(LabError::Machine(format!("cannot run `ip netns exec`: {failure}")))
}

pub(crate) fn list() -> Result<ExitCode, LabError> {
    for lab in cleanup::existing() {
        let standing = match Record::open(&lab).map(|record| record.standing()) {
            Ok(Standing::Owned) => "being built or used",
            Ok(Standing::Kept) => "up",
            _ => "left over (`calico-lab clean` removes it)",
        };
        println!("{lab}: {standing}");
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn clean() -> Result<ExitCode, LabError> {
    let mut failure = None;
    for lab in cleanup::abandoned() {
        match cleanup::remove(&lab) {
            Ok(removed) => println!(
                "removed lab {lab}: {} processes, {} namespaces",
                removed.processes, removed.namespaces
            ),
            Err(error) => failure = Some(error),
        }
    }
    failure.map_or(Ok(ExitCode::SUCCESS), Err)
}

pub(crate) fn check(topology: &str) -> Result<ExitCode, LabError> {
    let (topology, _) = builtin::find(topology)?;
    println!(
        "{}: sound; {} nodes, {} pods, {} reflectors, {} routers",
        topology.name,
        topology.nodes.len(),
        topology.pods.len(),
        topology.reflectors.len(),
        topology.routers.len()
    );
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn serve(name: &str, tcp: &[u16], udp: &[u16]) -> Result<ExitCode, LabError> {
    probe::serve(name, tcp, udp)
        .map_err(|error| LabError::Machine(format!("cannot listen: {error}")))?;
    Ok(ExitCode::SUCCESS)
}

/// The lab of this name, or the only one.
fn the_lab(name: Option<String>) -> Result<String, LabError> {
    let existing = cleanup::existing();
    match (name, existing.as_slice()) {
        (Some(name), _) if existing.contains(&name) => Ok(name),
        (Some(name), _) => Err(LabError::Request(format!(
            "there is no lab {name}; labs: {}",
            if existing.is_empty() { "none".to_owned() } else { existing.join(", ") }
        ))),
        (None, [only]) => Ok(only.clone()),
        (None, []) => Err(LabError::Request("there is no lab".to_owned())),
        (None, several) => Err(LabError::Request(format!("say which lab: {}", several.join(", ")))),
    }
}
