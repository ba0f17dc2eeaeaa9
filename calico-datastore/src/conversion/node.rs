use std::collections::BTreeMap;

use calico_core::resource::{
    Cidr, Node, NodeAddress, NodeAddressType, NodeBgp, NodeInterface, NodeSpec, NodeStatus,
    NodeWireguard, ObjectMeta, OrchRef,
};
use serde::Deserialize;

use super::Converted;
use super::meta::KubernetesMeta;

const IPV4: &str = "projectcalico.org/IPv4Address";
const IPV6: &str = "projectcalico.org/IPv6Address";
const AS_NUMBER: &str = "projectcalico.org/ASNumber";
const CLUSTER_ID: &str = "projectcalico.org/RouteReflectorClusterID";
const IPIP: &str = "projectcalico.org/IPv4IPIPTunnelAddr";
const VXLAN: &str = "projectcalico.org/IPv4VXLANTunnelAddr";
const VXLAN_MAC: &str = "projectcalico.org/VXLANTunnelMACAddr";
const VXLAN_V6: &str = "projectcalico.org/IPv6VXLANTunnelAddr";
const VXLAN_MAC_V6: &str = "projectcalico.org/VXLANTunnelMACAddrV6";
const WIREGUARD: &str = "projectcalico.org/IPv4WireguardInterfaceAddr";
const WIREGUARD_V6: &str = "projectcalico.org/IPv6WireguardInterfaceAddr";
const WIREGUARD_KEY: &str = "projectcalico.org/WireguardPublicKey";
const WIREGUARD_KEY_V6: &str = "projectcalico.org/WireguardPublicKeyV6";
const INTERFACES: &str = "projectcalico.org/Interfaces";
const LABELS: &str = "projectcalico.org/labels";
const ANNOTATIONS: &str = "projectcalico.org/annotations";

/// A node of Kubernetes, as far as Calico looks at it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct KubernetesNode {
    /// Its metadata.
    pub metadata: KubernetesMeta,
    /// What it is given.
    pub spec: KubernetesNodeSpec,
    /// What it reports.
    pub status: KubernetesNodeStatus,
}

/// See [`KubernetesNode`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct KubernetesNodeSpec {
    /// The range of its pods.
    #[serde(rename = "podCIDR")]
    pub pod_cidr: String,
    /// The ranges of its pods, one of each family.
    #[serde(rename = "podCIDRs")]
    pub pod_cidrs: Vec<String>,
}

/// See [`KubernetesNode`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct KubernetesNodeStatus {
    /// Its addresses.
    pub addresses: Vec<KubernetesNodeAddress>,
}

/// An address of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct KubernetesNodeAddress {
    /// `InternalIP`, `ExternalIP`, `Hostname`, ...
    #[serde(rename = "type")]
    pub kind: String,
    /// The address.
    pub address: String,
}

/// Calico's view of a node. With `use_pod_cidr`, tunnel addresses are the first of the node's
/// range, as upstream has it with `USE_POD_CIDR`.
#[must_use]
pub fn node(node: &KubernetesNode, use_pod_cidr: bool) -> Converted<Node> {
    let mut problems = Vec::new();
    let annotations = &node.metadata.annotations;
    let text = |name: &str| annotations.get(name).cloned().unwrap_or_default();
    let mut read = Reader { annotations, problems: &mut problems };
    let mut bgp = NodeBgp {
        as_number: read.value(AS_NUMBER),
        ipv4_address: read.value(IPV4),
        ipv6_address: read.value(IPV6),
        ipv4_ipip_tunnel_addr: read.value(IPIP),
        route_reflector_cluster_id: text(CLUSTER_ID),
        ..NodeBgp::default()
    };
    let mut wireguard = NodeWireguard {
        interface_ipv4_address: read.value(WIREGUARD),
        interface_ipv6_address: read.value(WIREGUARD_V6),
        ..NodeWireguard::default()
    };
    let pod_cidrs = pod_cidrs(&node.spec);
    if use_pod_cidr {
        let first = |v4: bool| pod_cidrs.iter().find(|net| net.addr().is_ipv4() == v4);
        let v4 = first(true).and_then(|net| match net.addr() {
            std::net::IpAddr::V4(address) => Some(address),
            std::net::IpAddr::V6(_) => None,
        });
        bgp.ipv4_ipip_tunnel_addr = v4;
        wireguard.interface_ipv4_address = v4;
    }
    let mut spec = NodeSpec {
        ipv4_vxlan_tunnel_addr: read.value(VXLAN),
        vxlan_tunnel_mac_addr: text(VXLAN_MAC),
        ipv6_vxlan_tunnel_addr: read.value(VXLAN_V6),
        vxlan_tunnel_mac_addr_v6: text(VXLAN_MAC_V6),
        orch_refs: vec![OrchRef {
            node_name: node.metadata.name.clone(),
            orchestrator: "k8s".to_owned(),
            ..OrchRef::default()
        }],
        interfaces: read.json::<Vec<NodeInterface>>(INTERFACES).unwrap_or_default(),
        ..NodeSpec::default()
    };
    let mut labels: BTreeMap<String, String> = read.json(LABELS).unwrap_or_default();
    // Kubernetes' own labels win: they are what people see and set.
    labels.extend(node.metadata.labels.clone());
    let metadata = ObjectMeta {
        labels,
        annotations: read.json(ANNOTATIONS).unwrap_or_default(),
        ..node.metadata.view(node.metadata.name.clone(), node.metadata.uid.clone())
    };
    spec.addresses = addresses(&bgp, &node.status);
    // An empty struct would not be valid.
    spec.bgp = (bgp != NodeBgp::default()).then_some(bgp);
    spec.wireguard = (wireguard != NodeWireguard::default()).then_some(wireguard);
    let status = NodeStatus {
        wireguard_public_key: text(WIREGUARD_KEY),
        wireguard_public_key_v6: text(WIREGUARD_KEY_V6),
        pod_cidrs,
        ..NodeStatus::default()
    };
    let mut out = Node::with_metadata(metadata, spec);
    out.status = (status != NodeStatus::default()).then_some(status);
    Converted::new(out, problems)
}

/// The annotations of `current` that must change so that it shows `node`: what writing a Node
/// writes. `None` takes one away. What Kubernetes itself says stays as it is.
#[must_use]
pub fn node_annotations(
    node: &Node,
    current: &KubernetesNode,
    use_pod_cidr: bool,
) -> BTreeMap<String, Option<String>> {
    let none = NodeBgp::default();
    let bgp = node.spec.bgp.as_ref().unwrap_or(&none);
    let no_wireguard = NodeWireguard::default();
    let wireguard = node.spec.wireguard.as_ref().unwrap_or(&no_wireguard);
    let no_status = NodeStatus::default();
    let status = node.status.as_ref().unwrap_or(&no_status);
    let text = |value: &str| (!value.is_empty()).then(|| value.to_owned());
    fn shown<T: ToString>(value: Option<T>) -> Option<String> {
        value.map(|value| value.to_string())
    }
    let json = |value: &BTreeMap<String, String>| {
        (!value.is_empty()).then(|| serde_json::to_string(value).unwrap_or_default())
    };
    let own: BTreeMap<String, String> = node
        .metadata
        .labels
        .iter()
        .filter(|(key, value)| current.metadata.labels.get(*key) != Some(*value))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let interfaces = (!node.spec.interfaces.is_empty())
        .then(|| serde_json::to_string(&node.spec.interfaces).unwrap_or_default());
    let mut wanted = vec![
        (AS_NUMBER, shown(bgp.as_number)),
        (IPV4, shown(bgp.ipv4_address.map(|net| net.0))),
        (IPV6, shown(bgp.ipv6_address.map(|net| net.0))),
        (CLUSTER_ID, text(&bgp.route_reflector_cluster_id)),
        (VXLAN, shown(node.spec.ipv4_vxlan_tunnel_addr)),
        (VXLAN_MAC, text(&node.spec.vxlan_tunnel_mac_addr)),
        (VXLAN_V6, shown(node.spec.ipv6_vxlan_tunnel_addr)),
        (VXLAN_MAC_V6, text(&node.spec.vxlan_tunnel_mac_addr_v6)),
        (WIREGUARD_V6, shown(wireguard.interface_ipv6_address)),
        (WIREGUARD_KEY, text(&status.wireguard_public_key)),
        (WIREGUARD_KEY_V6, text(&status.wireguard_public_key_v6)),
        (INTERFACES, interfaces),
        (LABELS, json(&own)),
        (ANNOTATIONS, json(&node.metadata.annotations)),
    ];
    if !use_pod_cidr {
        wanted.push((IPIP, shown(bgp.ipv4_ipip_tunnel_addr)));
        wanted.push((WIREGUARD, shown(wireguard.interface_ipv4_address)));
    }
    let has = &current.metadata.annotations;
    let changed = |(name, value): &(&str, Option<String>)| has.get(*name) != value.as_ref();
    wanted.into_iter().filter(changed).map(|(name, value)| (name.to_owned(), value)).collect()
}

struct Reader<'a> {
    annotations: &'a BTreeMap<String, String>,
    problems: &'a mut Vec<String>,
}

impl Reader<'_> {
    fn value<T: std::str::FromStr>(&mut self, name: &str) -> Option<T> {
        let text = self.annotations.get(name).filter(|text| !text.is_empty())?;
        let read = text.parse().ok();
        if read.is_none() {
            self.problems.push(format!("annotation {name} {text:?} cannot be read; ignored"));
        }
        read
    }

    fn json<T: serde::de::DeserializeOwned>(&mut self, name: &str) -> Option<T> {
        let text = self.annotations.get(name).filter(|text| !text.is_empty())?;
        match serde_json::from_str(text) {
            Ok(value) => Some(value),
            Err(error) => {
                self.problems.push(format!("annotation {name} cannot be read: {error}; ignored"));
                None
            }
        }
    }
}

fn pod_cidrs(spec: &KubernetesNodeSpec) -> Vec<ipnet::IpNet> {
    let one = std::slice::from_ref(&spec.pod_cidr);
    let texts = if spec.pod_cidrs.is_empty() { one } else { &spec.pod_cidrs };
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}

fn addresses(bgp: &NodeBgp, status: &KubernetesNodeStatus) -> Vec<NodeAddress> {
    let own = [bgp.ipv4_address, bgp.ipv6_address]
        .into_iter()
        .flatten()
        .map(|net: Cidr| (net.0.to_string(), NodeAddressType::CalicoNodeIp));
    let listed = status.addresses.iter().filter_map(|listed| {
        let kind = match listed.kind.as_str() {
            "InternalIP" => NodeAddressType::InternalIp,
            "ExternalIP" => NodeAddressType::ExternalIp,
            _ => return None,
        };
        Some((listed.address.clone(), kind))
    });
    own.chain(listed)
        .map(|(address, kind)| NodeAddress { address, kind: Some(kind), ..NodeAddress::default() })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn kubernetes(annotations: Value) -> KubernetesNode {
        serde_json::from_value(json!({
            "metadata": {"name": "n1", "uid": "u", "labels": {"zone": "a"},
                "annotations": annotations},
            "spec": {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24", "fd00:1::/64"]},
            "status": {"addresses": [{"type": "Hostname", "address": "n1"},
                {"type": "InternalIP", "address": "192.0.2.1"},
                {"type": "ExternalIP", "address": "198.51.100.1"}]},
        }))
        .unwrap()
    }

    fn all_annotations() -> Value {
        json!({
            IPV4: "192.0.2.1/24", IPV6: "2001:db8::1/64", AS_NUMBER: "64513",
            CLUSTER_ID: "1.0.0.1", IPIP: "10.0.0.1", VXLAN: "10.0.0.2",
            VXLAN_MAC: "66:00:00:00:00:01", VXLAN_V6: "fd00::2",
            VXLAN_MAC_V6: "66:00:00:00:00:02", WIREGUARD: "10.0.0.3", WIREGUARD_V6: "fd00::3",
            WIREGUARD_KEY: "key", WIREGUARD_KEY_V6: "key6",
            INTERFACES: "[{\"name\":\"eth0\",\"addresses\":[\"192.0.2.1\"]}]",
            LABELS: "{\"rack\":\"r1\",\"zone\":\"b\"}", ANNOTATIONS: "{\"note\":\"x\"}",
        })
    }

    #[test]
    fn a_bare_node_is_a_node_without_bgp() {
        let Converted { resource, problems } = node(&kubernetes(json!({})), false);
        assert_eq!(problems, [] as [String; 0]);
        let found = serde_json::to_value(&resource).unwrap();
        assert_eq!(found["metadata"]["labels"], json!({"zone": "a"}));
        assert_eq!(
            found["spec"],
            json!({"orchRefs": [{"nodeName": "n1", "orchestrator": "k8s"}],
                "addresses": [{"address": "192.0.2.1", "type": "InternalIP"},
                    {"address": "198.51.100.1", "type": "ExternalIP"}]})
        );
        assert_eq!(found["status"], json!({"podCIDRs": ["10.244.1.0/24", "fd00:1::/64"]}));
    }

    #[test]
    fn every_annotation_is_a_field() {
        let Converted { resource, problems } = node(&kubernetes(all_annotations()), false);
        assert_eq!(problems, [] as [String; 0]);
        resource.validate().unwrap();
        let found = serde_json::to_value(&resource).unwrap();
        assert_eq!(found["metadata"]["labels"], json!({"rack": "r1", "zone": "a"}));
        assert_eq!(found["metadata"]["annotations"], json!({"note": "x"}));
        let spec = &found["spec"];
        assert_eq!(
            spec["bgp"],
            json!({"asNumber": 64513, "ipv4Address": "192.0.2.1/24",
                "ipv6Address": "2001:db8::1/64", "ipv4IPIPTunnelAddr": "10.0.0.1",
                "routeReflectorClusterID": "1.0.0.1"})
        );
        assert_eq!(
            spec["addresses"][0],
            json!({"address": "192.0.2.1/24", "type": "CalicoNodeIP"})
        );
        assert_eq!(spec["ipv4VXLANTunnelAddr"], "10.0.0.2");
        assert_eq!(
            spec["wireguard"],
            json!({"interfaceIPv4Address": "10.0.0.3", "interfaceIPv6Address": "fd00::3"})
        );
        assert_eq!(spec["interfaces"][0]["name"], "eth0");
        assert_eq!(found["status"]["wireguardPublicKey"], "key");
    }

    #[test]
    fn tunnels_may_take_the_first_address_of_the_pods_range() {
        let resource = node(&kubernetes(all_annotations()), true).resource;
        let tunnel = Some("10.244.1.0".parse().unwrap());
        assert_eq!(resource.spec.bgp.unwrap().ipv4_ipip_tunnel_addr, tunnel);
        assert_eq!(resource.spec.wireguard.unwrap().interface_ipv4_address, tunnel);
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let (bare, full) = (kubernetes(json!({})), kubernetes(all_annotations()));
        let shown = node(&full, false).resource;
        assert_eq!(
            node_annotations(&shown, &full, false),
            BTreeMap::from([
                // The label that Kubernetes says otherwise was never seen.
                (LABELS.to_owned(), Some("{\"rack\":\"r1\"}".to_owned()))
            ])
        );
        let mut written = bare.clone();
        for (name, value) in node_annotations(&shown, &bare, false) {
            written.metadata.annotations.insert(name, value.unwrap());
        }
        assert_eq!(node(&written, false).resource, shown);
        let removed = node_annotations(&node(&bare, false).resource, &full, false);
        assert_eq!(removed.len(), 16);
        assert!(removed.values().all(Option::is_none));
    }

    #[test]
    fn what_cannot_be_read_is_ignored_and_told() {
        let odd = kubernetes(json!({IPV4: "x", AS_NUMBER: "-1", INTERFACES: "{}"}));
        let Converted { resource, problems } = node(&odd, false);
        assert_eq!(problems.len(), 3, "{problems:?}");
        assert_eq!(resource.spec.bgp, None);
    }
}
