use calico_bgp::rib::{PeerFacts, PeerKind, PolicyRoute, RoutePolicy, SessionTraits, Verdict};
use calico_bgp::wire::PathAttributes;
use calico_core::kind::Kind;
use ipnet::IpNet;
use serde_json::json;

use super::*;
use crate::{HostRoute, Options, Session};

const USUAL: u32 = 2_147_482_623;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn facts(kind: PeerKind) -> PeerFacts {
    PeerFacts {
        kind,
        asn: if kind == PeerKind::External { 65001 } else { 64512 },
        local_as: 64512,
        router_id: [192, 0, 2, 9].into(),
        address: "192.0.2.9".parse().unwrap(),
        local_address: None,
        speaker_as: 64512,
        cluster_id: None,
        traits: SessionTraits::default(),
    }
}

/// What a session tells of a route: the communities it has then, or nothing.
fn told(session: &Session, prefix: &str, from: PeerKind, local_pref: u32) -> Option<Vec<String>> {
    let to = facts(if session.is_internal() { PeerKind::Internal } else { PeerKind::External });
    let prefix = net(prefix);
    let attributes = PathAttributes::default();
    let verdict = session.export.evaluate(&PolicyRoute {
        prefix: &prefix,
        attributes: &attributes,
        from: &facts(from),
        to: Some(&to),
        local_pref: Some(local_pref),
    });
    let texts = |attributes: &PathAttributes| {
        let plain = attributes.communities.iter().map(ToString::to_string);
        plain.chain(attributes.large_communities.iter().map(ToString::to_string)).collect()
    };
    match verdict {
        Verdict::Accept => Some(Vec::new()),
        Verdict::Modify(changed) => Some(texts(&changed)),
        Verdict::Reject => None,
    }
}

/// The node with two pools, a block, and a ToR as its peer.
fn cluster() -> Vec<Entry> {
    let mut entries = three();
    entries.push(pool("pods", json!({"cidr": "10.65.0.0/16"})));
    entries.push(pool("six", json!({"cidr": "fd00:65::/48"})));
    entries.push(pool("secret", json!({"cidr": "10.66.0.0/16", "disableBGPExport": true})));
    entries.push(block("a", "10.65.1.0/26", "confirmed"));
    entries.push(block("a", "10.66.1.0/26", "confirmed"));
    entries.push(peer("tor", json!({"peerIP": "10.0.0.254", "asNumber": 65001})));
    entries
}

fn session<'a>(plan: &'a SpeakerPlan, address: &str) -> &'a Session {
    plan.sessions.iter().find(|session| session.address.to_string() == address).unwrap()
}

fn check(entries: &[Entry], cases: &[(&str, PeerKind, bool)]) {
    let plan = plan("a", entries);
    for peer in ["10.0.0.2", "10.0.0.254"] {
        for (prefix, from, expected) in cases {
            let told = told(session(&plan, peer), prefix, *from, USUAL);
            assert_eq!(told.is_some(), *expected, "{prefix} from {from:?} to {peer}");
            if *from == PeerKind::Local {
                assert_eq!(plan.tells(&net(prefix)), *expected, "{prefix}");
            }
        }
    }
}

#[test]
fn blocks_are_told_and_nothing_beneath_them_and_nothing_else_leaks() {
    use PeerKind::{External, Internal, Local};
    check(
        &cluster(),
        &[
            ("10.65.1.0/26", Local, true),
            ("10.65.1.5/32", Local, false),
            // Borrowed from a block of another node.
            ("10.65.2.7/32", Local, true),
            // Another node's block, for a reflector or a ToR.
            ("10.65.2.0/26", Internal, true),
            // Borrowed by another node from ours: our block leads there.
            ("10.65.1.9/32", Internal, false),
            // A default route and what else a ToR tells.
            ("0.0.0.0/0", External, false),
            ("192.168.7.0/24", External, false),
            ("10.0.0.0/24", Local, false),
            ("10.65.9.0/24", External, true),
            ("10.66.1.0/26", Local, false),
            ("10.66.2.0/26", Internal, false),
            ("10.0.0.0/8", External, false),
        ],
    );
}

#[test]
fn families_have_rules_of_their_own() {
    let plan = plan("a", &cluster());
    let six = session(&plan, "fd00::3");
    assert_eq!(told(six, "fd00:65::/122", PeerKind::Local, USUAL), Some(vec![]));
    assert_eq!(told(six, "::/0", PeerKind::External, USUAL), None);
    assert_eq!(
        (plan.local_pref(&net("10.65.1.0/26")), plan.local_pref(&net("fd00::/64"))),
        (Some(USUAL), Some(USUAL))
    );
}

#[test]
fn a_block_on_its_way_out_hides_nothing() {
    let mut entries = cluster();
    entries.push(block("a", "10.65.1.0/26", "pendingDeletion"));
    let cases = [("10.65.1.0/26", PeerKind::Local, true), ("10.65.1.5/32", PeerKind::Local, true)];
    check(&entries, &cases);
}

#[test]
fn what_moves_to_another_node_is_told_beside_the_block() {
    let mut entries = cluster();
    let told_with = |entries: &[Entry], local_pref| {
        let plan = plan("a", entries);
        told(session(&plan, "10.0.0.254"), "10.65.1.9/32", PeerKind::Internal, local_pref).is_some()
    };
    assert!(told_with(&entries, USUAL + 1));
    assert!(!told_with(&entries, USUAL));
    entries.push(configuration("default", json!({"ipv4NormalRoutePriority": 100})));
    assert!(!told_with(&entries, USUAL + 1));
    assert!(told_with(&entries, 2_147_483_548));
    let plan = plan("a", &entries);
    assert_eq!(plan.local_pref(&net("10.65.1.0/26")), Some(2_147_483_547));
}

#[test]
fn filters_come_first() {
    let mut entries = cluster();
    entries.push(peer(
        "tor",
        json!({"peerIP": "10.0.0.254", "asNumber": 65001,
        "filters": ["f", "missing"]}),
    ));
    entries.push(entry(Kind::BgpFilter, "f", json!({}), json!({"exportV4": [
        {"action": "Accept", "cidr": "0.0.0.0/0", "matchOperator": "Equal", "source": "RemotePeers"},
        {"action": "Accept", "cidr": "10.65.1.5/32", "matchOperator": "Equal"},
        {"action": "Accept", "cidr": "10.66.0.0/16", "matchOperator": "In", "priority": 1024,
            "operations": [{"addCommunity": {"value": "1:2"}}]},
        {"action": "Reject", "cidr": "10.65.2.0/24", "matchOperator": "In"}]})));
    let plan = plan("a", &entries);
    let tor = session(&plan, "10.0.0.254");
    let check = |prefix: &str, from, expected: Option<&[&str]>| {
        let found = told(tor, prefix, from, USUAL);
        assert_eq!(
            found.as_deref(),
            expected
                .map(|texts| texts.iter().map(ToString::to_string).collect::<Vec<_>>())
                .as_deref(),
            "{prefix}"
        );
    };
    check("0.0.0.0/0", PeerKind::Internal, Some(&[]));
    check("0.0.0.0/0", PeerKind::Local, None);
    check("10.65.1.5/32", PeerKind::Local, Some(&[]));
    check("10.66.1.0/26", PeerKind::Local, Some(&["1:2"]));
    check("10.65.2.0/26", PeerKind::Internal, None);
    check("10.65.1.0/26", PeerKind::Local, Some(&[]));
    // Nobody else is concerned.
    let mesh = session(&plan, "10.0.0.2");
    assert_eq!(told(mesh, "0.0.0.0/0", PeerKind::External, USUAL), None);
}

#[test]
fn prefixes_are_told_with_communities_by_name_and_value() {
    let mut entries = cluster();
    entries.push(configuration(
        "default",
        json!({"communities": [{"name": "pods", "value": "65000:7"}],
            "prefixAdvertisements": [
                {"cidr": "10.65.0.0/16", "communities": ["pods", "65000:1:2", "unknown"]},
                {"cidr": "10.65.1.0/24", "communities": ["1:1"]}]}),
    ));
    let before = plan("a", &entries);
    let of = |plan: &SpeakerPlan, prefix| {
        told(session(plan, "10.0.0.2"), prefix, PeerKind::Local, USUAL).unwrap()
    };
    assert_eq!(of(&before, "10.65.1.0/26"), ["65000:7", "1:1", "65000:1:2"]);
    assert_eq!(of(&before, "10.65.2.7/32"), ["65000:7", "65000:1:2"]);
    let note = "BGPConfiguration default: prefixAdvertisements is ignored: community unknown: ";
    assert!(notes(&before)[0].starts_with(note), "{:?}", before.notes);
    entries.push(configuration(
        "node.a",
        json!({"prefixAdvertisements": [{"cidr": "10.65.2.0/24", "communities": ["pods"]}]}),
    ));
    let after = plan("a", &entries);
    assert_eq!(of(&after, "10.65.2.7/32"), ["65000:7"]);
    assert_eq!(of(&after, "10.65.1.0/26"), [""; 0]);
}

fn services() -> Entry {
    configuration(
        "default",
        json!({"serviceClusterIPs": [{"cidr": "10.96.0.0/12"}],
            "serviceExternalIPs": [{"cidr": "203.0.113.0/24"}, {"cidr": "203.0.114.1/32"}],
            "serviceLoadBalancerIPs": [{"cidr": "198.51.100.0/24"}]}),
    )
}

#[test]
fn ranges_of_services_are_announced_and_stay_out_of_the_kernel() {
    let mut entries = cluster();
    entries.push(services());
    let plan = plan("a", &entries);
    let texts = |nets: &[IpNet]| nets.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(texts(&plan.services), ["10.96.0.0/12", "203.0.113.0/24", "198.51.100.0/24"]);
    assert_eq!(notes(&plan), [""; 0]);
    let programs = |prefix: &str| plan.kernel.programs(&net(prefix));
    assert!(!programs("10.96.0.10/32") && !programs("203.0.113.0/24"));
    assert!(programs("10.65.2.0/26") && programs("0.0.0.0/0"));
    let tells = |prefix| told(session(&plan, "10.0.0.254"), prefix, PeerKind::Local, USUAL);
    assert!(tells("10.96.0.0/12").is_some());
    // What another router tells of them stays here (upstream: only static routes are told).
    let heard = told(session(&plan, "10.0.0.254"), "10.96.0.0/12", PeerKind::External, USUAL);
    assert_eq!(heard, None);
}

#[test]
fn nodes_can_be_kept_out_of_service_announcements() {
    let mut entries = cluster();
    entries.push(services());
    let labels = json!({"node.kubernetes.io/exclude-from-external-load-balancers": "true"});
    entries.push(node("a", labels, json!({"ipv4Address": "10.0.0.1/24"})));
    let excluded = plan("a", &entries);
    assert!(excluded.services.is_empty());
    assert!(!excluded.kernel.programs(&net("10.96.0.10/32")));
    let tor = session(&excluded, "10.0.0.254");
    assert_eq!(told(tor, "10.96.0.0/12", PeerKind::Internal, USUAL), None);
    // A reflector tells on what it hears of load balancers and external addresses.
    let labels = json!({"node.kubernetes.io/exclude-from-external-load-balancers": "true"});
    let bgp = json!({"ipv4Address": "10.0.0.1/24", "routeReflectorClusterID": "1.0.0.1"});
    entries.push(node("a", labels, bgp));
    let reflector = plan("a", &entries);
    let tor = session(&reflector, "10.0.0.254");
    let tells = |prefix| told(tor, prefix, PeerKind::Client, USUAL).is_some();
    assert!(tells("198.51.100.7/32") && tells("203.0.114.1/32") && !tells("10.96.0.0/12"));
}

#[test]
fn service_ranges_without_aggregation_and_from_the_environment() {
    let mut entries = cluster();
    entries.push(configuration(
        "default",
        json!({"serviceClusterIPs": [{"cidr": "10.96.0.0/12"}],
            "serviceLoadBalancerAggregation": "Disabled",
            "serviceLoadBalancerIPs": [{"cidr": "198.51.100.0/24"}]}),
    ));
    let options = Options { cluster_ips: Some(vec![net("10.112.0.0/12")]), ..Options::default() };
    let mut peering = Peering::with_options("a", options);
    entries.iter().for_each(|entry| drop(peering.put(entry)));
    let plan = peering.plan().unwrap();
    assert_eq!(plan.services, [net("10.112.0.0/12")]);
    assert_eq!(notes(&plan), [""; 0]);
}

#[test]
fn routes_of_tunnels_are_left_to_others_and_those_of_other_pools_may_be() {
    let programs = |value: &str| {
        let mut entries = cluster();
        entries.push(pool("ipip", json!({"cidr": "10.67.0.0/16", "ipipMode": "Always"})));
        entries.push(pool("vxlan", json!({"cidr": "10.68.0.0/16", "vxlanMode": "CrossSubnet"})));
        entries.push(configuration("default", json!({"programClusterRoutes": value})));
        let kernel = plan("a", &entries).kernel;
        let prefixes = ["10.65.2.0/26", "10.67.2.0/26", "10.68.2.7/32", "10.70.0.0/16"];
        prefixes.map(|n| kernel.programs(&net(n)))
    };
    assert_eq!(programs("EnabledNoEncapOnly"), [true, false, false, true]);
    assert_eq!(programs("Enabled"), [true, false, false, true]);
    assert_eq!(programs("Disabled"), [false, false, false, true]);
    assert_eq!(programs("EnabledIPIPOnly"), [false, false, false, true]);
}

fn host(prefix: &str, interface: &str, metric: Option<u32>) -> HostRoute {
    let interface = Some(interface.to_owned()).filter(|name| !name.is_empty());
    HostRoute { prefix: net(prefix), interface, metric }
}

/// The host's own routes that the node announces.
fn announced(peering: &Peering) -> Vec<String> {
    peering.plan().unwrap().host.iter().map(ToString::to_string).collect()
}

/// What an internal and an external peer are told of an own prefix: the LOCAL_PREF of the one, and
/// whether the other is.
fn heard(plan: &SpeakerPlan, prefix: &str) -> (Option<u32>, bool) {
    let prefix = net(prefix);
    let told = |peer: &str, kind| {
        let attributes = PathAttributes::default();
        session(plan, peer).export.evaluate(&PolicyRoute {
            prefix: &prefix,
            attributes: &attributes,
            from: &facts(PeerKind::Local),
            to: Some(&facts(kind)),
            local_pref: plan.local_pref(&prefix),
        })
    };
    let internal = match told("10.0.0.2", PeerKind::Internal) {
        Verdict::Modify(changed) => changed.local_pref,
        Verdict::Accept => Some(0),
        Verdict::Reject => None,
    };
    (internal, told("10.0.0.254", PeerKind::External) != Verdict::Reject)
}

#[test]
fn routes_of_the_host_in_a_pool_are_told() {
    let mut peering = peering("a", &cluster());
    let routes = vec![
        host("0.0.0.0/0", "eth0", Some(100)),
        host("10.0.0.0/24", "eth0", None),
        host("10.65.7.0/24", "eth1", None),
        host("10.65.7.0/24", "eth1", Some(5)),
        host("10.65.8.0/24", "eth0", Some(50)),
        host("10.65.8.0/24", "eth0", Some(20)),
        host("10.65.9.0/24", "", Some(0)),
        // Those of tunnels, of workloads and of the service proxy, and what this node has itself.
        host("10.65.10.0/24", "vxlan.calico", Some(0)),
        host("10.65.11.1/32", "cali1", None),
        host("10.65.12.1/32", "kube-ipvs0", None),
        host("10.65.1.0/26", "eth0", Some(0)),
        // In its own block: told if it is preferred to the usual.
        host("10.65.1.7/32", "eth0", Some(1024)),
        host("10.65.1.8/32", "eth0", Some(512)),
        host("10.66.3.0/24", "eth0", Some(0)),
    ];
    assert!(peering.set_host_routes(routes.clone()));
    assert!(!peering.set_host_routes(routes));
    let wanted = ["10.65.1.7/32", "10.65.1.8/32", "10.65.7.0/24", "10.65.8.0/24", "10.65.9.0/24"];
    assert_eq!(announced(&peering), wanted);
    let plan = peering.plan().unwrap();
    let base = 2_147_483_647;
    assert_eq!(heard(&plan, "10.65.7.0/24"), (Some(USUAL), true), "a subnet");
    assert_eq!(heard(&plan, "10.65.8.0/24"), (Some(base - 20), true));
    assert_eq!(heard(&plan, "10.65.9.0/24"), (Some(base), true));
    assert_eq!(heard(&plan, "10.65.1.7/32"), (None, false));
    assert_eq!(heard(&plan, "10.65.1.8/32"), (Some(base - 512), false), "only in this AS");
    // A subnet is nobody else's; a route of the kernel is where nobody tells one.
    let own = |prefix: &str| plan.local_pref(&net(prefix));
    assert_eq!([own("10.65.7.0/24"), own("10.65.8.0/24")], [None, Some(0)]);
    assert!(!plan.announces_like(&super::plan("a", &cluster())));

    peering.put(&configuration("default", json!({"ignoredInterfaces": ["eth*"]}))).unwrap();
    let plan = peering.plan().unwrap();
    assert_eq!(plan.local_pref(&net("10.65.7.0/24")), Some(0), "that of the kernel is left");
    assert_eq!(notes(&plan), [] as [&str; 0]);
}

#[test]
fn a_filter_may_tell_any_route_of_the_host() {
    let mut entries = cluster();
    let rule = json!({"action": "Accept", "interface": "eth1", "cidr": "172.16.0.0/12",
        "matchOperator": "In"});
    let spec = json!({"exportV4": [rule]});
    entries.push(entry(Kind::BgpFilter, "dmz", json!({}), spec));
    let tor = json!({"peerIP": "10.0.0.254", "asNumber": 65001, "filters": ["dmz"]});
    entries.push(peer("tor", tor));
    let mut peering = peering("a", &entries);
    peering.set_host_routes(vec![
        host("172.16.1.0/24", "eth1", None),
        host("172.16.2.0/24", "eth2", None),
        host("172.17.0.0/24", "eth1", Some(7)),
        host("192.168.1.0/24", "eth1", Some(7)),
        host("2001:db8:1::/64", "eth1", None),
    ]);
    assert_eq!(announced(&peering).len(), 4, "no filter is about IPv6");
    let plan = peering.plan().unwrap();
    let told = ["172.16.1.0/24", "172.16.2.0/24", "172.17.0.0/24", "192.168.1.0/24"];
    assert_eq!(told.map(|prefix| heard(&plan, prefix).1), [true, false, true, false]);
    assert!(told.iter().all(|prefix| heard(&plan, prefix).0.is_none()), "the mesh hears of none");
    assert_eq!(notes(&plan), [] as [&str; 0]);
}
