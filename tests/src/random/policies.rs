//! Random policies and rules.

use std::fmt::Write as _;

use proptest::collection::vec;
use proptest::option::{of, weighted};
use proptest::prelude::*;

use super::{nets, port, selector};

pub(super) fn policy() -> impl Strategy<Value = String> {
    let (ingress, egress) = (weighted(0.7, rules()), weighted(0.5, rules()));
    let selector = prop_oneof![1 => Just("all()".to_owned()), 1 => selector()];
    let types = weighted(0.3, "Ingress|Egress|Ingress, Egress");
    (weighted(0.5, "t|t|t|u|u|v"), of(0..3u8), selector, ingress, egress, types).prop_map(
        |(tier, order, selector, ingress, egress, types)| {
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
        },
    )
}

pub(super) fn rules() -> impl Strategy<Value = String> {
    vec(rule(), 0..4).prop_map(|rules| format!("[{}]", rules.join(", ")))
}

fn rule() -> impl Strategy<Value = String> {
    let action = "Allow|Allow|Deny|Pass|Log";
    let any_protocol = (entity(false), entity(false), other_clause());
    let with_ports = (entity(true), entity(true), "TCP|UDP|SCTP|TCP|UDP")
        .prop_map(|(a, b, protocol)| (a, b, format!(", protocol: {protocol}")));
    let clauses = prop_oneof![any_protocol, with_ports];
    (action, clauses).prop_map(|(action, (source, destination, protocol))| {
        format!(
            "{{action: {action}{protocol}, source: {{{source}}}, destination: {{{destination}}}}}"
        )
    })
}

fn other_clause() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => Just(String::new()),
        1 => ", protocol: (TCP|UDP|SCTP|UDPLite|ICMP|ICMPv6|47)",
        1 => ", notProtocol: (TCP|UDP|ICMP|ICMPv6|103)",
        1 => ", ipVersion: [46]",
        1 => ", ipVersion: [46], protocol: (TCP|UDP)",
        1 => ", protocol: ICMP, (icmp|notICMP): \\{type: (8|13)\\}",
        1 => ", protocol: ICMP, (icmp|notICMP): \\{type: 8, code: [01]\\}",
        1 => ", protocol: ICMPv6, (icmp|notICMP): \\{type: (128|139)\\}",
        1 => ", protocol: ICMPv6, (icmp|notICMP): \\{type: 128, code: [01]\\}",
    ]
}

fn ports() -> impl Strategy<Value = String> {
    let one = prop_oneof![
        4 => port().prop_map(|port| port.to_string()),
        1 => "'(50:90|1:1005|30000:39999|8080:65535|0:65535)'",
        2 => "web|alt",
    ];
    vec(one, 1..4).prop_map(|ports| format!("[{}]", ports.join(", ")))
}

fn entity(with_ports: bool) -> impl Strategy<Value = String> {
    let address = prop_oneof![
        3 => selector().prop_map(|s| format!("selector: \"{s}\"")),
        1 => selector().prop_map(|s| format!("notSelector: \"{s}\"")),
        1 => Just("namespaceSelector: \"has(x)\"".to_owned()),
        1 => Just("namespaceSelector: \"all()\"".to_owned()),
        1 => Just("namespaceSelector: \"global()\"".to_owned()),
        2 => nets().prop_map(|nets| format!("nets: {nets}")),
        2 => nets().prop_map(|nets| format!("notNets: {nets}")),
    ]
    .boxed();
    // Of a service come the ports, too.
    let address = match with_ports {
        true => address,
        false => {
            let service = "services: \\{name: s[12], namespace: [ab]\\}";
            prop_oneof![9 => address, 2 => service].boxed()
        }
    };
    let ports = ("ports|notPorts", ports()).prop_map(|(field, ports)| format!("{field}: {ports}"));
    let most = usize::from(with_ports);
    // A rule with many clauses matches nothing.
    let addresses = prop_oneof![4 => vec(address.clone(), 0..1), 4 => vec(address.clone(), 1..2), 1 => vec(address, 2..3)];
    (addresses, vec(ports, 0..=most)).prop_map(|(mut clauses, ports)| {
        clauses.extend(ports);
        clauses.sort_unstable();
        let field = |clause: &str| clause.split(':').next().unwrap_or_default().to_owned();
        clauses.dedup_by_key(|clause| field(clause));
        clauses.join(", ")
    })
}

/// Before destinations are translated, or before connections are tracked.
pub(super) fn early_policy() -> impl Strategy<Value = String> {
    let pre_dnat = (selector(), rules()).prop_map(|(selector, ingress)| {
        format!(
            "selector: \"{selector}\", preDNAT: true, applyOnForward: true, \
                 types: [Ingress], ingress: {ingress}"
        )
    });
    let untracked =
        policy().prop_map(|policy| format!("{policy}, doNotTrack: true, applyOnForward: true"));
    prop_oneof![pre_dnat, untracked]
}
