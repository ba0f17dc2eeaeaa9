//! Resources in, sessions and rules out.

mod exports;
mod services;
mod sessions;

use std::sync::Arc;

use calico_core::datastore::{Entry, Revision};
use calico_core::key::{Key, OwnerType};
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

fn peer(name: &str, spec: Value) -> Entry {
    entry(Kind::BgpPeer, name, json!({}), spec)
}

fn configuration(name: &str, spec: Value) -> Entry {
    entry(Kind::BgpConfiguration, name, json!({}), spec)
}

fn pool(name: &str, spec: Value) -> Entry {
    entry(Kind::IpPool, name, json!({}), spec)
}

fn block(owner: &str, block: &str, state: &str) -> Entry {
    let (owner_type, owner) = (OwnerType::Host, owner.to_owned());
    let key = Key::Affinity { owner_type, owner, block: block.parse().unwrap() };
    let value = json!({"state": state, "deleted": false}).to_string();
    Entry { key, value: Arc::from(value), revision: Revision(1) }
}

fn workload(node: &str, container: &str, labels: Value, address: &str) -> Entry {
    let name = format!("{}-cni-{container}-eth0", node.replace('-', "--"));
    let value = json!({"metadata": {"name": name, "namespace": "default", "labels": labels},
        "spec": {"orchestrator": "cni", "node": node, "containerID": container,
            "endpoint": "eth0", "interfaceName": format!("cali{container}"),
            "profiles": ["prod"], "ipNetworks": [address]}});
    let key = Key::resource(Kind::WorkloadEndpoint, Some("default"), &name);
    Entry { key, value: Arc::from(value.to_string()), revision: Revision(1) }
}

fn peering(me: &str, entries: &[Entry]) -> Peering {
    let mut peering = Peering::new(me);
    for entry in entries {
        peering.put(entry).unwrap();
    }
    peering
}

fn plan(me: &str, entries: &[Entry]) -> SpeakerPlan {
    peering(me, entries).plan().unwrap()
}

fn notes(plan: &SpeakerPlan) -> Vec<String> {
    plan.notes.iter().map(ToString::to_string).collect()
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
