//! Host endpoints: which policies judge which packets, and in which order.

mod support;

use std::fmt::Write as _;
use std::net::IpAddr;

use calico_core::dataplane::{Direction, HostInterface};
use calico_policy::eval::Packet;
use support::{Rig, check_orders, inputs};

/// Runs a scenario and compares flows over interfaces of the host with what is expected:
/// `eth0 in 9.9.9.9 -> 192.0.2.1 tcp/80 = allowed by ...`, where the direction is `in`, `out`, or
/// one of them with `forward-` before it.
fn check(scenario: &str, flows: &str) {
    let inputs = inputs(scenario);
    let rig = Rig::of(&inputs);
    let (mut expected, mut found, mut traces) = (String::new(), String::new(), String::new());
    for line in flows.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (flow, _) = line.split_once(" = ").expect("flow = verdict");
        let words: Vec<&str> = flow.split_whitespace().collect();
        let [interface, way, source, "->", destination, how] = words[..] else { panic!("{flow}") };
        let own: Vec<IpAddr> = match interface {
            "eth1" => vec!["198.51.100.1".parse().expect("an address")],
            _ => Vec::new(),
        };
        let endpoint = rig.desired.host_endpoint_of(interface, &own);
        let decision = endpoint.map(|endpoint| {
            let (forwarded, way) = match way.strip_prefix("forward-") {
                Some(way) => (true, way),
                None => (false, way),
            };
            let direction = if way == "in" { Direction::Ingress } else { Direction::Egress };
            rig.desired.evaluate_host(
                endpoint,
                direction,
                forwarded,
                &packet(source, destination, how),
            )
        });
        let trace = decision.map_or_else(|| "=> no host endpoint".into(), |d| d.to_string());
        let last = trace.lines().last().unwrap_or_default().trim().trim_start_matches("=> ");
        writeln!(expected, "{line}").expect("strings take all");
        writeln!(found, "{flow} = {last}").expect("strings take all");
        writeln!(traces, "{flow}\n{trace}").expect("strings take all");
    }
    assert!(expected == found, "expected\n{expected}\nfound\n{found}\nbecause\n{traces}");
    check_orders(&inputs, &rig.desired);
}

/// `tcp/80`, or `tcp/80<53` from port 53.
fn packet(source: &str, destination: &str, how: &str) -> Packet {
    let address = |text: &str| text.parse().expect("an address");
    let (protocol, port) = how.split_once('/').expect("protocol/port");
    let (port, from) = port.split_once('<').unwrap_or((port, "40000"));
    let protocol = if protocol == "udp" { 17 } else { 6 };
    let number = |text: &str| text.parse().expect("a port");
    let packet = Packet::to_port(address(source), address(destination), protocol, number(port));
    Packet { ports: Some((number(from), number(port))), ..packet }
}

#[test]
fn local_and_forwarded_packets_have_policies_of_their_own() {
    check(
        "
        hep n1-eth0 {node: n1, interfaceName: eth0, profiles: [open]} role=front
        hep n2-eth0 {node: n2, interfaceName: eth0} role=front
        profile open {ingress: [{action: Allow, protocol: UDP}], egress: [{action: Allow}]}
        gnp here {selector: \"role == 'front'\", ingress: [{action: Allow, protocol: TCP,
            destination: {ports: [80]}}, {action: Pass, protocol: UDP}]}
        gnp through {selector: \"role == 'front'\", applyOnForward: true, order: 1,
            ingress: [{action: Deny, destination: {ports: [81]}, protocol: TCP},
                {action: Allow, protocol: TCP, destination: {ports: [443]}}]}
        np a/none {selector: \"role == 'front'\", ingress: [{action: Deny}]}
        ",
        "
        eth0 in 9.9.9.9 -> 192.0.2.1 tcp/80 = allowed by GlobalNetworkPolicy here ingress rule 0
        eth0 in 9.9.9.9 -> 192.0.2.1 udp/80 = allowed by Profile open ingress rule 0
        eth0 in 9.9.9.9 -> 192.0.2.1 tcp/81 = denied by GlobalNetworkPolicy through ingress rule 0
        eth0 in 9.9.9.9 -> 192.0.2.1 tcp/82 = denied by the end of tier default
        eth0 out 192.0.2.1 -> 9.9.9.9 tcp/82 = allowed by Profile open egress rule 0
        eth0 forward-in 9.9.9.9 -> 10.0.0.1 tcp/443 = allowed by GlobalNetworkPolicy through ingress rule 1
        eth0 forward-in 9.9.9.9 -> 10.0.0.1 tcp/80 = denied by the end of tier default
        eth0 forward-out 10.0.0.1 -> 9.9.9.9 tcp/80 = allowed by default: no policy for forwarded packets
        eth1 in 9.9.9.9 -> 198.51.100.1 tcp/80 = no host endpoint
        ",
    );
}

#[test]
fn early_policies_come_first_and_their_end_does_nothing() {
    check(
        "
        hep n1-eth0 {node: n1, interfaceName: eth0} x=1
        gnp raw {selector: has(x), doNotTrack: true, applyOnForward: true,
            ingress: [{action: Allow, protocol: UDP, destination: {ports: [5000]}},
                {action: Deny, source: {nets: [203.0.113.0/24]}}],
            egress: [{action: Deny, protocol: UDP, destination: {ports: [5001]}}]}
        gnp nat {selector: has(x), preDNAT: true, applyOnForward: true,
            ingress: [{action: Deny, protocol: TCP, destination: {ports: [30000]}},
                {action: Allow, protocol: TCP, destination: {ports: [30001]}}]}
        ",
        "
        eth0 in 203.0.113.9 -> 192.0.2.1 udp/5000 = allowed by GlobalNetworkPolicy raw ingress rule 0
        eth0 in 203.0.113.9 -> 192.0.2.1 tcp/30001 = denied by GlobalNetworkPolicy raw ingress rule 1
        eth0 in 9.9.9.9 -> 192.0.2.1 tcp/30000 = denied by GlobalNetworkPolicy nat ingress rule 0
        eth0 forward-in 9.9.9.9 -> 192.0.2.1 tcp/30000 = denied by GlobalNetworkPolicy nat ingress rule 0
        eth0 in 9.9.9.9 -> 192.0.2.1 tcp/30001 = allowed by GlobalNetworkPolicy nat ingress rule 1
        eth0 in 9.9.9.9 -> 192.0.2.1 tcp/30002 = denied by default: no profile allowed it
        eth0 forward-in 9.9.9.9 -> 10.0.0.1 tcp/30002 = allowed by default: no policy for forwarded packets
        eth0 out 192.0.2.1 -> 9.9.9.9 udp/5001 = denied by GlobalNetworkPolicy raw egress rule 0
        eth0 forward-out 10.0.0.1 -> 9.9.9.9 udp/5001 = allowed by default: no policy for forwarded packets
        ",
    );
}

#[test]
fn failsafe_ports_stay_open_but_not_for_what_is_forwarded() {
    let endpoint = "hep n1-eth0 {node: n1, interfaceName: eth0} x=1
        gnp deny {selector: has(x), applyOnForward: true, ingress: [{action: Deny}], egress: [{action: Deny}]}
        gnp raw {selector: has(x), doNotTrack: true, applyOnForward: true, ingress: [{action: Deny}]}
        gnp nat {selector: has(x), preDNAT: true, applyOnForward: true, ingress: [{action: Deny}]}
        ";
    check(
        endpoint,
        "
        eth0 in 9.9.9.9 -> 192.0.2.1 tcp/22 = allowed by the list of failsafe ports
        eth0 in 9.9.9.9 -> 192.0.2.1 udp/22 = denied by GlobalNetworkPolicy raw ingress rule 0
        eth0 in 9.9.9.9 -> 192.0.2.1 udp/40000<53 = denied by GlobalNetworkPolicy nat ingress rule 0
        eth0 out 192.0.2.1 -> 9.9.9.9 udp/53 = allowed by the list of failsafe ports
        eth0 out 192.0.2.1 -> 9.9.9.9 udp/54 = denied by GlobalNetworkPolicy deny egress rule 0
        eth0 forward-in 9.9.9.9 -> 10.0.0.1 tcp/22 = denied by GlobalNetworkPolicy deny ingress rule 0
        ",
    );
    check(
        &format!(
            "{endpoint}
            felix default {{failsafeInboundHostPorts: [{{protocol: TCP, port: 2222,
                net: 198.51.100.0/24}}], failsafeOutboundHostPorts: []}}"
        ),
        "
        eth0 in 9.9.9.9 -> 192.0.2.1 tcp/22 = denied by GlobalNetworkPolicy raw ingress rule 0
        eth0 in 198.51.100.9 -> 192.0.2.1 tcp/2222 = allowed by the list of failsafe ports
        eth0 in 9.9.9.9 -> 192.0.2.1 tcp/2222 = denied by GlobalNetworkPolicy raw ingress rule 0
        eth0 out 192.0.2.1 -> 9.9.9.9 udp/53 = denied by GlobalNetworkPolicy deny egress rule 0
        ",
    );
}

#[test]
fn a_name_counts_more_than_an_address_and_that_more_than_all_interfaces() {
    let scenario = "
        hep z-named {node: n1, interfaceName: eth0, expectedIPs: [198.51.100.7]} x=named
        hep b-address {node: n1, expectedIPs: [198.51.100.1, 'fd00::1']} x=address
        hep a-all {node: n1, interfaceName: '*'} x=all
        gnp named {selector: \"x == 'named'\", ingress: [{action: Allow}]}
        gnp address {selector: \"x == 'address'\", ingress: [{action: Allow}]}
        gnp all {selector: \"x == 'all'\", ingress: [{action: Allow}]}
        gnp raw {selector: \"x == 'all'\", doNotTrack: true, applyOnForward: true, ingress: [{action: Deny}]}
        pod a/x 10.0.0.1
        gnp peers {selector: \"projectcalico.org/namespace == 'a'\", ingress: [{action: Allow, source: {selector: has(x)}}]}
        ";
    check(
        scenario,
        "
        eth0 in 9.9.9.9 -> 192.0.2.1 tcp/80 = allowed by GlobalNetworkPolicy named ingress rule 0
        eth1 in 9.9.9.9 -> 192.0.2.1 tcp/80 = allowed by GlobalNetworkPolicy address ingress rule 0
        eth2 in 9.9.9.9 -> 192.0.2.1 tcp/80 = allowed by GlobalNetworkPolicy all ingress rule 0
        ",
    );
    let mut rig = Rig::of(&inputs(scenario));
    let warnings: Vec<String> = rig.graph.take_warnings().iter().map(ToString::to_string).collect();
    assert!(warnings.iter().any(|w| w.contains("GlobalNetworkPolicy raw")), "{warnings:?}");
    assert!(rig.desired.host_endpoints["a-all"].untracked.is_empty());
    assert_eq!(rig.desired.host_endpoints["a-all"].interface, HostInterface::All);
    // Their addresses are in the sets of rules that select them.
    let from = |address: &str| support::explain(&rig.desired, &format!("{address} -> a/x tcp/1"));
    assert!(from("198.51.100.7").is_allowed());
    assert!(!from("198.51.100.8").is_allowed());
}

#[test]
fn nonsense_is_refused() {
    let mut rig = Rig::default();
    for (text, part) in [
        ("hep x {node: n1} a=b", "spec.interfaceName"),
        ("hep x {node: n1, interfaceName: much-too-long-name} a=b", "15 bytes"),
        (
            "felix default {failsafeInboundHostPorts: [{protocol: SCTP, port: 1}]}",
            "write TCP or UDP",
        ),
    ] {
        let error = rig.graph.handle(inputs(text)[0].clone()).expect_err(text).to_string();
        assert!(error.contains(part), "{error}");
    }
}
