//! Which flows a change of policy touches.

mod support;

use std::net::IpAddr;

use calico_policy::Graph;
use calico_policy::desired::Desired;
use calico_policy::diff::{Change, Diff, End, Nodes, Traffic, diff};
use calico_policy::eval::Packet;
use calico_policy::way::{Cluster, Place, Topology};
use support::inputs;

/// A cluster that changes.
#[derive(Default)]
struct State {
    desired: Desired,
    topology: Topology,
}

impl State {
    fn cluster(&self) -> Cluster<'_> {
        Cluster { desired: &self.desired, topology: &self.topology }
    }
}

/// Compares the scenario with itself and `change` after it.
fn check(scenario: &str, change: &str, expected: &str) -> Diff {
    let [before, after] = states(scenario, change);
    let found = diff(before.cluster(), after.cluster());
    let texts: Vec<String> = found.changes.iter().map(ToString::to_string).collect();
    let lines = |text: &str| {
        let lines = text.lines().map(|line| line.trim().to_owned());
        lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\n")
    };
    assert_eq!(lines(&texts.join("\n")), lines(expected));
    check_promise(&before, &after, &found.changes);
    found
}

fn states(scenario: &str, change: &str) -> [State; 2] {
    let (mut graph, mut topology) = (Graph::for_every_node(), Topology::default());
    [scenario, change].map(|text| {
        for input in inputs(text) {
            topology.handle(&input);
            graph.handle(input).unwrap_or_else(|error| panic!("{error}"));
        }
        graph.flush();
        State { desired: graph.desired(), topology: topology.clone() }
    })
}

/// Workloads of both states and nodes, with their addresses and places before and after.
fn ends(states: [&State; 2]) -> Vec<(End, IpAddr, [Place; 2])> {
    let workloads = states[0].desired.endpoints.values();
    let workloads = workloads.filter(|it| states[1].desired.endpoints.contains_key(&it.id));
    let workloads = workloads.map(|it| {
        let places = states.map(|state| state.cluster().workload(&it.id));
        (End::Workload(it.id.clone()), it.addresses[0].addr(), places)
    });
    let nodes = states[1].topology.protected_nodes();
    let nodes = nodes.into_iter().map(|(node, addresses)| {
        let places = states.map(|state| state.cluster().host(&node, addresses[0]));
        (End::Node(node), addresses[0], places)
    });
    workloads.chain(nodes).collect()
}

/// A flow between workloads and nodes changes if, and only if, the diff says so. What somebody sends
/// to itself meets no policy.
fn check_promise(before: &State, after: &State, changes: &[Change]) {
    let ends = ends([before, after]);
    for (from, source, from_places) in &ends {
        for (to, destination, to_places) in ends.iter().filter(|(to, ..)| to != from) {
            let on_same = from_places[1].node() == to_places[1].node();
            for port in [1, 22, 52, 53, 54, 80, 81, 443, 5432, 65535] {
                let packet = Packet::to_port(*source, *destination, 6, port);
                let of = |state: &State, n: usize| {
                    let way = state.cluster().walk(&from_places[n], &to_places[n], &packet);
                    way.is_allowed()
                };
                let told = changes.iter().any(|change| {
                    let there = match change.nodes {
                        Nodes::Same => on_same,
                        Nodes::Different => !on_same,
                        _ => true,
                    };
                    let is_port = |traffic: &Traffic| match traffic {
                        Traffic::Ports { protocol: 6, ports } => {
                            (ports.first..=ports.last).contains(&port)
                        }
                        _ => false,
                    };
                    there
                        && change.from.contains(from)
                        && change.to.contains(to)
                        && change.traffic.iter().any(is_port)
                });
                assert_eq!(of(before, 0) != of(after, 1), told, "{from} -> {to}: {packet}");
            }
        }
    }
}

const CLUSTER: &str = "
    ns prod
    ns test
    pod prod/web 10.0.0.1 app=web
    pod prod/web2 10.0.0.2 app=web
    pod prod/db 10.0.0.3 app=db @sql=tcp:5432
    pod test/tool 10.0.1.1
";

#[test]
fn nothing_changes_without_a_change() {
    check(CLUSTER, "ns prod", "");
    check(CLUSTER, "np prod/idle {selector: \"app == 'nobody'\", ingress: [{action: Deny}]}", "");
}

#[test]
fn alike_flows_are_told_together() {
    check(
        CLUSTER,
        // Workloads may not send VXLAN, neither before nor after.
        "np prod/db {selector: \"app == 'db'\", ingress: [{action: Allow, protocol: TCP,
            source: {selector: \"app == 'web'\"}, destination: {ports: [sql]}}]}",
        "
        prod/web, prod/web2 -> prod/db: TCP 1-5431, TCP 5433-65535, UDP 1-4788, UDP 4790-65535, SCTP, ICMP type 8 code 0
        allowed by Profile kns.prod ingress rule 0
        now denied by the end of tier default (ingress)
        test/tool -> prod/db: TCP, UDP 1-4788, UDP 4790-65535, SCTP, ICMP type 8 code 0
        allowed by Profile kns.prod ingress rule 0
        now denied by the end of tier default (ingress)
        elsewhere (IPv4) -> prod/db: TCP, UDP, SCTP, ICMP type 8 code 0
        allowed by Profile kns.prod ingress rule 0
        now denied by the end of tier default (ingress)
        ",
    );
}

#[test]
fn networks_outside_and_new_allowances() {
    check(
        &format!(
            "{CLUSTER}
            gnetset ext 203.0.113.0/24 zone=ext
            np prod/out {{selector: \"app == 'db'\", egress: [{{action: Deny}}]}}"
        ),
        "np prod/out {selector: \"app == 'db'\", egress: [{action: Allow, protocol: UDP,
            destination: {selector: \"zone == 'ext'\", namespaceSelector: global(), ports: [53]}}]}",
        "
        prod/db -> 203.0.113.0/24: UDP 53
        denied by NetworkPolicy prod/out egress rule 0
        now allowed by NetworkPolicy prod/out egress rule 0
        ",
    );
}

const NODES: &str = "
    node n1 {bgp: {ipv4Address: 192.0.2.1/24}}
    node n2 {bgp: {ipv4Address: 192.0.2.2/24}}
    node n3 {bgp: {ipv4Address: 192.0.2.3/24}}
    pod a/one 10.0.0.1
    pod a/two 10.0.0.2 !kns.a
    pod a/far 10.0.0.3 node=n2
    ns a
    felix default {failsafeInboundHostPorts: [{protocol: TCP, port: 22}], failsafeOutboundHostPorts: [],
        defaultEndpointToHostAction: Accept}
";

#[test]
fn what_a_new_host_endpoint_shuts_off_is_told() {
    check(
        NODES,
        "hep n1-eth0 {node: n1, interfaceName: eth0, expectedIPs: [192.0.2.1]} x=y",
        // A workload reaches its own host by another setting, and the host its workloads anyway.
        "
        a/far, a/one, a/two -> node n1, on different nodes: TCP 1-21, TCP 23-65535, UDP 1-4788, UDP 4790-65535, SCTP, ICMP type 8 code 0
        allowed by Profile kns.a egress rule 0
        now denied by default: no profile allowed it (ingress of the node)
        node n1 -> a/far, a/one, a/two, on different nodes: TCP, UDP, SCTP, ICMP type 8 code 0
        allowed by Profile kns.a ingress rule 0
        now denied by default: no profile allowed it (egress of the node)
        node n1 -> elsewhere (IPv4): TCP, UDP, SCTP, ICMP type 8 code 0
        allowed by default: no policy applies
        now denied by default: no profile allowed it (egress of the node)
        elsewhere (IPv4) -> node n1: TCP 1-21, TCP 23-65535, UDP, SCTP, ICMP type 8 code 0
        allowed by default: no policy applies
        now denied by default: no profile allowed it (ingress of the node)
        ",
    );
}

/// Both nodes with the profile that allows all, so that only policies make a difference.
const PROTECTED: &str = "
    hep n1-all {node: n1, interfaceName: '*', profiles: [projectcalico-default-allow]} host=one
    hep n2-all {node: n2, interfaceName: '*', profiles: [projectcalico-default-allow]} host=two
";

#[test]
fn what_nodes_forward_is_told_apart_from_what_stays_on_them() {
    let found = check(
        &format!("{NODES}{PROTECTED}"),
        "gnp closed {selector: has(host), applyOnForward: true, types: [Ingress], ingress: [
            {action: Deny, protocol: TCP, source: {nets: [10.0.0.0/24]}, destination: {ports: [80]}},
            {action: Allow}]}",
        "
        a/far, a/one, a/two -> a/far, a/one, a/two, on different nodes: TCP 80
        allowed by Profile kns.a ingress rule 0
        now denied by GlobalNetworkPolicy closed ingress rule 0
        a/far, a/one, a/two -> node n1, node n2, on different nodes: TCP 80
        allowed by Profile projectcalico-default-allow ingress rule 0
        now denied by GlobalNetworkPolicy closed ingress rule 0
        10.0.0.0/24 -> a/far, a/one, a/two: TCP 80
        allowed by Profile kns.a ingress rule 0
        now denied by GlobalNetworkPolicy closed ingress rule 0
        10.0.0.0/24 -> node n1, node n2: TCP 80
        allowed by Profile projectcalico-default-allow ingress rule 0
        now denied by GlobalNetworkPolicy closed ingress rule 0
        ",
    );
    assert_eq!(found.doubts, [""; 0]);
    let found = check(
        &format!(
            "{NODES}{PROTECTED}
            hep n1-eth0 {{node: n1, interfaceName: eth0, profiles: [projectcalico-default-allow]}} other=x"
        ),
        "gnp early {selector: has(other), preDNAT: true, applyOnForward: true, types: [Ingress],
            ingress: [{action: Deny, protocol: UDP, destination: {ports: [53]}}]}",
        "
        a/far, elsewhere (IPv4) -> a/one, a/two: UDP 53
        allowed by Profile kns.a ingress rule 0
        now denied by GlobalNetworkPolicy early ingress rule 0
        node n1, node n2 -> a/one, a/two, on different nodes: UDP 53
        allowed by Profile kns.a ingress rule 0
        now denied by GlobalNetworkPolicy early ingress rule 0
        ",
    );
    let doubt = "taken to pass node n1 over eth0 (host endpoint n1-eth0)";
    assert_eq!(found.doubts, [doubt]);
}

#[test]
fn what_becomes_of_packets_to_the_own_host_is_told() {
    check(
        &format!("{NODES}{PROTECTED}"),
        "felix default {failsafeInboundHostPorts: [], failsafeOutboundHostPorts: []}",
        "
        a/far, a/one, a/two -> node n1, node n2, on the same node: TCP, UDP 1-4788, UDP 4790-65535, SCTP, ICMP type 8 code 0
        allowed by Profile kns.a egress rule 0
        now denied by defaultEndpointToHostAction Drop
        ",
    );
}
