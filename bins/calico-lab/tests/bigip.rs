//! A load balancer in the way of BIG-IP: an external BGP peer with a password that learns the pods'
//! blocks.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use calico_lab::Lab;
use calico_lab::probe::{self, Outcome};
use calico_lab::wait::{Pending, until};
use common::traffic::{
    ANSWER, addresses, as_path_of_frr, assert_pings, assert_reaches, assert_routes, assert_via,
    block, gateways, sessions, sessions_of_frr,
};
use common::{assert_gone, lab_name, topology, turn};

/// The agent looks at its passwords every two seconds.
const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_load_balancer_with_a_password_learns_the_blocks_of_pods() {
    let Some(_turn) = turn() else { return };
    let name = lab_name("bigip");
    let (topology, text) = topology("bigip.yaml", &name);
    let lab = Lab::up(topology, &text).await.unwrap();

    let nodes = ["172.30.0.11", "172.30.0.12", "fd30::11", "fd30::12"];
    assert_eq!(sessions_of_frr(&lab, "f5").await, nodes);
    for node in ["node1", "node2"] {
        let sessions = sessions(&lab, node).await;
        for address in ["172.30.0.5", "fd30::5"] {
            let expected = (address.to_owned(), "GlobalPeer".to_owned());
            assert!(sessions.contains(&expected), "{node}: {sessions:?}");
        }
    }
    assert_routes(&lab, false);
    assert_routes(&lab, true);
    for (pod, node) in [("client", "172.30.0.11"), ("web", "172.30.0.12")] {
        assert_via(&lab, "f5", block(&lab, pod, false), &[node]);
        for v6 in [false, true] {
            let block = block(&lab, pod, v6);
            assert_eq!(gateways(&lab, "f5", block).len(), 1, "{pod}");
            assert_eq!(as_path_of_frr(&lab, "f5", block).await, "64512", "{pod}");
        }
    }
    assert_reaches(&lab, "client", "web").await;
    // Members of its pools are pods, and pods reach its virtual servers.
    for address in addresses(&lab, "web") {
        let to = (address, 80).into();
        let outcome = probe::tcp(&lab.namespace("f5"), to, ANSWER).await.unwrap();
        assert!(matches!(&outcome, Outcome::Answered { answer, .. } if answer == "web"), "{to}");
    }
    for address in ["203.0.113.10", "2001:db8:113::10"] {
        assert_pings(lab.pod("web").unwrap().namespace(), address.parse().unwrap()).await;
    }

    a_wrong_password_ends_the_session(&lab).await;
    lab.remove().unwrap();
    assert_gone(&name);
}

/// On one node; the other's go on.
async fn a_wrong_password_ends_the_session(lab: &Lab) {
    let path: PathBuf = lab.run_dir("node1").join("secrets/f5/password");
    let right = fs::read_to_string(&path).unwrap();
    fs::write(&path, "not-this-one").unwrap();
    until_sessions_with_f5(lab, "node1", false).await;
    until_sessions_with_f5(lab, "node2", true).await;
    fs::write(&path, right).unwrap();
    until_sessions_with_f5(lab, "node1", true).await;
}

async fn until_sessions_with_f5(lab: &Lab, node: &str, established: bool) {
    let what = format!("sessions of {node} with the load balancer, established={established}");
    until(&what, PATIENCE, async || {
        let bgp = lab.status(node).await.map_err(Pending::NotYet)?.bgp.unwrap_or_default();
        let with_f5 = ["172.30.0.5", "fd30::5"];
        let states: Vec<_> = bgp
            .peers
            .iter()
            .filter(|it| with_f5.contains(&it.address.to_string().as_str()))
            .collect();
        if states.len() == 2 && states.iter().all(|it| it.is_established() == established) {
            return Ok(());
        }
        Err(Pending::NotYet(format!("{states:?}")))
    })
    .await
    .unwrap();
}
