//! Centralised peering: every node has sessions with a pair of service leaves, several hops away.
//! They share the connections to a service address out to all nodes. A node dies, and a leaf.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use calico_lab::Lab;
use calico_lab::probe::{self, Outcome};
use calico_lab::wait::{Pending, until};
use common::traffic::{
    ANSWER, addresses, assert_pings, assert_reaches, assert_via, gateways, sessions,
    sessions_of_frr,
};
use common::{assert_gone, lab_name, topology, turn};
use ipnet::IpNet;

/// A session with a node that died is given up after 9 s.
const PATIENCE: Duration = Duration::from_secs(30);
/// Connections of one measurement. That one of three equal targets gets none of them happens once
/// in 10^9 times.
const CONNECTIONS: usize = 54;

const NODES: [(&str, [&str; 2]); 3] = [
    ("node1", ["172.30.0.11", "fd30::11"]),
    ("node2", ["172.30.0.12", "fd30::12"]),
    ("node3", ["172.30.0.13", "fd30::13"]),
];
const LEAVES: [&str; 2] = ["leaf1", "leaf2"];

#[tokio::test]
async fn service_leaves_spread_flows_over_nodes() {
    let Some(_turn) = turn() else { return };
    let name = lab_name("leaves");
    let (topology, text) = topology("leaves.yaml", &name);
    let mut lab = Lab::up(topology, &text).await.unwrap();

    let loopbacks = ["198.51.100.2", "198.51.100.3", "2001:db8::2", "2001:db8::3"];
    for (node, _) in NODES {
        let expected = loopbacks.map(|it| (it.to_owned(), "GlobalPeer".to_owned()));
        assert_eq!(sessions(&lab, node).await, expected, "{node}");
    }
    for leaf in LEAVES {
        let nodes = NODES.iter().flat_map(|(_, addresses)| *addresses);
        let mut nodes: Vec<&str> = nodes.collect();
        nodes.sort_unstable();
        assert_eq!(sessions_of_frr(&lab, leaf).await, nodes, "{leaf}");
    }
    a_default_route_to_both_leaves(&lab);
    the_service_is_reached_by_all_nodes(&lab, &NODES.map(|(node, _)| node));
    assert_reaches(&lab, "web1", "web3").await;
    for address in addresses(&lab, "web2") {
        assert_pings(&lab.namespace("user"), address).await;
    }
    let everybody = ["web1", "web2", "web3"];
    flows_are_spread_over(&lab, &everybody).await;

    a_node_dies(&mut lab).await;
    a_leaf_dies(&mut lab).await;
    lab.remove().unwrap();
    assert_gone(&name);
}

fn default_route(v6: bool) -> IpNet {
    if v6 { "::/0" } else { "0.0.0.0/0" }.parse().unwrap()
}

fn service_range(v6: bool) -> IpNet {
    if v6 { "fd00:96::/112" } else { "10.96.0.0/16" }.parse().unwrap()
}

/// By the leaves' addresses on the nodes' network: those of the sessions are on no link.
fn a_default_route_to_both_leaves(lab: &Lab) {
    for (node, _) in NODES {
        assert_via(lab, node, default_route(false), &["172.30.0.2", "172.30.0.3"]);
        assert_via(lab, node, default_route(true), &["fd30::2", "fd30::3"]);
    }
}

fn the_service_is_reached_by_all_nodes(lab: &Lab, nodes: &[&str]) {
    for leaf in LEAVES {
        let addresses = |v6: usize| {
            let alive = NODES.iter().filter(|(node, _)| nodes.contains(node));
            alive.map(|(_, addresses)| addresses[v6]).collect::<Vec<_>>()
        };
        assert_via(lab, leaf, service_range(false), &addresses(0));
        // FRR may prefer the nodes' link-local addresses.
        assert_eq!(gateways(lab, leaf, service_range(true)).len(), nodes.len(), "{leaf}");
    }
    for node in nodes {
        let routes = lab.routes(node, false).unwrap();
        let routed = routes.iter().any(|it| it.destination == service_range(false));
        assert!(!routed, "{node} routes the service to another node: {routes:?}");
    }
}

/// Connections from outside, and which pod answered how many of them.
async fn flows(lab: &Lab, to: SocketAddr) -> Result<BTreeMap<String, usize>, String> {
    let mut answers = BTreeMap::new();
    for _ in 0..CONNECTIONS {
        match probe::tcp(&lab.namespace("user"), to, ANSWER).await.unwrap() {
            Outcome::Answered { answer, .. } => *answers.entry(answer).or_default() += 1,
            other => return Err(other.to_string()),
        }
    }
    Ok(answers)
}

async fn flows_are_spread_over(lab: &Lab, pods: &[&str]) {
    for address in ["10.96.0.10", "fd00:96::10"] {
        let to = SocketAddr::new(address.parse().unwrap(), 80);
        let answers = flows(lab, to).await.unwrap();
        println!("{to}: {answers:?}");
        assert_eq!(answers.keys().collect::<Vec<_>>(), pods, "{to}: {answers:?}");
    }
}

/// Its plug is pulled, and nobody is told. New flows go to the others once it is missed.
async fn a_node_dies(lab: &mut Lab) {
    lab.power_off("node2").unwrap();
    let died = Instant::now();
    let lab = &*lab;
    until("leaves without the dead node", PATIENCE, async || {
        for leaf in LEAVES {
            for v6 in [false, true] {
                let found = gateways(lab, leaf, service_range(v6));
                if found.len() != 2 {
                    return Err(Pending::NotYet(format!("{leaf}: {found:?}")));
                }
            }
        }
        Ok(())
    })
    .await
    .unwrap();
    println!("no leaf sends to the dead node after {:.1} s", died.elapsed().as_secs_f64());
    the_service_is_reached_by_all_nodes(lab, &["node1", "node3"]);
    flows_are_spread_over(lab, &["web1", "web3"]).await;
}

/// Its BGP ends; the nodes send by the other one.
async fn a_leaf_dies(lab: &mut Lab) {
    lab.kill("leaf1").unwrap();
    let died = Instant::now();
    let lab = &*lab;
    until("nodes with one leaf", PATIENCE, async || {
        for node in ["node1", "node3"] {
            for (v6, leaf2) in [(false, "172.30.0.3"), (true, "fd30::3")] {
                let found = gateways(lab, node, default_route(v6));
                if found != [leaf2.parse::<std::net::IpAddr>().unwrap()] {
                    return Err(Pending::NotYet(format!("{node}: {found:?}")));
                }
            }
        }
        Ok(())
    })
    .await
    .unwrap();
    println!("no node sends to the dead leaf after {:.1} s", died.elapsed().as_secs_f64());
    assert_reaches(lab, "web1", "web3").await;
}
