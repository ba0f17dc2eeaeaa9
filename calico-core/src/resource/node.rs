//! Nodes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::choices::choices;
use super::object::object;
use super::{AsNumber, Errors, ObjectMeta, Resource, Spec};
use crate::kind::Kind;

/// A host that runs workloads.
pub type Node = Resource<NodeSpec>;

object! {
    /// How other nodes reach a node.
    pub struct NodeSpec {
        /// BGP: addresses and AS number; without it the node speaks no BGP.
        pub bgp: Option<NodeBgp> = "bgp",
        /// Address of the VXLAN device.
        pub ipv4_vxlan_tunnel_addr: Option<Ipv4Addr> = "ipv4VXLANTunnelAddr",
        /// Hardware address of the VXLAN device.
        pub vxlan_tunnel_mac_addr: String = "vxlanTunnelMACAddr",
        /// Address of the IPv6 VXLAN device.
        pub ipv6_vxlan_tunnel_addr: Option<Ipv6Addr> = "ipv6VXLANTunnelAddr",
        /// Hardware address of the IPv6 VXLAN device.
        pub vxlan_tunnel_mac_addr_v6: String = "vxlanTunnelMACAddrV6",
        /// What orchestrators call this node.
        pub orch_refs: Vec<OrchRef> = "orchRefs",
        /// Addresses of the WireGuard devices.
        pub wireguard: Option<NodeWireguard> = "wireguard",
        /// Addresses by which the node is known.
        pub addresses: Vec<NodeAddress> = "addresses",
        /// Its interfaces, for templates of host endpoints.
        pub interfaces: Vec<NodeInterface> = "interfaces",
    }

    /// A node's BGP speaker.
    pub struct NodeBgp {
        /// AS number; the cluster's when unset.
        pub as_number: Option<AsNumber> = "asNumber",
        /// Address and subnet, such as `10.0.0.1/24`.
        pub ipv4_address: Option<NodeCidr> = "ipv4Address",
        /// Address and subnet.
        pub ipv6_address: Option<NodeCidr> = "ipv6Address",
        /// Address of the IP-in-IP device.
        pub ipv4_ipip_tunnel_addr: Option<Ipv4Addr> = "ipv4IPIPTunnelAddr",
        /// Makes the node a route reflector of this cluster id (RFC 4456), dotted.
        pub route_reflector_cluster_id: String = "routeReflectorClusterID",
    }

    /// A node's name in an orchestrator.
    pub struct OrchRef {
        /// The name there.
        pub node_name: String = "nodeName",
        /// The orchestrator, such as `k8s`.
        pub orchestrator: String = "orchestrator",
    }

    /// Addresses of a node's WireGuard devices.
    pub struct NodeWireguard {
        /// IPv4.
        pub interface_ipv4_address: Option<Ipv4Addr> = "interfaceIPv4Address",
        /// IPv6.
        pub interface_ipv6_address: Option<Ipv6Addr> = "interfaceIPv6Address",
    }

    /// One address of a node.
    pub struct NodeAddress {
        /// The address, with or without prefix length.
        pub address: String = "address" (always),
        /// Where it is from.
        pub kind: Option<NodeAddressType> = "type",
    }

    /// One interface of a node.
    pub struct NodeInterface {
        /// Its name.
        pub name: String = "name",
        /// Its addresses.
        pub addresses: Vec<IpAddr> = "addresses",
    }

    /// What a node reports.
    pub struct NodeStatus {
        /// Base64 of the WireGuard key for IPv4.
        pub wireguard_public_key: String = "wireguardPublicKey",
        /// Base64 of the WireGuard key for IPv6.
        pub wireguard_public_key_v6: String = "wireguardPublicKeyV6",
        /// Ranges that Kubernetes gave the node.
        pub pod_cidrs: Vec<IpNet> = "podCIDRs",
    }
}

choices! {
    /// Where a node's address is from.
    pub enum NodeAddressType {
        /// Found by the node agent.
        CalicoNodeIp = "CalicoNodeIP",
        /// Kubernetes' internal address.
        InternalIp = "InternalIP",
        /// Kubernetes' external address.
        ExternalIp = "ExternalIP",
    }
}

/// A node's own address together with its subnet: the host bits matter.
pub type NodeCidr = super::Cidr;

impl NodeSpec {
    /// The node's IPv4 address, from BGP or else from its address list.
    #[must_use]
    pub fn ipv4(&self) -> Option<Ipv4Addr> {
        self.own_addresses().find_map(|address| match address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        })
    }

    /// The node's IPv6 address, from BGP or else from its address list.
    #[must_use]
    pub fn ipv6(&self) -> Option<Ipv6Addr> {
        self.own_addresses().find_map(|address| match address {
            IpAddr::V6(address) => Some(address),
            IpAddr::V4(_) => None,
        })
    }

    /// The addresses by which nodes reach this one: BGP's first, then the listed ones that are
    /// not external.
    pub fn own_addresses(&self) -> impl Iterator<Item = IpAddr> {
        let bgp = self.bgp.iter().flat_map(|bgp| [bgp.ipv4_address, bgp.ipv6_address]).flatten();
        let listed = self.addresses.iter().filter_map(|listed| {
            (listed.kind != Some(NodeAddressType::ExternalIp)).then_some(listed.address.as_str())
        });
        let listed = listed.filter_map(|text| text.parse::<super::Cidr>().ok());
        bgp.chain(listed).map(|net| net.addr())
    }
}

impl Spec for NodeSpec {
    const KIND: Kind = Kind::Node;
    type Status = NodeStatus;

    fn validate(&self, _metadata: &ObjectMeta, errors: &mut Errors) {
        super::validate::node(self, errors);
    }
}
