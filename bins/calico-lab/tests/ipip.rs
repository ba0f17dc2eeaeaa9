//! IP-in-IP between two nodes. The module `ipip` is missing from many kernels of cloud machines, so
//! this runs in a virtual machine: `cargo xtask vm`, which `cargo xtask test` does too.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::process::Command;
use std::time::Duration;

use calico_lab::Lab;
use calico_lab::probe;
use calico_lab::wait::{Pending, until};
use common::traffic::{assert_pings, block, until_tcp};
use common::{assert_gone, lab_name, topology, turn};

/// The machine is emulated, and slow.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test]
#[ignore = "needs a kernel with the module ipip: cargo xtask vm"]
async fn two_nodes_joined_by_ipip() {
    let Some(_turn) = turn() else { return };
    let name = lab_name("ipip");
    let (topology, text) = topology("ipip.yaml", &name);
    let mut lab = Lab::up(topology, &text).await.unwrap();
    let web = lab.pod("web").unwrap().address(false).unwrap();

    // The way to the other node's block is the tunnel, with the node as gateway.
    let to = block(&lab, "web", false);
    let routes = lab.route_text("node1", false).unwrap();
    let route = routes.lines().find(|line| line.trim().starts_with(&to.to_string()));
    let route = route.unwrap_or_else(|| panic!("no route to {to}:\n{routes}"));
    assert!(route.contains("via 172.30.0.12 dev tunl0") && route.contains("onlink"), "{route}");

    for port in [80, 8080] {
        until_tcp(&lab, "client", (web, port).into(), true).await;
    }
    // What the host itself sends has the tunnel's address, to which the other node knows the way.
    assert_pings(&lab.namespace("node1"), web).await;

    // The network in between sees nodes talk to nodes, by protocol 4.
    let before = wrapped(&lab, "node2");
    let client = lab.pod("client").unwrap().namespace().to_owned();
    assert!(probe::ping(&client, web, PATIENCE).await.unwrap().is_answered());
    assert!(wrapped(&lab, "node2") > before, "packets came by another way");
    let mtu = ip(&client, &["link", "show", "eth0"]);
    assert!(mtu.contains("mtu 1480"), "1500 bytes less the header of IP-in-IP: {mtu}");

    // A crash costs neither addresses nor routes.
    let before = lab.route_text("node2", false).unwrap();
    lab.crash_agent("node2").unwrap();
    assert!(probe::ping(&client, web, PATIENCE).await.unwrap().is_answered());
    lab.wait_for_routes().await.unwrap();
    assert_eq!(lab.route_text("node2", false).unwrap(), before);

    a_pool_without_ipip_takes_the_tunnel_down(&lab).await;
    lab.remove().unwrap();
    assert_gone(&name);
}

/// Packets that came to a node by its tunnel.
fn wrapped(lab: &Lab, node: &str) -> u64 {
    let text = ip(&lab.namespace(node), &["-json", "-statistics", "link", "show", "tunl0"]);
    let links: serde_json::Value = serde_json::from_str(&text).unwrap();
    links[0]["stats64"]["rx"]["packets"].as_u64().unwrap_or_else(|| panic!("{text}"))
}

fn ip(namespace: &str, args: &[&str]) -> String {
    let output = Command::new("ip").args(["-netns", namespace]).args(args).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

async fn a_pool_without_ipip_takes_the_tunnel_down(lab: &Lab) {
    let patch = r#"{"spec":{"ipipMode":"Never"}}"#;
    lab.calicoctl(&["patch", "ippool", "pods-v4", "--patch", patch]).await.unwrap();
    until("nodes without a tunnel address", PATIENCE, async || {
        for node in ["node1", "node2"] {
            let text = lab.calicoctl(&["get", "node", node, "-o", "yaml"]).await?;
            if text.contains("ipv4IPIPTunnelAddr") {
                return Err(Pending::NotYet(text));
            }
            let routes = lab.route_text(node, false)?;
            if routes.contains("tunl0") {
                return Err(Pending::NotYet(routes));
            }
        }
        Ok(())
    })
    .await
    .unwrap();
}
