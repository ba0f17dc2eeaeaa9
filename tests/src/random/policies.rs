//! Random policies and rules.

use std::fmt::Write as _;

use proptest::collection::vec;
use proptest::option::{of, weighted};
use proptest::prelude::*;

use super::{nets, port, selector};

/// What policies of one namespace and of all of them have in common.
pub(super) fn policy() -> impl Strategy<Value = String> {
    let (ingress, egress) = (weighted(0.7, rules(true)), weighted(0.5, rules(false)));
    let selector = prop_oneof![1 => Just("all()".to_owned()), 1 => selector()];
    let types = weighted(0.2, "Ingress|Egress|Ingress, Egress");
    let ranks = (weighted(0.5, "t|t|t|u|u|v"), of(0..3u8));
    let rest =
        (weighted(0.15, selector_of_accounts()), weighted(0.1, Just("[AssumeNeededOnEveryNode]")));
    (ranks, selector, ingress, egress, types, rest).prop_map(
        |((tier, order), selector, ingress, egress, types, (accounts, hints))| {
            let mut out = format!("selector: \"{selector}\"");
            for (field, value) in [
                ("tier", tier),
                ("order", order.map(|order| order.to_string())),
                ("ingress", ingress),
                ("egress", egress),
                ("types", types.map(|types| format!("[{types}]"))),
                ("serviceAccountSelector", accounts.map(|accounts| format!("\"{accounts}\""))),
                ("performanceHints", hints.map(str::to_owned)),
            ] {
                if let Some(value) = value {
                    write!(out, ", {field}: {value}").expect("strings take all");
                }
            }
            out
        },
    )
}

/// Clauses about HTTP exist for `ingress` only.
pub(super) fn rules(ingress: bool) -> impl Strategy<Value = String> {
    prop_oneof![1 => vec(rule(ingress), 0..2), 4 => vec(rule(ingress), 2..6)]
        .prop_map(|rules| format!("[{}]", rules.join(", ")))
}

fn rule(ingress: bool) -> impl Strategy<Value = String> {
    let action = "Allow|Allow|Deny|Pass|Log";
    let any_protocol = (entity(false), entity(false), other_clause());
    let with_ports = (entity(true), entity(true), "TCP|UDP|SCTP|TCP|UDP")
        .prop_map(|(a, b, protocol)| (a, b, format!(", protocol: {protocol}")));
    let clauses = prop_oneof![any_protocol, with_ports];
    let rule = (action, clauses).prop_map(|(action, (source, destination, protocol))| {
        format!(
            "{{action: {action}{protocol}, source: {{{source}}}, destination: {{{destination}}}}}"
        )
    });
    // What packets do not show is not looked at, and the rest of the rule counts.
    let http = (entity(true), entity(true)).prop_map(|(source, destination)| {
        format!(
            "{{action: Allow, protocol: TCP, http: {{methods: [GET]}}, \
             source: {{{source}}}, destination: {{{destination}}}}}"
        )
    });
    if ingress { prop_oneof![30 => rule, 1 => http].boxed() } else { rule.boxed() }
}

fn other_clause() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => Just(String::new()),
        1 => ", protocol: (TCP|UDP|SCTP|UDPLite|ICMP|ICMPv6)",
        1 => ", protocol: (6|17|47|103|132)",
        1 => ", notProtocol: (TCP|UDP|ICMP|ICMPv6|6|17|103)",
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
        1 => Just("1005".to_owned()),
        1 => "'(50:90|1:1005|30000:39999|8080:65535|0:65535)'",
        4 => "web|alt",
    ];
    vec(one, 1..4).prop_map(|ports| format!("[{}]", ports.join(", ")))
}

fn entity(with_ports: bool) -> impl Strategy<Value = String> {
    let address = prop_oneof![
        3 => selector().prop_map(|s| format!("selector: \"{s}\"")),
        // One that several rules have, in several spellings.
        1 => "x ?== ?'1'".prop_map(|s| format!("selector: \"{s}\"")),
        1 => selector().prop_map(|s| format!("notSelector: \"{s}\"")),
        1 => selector().prop_map(|s| format!("namespaceSelector: \"{s}\"")),
        1 => "namespaceSelector: \"projectcalico\\.org/name == '[ab]'\"",
        1 => Just("namespaceSelector: \"all()\"".to_owned()),
        1 => Just("namespaceSelector: \"global()\"".to_owned()),
        1 => "serviceAccounts: \\{names: \\[(sa1|sa2|sa1, sa2)\\]\\}",
        1 => selector_of_accounts().prop_map(|s| format!("serviceAccounts: {{selector: \"{s}\"}}")),
        1 => selector_of_accounts()
            .prop_map(|s| format!("serviceAccounts: {{names: [sa1], selector: \"{s}\"}}")),
        2 => nets().prop_map(|nets| format!("nets: {nets}")),
        2 => nets().prop_map(|nets| format!("notNets: {nets}")),
    ]
    .boxed();
    // Of a service come the ports, too.
    let address = match with_ports {
        true => address,
        false => {
            let service = "services: \\{name: s[12], namespace: [ab]\\}";
            prop_oneof![9 => address, 5 => service].boxed()
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
    let pre_dnat = (selector(), rules(true)).prop_map(|(selector, ingress)| {
        format!(
            "selector: \"{selector}\", preDNAT: true, applyOnForward: true, \
                 types: [Ingress], ingress: {ingress}"
        )
    });
    let untracked =
        policy().prop_map(|policy| format!("{policy}, doNotTrack: true, applyOnForward: true"));
    prop_oneof![pre_dnat, untracked]
}

/// Labels of service accounts, as their profiles have them.
fn selector_of_accounts() -> impl Strategy<Value = String> {
    prop_oneof![2 => "x == '[12]'", 1 => Just("has(x)".to_owned()), 1 => "y != '[12]'"]
}
