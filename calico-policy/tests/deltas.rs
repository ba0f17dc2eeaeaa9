//! What a change costs: which updates follow, and in which order.

mod support;

use calico_core::dataplane::{EndpointToHostAction, Limits, Pool, Update};
use calico_core::key::Key;
use calico_core::kind::Kind;
use calico_core::resource::{HostEndpoint, HostEndpointSpec, QosControls};
use calico_policy::{Input, Object};
use support::{Rig, inputs, render};

/// Steps of a scenario, each followed by `=>` and the updates that a flush then yields.
fn check(script: &str) {
    let mut rig = Rig::default();
    rig.flush();
    let (mut expected, mut found) = (String::new(), String::new());
    for step in script.split("---") {
        let (scenario, updates) = step.split_once("=>").expect("steps => updates");
        for input in inputs(scenario) {
            rig.handle(&input);
        }
        for line in updates.lines().map(str::trim).filter(|line| !line.is_empty()) {
            expected.push_str(line);
            expected.push('\n');
        }
        found.push_str(&render(&rig.flush()));
        expected.push_str("---\n");
        found.push_str("---\n");
    }
    assert!(expected == found, "expected\n{expected}\nfound\n{found}");
}

#[test]
fn sets_come_before_rules_and_go_after_them() {
    check(
        "
        pod a/x 10.0.0.1 app=x !
        pod a/y 10.0.0.2 app=y node=n2
        np a/p {selector: \"app == 'x'\", ingress: [{action: Allow, source: {selector: \"app == 'y'\"}}]}
        =>
        set = 10.0.0.2/32
        rules NetworkPolicy a/p 1+0
        endpoint a/x default[p|]
        ---
        pod a/z 10.0.0.3 app=y node=n2
        pod a/y 10.0.0.4 app=y node=n2
        =>
        set +10.0.0.3/32 +10.0.0.4/32 -10.0.0.2/32
        ---
        np a/p {selector: \"app == 'x'\", ingress: [{action: Allow, source: {selector: \"app == 'x'\"}}]}
        =>
        set = 10.0.0.1/32
        rules NetworkPolicy a/p 1+0
        no set
        ---
        pod a/x 10.0.0.1 app=z !
        =>
        endpoint a/x
        no rules NetworkPolicy a/p
        no set
        ---
        drop pod a/x
        =>
        no endpoint a/x
        ",
    );
}

#[test]
fn what_no_local_endpoint_needs_is_not_mentioned() {
    check(
        "
        ns a
        pod a/far 10.0.0.2 app=y node=n2
        np a/p {selector: \"app == 'y'\", ingress: [{action: Allow, source: {selector: all()}}]}
        gnp host {selector: all(), preDNAT: true, applyOnForward: true, ingress: [{action: Deny}]}
        =>
        ---
        np a/p {selector: \"app == 'y'\", performanceHints: [AssumeNeededOnEveryNode],
            ingress: [{action: Allow, source: {selector: \"all()\"}}]}
        =>
        set = 10.0.0.2/32
        rules NetworkPolicy a/p 1+0
        ---
        pod a/far 10.0.0.2 app=y node=n1
        =>
        rules Profile kns.a 1+1
        endpoint a/far default[p|]
        ",
    );
}

#[test]
fn a_change_that_changes_nothing_says_nothing() {
    check(
        "
        ns a
        pod a/x 10.0.0.1 app=x
        np a/p {selector: \"app == 'x'\", egress: [{action: Allow}]}
        =>
        rules NetworkPolicy a/p 0+1
        rules Profile kns.a 1+1
        endpoint a/x default[|p]
        ---
        pod a/x 10.0.0.1 app=x color=red
        np a/p {selector: \"app in {'x', 'y'}\", egress: [{action: Allow}]}
        tier default {order: 5}
        ns a team=b
        drop pod a/x
        pod a/x 10.0.0.1 app=x
        =>
        ---
        np a/p {selector: \"app == 'x'\", egress: [{action: Allow}], order: 3}
        np a/q {selector: \"app == 'x'\", egress: [{action: Deny}], order: 2}
        =>
        rules NetworkPolicy a/q 0+1
        endpoint a/x default[|q,p]
        ---
        np a/p {selector: \"app == 'x'\", egress: [{action: Allow}], order: 1}
        =>
        endpoint a/x default[|p,q]
        ---
        np a/p {selector: \"app == 'x'\", egress: [{action: Allow}], order: 1, tier: early}
        tier early {order: 1}
        =>
        endpoint a/x early[|p] default[|q]
        ---
        tier early {order: 4}
        =>
        ---
        tier default {order: 3}
        =>
        endpoint a/x default[|q] early[|p]
        ",
    );
}

#[test]
fn sets_are_shared_and_ports_named() {
    check(
        "
        pod a/x 10.0.0.1 fd00::1 app=x @web=tcp:80 @web=tcp:8080 @web=udp:80 !
        pod a/y 10.0.0.1 app=x @web=tcp:80 !
        np a/p {selector: all(), ingress: [
            {action: Allow, protocol: TCP, destination: {selector: \"app=='x'\", ports: [web]}},
            {action: Deny, source: {selector: \"app == 'x'\"}}]}
        np a/q {selector: all(), ingress: [
            {action: Allow, source: {selector: \"app   ==   'x'\"}}]}
        =>
        set = 10.0.0.1/6/80 10.0.0.1/6/8080 fd00::1/6/80 fd00::1/6/8080
        set = 10.0.0.1/32 fd00::1/128
        rules NetworkPolicy a/p 2+0
        rules NetworkPolicy a/q 1+0
        endpoint a/x default[p,q|]
        endpoint a/y default[p,q|]
        ---
        pod a/x 10.0.0.1 app=x @web=tcp:81 !
        =>
        set +10.0.0.1/6/81 -10.0.0.1/6/8080 -fd00::1/6/80 -fd00::1/6/8080
        set -fd00::1/128
        endpoint a/x default[p,q|]
        ---
        drop np a/p
        =>
        endpoint a/x default[q|]
        endpoint a/y default[q|]
        no rules NetworkPolicy a/p
        no set
        ",
    );
}

#[test]
fn host_settings_and_pools() {
    let mut rig = Rig::default();
    assert_eq!(render(&rig.flush()), "host\n0 pools\n");
    let text = "
        pool a {cidr: 10.0.0.0/16, natOutgoing: true}
        pool b {cidr: 'fd00::/64'}
        node n1 {bgp: {ipv4Address: 192.0.2.1/24}, addresses: [{address: 198.51.100.1,
            type: ExternalIP}]}
        node n2 {addresses: [{address: 192.0.2.2, type: InternalIP}]}
        felix default {interfacePrefix: 'tap,cali', natOutgoingExclusions: IPPoolsAndHostIPs}
        felix node.n1 {defaultEndpointToHostAction: Accept}
        felix node.n2 {interfacePrefix: other}
    ";
    for input in inputs(text) {
        rig.handle(&input);
    }
    assert_eq!(render(&rig.flush()), "host\n2 pools\n");
    let pools = [("10.0.0.0/16", true), ("fd00::/64", false)];
    let pools =
        pools.map(|(cidr, nat_outgoing)| Pool { cidr: cidr.parse().unwrap(), nat_outgoing });
    assert_eq!(rig.desired.pools, pools);
    let host = rig.desired.host.clone().unwrap();
    assert_eq!(&*host.interface_prefix, "tap");
    assert_eq!(host.endpoint_to_host, EndpointToHostAction::Accept);
    assert!(host.masquerade_spares_nodes);
    let nodes: Vec<String> = host.node_addresses.iter().map(ToString::to_string).collect();
    assert_eq!(nodes, ["192.0.2.1", "192.0.2.2"]);
    for input in inputs("drop felix default\ndrop felix node.n1\ndrop pool a") {
        rig.handle(&input);
    }
    assert_eq!(render(&rig.flush()), "host\n1 pools\n");
    assert_eq!(&*rig.desired.host.clone().unwrap().interface_prefix, "cali");
}

#[test]
fn services_and_floating_addresses_reach_the_dataplane_as_settings_say() {
    use calico_core::dataplane::{ServiceLoop, Translation};
    use calico_core::resource::{BgpConfiguration, IpNat, ServiceCidr, WorkloadEndpoint};

    let mut rig = Rig::default();
    for input in inputs("felix default {floatingIPs: Enabled, serviceLoopPrevention: Reject}") {
        rig.handle(&input);
    }
    let mut services = BgpConfiguration::new("default", Default::default());
    let cidr = Some("10.96.0.0/12".parse().unwrap());
    services.spec.service_cluster_ips = vec![ServiceCidr { cidr, ..ServiceCidr::default() }];
    rig.handle(&services.into());
    rig.flush();
    let host = rig.desired.host.clone().unwrap();
    assert_eq!(host.service_loop, ServiceLoop::Reject);
    assert_eq!(host.service_cidrs, ["10.96.0.0/12".parse().unwrap()]);

    let mut endpoint = WorkloadEndpoint::new("p", Default::default());
    endpoint.metadata.namespace = "a".into();
    endpoint.spec.node = "n1".into();
    endpoint.spec.interface_name = "cali1".into();
    endpoint.spec.ip_networks = vec!["10.0.0.1/32".parse().unwrap()];
    let [external, internal] = ["203.0.113.7", "10.0.0.1"].map(|text| text.parse().unwrap());
    let nat =
        IpNat { external_ip: Some(external), internal_ip: Some(internal), ..IpNat::default() };
    endpoint.spec.ip_nats = vec![nat];
    let floating = |updates: &[Update]| {
        updates.iter().find_map(|update| match update {
            Update::Translations(all) => Some(all.clone()),
            _ => None,
        })
    };
    rig.handle(&endpoint.clone().into());
    assert_eq!(floating(&rig.flush()), Some(vec![Translation { external, internal }]));
    for input in inputs("drop felix default") {
        rig.handle(&input);
    }
    assert_eq!(floating(&rig.flush()), Some(vec![]), "upstream's default: disabled");
    assert_eq!(rig.desired.host.clone().unwrap().service_loop, ServiceLoop::Drop);
}

#[test]
fn settings_for_selected_nodes_stand_between_those_of_the_node_and_those_of_the_cluster() {
    let mut rig = Rig::default();
    let mut prefix_after = |text: &str| {
        for input in inputs(text) {
            rig.handle(&input);
        }
        rig.flush();
        rig.desired.host.clone().unwrap().interface_prefix.to_string()
    };
    assert_eq!(prefix_after("felix default {interfacePrefix: all}"), "all");
    let selected = "felix racks {interfacePrefix: rack, nodeSelector: \"has(rack)\"}";
    assert_eq!(prefix_after(selected), "all", "the node has no label");
    let mut node = calico_core::resource::Node::new("n1", Default::default());
    node.metadata.labels.insert("rack".to_owned(), "a".to_owned());
    rig.handle(&node.into());
    let mut prefix_after = |text: &str| {
        for input in inputs(text) {
            rig.handle(&input);
        }
        rig.flush();
        rig.desired.host.clone().unwrap().interface_prefix.to_string()
    };
    assert_eq!(prefix_after(""), "rack");
    // Of one age: by name.
    let other = "felix another {interfacePrefix: first, nodeSelector: \"rack == 'a'\"}";
    assert_eq!(prefix_after(other), "first");
    assert_eq!(prefix_after("felix node.n1 {defaultEndpointToHostAction: Accept}"), "first");
    assert_eq!(prefix_after("felix node.n1 {interfacePrefix: own}"), "own");
    assert_eq!(prefix_after("drop felix node.n1\ndrop felix another"), "rack");
    assert_eq!(prefix_after("node n1 {}"), "all");
    let mut config = calico_core::resource::FelixConfiguration::new("racks", Default::default());
    config.spec.node_selector = "has(".to_owned();
    assert!(rig.graph.handle(config).is_err());
    rig.handle(&inputs("felix default {nodeSelector: all()}")[0]);
    let warnings = rig.graph.take_warnings();
    assert!(warnings[0].to_string().contains("is ignored"), "{warnings:?}");
}

#[test]
fn a_service_costs_its_changed_members_only() {
    let mut rig = Rig::of(&inputs(
        "
        ns a
        pod a/x 10.0.0.1
        slice a/w-1 w 10.9.0.1 10.9.0.2 @=tcp:80
        ",
    ));
    let policy = "np a/p {egress: [{action: Allow, destination: {services: {name: w}}}]}";
    let mut after = |text: &str| -> Vec<String> {
        inputs(text).iter().for_each(|input| rig.handle(input));
        let updates = rig.flush();
        let words = updates.iter().map(|update| format!("{update:?}"));
        words.map(|word| word.split(['(', ' ']).next().unwrap_or_default().to_owned()).collect()
    };
    let nothing: Vec<String> = Vec::new();
    // The set is there before the rules that need it, and goes after them.
    assert_eq!(after(policy), ["Set", "Rules", "Endpoint"]);
    assert_eq!(after("slice a/w-1 w 10.9.0.2 10.9.0.1 @=tcp:80"), nothing, "another order");
    assert_eq!(after("slice a/w-2 w 10.9.0.2 @=tcp:80"), nothing, "the same once more");
    assert_eq!(after("slice a/w-1 w 10.9.0.2 @=tcp:80"), ["SetDelta"]);
    assert_eq!(after("slice a/w-1 v 10.9.0.7 @=tcp:80"), nothing, "another slice still has it");
    assert_eq!(after("drop slice a/w-2"), ["SetDelta"]);
    assert_eq!(after("slice b/w-1 w 10.9.0.1 @=tcp:80"), nothing, "of another namespace");
    assert_eq!(after("drop np a/p"), ["Endpoint", "RulesRemoved", "SetRemoved"]);
    assert_eq!(after("slice a/w-1 w 10.9.0.1 @=tcp:80"), nothing);
    assert_eq!(rig.graph.stats().sets, 0);
}

#[test]
fn limits_and_code_points_reach_the_dataplane() {
    let mut rig = Rig::of(&inputs("ns a\npod a/x 10.0.0.1"));
    rig.graph.flush();
    let mut pods = inputs("pod a/x 10.0.0.1");
    let Input::Put(Object::WorkloadEndpoint(endpoint)) = &mut pods[0] else { unreachable!() };
    let qos = QosControls {
        egress_bandwidth: 8_000_000,
        ingress_max_connections: 7,
        dscp: Some(46.into()),
        ..QosControls::default()
    };
    endpoint.spec.qos_controls = Some(qos.clone());
    rig.graph.handle((**endpoint).clone()).unwrap();
    let updates = rig.graph.flush();
    let markings = |updates: &[Update]| {
        updates.iter().find_map(|update| match update {
            Update::Markings(all) => {
                Some(all.iter().map(|m| format!("{} {}", m.source, m.dscp)).collect::<Vec<_>>())
            }
            _ => None,
        })
    };
    assert_eq!(markings(&updates), Some(vec!["10.0.0.1 46".to_owned()]), "{updates:?}");
    let limits = updates.iter().find_map(|update| match update {
        Update::Endpoint(endpoint) => Some(endpoint.limits),
        _ => None,
    });
    assert_eq!(limits, Some(Limits::from(&qos)), "{updates:?}");

    // One that cannot be read is named, and marks nothing.
    endpoint.spec.qos_controls = Some(QosControls { dscp: Some("AF99".into()), ..qos });
    rig.graph.handle((**endpoint).clone()).unwrap();
    let warnings = rig.graph.take_warnings();
    assert!(warnings.len() == 1 && warnings[0].to_string().contains("AF99"), "{warnings:?}");
    assert_eq!(markings(&rig.graph.flush()), Some(Vec::new()));

    let mut host = HostEndpoint::new("h", HostEndpointSpec::default());
    host.metadata.annotations.insert("qos.projectcalico.org/dscp".into(), "cs1".into());
    host.spec.node = "n1".into();
    host.spec.expected_ips = vec!["192.0.2.1".parse().unwrap()];
    rig.graph.handle(host).unwrap();
    assert_eq!(markings(&rig.graph.flush()), Some(vec!["192.0.2.1 8".to_owned()]));
    rig.graph.handle_gone(&Key::resource(Kind::HostEndpoint, None, "h"));
    assert_eq!(markings(&rig.graph.flush()), Some(Vec::new()));
}
