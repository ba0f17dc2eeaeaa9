//! What a Node resource says about BGP.

use std::net::{IpAddr, Ipv4Addr};

use calico_core::key::Family;
use calico_core::resource::{Cidr, Node};
use ipnet::IpNet;

/// Whether a node with this label stays out of service announcements.
const EXCLUDE_LABEL: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// The node's BGP address of a family.
pub(crate) fn address(node: &Node, family: Family) -> Option<IpAddr> {
    cidr(node, family).map(|cidr| cidr.addr())
}

/// The subnet of that address.
pub(crate) fn subnet(node: &Node, family: Family) -> Option<IpNet> {
    cidr(node, family).map(|cidr| cidr.trunc())
}

/// Its cluster id, if it reflects routes.
pub(crate) fn cluster_id(node: &Node) -> Option<Ipv4Addr> {
    node.spec.bgp.as_ref()?.route_reflector_cluster_id.parse().ok()
}

/// Whether it must not announce services.
pub(crate) fn excludes_services(node: &Node) -> bool {
    node.metadata.labels.get(EXCLUDE_LABEL).is_some_and(|value| value == "true")
}

fn cidr(node: &Node, family: Family) -> Option<Cidr> {
    let bgp = node.spec.bgp.as_ref()?;
    match family {
        Family::V4 => bgp.ipv4_address,
        Family::V6 => bgp.ipv6_address,
    }
}

/// A BGP identifier made from a node's name.
pub(crate) fn id_of_name(node: &str) -> Ipv4Addr {
    // FNV-1a: any stable number that is not zero will do (RFC 6286).
    let hash = node
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    Ipv4Addr::from(hash.max(1))
}
