//! Racks below top-of-rack routers (FRR) that a spine joins: an AS per rack, an AS per node, and
//! nothing but a default route downward. IPv4 and IPv6.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use calico_lab::Lab;
use common::traffic::{
    as_path_of_frr, assert_reaches, assert_via, block, gateways, sessions, sessions_of_frr,
};
use common::{assert_gone, host_links, lab_name, topology, turn};
use ipnet::IpNet;

#[tokio::test]
async fn an_as_per_rack() {
    let Some(_turn) = turn() else { return };
    let name = lab_name("racks");
    let lab = up("racks.yaml", &name).await;
    nodes_have_sessions_with_their_rack_alone(&lab).await;
    everyone_knows_every_block(&lab);
    for v6 in [false, true] {
        // Within the rack by reflection, to the others by the spine.
        assert_eq!(as_path_of_frr(&lab, "tor1", block(&lab, "near", v6)).await, "Local");
        assert_eq!(as_path_of_frr(&lab, "tor1", block(&lab, "web", v6)).await, "65000 65102");
        assert_eq!(as_path_of_frr(&lab, "spine", block(&lab, "client", v6)).await, "65101");
    }
    traffic_flows_and_nothing_stays(lab, &name).await;
}

#[tokio::test]
async fn an_as_per_node() {
    let Some(_turn) = turn() else { return };
    let name = lab_name("nodes_as");
    let lab = up("nodes_as.yaml", &name).await;
    nodes_have_sessions_with_their_rack_alone(&lab).await;
    everyone_knows_every_block(&lab);
    for v6 in [false, true] {
        assert_eq!(as_path_of_frr(&lab, "tor1", block(&lab, "near", v6)).await, "65102");
        let far = as_path_of_frr(&lab, "tor1", block(&lab, "web", v6)).await;
        assert_eq!(far, "65000 65002 65103");
        assert_eq!(as_path_of_frr(&lab, "spine", block(&lab, "client", v6)).await, "65001 65101");
    }
    traffic_flows_and_nothing_stays(lab, &name).await;
}

#[tokio::test]
async fn a_default_route_downward() {
    let Some(_turn) = turn() else { return };
    let name = lab_name("downward");
    let lab = up("downward.yaml", &name).await;
    nodes_have_sessions_with_their_rack_alone(&lab).await;
    for (v6, rack1, rack2) in
        [(false, "172.30.1.1", "172.30.2.1"), (true, "fd30:1::1", "fd30:2::1")]
    {
        let default: IpNet = if v6 { "::/0" } else { "0.0.0.0/0" }.parse().unwrap();
        for (node, tor) in [("node1", rack1), ("node2", rack1), ("node3", rack2)] {
            assert_via(&lab, node, default, &[tor]);
            // It knows no block but its own.
            let learned = lab.routes(node, v6).unwrap().into_iter().filter(|it| {
                it.protocol == "bird" && it.kind == "unicast" && it.destination != default
            });
            assert_eq!(learned.count(), 0, "{node}");
        }
        // A router knows its rack, the spine all of them.
        for (tor, pods, strangers) in
            [("tor1", &["client", "near"][..], &["web"][..]), ("tor2", &["web"], &["client"])]
        {
            assert_eq!(gateways(&lab, tor, default).len(), 1, "{tor}");
            for pod in pods {
                assert_eq!(gateways(&lab, tor, block(&lab, pod, v6)).len(), 1, "{tor} {pod}");
            }
            for pod in strangers {
                assert_eq!(gateways(&lab, tor, block(&lab, pod, v6)).len(), 0, "{tor} {pod}");
            }
        }
        for pod in ["client", "near", "web"] {
            let path = as_path_of_frr(&lab, "spine", block(&lab, pod, v6)).await;
            assert_eq!(path, "65001 64512", "{pod}");
        }
    }
    traffic_flows_and_nothing_stays(lab, &name).await;
}

async fn up(file: &str, name: &str) -> Lab {
    let (topology, text) = topology(file, name);
    Lab::up(topology, &text).await.unwrap()
}

async fn nodes_have_sessions_with_their_rack_alone(lab: &Lab) {
    for (node, tor) in [
        ("node1", ["172.30.1.1", "fd30:1::1"]),
        ("node2", ["172.30.1.1", "fd30:1::1"]),
        ("node3", ["172.30.2.1", "fd30:2::1"]),
    ] {
        let expected = tor.map(|address| (address.to_owned(), "NodePeer".to_owned()));
        assert_eq!(sessions(lab, node).await, expected, "{node}");
    }
    let of_tor1 = ["172.30.1.11", "172.30.1.12", "172.31.1.1"];
    let of_tor1_v6 = ["fd30:1::11", "fd30:1::12", "fd31:1::1"];
    assert_eq!(sessions_of_frr(lab, "tor1").await, [of_tor1, of_tor1_v6].concat());
    let of_spine = ["172.31.1.2", "172.31.2.2", "fd31:1::2", "fd31:2::2"];
    assert_eq!(sessions_of_frr(lab, "spine").await, of_spine);
}

/// In the kernels of nodes and routers: within a rack by the node itself, to the other rack by the
/// routers on the way.
fn everyone_knows_every_block(lab: &Lab) {
    for (member, pod, v4, v6) in [
        ("node1", "near", "172.30.1.12", "fd30:1::12"),
        ("node1", "web", "172.30.1.1", "fd30:1::1"),
        ("node2", "client", "172.30.1.11", "fd30:1::11"),
        ("node3", "client", "172.30.2.1", "fd30:2::1"),
    ] {
        assert_via(lab, member, block(lab, pod, false), &[v4]);
        assert_via(lab, member, block(lab, pod, true), &[v6]);
    }
    // Of IPv6, a router takes whichever of its neighbour's addresses FRR prefers.
    for (member, pod, v4) in [
        ("tor1", "client", "172.30.1.11"),
        ("tor1", "web", "172.31.1.1"),
        ("tor2", "web", "172.30.2.11"),
        ("tor2", "near", "172.31.2.1"),
        ("spine", "near", "172.31.1.2"),
        ("spine", "web", "172.31.2.2"),
    ] {
        assert_via(lab, member, block(lab, pod, false), &[v4]);
        assert_eq!(gateways(lab, member, block(lab, pod, true)).len(), 1, "{member} {pod}");
    }
}

async fn traffic_flows_and_nothing_stays(lab: Lab, name: &str) {
    assert_reaches(&lab, "client", "near").await;
    assert_reaches(&lab, "client", "web").await;
    assert_reaches(&lab, "web", "near").await;
    let links = host_links();
    // Three nodes, three routers, three pods and the fabric.
    assert_eq!(lab.remove().unwrap().namespaces, 10);
    assert_gone(name);
    assert_eq!(host_links(), links, "the machine's own interfaces");
}
