//! Assertions about traffic, routes and sessions.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use calico_lab::Lab;
use calico_lab::probe::{self, Outcome};
use calico_lab::wait::{Pending, until};
use ipnet::IpNet;

/// An answer that is expected may take this long.
pub(crate) const ANSWER: Duration = Duration::from_secs(3);
/// How long to wait for an answer that must not come.
pub(crate) const SILENCE: Duration = Duration::from_millis(400);

/// Addresses of a pod, IPv4 first; it must have both.
pub(crate) fn addresses(lab: &Lab, pod: &str) -> [IpAddr; 2] {
    let pod = lab.pod(pod).unwrap();
    [false, true].map(|v6| pod.address(v6).unwrap_or_else(|| panic!("no v6={v6} address: {pod:?}")))
}

pub(crate) async fn tcp(lab: &Lab, from: &str, to: SocketAddr, limit: Duration) -> Outcome {
    probe::tcp(lab.pod(from).unwrap().namespace(), to, limit).await.unwrap()
}

/// The pod reaches every port that the other listens on, over both families, and by ping.
pub(crate) async fn assert_reaches(lab: &Lab, from: &str, to: &str) {
    let namespace = lab.pod(from).unwrap().namespace().to_owned();
    let target = lab.pod(to).unwrap().pod.clone();
    for address in addresses(lab, to) {
        assert_pings(&namespace, address).await;
        for &port in &target.tcp {
            let outcome = tcp(lab, from, (address, port).into(), ANSWER).await;
            assert_answer(&outcome, to, &format!("{from} -> {to} tcp {address} {port}"));
        }
        for &port in &target.udp {
            let outcome = probe::udp(&namespace, (address, port).into(), ANSWER).await.unwrap();
            assert_answer(&outcome, to, &format!("{from} -> {to} udp {address} {port}"));
        }
    }
}

pub(crate) async fn assert_pings(namespace: &str, address: IpAddr) {
    let outcome = probe::ping(namespace, address, ANSWER).await.unwrap();
    assert!(outcome.is_answered(), "{namespace}: ping {address}: {outcome}");
}

fn assert_answer(outcome: &Outcome, name: &str, what: &str) {
    assert!(
        matches!(outcome, Outcome::Answered { answer, .. } if answer == name),
        "{what}: {outcome}"
    );
}

/// Waits until a TCP connection is answered, or is not.
pub(crate) async fn until_tcp(lab: &Lab, from: &str, to: SocketAddr, answered: bool) {
    let what = format!("tcp {from} -> {to} answered={answered}");
    until(&what, Duration::from_secs(10), async || {
        let outcome = tcp(lab, from, to, SILENCE).await;
        if outcome.is_answered() == answered {
            return Ok(());
        }
        Err(Pending::NotYet(outcome.to_string()))
    })
    .await
    .unwrap();
}

/// States of a node's BGP sessions: address of the peer and type, sorted; all established.
pub(crate) async fn sessions(lab: &Lab, node: &str) -> Vec<(String, String)> {
    let bgp = lab.status(node).await.unwrap().bgp.expect("the agent runs BGP");
    let mut sessions: Vec<(String, String)> = bgp
        .peers
        .into_iter()
        .inspect(|peer| assert!(peer.is_established(), "{node}: {peer:?}"))
        .map(|peer| (peer.address.to_string(), peer.peer_type))
        .collect();
    sessions.sort();
    sessions
}

/// The block of a pod's address.
pub(crate) fn block(lab: &Lab, pod: &str, v6: bool) -> IpNet {
    let length = if v6 { 122 } else { 26 };
    let address = lab.pod(pod).unwrap().address(v6).unwrap();
    IpNet::new(address, length).unwrap().trunc()
}

/// The gateways of a member's route to a destination, sorted; none without that route.
pub(crate) fn gateways(lab: &Lab, member: &str, to: IpNet) -> Vec<IpAddr> {
    let routes = lab.routes(member, to.addr().is_ipv6()).unwrap();
    let route = routes.into_iter().find(|it| it.destination == to);
    let mut gateways = route.map(|it| it.gateways).unwrap_or_default();
    gateways.sort();
    gateways
}

/// A member's route to a destination has exactly these gateways.
pub(crate) fn assert_via(lab: &Lab, member: &str, to: IpNet, via: &[&str]) {
    let mut wanted: Vec<IpAddr> = via.iter().map(|it| it.parse().unwrap()).collect();
    wanted.sort();
    assert_eq!(gateways(lab, member, to), wanted, "{member} to {to}");
}

/// Addresses of a router's established sessions, sorted, by `show bgp summary`; it has no others.
pub(crate) async fn sessions_of_frr(lab: &Lab, router: &str) -> Vec<String> {
    let text = lab.vtysh(router, "show bgp summary json").await.unwrap();
    let summary: serde_json::Value = serde_json::from_str(&text).unwrap();
    let mut found = Vec::new();
    for family in ["ipv4Unicast", "ipv6Unicast"] {
        for (address, peer) in summary[family]["peers"].as_object().into_iter().flatten() {
            assert_eq!(peer["state"], "Established", "{router}: {address}: {text}");
            found.push(address.clone());
        }
    }
    found.sort();
    found
}

/// The AS path of a router's best route to a destination.
pub(crate) async fn as_path_of_frr(lab: &Lab, router: &str, to: IpNet) -> String {
    let family = if to.addr().is_ipv6() { "ipv6" } else { "ipv4" };
    let command = format!("show bgp {family} unicast {to} json");
    let text = lab.vtysh(router, &command).await.unwrap();
    let route: serde_json::Value = serde_json::from_str(&text).unwrap();
    let best = route["paths"].as_array().into_iter().flatten();
    let mut best = best.filter(|path| path["bestpath"]["overall"] == true);
    best.next().unwrap_or_else(|| panic!("{router} has no best path: {text}"))["aspath"]["string"]
        .as_str()
        .unwrap()
        .to_owned()
}

/// Holds `ip route` of every node against the routes that a document on Calico shows for two
/// nodes: the own block as a blackhole, own pods by their `cali` interface, and the blocks of the
/// others by way of their nodes.
pub(crate) fn assert_routes(lab: &Lab, v6: bool) {
    let (length, full) = if v6 { (122, 128) } else { (26, 32) };
    for node in &lab.topology().nodes {
        let text = lab.route_text(&node.name, v6).unwrap();
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let find = |what: &str, start: String, words: &[&str]| {
            let found = lines
                .iter()
                .any(|line| line.starts_with(&start) && words.iter().all(|it| line.contains(it)));
            assert!(
                found,
                "{}: {what}: no line starts with {start:?} and has {words:?}:\n{text}",
                node.name
            );
        };
        for running in lab.pods() {
            let address = running.address(v6).unwrap();
            let block = ipnet::IpNet::new(address, length).unwrap().trunc();
            if running.pod.node == node.name {
                find("own block", format!("blackhole {block} "), &["proto bird"]);
                let interface = &running.attachment.host_interface;
                assert!(interface.starts_with("cali"), "{interface}");
                find("own pod", format!("{address} dev {interface} "), &[]);
            } else {
                let host = lab.topology().node(&running.pod.node).unwrap();
                let gateway = calico_lab::topology::address_of(&host.addresses, v6).unwrap();
                find("other block", format!("{block} via {gateway} "), &["dev eth0", "proto bird"]);
                let strangers = format!("{address}/{full} ");
                assert!(!text.contains(&strangers), "a pod of another node:\n{text}");
            }
        }
    }
}

/// Waits until the node enforces the policy that was applied before: the very next packet meets it.
pub(crate) async fn programmed(lab: &Lab, node: &str, pod: &str) {
    let wait = ["endpoint", "wait", "--programmed", pod, "--timeout", "30s"];
    let said = ask(lab, node, &wait).await.unwrap();
    assert!(said.contains("its policy is in force"), "{said}");
}

/// What `calicoctl` says of a node's agent.
pub(crate) async fn ask(lab: &Lab, node: &str, what: &[&str]) -> Result<String, String> {
    let socket = lab.run_dir(node).join("control.sock");
    let mut all = what.to_vec();
    all.extend(["--control-socket", socket.to_str().unwrap()]);
    lab.calicoctl(&all).await.map_err(|error| error.to_string())
}

/// Waits until a connection is answered, by this pod.
pub(crate) async fn answers(from: &str, to: SocketAddr, name: &str) {
    let started = std::time::Instant::now();
    loop {
        let outcome = probe::tcp(from, to, SILENCE).await.unwrap();
        if matches!(&outcome, Outcome::Answered { answer, .. } if answer == name) {
            return;
        }
        assert!(started.elapsed() < Duration::from_secs(30), "{from} to {to}: {outcome}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
