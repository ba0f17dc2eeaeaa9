//! Random lines of the scenario language.

use std::fmt::Write as _;

use proptest::collection::vec;
use proptest::option::{of, weighted};
use proptest::prelude::*;

use crate::lab::{PODS, addresses, host_addresses};

/// Addresses that are not on the host; the first two are of workloads on another node.
const OUTSIDE: [&str; 8] = [
    "10.65.9.1",
    "fd65:9::1",
    "203.0.113.5",
    "203.0.113.77",
    "192.0.2.9",
    "2001:db8:1::5",
    "2001:db8:1::77",
    "2001:db8:2::9",
];

/// Destination ports. None of them is a source port: so no packet is an answer to another.
const PORTS: [u16; 8] = [22, 53, 80, 81, 443, 4789, 8080, 60_000];

/// Lines of one scenario: resources, then `packets` packets.
pub fn scenario(packets: usize) -> impl Strategy<Value = Vec<String>> {
    (vec(resource(), 6..40), vec(send(), packets)).prop_map(|lines| [lines.0, lines.1].concat())
}

/// A packet on its way.
pub fn send() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => (pods(), pods(), any::<bool>()).prop_flat_map(|(from, to, v6)| {
            let at = move |pod: u8| addresses(pod)[usize::from(v6)].to_string();
            transport(v6, from < to).prop_map(move |rest| {
                format!("send {from} {} {} {rest}", at(from), at(to))
            })
        }),
        3 => (pods(), outside()).prop_flat_map(|(pod, other)| {
            let v6 = other.contains(':');
            let own = addresses(pod)[usize::from(v6)];
            transport(v6, true).prop_map(move |rest| format!("send {pod} {own} {other} {rest}"))
        }),
        3 => (pods(), outside()).prop_flat_map(|(pod, other)| {
            let v6 = other.contains(':');
            let own = addresses(pod)[usize::from(v6)];
            transport(v6, false).prop_map(move |rest| format!("send out {other} {own} {rest}"))
        }),
        2 => (outside(), outside(), 0..2u8).prop_filter_map("one family", |(from, to, port)| {
            (from.contains(':') == to.contains(':') && from != to).then_some((from, to, port))
        }).prop_flat_map(|(from, to, port)| {
            let way = if port == 0 { "out" } else { "out1" };
            transport(from.contains(':'), from < to)
                .prop_map(move |rest| format!("send {way} {from} {to} {rest}"))
        }),
        4 => (outside(), 0..2u8).prop_flat_map(|(other, n)| {
            let (v6, way) = (other.contains(':'), if n == 0 { "out" } else { "out1" });
            let host = host_addresses(n)[usize::from(v6)];
            transport(v6, true).prop_map(move |rest| format!("send {way} {other} {host} {rest}"))
        }),
        3 => (outside(), 0..2u8).prop_flat_map(|(other, n)| {
            let v6 = other.contains(':');
            let host = host_addresses(n)[usize::from(v6)];
            transport(v6, false).prop_map(move |rest| format!("send host {host} {other} {rest}"))
        }),
        2 => (pods(), 0..2u8, any::<bool>()).prop_flat_map(|(pod, n, v6)| {
            let (own, host) = (addresses(pod)[usize::from(v6)], host_addresses(n)[usize::from(v6)]);
            transport(v6, true).prop_map(move |rest| format!("send {pod} {own} {host} {rest}"))
        }),
        1 => (pods(), 0..2u8, any::<bool>()).prop_flat_map(|(pod, n, v6)| {
            let (own, host) = (addresses(pod)[usize::from(v6)], host_addresses(n)[usize::from(v6)]);
            transport(v6, false).prop_map(move |rest| format!("send host {host} {own} {rest}"))
        }),
        // Forged, or allowed to be.
        1 => (pods(), pods(), outside()).prop_flat_map(|(from, to, other)| {
            let v6 = other.contains(':');
            let to = addresses(to)[usize::from(v6)];
            transport(v6, false).prop_map(move |rest| format!("send {from} {other} {to} {rest}"))
        }),
    ]
}

/// Protocol and what follows it. A protocol without ports or requests has one connection for
/// both ways, so `others` is said for one of them only.
fn transport(v6: bool, others: bool) -> BoxedStrategy<String> {
    let source = prop_oneof![4 => 30_000..50_000_u16, 1 => 1_000..1_010_u16];
    let with_ports = ("6|6|6|17|17|132|136", source, port())
        .prop_map(|(protocol, source, port)| format!("{protocol} {source} {port}"));
    // Requests: what is an answer without one is not let through, whatever the policies.
    let icmp = match v6 {
        false => "1 (8|13|17) [01]",
        true => "58 (128|139) [01]",
    };
    if others {
        prop_oneof![8 => with_ports, 2 => icmp, 1 => "47|103|4"].boxed()
    } else {
        prop_oneof![4 => with_ports, 1 => icmp].boxed()
    }
}

fn pods() -> impl Strategy<Value = u8> {
    1..=PODS
}

fn outside() -> impl Strategy<Value = &'static str> {
    prop::sample::select(&OUTSIDE[..])
}

fn port() -> impl Strategy<Value = u16> {
    prop::sample::select(&PORTS[..])
}

/// A resource.
pub fn resource() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => endpoint(),
        1 => ("[ab]", labels()).prop_map(|(ns, labels)| {
            format!("Profile kns.{ns} {{}} {{labelsToApply: {{{}}}, ingress: [{{action: Allow}}], \
                     egress: [{{action: Allow}}]}}", prefixed(&labels))
        }),
        1 => (rules(), rules()).prop_map(|(ingress, egress)| {
            format!("Profile extra {{}} {{ingress: {ingress}, egress: {egress}}}")
        }),
        2 => ("[tu]", of(0..3u8), "Pass|Deny").prop_map(|(name, order, action)| {
            let order = order.map_or_else(String::new, |order| format!("order: {order}, "));
            format!("Tier {name} {{}} {{{order}defaultAction: {action}}}")
        }),
        2 => (1..3u8, labels(), nets()).prop_map(|(n, labels, nets)| {
            format!("GlobalNetworkSet s{n} {{{labels}}} {{nets: {nets}}}")
        }),
        1 => ("[ab]", labels(), nets()).prop_map(|(ns, labels, nets)| {
            format!("NetworkSet {ns}/s {{{labels}}} {{nets: {nets}}}")
        }),
        1 => "FelixConfiguration default \\{\\} \\{(vxlanPort: 53|allowVXLANPacketsFromWorkloads: true|\
              allowIPIPPacketsFromWorkloads: true)\\}",
        2 => "FelixConfiguration node\\.n1 \\{\\} \\{workloadSourceSpoofing: (Any|Any|Disabled)\\}",
        2 => (failsafe(), failsafe(), "Drop|Accept|Return").prop_map(|(inbound, outbound, action)| {
            format!("FelixConfiguration default {{}} {{defaultEndpointToHostAction: {action}, \
                     failsafeInboundHostPorts: {inbound}, failsafeOutboundHostPorts: {outbound}}}")
        }),
        2 => slice(),
        4 => host_endpoint(),
        3 => (0..2u8, early_policy()).prop_map(|(n, policy)| {
            format!("GlobalNetworkPolicy e{n} {{}} {{{policy}}}")
        }),
        6 => ("[ab]", 0..3u8, policy())
            .prop_map(|(ns, n, policy)| format!("NetworkPolicy {ns}/q{n} {{}} {{{policy}}}")),
        6 => (0..4u8, policy(), of(selector()), any::<bool>()).prop_map(|(n, policy, ns, forward)| {
            let ns = ns.map_or_else(String::new, |s| format!(", namespaceSelector: \"{s}\""));
            let forward = if forward { ", applyOnForward: true" } else { "" };
            format!("GlobalNetworkPolicy q{n} {{}} {{{policy}{ns}{forward}}}")
        }),
    ]
}

/// Some of what stands behind a service.
fn slice() -> impl Strategy<Value = String> {
    let ports = prop_oneof![
        3 => ("TCP|UDP|SCTP", port()).prop_map(|(protocol, port)| format!("{{protocol: {protocol}, port: {port}}}")),
        1 => Just("{name: web, port: 80}, {name: dns, protocol: UDP, port: 53}".to_owned()),
        1 => Just("{protocol: TCP}".to_owned()),
        1 => Just(String::new()),
    ];
    ("[ab]", 1..4u8, "[12]", vec(pods(), 0..3), of(outside()), any::<bool>(), ports).prop_map(
        |(namespace, number, service, pods, other, v6, ports)| {
            let own = pods.iter().map(|pod| addresses(*pod)[usize::from(v6)].to_string());
            let other = other.filter(|other| other.contains(':') == v6).map(str::to_owned);
            let addresses: Vec<String> = own.chain(other).collect();
            let endpoints: Vec<String> =
                addresses.iter().map(|address| format!("{{addresses: ['{address}']}}")).collect();
            let family = if v6 { "IPv6" } else { "IPv4" };
            format!(
                "KubernetesEndpointSlice {namespace}/e{number} \
                 {{kubernetes.io/service-name: s{service}}} \
                 {{addressType: {family}, endpoints: [{}], ports: [{ports}]}}",
                endpoints.join(", ")
            )
        },
    )
}

/// An interface of the host, by name or address, or all of them.
fn host_endpoint() -> impl Strategy<Value = String> {
    let which = prop_oneof![
        3 => Just("h0 interfaceName: out0"),
        2 => Just("h1 interfaceName: out1"),
        2 => Just("h2 expectedIPs: [198.51.100.2]"),
        1 => Just("h3 expectedIPs: ['2001:db8:ff::1', 198.51.100.2]"),
        3 => Just("h4 interfaceName: '*'"),
        1 => Just("h5 interfaceName: cali1"),
    ];
    let profiles = prop_oneof![
        2 => Just("projectcalico-default-allow"), 2 => Just("extra"), 1 => Just(""),
    ];
    let ports = prop_oneof![2 => Just(""), 1 => Just("{name: web, protocol: TCP, port: 80}")];
    (which, labels(), profiles, ports).prop_map(|(which, labels, profiles, ports)| {
        let (name, interface) = which.split_once(' ').expect("two words");
        format!(
            "HostEndpoint {name} {{{labels}}} \
             {{node: n1, {interface}, profiles: [{profiles}], ports: [{ports}]}}"
        )
    })
}

/// Before destinations are translated, or before connections are tracked.
fn early_policy() -> impl Strategy<Value = String> {
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

fn failsafe() -> impl Strategy<Value = String> {
    let net = prop_oneof![
        2 => Just(String::new()),
        1 => net().prop_map(|net| format!(", net: '{net}'")),
    ];
    // Of answers that are not tracked, the source port counts.
    let port = prop_oneof![4 => port(), 2 => 1_000..1_010_u16];
    let one = ("TCP|UDP", port, net)
        .prop_map(|(protocol, port, net)| format!("{{protocol: {protocol}, port: {port}{net}}}"));
    vec(one, 0..3).prop_map(|ports| format!("[{}]", ports.join(", ")))
}

/// Mostly of this node, behind the interface of its number.
fn endpoint() -> impl Strategy<Value = String> {
    let spoof = prop_oneof![
        6 => Just(""),
        1 => Just(", allowSpoofedSourcePrefixes: [203.0.113.0/24, '2001:db8:1::/48']"),
    ];
    let profiles = prop_oneof![
        6 => Just("kns.NS"), 1 => Just("extra"), 1 => Just("extra, kns.NS"),
        1 => Just("kns.a, kns.b"), 1 => Just(""), 2 => Just("projectcalico-default-allow"),
    ];
    let ports = prop_oneof![
        2 => Just(""),
        1 => Just("{name: web, protocol: TCP, port: 80}"),
        1 => Just("{name: web, protocol: TCP, port: 8080}, {name: web, protocol: UDP, port: 53}, \
                   {name: alt, protocol: SCTP, port: 443}"),
    ];
    (1..=PODS + 1, labels(), spoof, profiles, ports).prop_map(
        |(n, labels, spoof, profiles, ports)| {
            // An interface has one endpoint.
            let namespace = if n % 2 == 1 { "a" } else { "b" };
            let profiles = profiles.replace("NS", namespace);
            let (node, addresses) = if n > PODS {
                ("n2", OUTSIDE[..2].join("/32', '") + "/128")
            } else {
                let [v4, v6] = addresses(n);
                ("n1", format!("{v4}/32', '{v6}/128"))
            };
            format!(
                "WorkloadEndpoint a/p{n} {{{labels}}} {{orchestrator: k8s, workload: w, pod: p{n}, \
                 endpoint: eth0, node: {node}, interfaceName: cali{n}, \
                 ipNetworks: ['{addresses}'], profiles: [{profiles}], ports: [{ports}]{spoof}}}"
            )
            .replacen("a/p", &format!("{namespace}/p"), 1)
        },
    )
}

fn labels() -> impl Strategy<Value = String> {
    (of("[12]"), of("[12]")).prop_map(|(x, y)| {
        let one = |name, value: Option<String>| value.map(|value| format!("{name}: '{value}'"));
        one("x", x).into_iter().chain(one("y", y)).collect::<Vec<_>>().join(", ")
    })
}

/// Labels of a namespace, as its profile has them.
fn prefixed(labels: &str) -> String {
    let labels = labels.split(", ").filter(|label| !label.is_empty());
    labels.map(|label| format!("pcns.{label}")).collect::<Vec<_>>().join(", ")
}

fn net() -> impl Strategy<Value = &'static str> {
    prop::sample::select(
        &[
            "10.65.0.0/16",
            "10.65.0.1/32",
            "10.65.0.2/31",
            "203.0.113.0/24",
            "203.0.113.64/26",
            "192.0.2.9/32",
            "0.0.0.0/0",
            "0.0.0.0/1",
            "fd65::/64",
            "fd65::2/127",
            "fd65:9::1/128",
            "2001:db8::/32",
            "2001:db8:1::/64",
            "::/0",
        ][..],
    )
}

fn nets() -> impl Strategy<Value = String> {
    vec(net(), 1..4).prop_map(|mut nets| {
        nets.sort_unstable();
        nets.dedup();
        format!("['{}']", nets.join("', '"))
    })
}

fn selector() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[xy] == '[12]'",
        2 => "has\\([xy]\\)",
        1 => "!has\\([xy]\\)",
        1 => "[xy] != '[12]'",
        1 => "[xy] in \\{'1', '3'\\}",
        1 => "x == '[12]' && y == '[12]'",
        1 => "x == '[12]' \\|\\| has\\(y\\)",
        2 => "all\\(\\)",
    ]
}

fn policy() -> impl Strategy<Value = String> {
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

fn rules() -> impl Strategy<Value = String> {
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
