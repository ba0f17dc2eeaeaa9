//! What changes on the way to Kubernetes: nodes get the names that they have there.

use std::collections::BTreeMap;

use calico_core::key::Key;
use calico_core::kind::Kind;
use calico_core::resource::{AnyResource, NodeSpec};
use serde_json::Value;

use super::file::Contents;

/// Handles of tunnel addresses end with the node's name.
const TUNNEL_HANDLES: [&str; 5] = [
    "ipip-tunnel-addr-",
    "vxlan-tunnel-addr-",
    "vxlan-v6-tunnel-addr-",
    "wireguard-tunnel-addr-",
    "wireguard-v6-tunnel-addr-",
];

/// Names of policies that Kubernetes' own NetworkPolicies are shown under.
const KUBERNETES_POLICY: &str = "knp.default.";

/// Leaves out policies that Kubernetes has itself, and renames nodes everywhere.
pub(super) fn for_kubernetes(contents: &mut Contents) {
    contents.resources.retain(|resource| {
        resource.kind != Kind::NetworkPolicy || !resource.name().starts_with(KUBERNETES_POLICY)
    });
    let names = names(&contents.resources);
    if names.is_empty() {
        return;
    }
    for resource in &mut contents.resources {
        in_resource(resource, &names);
    }
    for item in contents.ipam.items_mut() {
        match &mut item.key {
            Key::Affinity { owner, .. } | Key::IpamHost(owner) => replace(owner, &names),
            Key::Handle(id) => tunnel(id, &names),
            _ => {}
        }
        in_block(&mut item.value, &names);
    }
}

/// New names of nodes whose name in Kubernetes is another one.
fn names(resources: &[AnyResource]) -> BTreeMap<String, String> {
    let pair = |resource: &AnyResource| {
        let node = resource.typed::<NodeSpec>().ok()?;
        let known = node.spec.orch_refs.iter().find(|known| known.orchestrator == "k8s")?;
        let new = (!known.node_name.is_empty() && known.node_name != node.name())
            .then(|| known.node_name.clone())?;
        Some((node.name().to_owned(), new))
    };
    resources.iter().filter_map(pair).collect()
}

fn replace(name: &mut String, names: &BTreeMap<String, String>) {
    if let Some(new) = names.get(name) {
        name.clone_from(new);
    }
}

fn tunnel(handle: &mut String, names: &BTreeMap<String, String>) {
    for prefix in TUNNEL_HANDLES {
        if let Some(new) = handle.strip_prefix(prefix).and_then(|node| names.get(node)) {
            *handle = format!("{prefix}{new}");
            return;
        }
    }
}

fn in_resource(resource: &mut AnyResource, names: &BTreeMap<String, String>) {
    match resource.kind {
        Kind::Node => replace(&mut resource.metadata.name, names),
        Kind::FelixConfiguration | Kind::BgpConfiguration => {
            let node = resource.metadata.name.strip_prefix("node.");
            if let Some(new) = node.and_then(|node| names.get(node)) {
                resource.metadata.name = format!("node.{new}");
            }
        }
        Kind::BgpPeer | Kind::HostEndpoint => {
            let spec = resource.fields.get_mut("spec");
            if let Some(Value::String(node)) = spec.and_then(|spec| spec.get_mut("node")) {
                replace(node, names);
            }
        }
        _ => {}
    }
}

fn in_block(block: &mut Value, names: &BTreeMap<String, String>) {
    if let Some(Value::String(affinity)) = block.get_mut("affinity")
        && let Some(new) = affinity.strip_prefix("host:").and_then(|node| names.get(node))
    {
        *affinity = format!("host:{new}");
    }
    for attribute in block.get_mut("attributes").and_then(Value::as_array_mut).into_iter().flatten()
    {
        if let Some(Value::String(node)) =
            attribute.get_mut("secondary").and_then(|pairs| pairs.get_mut("node"))
        {
            replace(node, names);
        }
        if let Some(Value::String(handle)) = attribute.get_mut("handle_id") {
            tunnel(handle, names);
        }
    }
}
