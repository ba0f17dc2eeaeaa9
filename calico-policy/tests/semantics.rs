//! What policy means: verdicts, and who decided.

mod support;

use support::check;

#[test]
fn without_policy_profiles_decide_and_the_default_is_deny() {
    check(
        "
        ns prod
        pod prod/web 10.0.0.1
        pod prod/lonely 10.0.0.2 !
        pod prod/lost 10.0.0.3 !missing
        pod prod/lost2 10.0.0.5 !missing !kns.prod
        pod prod/built-in 10.0.0.4 !projectcalico-default-allow
        ",
        "
        10.9.9.9 -> prod/web tcp/80 = allowed by Profile kns.prod ingress rule 0
        prod/web -> 10.9.9.9 udp/53 = allowed by Profile kns.prod egress rule 0
        10.9.9.9 -> prod/lonely tcp/80 = denied by default: no profile allowed it (in)
        prod/lonely -> 10.9.9.9 tcp/80 = denied by default: no profile allowed it (out)
        10.9.9.9 -> prod/lost tcp/80 = denied by Profile missing ingress rule 0
        10.9.9.9 -> prod/lost2 tcp/80 = denied by Profile missing ingress rule 0
        10.9.9.9 -> prod/built-in ping = allowed by Profile projectcalico-default-allow ingress rule 0
        ",
    );
}

#[test]
fn a_profile_passes_to_nobody_and_the_next_one_is_tried_if_none_of_its_rules_match() {
    check(
        "
        profile first {ingress: [{action: Log}, {action: Allow, protocol: UDP},
                                 {action: Pass, protocol: SCTP}]}
        profile second {ingress: [{action: Deny, protocol: TCP, destination: {ports: [22]}},
                                  {action: Allow}]}
        pod a/x 10.0.0.1 !first !second
        ",
        "
        10.9.9.9 -> a/x udp/53 = allowed by Profile first ingress rule 1
        10.9.9.9 -> a/x tcp/22 = denied by Profile second ingress rule 0
        10.9.9.9 -> a/x tcp/23 = allowed by Profile second ingress rule 1
        10.9.9.9 -> a/x sctp/9 = denied by Profile first ingress rule 2
        ",
    );
}

#[test]
fn a_policy_that_selects_and_does_not_match_denies_at_the_end_of_its_tier() {
    check(
        "
        ns prod
        pod prod/web 10.0.0.1 app=web
        pod prod/db 10.0.0.2 app=db
        pod test/web 10.0.1.1 app=web !kns.prod
        np prod/db {selector: \"app == 'db'\", ingress: [{action: Allow, protocol: TCP,
            source: {selector: \"app == 'web'\"}, destination: {ports: [5432, '8000:8010']}}]}
        ",
        "
        prod/web -> prod/db tcp/5432 = allowed by NetworkPolicy prod/db ingress rule 0
        prod/web -> prod/db tcp/8010 = allowed by NetworkPolicy prod/db ingress rule 0
        prod/web -> prod/db tcp/8011 = denied by the end of tier default (in)
        prod/web -> prod/db udp/5432 = denied by the end of tier default (in)
        test/web -> prod/db tcp/5432 = denied by the end of tier default (in)
        prod/db -> prod/web tcp/80 = allowed by Profile kns.prod ingress rule 0
        10.0.0.1@prod/db -> prod/web tcp/80 = denied by the check of source addresses (out)
        ",
    );
}

#[test]
fn directions_are_separate_and_default_by_the_rules_there_are() {
    check(
        "
        ns a
        pod a/none 10.0.0.1 p=none
        pod a/in 10.0.0.2 p=in
        pod a/out 10.0.0.3 p=out
        pod a/both 10.0.0.4 p=both
        pod a/set 10.0.0.5 p=set
        np a/none {selector: \"p == 'none'\"}
        np a/in {selector: \"p == 'in'\", ingress: [{action: Deny}]}
        np a/out {selector: \"p == 'out'\", egress: [{action: Deny}]}
        np a/both {selector: \"p == 'both'\", ingress: [{action: Deny}], egress: [{action: Deny}]}
        np a/set {selector: \"p == 'set'\", types: [Ingress, Egress], ingress: [{action: Allow}]}
        ",
        "
        9.9.9.9 -> a/none tcp/1 = denied by the end of tier default (in)
        a/none -> 9.9.9.9 tcp/1 = allowed by Profile kns.a egress rule 0
        9.9.9.9 -> a/in tcp/1 = denied by NetworkPolicy a/in ingress rule 0
        a/in -> 9.9.9.9 tcp/1 = allowed by Profile kns.a egress rule 0
        9.9.9.9 -> a/out tcp/1 = allowed by Profile kns.a ingress rule 0
        a/out -> 9.9.9.9 tcp/1 = denied by NetworkPolicy a/out egress rule 0
        9.9.9.9 -> a/both tcp/1 = denied by NetworkPolicy a/both ingress rule 0
        a/both -> 9.9.9.9 tcp/1 = denied by NetworkPolicy a/both egress rule 0
        9.9.9.9 -> a/set tcp/1 = allowed by NetworkPolicy a/set ingress rule 0
        a/set -> 9.9.9.9 tcp/1 = denied by the end of tier default (out)
        ",
    );
}

#[test]
fn policies_are_ordered_by_order_then_by_name_namespace_and_kind() {
    check(
        "
        ns a
        pod a/x 10.0.0.1
        np a/late {ingress: [{action: Deny}]}
        np a/b {order: 10, ingress: [{action: Deny, protocol: UDP}, {action: Allow, protocol: TCP}]}
        gnp b {order: 10, selector: all(), ingress: [{action: Allow, protocol: UDP}]}
        gnp a {order: 10.5, selector: all(), ingress: [{action: Allow, protocol: SCTP}]}
        gnp z {order: -1, selector: all(), ingress: [{action: Allow, protocol: TCP,
            destination: {ports: [22]}}]}
        ",
        // `b//GlobalNetworkPolicy` sorts before `b/a/NetworkPolicy`.
        "
        9.9.9.9 -> a/x udp/1 = allowed by GlobalNetworkPolicy b ingress rule 0
        9.9.9.9 -> a/x tcp/1 = allowed by NetworkPolicy a/b ingress rule 1
        9.9.9.9 -> a/x tcp/22 = allowed by GlobalNetworkPolicy z ingress rule 0
        9.9.9.9 -> a/x sctp/1 = allowed by GlobalNetworkPolicy a ingress rule 0
        9.9.9.9 -> a/x udplite/1 = denied by NetworkPolicy a/late ingress rule 0
        ",
    );
}

#[test]
fn tiers_are_ordered_and_pass_on() {
    check(
        "
        ns a
        pod a/x 10.0.0.1
        tier first {order: 1}
        tier second {order: 2, defaultAction: Pass}
        tier last {}
        gnp p1 {tier: first, selector: all(), ingress: [{action: Pass, protocol: TCP},
            {action: Log}, {action: Allow, protocol: UDP, destination: {ports: [53]}}]}
        gnp p2 {tier: second, selector: all(), ingress: [{action: Deny, destination: {ports: [22]},
            protocol: TCP}]}
        gnp p3 {selector: all(), ingress: [{action: Pass, protocol: TCP,
            destination: {ports: [80, 81]}}, {action: Allow, protocol: TCP,
            destination: {ports: [443]}}]}
        gnp p4 {tier: last, selector: all(), ingress: [{action: Pass, protocol: TCP,
            destination: {ports: [80]}}, {action: Pass, protocol: TCP, destination: {ports: [81]}}]}
        gnp p5 {tier: undefined, selector: all(), ingress: [{action: Deny, protocol: TCP,
            destination: {ports: [81]}}, {action: Pass}]}
        ",
        "
        9.9.9.9 -> a/x udp/53 = allowed by GlobalNetworkPolicy p1 ingress rule 2
        9.9.9.9 -> a/x udp/54 = denied by the end of tier first (in)
        9.9.9.9 -> a/x tcp/22 = denied by GlobalNetworkPolicy p2 ingress rule 0
        9.9.9.9 -> a/x tcp/443 = allowed by GlobalNetworkPolicy p3 ingress rule 1
        9.9.9.9 -> a/x tcp/80 = allowed by Profile kns.a ingress rule 0
        9.9.9.9 -> a/x tcp/81 = denied by GlobalNetworkPolicy p5 ingress rule 0
        9.9.9.9 -> a/x tcp/82 = denied by the end of tier default (in)
        a/x -> 9.9.9.9 tcp/22 = allowed by Profile kns.a egress rule 0
        ",
    );
}

#[test]
fn nets_and_selectors_must_both_match_and_negations_all_hold() {
    check(
        "
        ns a
        pod a/x 10.0.0.1 app=x
        pod a/y 10.0.0.2 app=y tier=front
        pod a/z 10.0.0.3 app=z tier=front
        gnetset blocked 203.0.113.0/24 198.51.100.7/32 list=bad
        np a/x {selector: \"app == 'x'\", ingress: [
            {action: Deny, source: {selector: \"list == 'bad'\", namespaceSelector: global()}},
            {action: Allow, protocol: TCP, source: {nets: [10.0.0.0/30], selector: has(tier),
                notSelector: \"app == 'z'\", notNets: [10.0.0.1/32], notPorts: ['1:1023']},
                destination: {ports: [80], notPorts: [443]}},
            {action: Allow, notProtocol: TCP, source: {notNets: [10.0.0.0/8]}}]}
        ",
        "
        a/y -> a/x tcp/80 = allowed by NetworkPolicy a/x ingress rule 1
        a/y -> a/x tcp/80<1023 = denied by the end of tier default (in)
        a/z -> a/x tcp/80 = denied by the end of tier default (in)
        10.0.0.2 -> a/x tcp/443 = denied by the end of tier default (in)
        203.0.113.9 -> a/x udp/1 = denied by NetworkPolicy a/x ingress rule 0
        198.51.100.7 -> a/x udp/1 = denied by NetworkPolicy a/x ingress rule 0
        198.51.100.8 -> a/x udp/1 = allowed by NetworkPolicy a/x ingress rule 2
        198.51.100.8 -> a/x tcp/80 = denied by the end of tier default (in)
        a/z -> a/x udp/1 = denied by the end of tier default (in)
        ",
    );
}

#[test]
fn icmp_and_families() {
    check(
        "
        pod a/x 10.0.0.1 fd00::1 !projectcalico-default-allow
        np a/x {ingress: [
            {action: Deny, protocol: ICMP, icmp: {type: 8, code: 1}},
            {action: Allow, protocol: ICMP, icmp: {type: 8}},
            {action: Allow, protocol: ICMPv6, notICMP: {type: 135}},
            {action: Allow, ipVersion: 6, protocol: TCP},
            {action: Allow, protocol: UDP, source: {nets: ['fd00::/64']}},
            {action: Allow, protocol: 47}]}
        ",
        "
        10.9.9.9 -> a/x ping = allowed by NetworkPolicy a/x ingress rule 1
        fd00::9 -> a/x ping = allowed by NetworkPolicy a/x ingress rule 2
        fd00::9 -> a/x tcp/1 = allowed by NetworkPolicy a/x ingress rule 3
        10.9.9.9 -> a/x tcp/1 = denied by the end of tier default (in)
        fd00::9 -> a/x udp/1 = allowed by NetworkPolicy a/x ingress rule 4
        fd01::9 -> a/x udp/1 = denied by the end of tier default (in)
        10.9.9.9 -> a/x 47/0 = allowed by NetworkPolicy a/x ingress rule 5
        ",
    );
}

#[test]
fn named_ports_belong_to_endpoints() {
    check(
        "
        pod a/x 10.0.0.1 @http=tcp:8080 @dns=udp:53 !projectcalico-default-allow
        pod a/y 10.0.0.2 @http=tcp:80 !projectcalico-default-allow
        pod a/z 10.0.0.3 app=client !projectcalico-default-allow
        np a/in {selector: \"!has(app)\", ingress: [
            {action: Allow, protocol: TCP, destination: {ports: [http, 22]}},
            {action: Allow, protocol: UDP, destination: {ports: [dns]}},
            {action: Pass, protocol: TCP, destination: {notPorts: [http, 23]}}]}
        np a/out {selector: \"app == 'client'\", egress: [{action: Allow,
            destination: {selector: \"!has(app)\", ports: [http]}}]}
        ",
        "
        9.9.9.9 -> a/x tcp/8080 = allowed by NetworkPolicy a/in ingress rule 0
        9.9.9.9 -> a/x tcp/22 = allowed by NetworkPolicy a/in ingress rule 0
        9.9.9.9 -> a/y tcp/80 = allowed by NetworkPolicy a/in ingress rule 0
        9.9.9.9 -> a/x tcp/80 = allowed by Profile projectcalico-default-allow ingress rule 0
        9.9.9.9 -> a/x udp/53 = allowed by NetworkPolicy a/in ingress rule 1
        9.9.9.9 -> a/y udp/53 = denied by the end of tier default (in)
        9.9.9.9 -> a/y tcp/23 = denied by the end of tier default (in)
        a/z -> a/y tcp/80 = allowed by NetworkPolicy a/in ingress rule 0
        a/z -> a/y tcp/81 = denied by the end of tier default (out)
        a/z -> 9.9.9.9 tcp/80 = denied by the end of tier default (out)
        ",
    );
}

#[test]
fn namespaces_and_accounts_are_selected_by_inherited_labels() {
    check(
        "
        ns prod team=a
        ns test team=b
        sa prod/api role=front
        pod prod/web 10.0.0.1 app=web sa=api pcns.team=b
        pod prod/db 10.0.0.2 app=db
        pod test/web 10.0.1.1 app=web
        gnp by-ns {namespaceSelector: \"team == 'a'\", selector: \"app == 'db'\", ingress: [
            {action: Deny, protocol: UDP, source: {namespaceSelector: \"team == 'b'\"}},
            {action: Allow, source: {namespaceSelector: all()}}]}
        gnp by-sa {serviceAccountSelector: \"role == 'front'\", ingress: [{action: Allow,
            protocol: TCP}]}
        np prod/names {selector: \"app == 'db'\", order: 1, ingress: [{action: Allow,
            protocol: TCP, source: {serviceAccounts: {names: [api]}}},
            {action: Deny, protocol: SCTP, source: {namespaceSelector: \"projectcalico.org/name == 'test'\"}}]}
        ",
        "
        prod/web -> prod/db tcp/1 = allowed by NetworkPolicy prod/names ingress rule 0
        prod/web -> prod/db udp/1 = allowed by GlobalNetworkPolicy by-ns ingress rule 1
        test/web -> prod/db udp/1 = denied by GlobalNetworkPolicy by-ns ingress rule 0
        test/web -> prod/db tcp/1 = allowed by GlobalNetworkPolicy by-ns ingress rule 1
        test/web -> prod/db sctp/1 = denied by NetworkPolicy prod/names ingress rule 1
        9.9.9.9 -> prod/db tcp/1 = denied by the end of tier default (in)
        9.9.9.9 -> prod/web tcp/1 = allowed by GlobalNetworkPolicy by-sa ingress rule 0
        9.9.9.9 -> prod/web udp/1 = denied by the end of tier default (in)
        9.9.9.9 -> test/web udp/1 = allowed by Profile kns.test ingress rule 0
        ",
    );
}

#[test]
fn spoofed_sources_are_dropped_unless_they_were_allowed() {
    let pod = "pod a/x 10.0.0.1 10.0.0.1 !projectcalico-default-allow";
    let mut inputs = support::inputs(pod);
    let Some(calico_policy::Input::Put(calico_policy::Object::WorkloadEndpoint(endpoint))) =
        inputs.first_mut()
    else {
        panic!("one endpoint")
    };
    let allowed = "10.7.0.1/16".parse().expect("a prefix");
    endpoint.spec.allow_spoofed_source_prefixes.push(allowed);
    let spoofed = "10.7.9.9@a/x -> 9.9.9.9 tcp/1";
    let rig = support::Rig::of(&inputs);
    let denied = "denied by the check of source addresses (out)";
    assert_eq!(
        support::outcome(&support::explain(&rig.desired, spoofed)),
        denied,
        "the endpoint asks for it, and the settings do not allow it"
    );
    let settings = serde_json::json!({"apiVersion": "projectcalico.org/v3",
        "kind": "FelixConfiguration", "metadata": {"name": "default"},
        "spec": {"workloadSourceSpoofing": "Any"}});
    let settings = serde_json::from_value(settings).expect("settings");
    let settings = calico_policy::Object::FelixConfiguration(Box::new(settings));
    inputs.push(calico_policy::Input::Put(settings));
    let rig = support::Rig::of(&inputs);
    for (flow, expected) in [
        (
            "10.0.0.1@a/x -> 9.9.9.9 tcp/1",
            "allowed by Profile projectcalico-default-allow egress rule 0",
        ),
        (spoofed, "allowed by Profile projectcalico-default-allow egress rule 0"),
        ("10.8.9.9@a/x -> 9.9.9.9 tcp/1", "denied by the check of source addresses (out)"),
    ] {
        assert_eq!(support::outcome(&support::explain(&rig.desired, flow)), expected, "{flow}");
    }
    let endpoint = rig.desired.endpoints.values().next().expect("it is local");
    assert_eq!(endpoint.addresses.len(), 1, "each address counts once");
}

#[test]
fn network_sets_stay_in_their_namespace() {
    check(
        "
        ns a
        ns b
        pod a/x 10.0.0.1
        pod b/x 10.0.1.1
        netset a/ext 203.0.113.0/24 zone=ext
        np a/out {egress: [{action: Allow, destination: {selector: \"zone == 'ext'\"}}]}
        np b/out {egress: [{action: Allow, destination: {selector: \"zone == 'ext'\"}}]}
        ",
        "
        a/x -> 203.0.113.5 tcp/1 = allowed by NetworkPolicy a/out egress rule 0
        b/x -> 203.0.113.5 tcp/1 = denied by the end of tier default (out)
        ",
    );
}

#[test]
fn policies_for_hosts_do_not_apply_to_workloads() {
    check(
        "
        ns a
        pod a/x 10.0.0.1
        gnp raw {selector: all(), doNotTrack: true, applyOnForward: true, ingress: [{action: Deny}]}
        gnp nat {selector: all(), preDNAT: true, applyOnForward: true, ingress: [{action: Deny}]}
        gnp fwd {selector: all(), applyOnForward: true, ingress: [{action: Deny, protocol: UDP}, {action: Pass}]}
        ",
        "
        9.9.9.9 -> a/x tcp/1 = allowed by Profile kns.a ingress rule 0
        9.9.9.9 -> a/x udp/1 = denied by GlobalNetworkPolicy fwd ingress rule 0
        ",
    );
}

#[test]
fn two_endpoints_with_one_address_share_it() {
    check(
        "
        ns a
        pod a/x 10.0.0.1
        pod a/old 10.0.0.7 app=peer node=n2
        pod a/new 10.0.0.7 app=peer node=n3
        np a/in {selector: \"!has(app)\", ingress: [{action: Allow, source: {selector: has(app)}}]}
        drop pod a/old
        ",
        "
        10.0.0.7 -> a/x tcp/1 = allowed by NetworkPolicy a/in ingress rule 0
        10.0.0.8 -> a/x tcp/1 = denied by the end of tier default (in)
        ",
    );
}

#[test]
fn the_last_word_on_each_object_counts() {
    check(
        "
        ns a
        pod a/x 10.0.0.1 app=x
        pod a/y 10.0.0.2 app=y
        np a/p {selector: \"app == 'y'\", ingress: [{action: Deny}]}
        np a/p {selector: \"app == 'x'\", ingress: [{action: Allow, source: {selector: \"app == 'y'\"}}]}
        pod a/y 10.0.0.3 app=y
        tier t {order: 5}
        gnp q {tier: t, selector: all(), ingress: [{action: Deny}]}
        drop gnp q
        tier t {order: 7}
        pod a/moved 10.0.0.9 app=y
        pod a/moved 10.0.0.9 app=y node=n2
        ",
        "
        10.0.0.2 -> a/x tcp/1 = denied by the end of tier default (in)
        10.0.0.3 -> a/x tcp/1 = allowed by NetworkPolicy a/p ingress rule 0
        10.0.0.9 -> a/x tcp/1 = allowed by NetworkPolicy a/p ingress rule 0
        9.9.9.9 -> a/y tcp/1 = allowed by Profile kns.a ingress rule 0
        ",
    );
}

#[test]
fn a_service_is_where_its_slices_say_with_ports_as_destination_and_without_as_source() {
    check(
        "
        ns a
        pod a/x 10.0.0.1
        pod a/y 10.0.0.2 fd00::2
        np a/out {selector: all(), egress: [{action: Allow, destination: {services: {name: dns}}}]}
        np a/in {selector: all(), ingress: [{action: Allow, protocol: UDP,
            source: {services: {name: gate, namespace: b}}, destination: {ports: [7]}}]}
        slice a/dns-1 dns 10.9.0.1 10.9.0.2 @=udp:53 @=tcp:53
        slice a/dns-2 dns 10.9.0.3 @=tcp:5353
        slice a/dns-6 dns fd00::9 @=udp:53
        slice a/other - 10.9.0.4 @=udp:53
        slice b/dns dns 10.9.0.5 @=udp:53
        slice b/gate-1 gate 10.9.0.6 @=tcp:1
        ",
        "
        a/x -> 10.9.0.1 udp/53 = allowed by NetworkPolicy a/out egress rule 0
        a/x -> 10.9.0.2 tcp/53 = allowed by NetworkPolicy a/out egress rule 0
        a/x -> 10.9.0.1 tcp/5353 = denied by the end of tier default (out)
        a/x -> 10.9.0.3 tcp/5353 = allowed by NetworkPolicy a/out egress rule 0
        a/x -> 10.9.0.4 udp/53 = denied by the end of tier default (out)
        a/x -> 10.9.0.5 udp/53 = denied by the end of tier default (out)
        a/x -> 10.9.0.1 ping = denied by the end of tier default (out)
        a/y -> fd00::9 udp/53 = allowed by NetworkPolicy a/out egress rule 0
        10.9.0.6 -> a/x udp/7 = allowed by NetworkPolicy a/in ingress rule 0
        10.9.0.6 -> a/x udp/8 = denied by the end of tier default (in)
        10.9.0.1 -> a/x udp/7 = denied by the end of tier default (in)
        ",
    );
}

#[test]
fn policies_of_older_clusters_have_their_tiers_without_a_resource() {
    check(
        "
        ns a
        pod a/x 10.0.0.1
        gnp admin {tier: adminnetworkpolicy, order: 1, ingress: [{action: Deny, protocol: UDP},
            {action: Pass, protocol: SCTP}]}
        gnp base {tier: baselineadminnetworkpolicy, ingress: [{action: Deny, protocol: TCP}]}
        np a/p {ingress: [{action: Pass, protocol: TCP}]}
        ",
        "
        10.9.9.9 -> a/x udp/1 = denied by GlobalNetworkPolicy admin ingress rule 0
        10.9.9.9 -> a/x tcp/1 = denied by GlobalNetworkPolicy base ingress rule 0
        10.9.9.9 -> a/x sctp/1 = denied by the end of tier default (in)
        ",
    );
}

#[test]
fn settings_follow_the_labels_of_their_node_alone() {
    let mut graph = calico_policy::Graph::for_node("n1");
    let mut put = |object| {
        graph.handle(calico_policy::Input::Put(object)).expect("it is valid");
        graph.flush();
        graph.settings().spec.vxlan_port
    };
    let object = |kind: &str, name: &str, labels: serde_json::Value, spec: serde_json::Value| {
        serde_json::json!({"apiVersion": "projectcalico.org/v3", "kind": kind,
            "metadata": {"name": name, "labels": labels}, "spec": spec})
    };
    let spec = serde_json::json!({"nodeSelector": "has(rack)", "vxlanPort": 7});
    let config = object("FelixConfiguration", "racks", serde_json::json!({}), spec);
    let config = serde_json::from_value(config).expect("settings");
    assert_eq!(put(calico_policy::Object::FelixConfiguration(Box::new(config))), None);
    for (node, labels, port) in [
        ("n1", serde_json::json!({}), None),
        ("n2", serde_json::json!({"rack": "a"}), None),
        ("n1", serde_json::json!({"rack": "a"}), Some(7)),
        ("n2", serde_json::json!({}), Some(7)),
        ("n1", serde_json::json!({"tray": "a"}), None),
    ] {
        let spec = serde_json::json!({"bgp": {"ipv4Address": "192.0.2.1/24"}});
        let known = serde_json::from_value(object("Node", node, labels.clone(), spec));
        let known = calico_policy::Object::Node(Box::new(known.expect("a node")));
        assert_eq!(put(known), port, "{node} {labels}");
    }
}
