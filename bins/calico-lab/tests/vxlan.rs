//! VXLAN over a network that knows nothing of pods: between racks alone for IPv4 (CrossSubnet),
//! always for IPv6. Without BGP.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::process::Command;
use std::time::Duration;

use calico_lab::Lab;
use calico_lab::wait::{Pending, until};
use common::traffic::{addresses, assert_pings, assert_reaches, block};
use common::{assert_gone, host_links, lab_name, topology, turn};

const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn racks_joined_by_vxlan() {
    let Some(_turn) = turn() else { return };
    let name = lab_name("vxlan");
    let links = host_links();
    let (topology, text) = topology("vxlan.yaml", &name);
    let mut lab = Lab::up(topology, &text).await.unwrap();

    for node in ["node1", "node2", "node3"] {
        let bgp = lab.status(node).await.unwrap().bgp.unwrap_or_default();
        assert_eq!(bgp.peers, [], "{node}");
    }
    routes_lead_into_the_tunnel(&lab);
    everyone_reaches_everyone(&lab).await;
    // What the host itself sends has the tunnel's address, to which the other node knows the way.
    for address in addresses(&lab, "web") {
        assert_pings(&lab.namespace("node1"), address).await;
    }
    packets_of_pods_fit(&lab);

    // A crash costs neither addresses nor routes.
    let before = lab.route_text("node3", false).unwrap();
    lab.crash_agent("node3").unwrap();
    assert_reaches(&lab, "client", "web").await;
    lab.wait_for_sessions().await.unwrap();
    lab.wait_for_routes().await.unwrap();
    assert_eq!(lab.route_text("node3", false).unwrap(), before);
    everyone_reaches_everyone(&lab).await;

    a_pool_without_vxlan_takes_the_tunnel_down(&lab).await;
    lab.remove().unwrap();
    assert_gone(&name);
    assert_eq!(host_links(), links, "the machine's own interfaces");
}

fn routes_lead_into_the_tunnel(lab: &Lab) {
    for (node, pod, v6, device) in [
        ("node1", "near", false, "eth0"),
        ("node1", "web", false, "vxlan.calico"),
        ("node3", "client", false, "vxlan.calico"),
        ("node1", "near", true, "vxlan-v6.calico"),
        ("node1", "web", true, "vxlan-v6.calico"),
    ] {
        let to = block(lab, pod, v6);
        let routes = lab.routes(node, v6).unwrap();
        let route = routes.iter().find(|it| it.destination == to);
        let found = route.and_then(|it| it.device.as_deref());
        assert_eq!(found, Some(device), "{node} to {pod}: {routes:?}");
    }
    // The network in between has no idea.
    for (v6, range) in [(false, "10.244"), (true, "fd00:244")] {
        let routes = lab.route_text("router", v6).unwrap();
        assert!(!routes.contains(range), "{routes}");
    }
}

async fn everyone_reaches_everyone(lab: &Lab) {
    assert_reaches(lab, "client", "near").await;
    assert_reaches(lab, "client", "web").await;
    assert_reaches(lab, "near", "web").await;
    assert_reaches(lab, "web", "near").await;
}

/// The fabric carries 1500 bytes, and VXLAN over IPv6 adds 70.
fn packets_of_pods_fit(lab: &Lab) {
    let client = lab.pod("client").unwrap().namespace();
    let exec = |command: &str| {
        let mut ip = Command::new("ip");
        let output = ip.args(["netns", "exec", client]).args(command.split(' ')).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(exec("ip link show eth0").contains("mtu 1430"));
    let [v4, v6] = addresses(lab, "web");
    for (address, payload) in [(v4, 1430 - 28), (v6, 1430 - 48)] {
        let text = exec(&format!("ping -n -c 1 -W 3 -M do -s {payload} {address}"));
        assert!(text.contains(" 0% packet loss"), "{text}");
    }
}

/// IPv4 alone; its addresses are given back.
async fn a_pool_without_vxlan_takes_the_tunnel_down(lab: &Lab) {
    let patch = r#"{"spec":{"vxlanMode":"Never"}}"#;
    lab.calicoctl(&["patch", "ippool", "pods-v4", "--patch", patch]).await.unwrap();
    until("nodes without vxlan.calico", PATIENCE, async || {
        for node in ["node1", "node2", "node3"] {
            let mut ip = Command::new("ip");
            ip.args(["-netns", &lab.namespace(node), "link", "show", "vxlan.calico"]);
            if ip.output().unwrap().status.success() {
                return Err(Pending::NotYet(format!("{node} has it still")));
            }
            let text = lab.calicoctl(&["get", "node", node, "-o", "yaml"]).await?;
            if text.contains("ipv4VXLANTunnelAddr") || !text.contains("ipv6VXLANTunnelAddr") {
                return Err(Pending::NotYet(text));
            }
        }
        Ok(())
    })
    .await
    .unwrap();
    let routes = lab.route_text("node1", false).unwrap();
    assert!(!routes.contains("vxlan"), "{routes}");
}
