//! Two route reflectors, of which one dies while traffic flows: no packet is lost, no route goes,
//! and what is new afterwards is told by the other.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::time::{Duration, Instant};

use calico_lab::Lab;
use calico_lab::wait::{Pending, until};
use common::continuity::{Monitor, Pings};
use common::traffic::{assert_reaches, assert_routes, assert_via, block, sessions};
use common::{assert_gone, lab_name, topology, turn};

/// Generous, for machines with other things to do.
const PATIENCE: Duration = Duration::from_secs(30);
/// Three seconds of pings.
const PINGS: u32 = 300;

#[tokio::test]
async fn one_of_two_reflectors_dies_under_traffic() {
    let Some(_turn) = turn() else { return };
    let name = lab_name("rr2");
    let (mut topology, text) = topology("rr2.yaml", &name);
    // The only pod of node3 comes later: then its block is news.
    let other = topology.pods.pop().unwrap();
    assert_eq!((other.name.as_str(), other.node.as_str()), ("other", "node3"));
    let mut lab = Lab::up(topology, &text).await.unwrap();
    let reflectors = ["172.30.0.2", "172.30.0.3", "fd30::2", "fd30::3"];
    for node in ["node1", "node2", "node3"] {
        let expected = reflectors.map(|it| (it.to_owned(), "GlobalPeer".to_owned()));
        assert_eq!(sessions(&lab, node).await, expected, "{node}");
    }

    let web = lab.pod("web").unwrap().clone();
    let targets = [false, true].map(|v6| web.address(v6).unwrap().to_string());
    let pings: Vec<Pings> =
        targets.iter().map(|to| Pings::start(&lab, "client", to, PINGS)).collect();
    let monitors = ["node1", "node2"].map(|node| Monitor::start(&lab, node));
    lab.kill("rr1").unwrap();
    let died = Instant::now();
    without(&lab, &["172.30.0.2", "fd30::2"]).await;
    println!("all nodes know of the death after {:.1} s", died.elapsed().as_secs_f64());

    // The other reflector tells what is new.
    lab.add_pod(other).await.unwrap();
    let added = Instant::now();
    lab.wait_for_routes().await.unwrap();
    println!("all nodes route to a new block after {:.1} s", added.elapsed().as_secs_f64());
    assert_via(&lab, "node1", block(&lab, "other", false), &["172.30.0.13"]);
    assert_via(&lab, "node1", block(&lab, "other", true), &["fd30::13"]);
    assert_reaches(&lab, "client", "other").await;

    for pings in pings {
        assert_eq!(pings.received(), PINGS, "packets were lost");
    }
    for monitor in monitors {
        let gone = monitor.stop();
        assert!(gone.is_empty(), "routes went: {gone:?}");
    }
    assert_routes(&lab, false);
    assert_routes(&lab, true);
    assert_reaches(&lab, "client", "web").await;
    lab.remove().unwrap();
    assert_gone(&name);
}

/// Waits until no node has a session with these, and all have the others.
async fn without(lab: &Lab, dead: &[&str]) {
    until("sessions with one reflector only", PATIENCE, async || {
        for node in ["node1", "node2", "node3"] {
            let bgp = lab.status(node).await.map_err(Pending::NotYet)?.bgp.unwrap_or_default();
            for peer in &bgp.peers {
                let up = peer.is_established();
                if up == dead.contains(&peer.address.to_string().as_str()) {
                    let what = format!("{node}: {} is {}", peer.address, peer.state);
                    return Err(Pending::NotYet(what));
                }
            }
        }
        Ok(())
    })
    .await
    .unwrap();
}
