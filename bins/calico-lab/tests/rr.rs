//! Three nodes that know of each other by a stand-alone route reflector alone.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

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

    lab.remove().unwrap();
    assert_gone(&name);
}
