//! Random clusters, changed at random: the engine agrees with a naive reading of the resources,
//! and with an engine that saw only the end.

mod support;

use std::fmt::Write as _;

use calico_core::dataplane::Direction;
use calico_policy::eval::Packet;
use proptest::prelude::*;
use support::naive::Cluster;
use support::{NODE, Rig, check_orders, inputs, squash};

/// A line of the scenario language, or `flush`.
fn statement() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => pod(),
        1 => ("[ab]", 0..3u8).prop_map(|(ns, n)| format!("drop pod {ns}/p{n}")),
        2 => ("[ab]", labels()).prop_map(|(ns, labels)| format!("ns {ns} {labels}")),
        1 => "[ab]".prop_map(|ns| format!("drop ns {ns}")),
        2 => ("[ab]", net(), labels()).prop_map(|(ns, net, l)| format!("netset {ns}/s {net} {l}")),
        1 => "[ab]".prop_map(|ns| format!("drop netset {ns}/s")),
        2 => (net(), labels()).prop_map(|(net, l)| format!("gnetset s {net} {l}")),
        1 => Just("drop gnetset s".to_owned()),
        2 => ("[tu]", prop::option::of(0..3u8), "Pass|Deny").prop_map(|(name, order, action)| {
            let order = order.map_or_else(String::new, |order| format!("order: {order}, "));
            format!("tier {name} {{{order}defaultAction: {action}}}")
        }),
        1 => "[tu]".prop_map(|name| format!("drop tier {name}")),
        5 => ("[ab]", 0..3u8, policy())
            .prop_map(|(ns, n, policy)| format!("np {ns}/q{n} {{{policy}}}")),
        4 => (0..3u8, policy(), prop::option::of(selector())).prop_map(|(n, policy, ns)| {
            let ns = ns.map_or_else(String::new, |s| format!(", namespaceSelector: \"{s}\""));
            format!("gnp q{n} {{{policy}{ns}}}")
        }),
        1 => ("[ab]", 0..3u8).prop_map(|(ns, n)| format!("drop np {ns}/q{n}")),
        1 => (0..3u8).prop_map(|n| format!("drop gnp q{n}")),
        2 => rules().prop_map(|rules| format!("profile extra {{ingress: {rules}}}")),
        1 => Just("drop profile extra".to_owned()),
        4 => ("[ab]", "[st]", "[wv-]", addresses(), prop::bool::ANY).prop_map(
            |(ns, name, service, addresses, both)| {
                let more = if both { " @=udp:53" } else { "" };
                format!("slice {ns}/{name} {service} {addresses} @=tcp:80{more}")
            },
        ),
        1 => ("[ab]", "[st]").prop_map(|(ns, name)| format!("drop slice {ns}/{name}")),
        3 => Just("flush".to_owned()),
    ]
}

fn pod() -> impl Strategy<Value = String> {
    let extra = prop_oneof![
        4 => Just(""), 1 => Just(" node=n2"), 1 => Just(" @web=tcp:80"),
        1 => Just(" @web=udp:53"), 1 => Just(" !extra !kns.a"), 1 => Just(" !"),
    ];
    ("[ab]", 0..3u8, 1..5u8, labels(), extra).prop_map(|(ns, n, address, labels, extra)| {
        format!("pod {ns}/p{n} 10.0.0.{address} {labels}{extra}")
    })
}

fn addresses() -> impl Strategy<Value = String> {
    prop::collection::vec("10.0.0.[1-5]", 0..4).prop_map(|addresses| addresses.join(" "))
}

fn labels() -> impl Strategy<Value = String> {
    prop::collection::vec("[xy]=[12]", 0..3).prop_map(|labels| labels.join(" "))
}

fn net() -> impl Strategy<Value = String> {
    prop_oneof![
        (1..6u8).prop_map(|n| format!("10.0.0.{n}/32")),
        Just("10.0.0.0/30".to_owned()),
        Just("0.0.0.0/0".to_owned()),
        Just("10.0.0.4/31".to_owned()),
    ]
}

fn selector() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[xy] == '[12]'",
        1 => "has\\([xy]\\)",
        1 => "!has\\([xy]\\)",
        1 => "[xy] != '[12]'",
        1 => "[xy] in \\{'1', '3'\\}",
        1 => "x == '[12]' && y == '[12]'",
        1 => "x == '[12]' \\|\\| has\\(y\\)",
        1 => "all\\(\\)",
        1 => "x starts with '[12]'",
    ]
}

fn policy() -> impl Strategy<Value = String> {
    let types = prop::option::of("Ingress|Egress|Ingress, Egress");
    let tier = prop::option::weighted(0.5, "[tuv]");
    (
        tier,
        prop::option::of(0..3u8),
        selector(),
        prop::option::of(rules()),
        prop::option::of(rules()),
        types,
    )
        .prop_map(|(tier, order, selector, ingress, egress, types)| {
            let mut out = format!("selector: \"{selector}\"");
            for (field, value) in [
                ("tier", tier),
                ("order", order.map(|order| order.to_string())),
                ("ingress", ingress),
                ("egress", egress),
                ("types", types.map(|types| format!("[{types}]"))),
            ] {
                if let Some(value) = value {
                    write!(out, ", {field}: {value}").expect("strings take all");
                }
            }
            out
        })
}

fn rules() -> impl Strategy<Value = String> {
    prop::collection::vec(rule(), 0..4).prop_map(|rules| format!("[{}]", rules.join(", ")))
}

fn rule() -> impl Strategy<Value = String> {
    let action = "Allow|Deny|Pass|Log";
    let clause = prop_oneof![
        Just(String::new()),
        (entity(), entity()).prop_map(|(a, b)| format!(", source: {{{a}}}, destination: {{{b}}}")),
        (entity(), "TCP|UDP", ports()).prop_map(|(entity, protocol, ports)| {
            let comma = if entity.is_empty() { "" } else { ", " };
            format!(", protocol: {protocol}, destination: {{{entity}{comma}{ports}}}")
        }),
        Just(", notProtocol: TCP".to_owned()),
        ("source|destination", "[wv]", "[ab]").prop_map(|(end, name, ns)| {
            format!(", {end}: {{services: {{name: {name}, namespace: {ns}}}}}")
        }),
        Just(", ipVersion: 6".to_owned()),
    ];
    (action, clause).prop_map(|(action, clause)| format!("{{action: {action}{clause}}}"))
}

fn ports() -> impl Strategy<Value = String> {
    let port = prop_oneof![Just("80"), Just("'50:60'"), Just("web")];
    let list = prop::collection::vec(port, 1..3).prop_map(|ports| ports.join(", "));
    ("ports|notPorts", list).prop_map(|(field, list)| format!("{field}: [{list}]"))
}

fn entity() -> impl Strategy<Value = String> {
    let clause = prop_oneof![
        3 => selector().prop_map(|s| format!("selector: \"{s}\"")),
        1 => selector().prop_map(|s| format!("notSelector: \"{s}\"")),
        2 => selector().prop_map(|s| format!("namespaceSelector: \"{s}\"")),
        1 => Just("namespaceSelector: \"global()\"".to_owned()),
        1 => net().prop_map(|net| format!("nets: [{net}]")),
        1 => net().prop_map(|net| format!("notNets: [{net}]")),
    ];
    prop::collection::vec(clause, 0..3).prop_map(|mut clauses| {
        let field = |clause: &str| clause.split(':').next().unwrap_or_default().to_owned();
        clauses.sort();
        clauses.dedup_by_key(|clause| field(clause));
        clauses.join(", ")
    })
}

fn packets() -> Vec<Packet> {
    let mut packets = Vec::new();
    for source in 1..6u8 {
        for destination in 1..6u8 {
            for (protocol, port) in [(6, 80), (17, 53), (132, 80)] {
                let address = |last| std::net::Ipv4Addr::new(10, 0, 0, last).into();
                let (source, destination) = (address(source), address(destination));
                packets.push(Packet::to_port(source, destination, protocol, port));
            }
        }
    }
    packets
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn the_engine_agrees_with_a_naive_reading(lines in prop::collection::vec(statement(), 1..40)) {
        let mut rig = Rig::default();
        let mut all = Vec::new();
        for line in &lines {
            if line == "flush" {
                rig.flush();
                continue;
            }
            for input in inputs(line) {
                rig.handle(&input);
                all.push(input);
            }
        }
        rig.flush();

        let cluster = Cluster::of(&all);
        for endpoint in cluster.endpoints().filter(|endpoint| endpoint.spec.node == NODE) {
            let found = rig.desired.endpoints.values().find(|e| {
                (&*e.id.namespace, &*e.id.name) == (endpoint.namespace(), endpoint.name())
            });
            let found = found.expect("every local endpoint is there");
            for packet in packets() {
                for direction in [Direction::Ingress, Direction::Egress] {
                    let decision = rig.desired.evaluate(found, direction, &packet);
                    if decision.cause == calico_core::dataplane::VerdictCause::Spoofed {
                        continue;
                    }
                    let trace = decision.to_string();
                    let last = trace.lines().last().unwrap_or_default();
                    let verdict = last.trim_start_matches("  => ");
                    let expected = cluster.verdict(endpoint, direction, &packet);
                    prop_assert_eq!(verdict, &expected,
                        "{} of {}: {}\n{}", direction, found.id, packet, trace);
                }
            }
        }

        let fresh = Rig::of(&squash(&all));
        prop_assert_eq!(&rig.desired, &fresh.desired);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn order_does_not_matter(lines in prop::collection::vec(statement(), 1..30)) {
        let text: Vec<&str> = lines.iter().map(String::as_str).filter(|l| *l != "flush").collect();
        let all = inputs(&text.join("\n"));
        check_orders(&all, &Rig::of(&all).desired);
    }
}
