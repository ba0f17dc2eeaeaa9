use std::sync::Arc;

use calico_core::datastore::{Entry, Revision};
use calico_core::key::Key;
use calico_core::kind::Kind;
use serde_json::{Value, json};

use super::{Peering, SpeakerPlan};

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
