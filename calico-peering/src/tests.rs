use std::sync::Arc;

use calico_bgp::filter::{Action, Condition, Operation, PrefixMatch, Rule};
use calico_core::datastore::{Entry, Revision};
use calico_core::key::Key;
use calico_core::kind::Kind;
use serde_json::{Value, json};

use crate::{Peering, SpeakerPlan};

fn entry(kind: Kind, name: &str, labels: Value, spec: Value) -> Entry {
    let value = json!({"metadata": {"name": name, "labels": labels}, "spec": spec}).to_string();
    Entry { key: Key::resource(kind, None, name), value: Arc::from(value), revision: Revision(1) }
}

fn node(name: &str, labels: Value, bgp: Value) -> Entry {
    entry(Kind::Node, name, labels, json!({ "bgp": bgp }))
}

fn plan(me: &str, entries: &[Entry]) -> SpeakerPlan {
    let mut peering = Peering::new(me.into());
    for entry in entries {
        peering.put(entry).unwrap();
    }
    peering.plan().unwrap()
}

/// Sessions as `address:port as [client] [passive] [type]`.
fn check(me: &str, entries: &[Entry], expected: &[&str]) {
    let found: Vec<String> = plan(me, entries)
        .sessions
        .iter()
        .map(|session| {
            let client = if session.reflector_client { " client" } else { "" };
            let passive = if session.passive { " passive" } else { "" };
            format!(
                "{} {} as {}{client}{passive} {}",
                session.address,
                session.port,
                session.remote_as,
                session.peer_type.describe()
            )
        })
        .collect();
    assert_eq!(found, expected);
}

fn three() -> Vec<Entry> {
    vec![
        node("a", json!({}), json!({"ipv4Address": "10.0.0.1/24", "ipv6Address": "fd00::1/64"})),
        node("b", json!({"rack": "1"}), json!({"ipv4Address": "10.0.0.2/24"})),
        node(
            "c",
            json!({"rack": "1"}),
            json!({"ipv4Address": "10.0.0.10/24", "ipv6Address": "fd00::3/64"}),
        ),
    ]
}

#[test]
fn every_node_meshes_with_every_other_in_the_families_both_have() {
    let mesh = "node-to-node mesh";
    check(
        "a",
        &three(),
        &[
            &format!("10.0.0.2 179 as 64512 passive {mesh}"),
            &format!("10.0.0.10 179 as 64512 passive {mesh}"),
            &format!("fd00::3 179 as 64512 passive {mesh}"),
        ],
    );
    // "10.0.0.2" > "10.0.0.10" as text.
    check(
        "b",
        &three(),
        &[&format!("10.0.0.1 179 as 64512 {mesh}"), &format!("10.0.0.10 179 as 64512 {mesh}")],
    );
}

#[test]
fn reflectors_leave_the_mesh_and_serve_the_nodes_that_select_them() {
    let mut entries = three();
    entries[2] = node(
        "c",
        json!({"rr": "true"}),
        json!({"ipv4Address": "10.0.0.10/24", "routeReflectorClusterID": "244.0.0.1"}),
    );
    entries.push(entry(
        Kind::BgpPeer,
        "to-rr",
        json!({}),
        json!({"nodeSelector": "!has(rr)", "peerSelector": "has(rr)"}),
    ));
    entries.push(entry(
        Kind::BgpConfiguration,
        "default",
        json!({}),
        json!({"nodeToNodeMeshEnabled": false}),
    ));
    check("a", &entries, &["10.0.0.10 179 as 64512 passive node specific"]);
    check(
        "c",
        &entries,
        &[
            "10.0.0.1 179 as 64512 client node specific",
            "10.0.0.2 179 as 64512 client passive node specific",
        ],
    );
    assert_eq!(plan("c", &entries).cluster_id, Some([244, 0, 0, 1].into()));
}

#[test]
fn a_router_outside_the_cluster_is_a_peer_of_those_it_is_for() {
    let mut entries = three();
    entries.push(entry(
        Kind::BgpPeer,
        "tor",
        json!({}),
        json!({"nodeSelector": "rack == '1'", "peerIP": "10.0.0.254:1179", "asNumber": 65001}),
    ));
    let has_tor = |node| plan(node, &entries).sessions.iter().any(|s| s.port == 1179);
    assert!(!has_tor("a"));
    assert!(has_tor("b"));
}

#[test]
fn per_node_settings_win() {
    let mut entries = three();
    entries.push(entry(
        Kind::BgpConfiguration,
        "default",
        json!({}),
        json!({"asNumber": 65000, "listenPort": 1790}),
    ));
    entries.push(entry(Kind::BgpConfiguration, "node.b", json!({}), json!({"listenPort": 1791})));
    check(
        "c",
        &entries,
        &[
            "10.0.0.1 1790 as 65000 node-to-node mesh",
            "10.0.0.2 1791 as 65000 passive node-to-node mesh",
            "fd00::1 1790 as 65000 node-to-node mesh",
        ],
    );
    assert_eq!(plan("b", &entries).listen_port, 1791);
}

#[test]
fn a_node_without_addresses_speaks_no_bgp() {
    let mut peering = Peering::new("a".into());
    assert_eq!(peering.plan(), None);
    peering.put(&entry(Kind::Node, "a", json!({}), json!({}))).unwrap();
    assert_eq!(peering.plan(), None);
}

#[test]
fn a_peer_with_every_option_of_its_session() {
    let mut entries = three();
    entries.push(entry(
        Kind::BgpPeer,
        "tor",
        json!({}),
        json!({"peerIP": "10.0.0.254", "asNumber": 65001, "localASNumber": 65000,
            "numAllowedLocalASNumbers": 2, "ttlSecurity": 3, "filters": ["second", "first", "no"]}),
    ));
    entries.push(entry(
        Kind::BgpFilter,
        "first",
        json!({}),
        json!({"importV4": [{"action": "Reject"}],
            "exportV4": [{"action": "Accept", "source": "RemotePeers", "peerType": "eBGP",
                "priority": 100, "asPathPrefix": [65002], "communities": {"values": ["1:2"]},
                "operations": [{"addCommunity": {"value": "65000:1:2"}},
                    {"prependASPath": {"prefix": [1, 2]}}, {"setPriority": {"value": 7}}]}],
            "importV6": [{"action": "Reject"}]}),
    ));
    entries.push(entry(
        Kind::BgpFilter,
        "second",
        json!({}),
        json!({"importV4": [
            {"action": "Accept", "cidr": "10.0.0.0/8", "matchOperator": "NotIn",
                "prefixLength": {"min": 16}},
            {"action": "Accept", "cidr": "10.0.0.0/8", "matchOperator": "Equal",
                "interface": "eth*"},
            {"action": "Accept", "communities": {"values": ["nonsense"]}}]}),
    ));
    let plan = plan("a", &entries);
    let tor = plan.sessions.iter().find(|s| s.remote_as == 65001).unwrap();
    assert_eq!((tor.local_as, tor.allowed_own_as, tor.secured_hops), (65000, 2, Some(3)));
    let accept = |conditions| Rule { conditions, action: Action::Accept(vec![]) };
    let ten = "10.0.0.0/8".parse().unwrap();
    let wanted = vec![
        accept(vec![Condition::Prefix(PrefixMatch::within(ten).lengths(16..=32).negated())]),
        accept(vec![
            Condition::Prefix(PrefixMatch::exactly(ten)),
            Condition::Interface("eth*".parse().unwrap()),
        ]),
        Rule { conditions: vec![], action: Action::Reject },
    ];
    assert_eq!(tor.import.as_ref().unwrap().rules, wanted);
    let wanted = Rule {
        conditions: vec![
            Condition::Learned,
            Condition::ExternalPeer,
            Condition::Community("1:2".parse().unwrap()),
            Condition::AsPathPrefix(vec![65002]),
            Condition::LocalPref(2_147_483_547),
        ],
        action: Action::Accept(vec![
            Operation::AddCommunity("65000:1:2".parse().unwrap()),
            Operation::PrependAsPath(vec![1, 2]),
            Operation::SetLocalPref(2_147_483_640),
        ]),
    };
    assert_eq!(tor.export.as_ref().unwrap().rules, [wanted]);
    let mesh = plan.sessions.iter().find(|s| s.remote_as == 64512).unwrap();
    assert_eq!((&mesh.import, &mesh.export), (&None, &None));
}

#[test]
fn prefixes_are_advertised_with_communities_by_name_and_value() {
    let mut entries = three();
    entries.push(entry(
        Kind::BgpConfiguration,
        "default",
        json!({}),
        json!({"communities": [{"name": "blocks", "value": "65000:7"}],
            "prefixAdvertisements": [
                {"cidr": "192.168.0.0/16", "communities": ["blocks", "65000:1:2", "unknown"]}]}),
    ));
    let of = |node: &str, entries: &[Entry]| plan(node, entries).advertisements;
    let found = of("a", &entries);
    assert_eq!(found.len(), 1);
    let texts: Vec<_> = found[0].communities.iter().map(ToString::to_string).collect();
    assert_eq!(texts, ["65000:7", "65000:1:2"]);
    entries.push(entry(
        Kind::BgpConfiguration,
        "node.a",
        json!({}),
        json!({"prefixAdvertisements": [{"cidr": "10.0.0.0/8", "communities": ["blocks"]}]}),
    ));
    assert_eq!(of("a", &entries)[0].cidr, "10.0.0.0/8".parse().unwrap());
    assert_eq!(of("b", &entries), found);
}
