//! Three nodes that know of each other by a stand-alone route reflector alone.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::path::Path;

use calico_lab::Lab;
use common::traffic::{assert_reaches, assert_routes, sessions};
use common::{assert_gone, lab_name, topology, turn};

#[tokio::test]
async fn three_nodes_below_a_route_reflector() {
    let Some(_turn) = turn() else { return };
    let name = lab_name("rr");
    let (topology, text) = topology("rr.yaml", &name);
    let lab = Lab::up(topology, &text).await.unwrap();

    for node in &lab.topology().nodes {
        let reflector = [("172.30.0.2", "GlobalPeer"), ("fd30::2", "GlobalPeer")];
        let expected: Vec<(String, String)> =
            reflector.map(|(address, kind)| (address.to_owned(), kind.to_owned())).into();
        assert_eq!(sessions(&lab, &node.name).await, expected, "{}", node.name);
    }
    // Reflection keeps the next hop: traffic goes from node to node, not by the reflector.
    assert_routes(&lab, false);
    assert_routes(&lab, true);
    assert_reaches(&lab, "client", "web").await;
    assert_reaches(&lab, "web", "other").await;

    // calicoctl is told the same of a route at both ends, by the agent and by the reflector.
    let reflector = lab.run_dir(&lab.topology().reflectors[0].name);
    let agent = lab.run_dir(&lab.topology().nodes[0].name);
    let peers = ask(&lab, &reflector, &["peers"]).await;
    assert_eq!(peers.matches("Established").count(), 6, "{peers}");
    let peers = ask(&lab, &agent, &["peers"]).await;
    assert!(peers.contains("172.30.0.2") && peers.contains("global"), "{peers}");
    let received = ask(&lab, &agent, &["neighbor", "172.30.0.2", "received"]).await;
    let block = received.lines().nth(1).and_then(|line| line.split(' ').next()).unwrap();
    for program in [&reflector, &agent] {
        let text = ask(&lab, program, &["explain", block]).await;
        assert!(text.starts_with(block) && text.contains("Not told to:"), "{text}");
    }

    lab.remove().unwrap();
    assert_gone(&name);
}

/// What `calicoctl bgp` prints of the program with this run directory.
async fn ask(lab: &Lab, run_dir: &Path, what: &[&str]) -> String {
    let socket = run_dir.join("control.sock");
    let mut all = vec!["bgp"];
    all.extend(what);
    all.extend(["--control-socket", socket.to_str().unwrap()]);
    lab.calicoctl(&all).await.unwrap()
}
