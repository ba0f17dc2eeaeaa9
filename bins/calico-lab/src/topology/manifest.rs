//! The resources that follow from a topology, as manifests for calicoctl.

use ipnet::IpNet;
use serde_json::{Value, json};

use super::{Node, Pool, Router, Topology, address_of};

/// The entry that holds the password, in the secret that has its router's name.
pub(crate) const SECRET_KEY: &str = "password";

impl Topology {
    /// Every resource of the lab, in the order in which to apply them: nodes and pools, the
    /// profiles of the pods' namespaces, sessions with reflectors and routers, and then what the
    /// file itself lists.
    #[must_use]
    pub fn manifests(&self) -> Vec<Value> {
        let mut manifests: Vec<Value> = self.nodes.iter().map(node).collect();
        manifests.extend(self.pools.iter().map(pool));
        for reflector in &self.reflectors {
            let addresses = &reflector.addresses;
            manifests.extend(peers(&reflector.name, addresses, reflector.as_number));
        }
        for router in &self.routers {
            manifests.extend(self.peers_with(router));
        }
        manifests.extend(self.resources.iter().cloned());
        manifests
    }
}

impl Topology {
    /// One BGPPeer per family, of all nodes or of those that the router is there for.
    fn peers_with(&self, router: &Router) -> Vec<Value> {
        let Some(node) = self.nodes_of(router).next() else { return Vec::new() };
        let addresses: Vec<IpNet> = [false, true]
            .into_iter()
            .filter_map(|v6| self.session(router, node, v6))
            .map(|(own, _)| IpNet::from(own))
            .collect();
        let mut peers = peers(&router.name, &addresses, router.as_number);
        for peer in &mut peers {
            if let Some(selector) = &router.nodes {
                peer["spec"]["nodeSelector"] = selector.as_str().into();
            }
            if router.password.is_some() {
                let secret = json!({ "name": router.name, "key": SECRET_KEY });
                peer["spec"]["password"] = json!({ "secretKeyRef": secret });
            }
        }
        peers
    }
}

/// A v3 manifest of a kind without namespace.
fn manifest(kind: &str, name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "projectcalico.org/v3",
        "kind": kind,
        "metadata": { "name": name },
        "spec": spec,
    })
}

fn node(node: &Node) -> Value {
    let mut bgp = json!({});
    for address in &node.addresses {
        let key = if address.addr().is_ipv6() { "ipv6Address" } else { "ipv4Address" };
        bgp[key] = address.to_string().into();
    }
    if let Some(as_number) = node.as_number {
        bgp["asNumber"] = as_number.into();
    }
    if let Some(cluster_id) = node.cluster_id {
        bgp["routeReflectorClusterID"] = cluster_id.to_string().into();
    }
    let mut manifest = manifest("Node", &node.name, json!({ "bgp": bgp }));
    if !node.labels.is_empty() {
        manifest["metadata"]["labels"] = json!(node.labels);
    }
    manifest
}

fn pool(pool: &Pool) -> Value {
    let mut spec = json!({ "cidr": pool.cidr, "natOutgoing": pool.nat_outgoing });
    if let Some(block_size) = pool.block_size {
        spec["blockSize"] = block_size.into();
    }
    for (key, mode) in [("vxlanMode", pool.vxlan_mode), ("ipipMode", pool.ipip_mode)] {
        if let Some(mode) = mode {
            spec[key] = json!(mode);
        }
    }
    manifest("IPPool", &pool.name, spec)
}

/// One global BGPPeer per family, so that every node has a session to the router.
fn peers(name: &str, addresses: &[IpNet], as_number: u32) -> Vec<Value> {
    [false, true]
        .into_iter()
        .filter_map(|v6| address_of(addresses, v6).map(|address| (v6, address)))
        .map(|(v6, address)| {
            let suffix = if v6 { "v6" } else { "v4" };
            let spec = json!({ "peerIP": address, "asNumber": as_number });
            manifest("BGPPeer", &format!("{name}-{suffix}"), spec)
        })
        .collect()
}
