//! External routers: a namespace that forwards, and BIRD 2 with a configuration made from the
//! topology or given, or [FRR](crate::frr).

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use ipnet::IpNet;

use crate::error::LabError;
use crate::process::Program;
use crate::record::Record;
use crate::topology::{Router, RouterKind, StaticRoute, Topology, address_of, router_id};
use crate::{fabric, frr, ip, netns, programs};

/// Debian's package of BIRD 2.
const PACKAGE: &str = "bird2";

/// Makes the router's namespace, and starts BIRD in it, or zebra of FRR.
pub(crate) fn start(
    record: &Record,
    topology: &Topology,
    router: &Router,
) -> Result<Program, LabError> {
    let namespace = fabric::attach(&topology.name, &router.name, router.interfaces())?;
    fabric::forward(&namespace)?;
    let loopbacks = router.loopbacks.iter().map(|address| format!("addr add {address} dev lo"));
    let routes = router.routes.iter().map(StaticRoute::command);
    ip::batch(Some(&namespace), &loopbacks.chain(routes).collect::<Vec<_>>())?;
    match router.kind {
        RouterKind::Bird => start_bird(record, topology, router),
        RouterKind::Frr => frr::start(record, topology, router),
    }
}

fn start_bird(record: &Record, topology: &Topology, router: &Router) -> Result<Program, LabError> {
    let bird = programs::system("bird", PACKAGE)?;
    let namespace = netns::name_of(&topology.name, &router.name);
    let directory = record.member(&router.name)?;
    let path = directory.join("bird.conf");
    let text = match &router.config {
        Some(given) => fs::read_to_string(given).map_err(LabError::file("read", given))?,
        None => configuration(topology, router),
    };
    fs::write(&path, text).map_err(LabError::file("write", &path))?;
    let control = control_socket(&directory);
    Program::start(
        format!("bird on {}", router.name),
        &namespace,
        &bird,
        &["-f", "-c", &path.to_string_lossy(), "-s", &control.to_string_lossy()],
        directory.join("bird.log"),
    )
}

/// What `birdc` answers to a command, such as `show route`.
pub(crate) async fn ask(directory: &Path, command: &str) -> Result<String, LabError> {
    let birdc = programs::system("birdc", PACKAGE)?;
    let output = tokio::process::Command::new(birdc)
        .arg("-s")
        .arg(control_socket(directory))
        .arg("-r")
        .args(command.split(' '))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|error| LabError::Machine(format!("cannot run birdc: {error}")))?;
    ip::check(&output, || format!("birdc {command}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn control_socket(directory: &Path) -> PathBuf {
    directory.join("bird.ctl")
}

/// One session per node and family: announce what the topology says, take what the nodes send
/// and give it to the kernel.
fn configuration(topology: &Topology, router: &Router) -> String {
    let mut text = String::from("log stderr all;\n");
    let _ = writeln!(text, "router id {};", router_id(&router.addresses));
    text.push_str("protocol device { scan time 2; }\n");
    for (v6, channel) in [(false, "ipv4"), (true, "ipv6")] {
        if address_of(&router.addresses, v6).is_none() {
            continue;
        }
        let _ = writeln!(text, "\nprotocol static announced_{channel} {{\n  {channel};");
        let announced = router.announces.iter().filter(|it| matches!(it, IpNet::V6(_)) == v6);
        for prefix in announced {
            let _ = writeln!(text, "  route {prefix} unreachable;");
        }
        text.push_str("}\n");
        let _ = writeln!(
            text,
            "protocol kernel kernel_{channel} {{\n  {channel} {{ import none; export where source = RTS_BGP; }};\n}}"
        );
        for node in topology.nodes_of(router) {
            let Some((own, peer)) = topology.session(router, node, v6) else { continue };
            let _ = writeln!(
                text,
                "protocol bgp {name}_{channel} {{\n  \
                   local {own} as {local_as};\n  \
                   neighbor {peer} as {remote_as};\n  \
                   connect delay time 1;\n  connect retry time 1;\n  error wait time 1, 5;\n  \
                   {channel} {{ import all; export where proto = \"announced_{channel}\"; next hop self; }};\n}}",
                name = node.name.replace('-', "_"),
                local_as = router.as_number,
                remote_as = topology.as_of(node),
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topology() -> Topology {
        Topology::parse("bird.yaml", include_str!("../topologies/bird.yaml")).unwrap()
    }

    #[test]
    fn every_node_has_a_session_per_family() {
        let topology = topology();
        let text = configuration(&topology, &topology.routers[0]);
        for session in ["node1_ipv4", "node1_ipv6", "node2_ipv4", "node2_ipv6"] {
            assert_eq!(text.matches(&format!("protocol bgp {session} {{")).count(), 1, "{text}");
        }
        assert!(text.contains("local fd30::1 as 65000;\n  neighbor fd30::12 as 64512;"), "{text}");
        assert!(text.contains("  ipv6;\n  route ::/0 unreachable;\n}"), "{text}");
    }

    #[test]
    fn the_cluster_may_have_another_as() {
        let mut topology = topology();
        topology.resources.push(serde_json::json!({
            "kind": "BGPConfiguration", "metadata": { "name": "default" }, "spec": { "asNumber": 65001 },
        }));
        let text = configuration(&topology, &topology.routers[0]);
        assert!(text.contains("neighbor 172.30.0.11 as 65001;"), "{text}");
    }
}
