//! Random resources: who is there, and what is asked of the host.

use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;

use super::policies::{early_policy, policy, rules};
use super::{OUTSIDE, labels, net, nets, outside, pods, port, selector};
use crate::lab::{PODS, addresses};

/// A resource.
pub(super) fn resource() -> impl Strategy<Value = String> {
    prop_oneof![
        2 => (1..=PODS + 1).prop_flat_map(endpoint),
        1 => ("[ab]", labels()).prop_map(|(ns, labels)| {
            format!("Profile kns.{ns} {{}} {{labelsToApply: {{{}}}, ingress: [{{action: Allow}}], \
                     egress: [{{action: Allow}}]}}", prefixed("pcns.", &labels))
        }),
        1 => (rules(true), rules(false)).prop_map(|(ingress, egress)| {
            format!("Profile extra {{}} {{ingress: {ingress}, egress: {egress}}}")
        }),
        1 => ("[ab]", "sa[12]", labels()).prop_map(|(ns, account, labels)| {
            let labels = prefixed("pcsa.", &labels);
            format!("Profile ksa.{ns}.{account} {{}} {{labelsToApply: {{{labels}}}}}")
        }),
        3 => ("[tu]", of(0..3u8), "Pass|Pass|Deny").prop_map(|(name, order, action)| {
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
        4 => slice(),
        4 => host_endpoint(),
        3 => staged(),
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

/// What would replace a policy, come, or remove one, but must do none of it.
fn staged() -> impl Strategy<Value = String> {
    let action = prop_oneof![3 => Just(""), 1 => Just(", stagedAction: Set"), 1 => Just(", stagedAction: Delete")];
    (of("[ab]"), 0..5u8, policy(), action).prop_map(|(ns, n, policy, action)| {
        // What removes a policy has no rules.
        let policy = if action.ends_with("Delete") {
            "stagedAction: Delete".to_owned()
        } else {
            policy + action
        };
        match ns {
            Some(ns) => format!("StagedNetworkPolicy {ns}/q{n} {{}} {{{policy}}}"),
            None => format!("StagedGlobalNetworkPolicy q{n} {{}} {{{policy}}}"),
        }
    })
}

/// Some of what stands behind a service.
fn slice() -> impl Strategy<Value = String> {
    let ports = prop_oneof![
        3 => ("TCP|UDP|SCTP", port()).prop_map(|(protocol, port)| format!("{{protocol: {protocol}, port: {port}}}")),
        4 => Just("{name: web, port: 80}, {name: dns, protocol: UDP, port: 53}, \
                   {name: tls, port: 443}, {name: alt, port: 8080}".to_owned()),
        1 => Just("{protocol: TCP}".to_owned()),
        1 => Just(String::new()),
    ];
    ("[ab]", 1..4u8, "[12]", vec(pods(), 0..6), of(outside()), any::<bool>(), ports).prop_map(
        |(namespace, number, service, pods, other, v6, ports)| {
            let own = pods.iter().map(|pod| addresses(*pod)[usize::from(v6)].to_string());
            let other = other.filter(|other| other.contains(':') == v6).map(str::to_owned);
            let addresses: Vec<String> = own.chain(other).collect();
            // The last one of three is not ready, which does not matter to policy.
            let ready = |n| if n == 2 { ", conditions: {ready: false}" } else { "" };
            let endpoint = |(n, address)| format!("{{addresses: ['{address}']{}}}", ready(n));
            let endpoints: Vec<String> = addresses.iter().enumerate().map(endpoint).collect();
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
        2 => Just("h0 interfaceName: out0"),
        1 => Just("h0 interfaceName: out0, expectedIPs: [198.51.100.1, '2001:db8:ff::1']"),
        2 => Just("h1 interfaceName: out1, expectedIPs: [198.51.100.2, '2001:db8:ff::2']"),
        2 => Just("h2 expectedIPs: [198.51.100.2]"),
        1 => Just("h3 expectedIPs: ['2001:db8:ff::1', 198.51.100.2]"),
        3 => Just("h4 interfaceName: '*'"),
        1 => Just("h5 interfaceName: cali1"),
    ];
    let profiles = prop_oneof![
        2 => Just("projectcalico-default-allow"), 2 => Just("extra"), 1 => Just(""),
    ];
    let ports = prop_oneof![
        1 => Just(""),
        2 => Just("{name: web, protocol: TCP, port: 80}, {name: alt, protocol: UDP, port: 53}"),
    ];
    (which, labels(), profiles, ports).prop_map(|(which, labels, profiles, ports)| {
        let (name, interface) = which.split_once(' ').expect("two words");
        format!(
            "HostEndpoint {name} {{{labels}}} \
             {{node: n1, {interface}, profiles: [{profiles}], ports: [{ports}]}}"
        )
    })
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
pub(super) fn endpoint(n: u8) -> impl Strategy<Value = String> {
    let spoof = prop_oneof![
        6 => Just(""),
        1 => Just(", allowSpoofedSourcePrefixes: [203.0.113.0/24, '2001:db8:1::/48']"),
    ];
    let profiles = prop_oneof![
        4 => Just("kns.NS"), 1 => Just("extra"), 1 => Just("extra, kns.NS"),
        1 => Just("kns.a, kns.b"), 1 => Just(""), 2 => Just("projectcalico-default-allow"),
    ];
    let account = of("sa[12]");
    // Packets come from port 1005, too.
    let ports = prop_oneof![
        1 => Just(""),
        2 => Just("{name: web, protocol: TCP, port: 80}, {name: alt, protocol: UDP, port: 53}"),
        1 => Just("{name: web, protocol: TCP, port: 8080}, {name: web, protocol: UDP, port: 53}, \
                   {name: alt, protocol: SCTP, port: 80}"),
        2 => Just("{name: alt, protocol: TCP, port: 1005}, {name: web, protocol: TCP, port: 80}, \
                   {name: web, protocol: UDP, port: 1005}"),
    ];
    (labels(), spoof, profiles, account, ports).prop_map(
        move |(mut labels, spoof, profiles, account, ports)| {
            // An interface has one endpoint.
            let namespace = if n % 2 == 1 { "a" } else { "b" };
            let mut profiles = profiles.replace("NS", namespace);
            if let Some(account) = account {
                // As Kubernetes' pods have them.
                join(&mut labels, &format!("projectcalico.org/serviceaccount: {account}"));
                join(&mut profiles, &format!("ksa.{namespace}.{account}"));
            }
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

/// One more in a list.
fn join(list: &mut String, more: &str) {
    if !list.is_empty() {
        list.push_str(", ");
    }
    list.push_str(more);
}

/// Labels of a namespace or a service account, as its profile has them.
fn prefixed(prefix: &str, labels: &str) -> String {
    let labels = labels.split(", ").filter(|label| !label.is_empty());
    labels.map(|label| format!("{prefix}{label}")).collect::<Vec<_>>().join(", ")
}
