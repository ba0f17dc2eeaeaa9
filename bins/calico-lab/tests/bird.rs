//! Two nodes below a router that runs BIRD 2: it learns the blocks of pods, and the nodes learn a
//! default route, over IPv4 and IPv6.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::net::IpAddr;

use calico_lab::Lab;
use common::traffic::{addresses, assert_pings, assert_reaches, assert_routes, sessions};
use common::{assert_gone, lab_name, topology, turn};
use ipnet::IpNet;

#[tokio::test]
async fn two_nodes_below_a_bird() {
    let Some(_turn) = turn() else { return };
    let name = lab_name("bird");
    let (topology, text) = topology("bird.yaml", &name);
    let lab = Lab::up(topology, &text).await.unwrap();

    for node in &lab.topology().nodes {
        let sessions = sessions(&lab, &node.name).await;
        for router in ["172.30.0.1", "fd30::1"] {
            let expected = (router.to_owned(), "GlobalPeer".to_owned());
            assert!(sessions.contains(&expected), "{}: {sessions:?}", node.name);
        }
    }
    assert_routes(&lab, false);
    assert_routes(&lab, true);
    bird_learns_every_block(&lab).await;
    every_node_learns_a_default_route(&lab);

    assert_reaches(&lab, "client", "web").await;
    // Both directions without masquerading: the router answers by the blocks that it learned.
    let client = lab.pod("client").unwrap().namespace();
    assert_pings(client, "198.51.100.1".parse().unwrap()).await;
    assert_pings(client, "2001:db8::1".parse().unwrap()).await;
    for address in addresses(&lab, "web") {
        assert_pings(&lab.namespace("tor"), address).await;
    }

    lab.remove().unwrap();
    assert_gone(&name);
}

async fn bird_learns_every_block(lab: &Lab) {
    let protocols = lab.birdc("tor", "show protocols").await.unwrap();
    let established =
        protocols.lines().filter(|line| line.contains("BGP") && line.contains("Established"));
    assert_eq!(established.count(), 4, "two nodes, two families:\n{protocols}");
    for (v6, length) in [(false, 26), (true, 122)] {
        let routes = lab.routes("tor", v6).unwrap();
        for pod in lab.pods() {
            let block = IpNet::new(pod.address(v6).unwrap(), length).unwrap().trunc();
            let node = lab.topology().node(&pod.pod.node).unwrap();
            let gateway = calico_lab::topology::address_of(&node.addresses, v6).unwrap();
            // The block's own node announces it, with nothing but the cluster's AS on the path.
            let text = lab.birdc("tor", &format!("show route {block} all")).await.unwrap();
            let path = text
                .lines()
                .skip_while(|line| !line.contains("unicast") || !line.contains(&node.name))
                .collect::<Vec<_>>()
                .join("\n");
            assert!(path.contains("BGP.as_path: 64512\n"), "{text}");
            assert!(path.contains(&format!("BGP.next_hop: {gateway}")), "{text}");
            // Whichever node's announcement it prefers, it sends to the node of the pod.
            let route = routes.iter().find(|it| it.destination == block);
            assert!(route.is_some_and(|it| it.gateways == [gateway]), "{block}: {routes:?}");
        }
    }
}

fn every_node_learns_a_default_route(lab: &Lab) {
    for node in &lab.topology().nodes {
        for (v6, router) in [(false, "172.30.0.1"), (true, "fd30::1")] {
            let router: IpAddr = router.parse().unwrap();
            let routes = lab.routes(&node.name, v6).unwrap();
            let default = routes.iter().find(|it| it.destination.prefix_len() == 0);
            assert!(
                default.is_some_and(|it| it.gateways == [router] && it.protocol == "bird"),
                "{}: {routes:?}",
                node.name
            );
        }
    }
}
