//! Addresses of a node's tunnels: how upstream names them. Pure.

use std::collections::BTreeMap;

use calico_core::key::Family;
use calico_core::resource::{AllocationAttribute, AllowedUse};

use crate::request::AssignRequest;

/// A tunnel of a node that has an address of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tunnel {
    /// WireGuard for IPv4.
    Wireguard,
    /// WireGuard for IPv6.
    WireguardV6,
    /// IP-in-IP.
    Ipip,
    /// VXLAN for IPv4.
    Vxlan,
    /// VXLAN for IPv6.
    VxlanV6,
}

impl Tunnel {
    /// In the order in which upstream's node gives them addresses.
    pub const ALL: [Self; 5] =
        [Self::Wireguard, Self::WireguardV6, Self::Ipip, Self::Vxlan, Self::VxlanV6];

    /// Attribute `type` of its address, such as `vxlanTunnelAddress`.
    #[must_use]
    pub const fn attribute(self) -> &'static str {
        match self {
            Self::Wireguard => "wireguardTunnelAddress",
            Self::WireguardV6 => "wireguardV6TunnelAddress",
            Self::Ipip => "ipipTunnelAddress",
            Self::Vxlan => "vxlanTunnelAddress",
            Self::VxlanV6 => "vxlanV6TunnelAddress",
        }
    }

    /// What its address is assigned under, such as `vxlan-tunnel-addr-<node>`.
    #[must_use]
    pub fn handle(self, node: &str) -> String {
        let kind = match self {
            Self::Wireguard => "wireguard",
            Self::WireguardV6 => "wireguard-v6",
            Self::Ipip => "ipip",
            Self::Vxlan => "vxlan",
            Self::VxlanV6 => "vxlan-v6",
        };
        format!("{kind}-tunnel-addr-{node}")
    }

    /// What is recorded with its address.
    #[must_use]
    pub fn attributes(self, node: &str) -> BTreeMap<String, String> {
        let pairs = [("node", node), ("type", self.attribute())];
        pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
    }

    /// Family of its address.
    #[must_use]
    pub const fn family(self) -> Family {
        match self {
            Self::Wireguard | Self::Ipip | Self::Vxlan => Family::V4,
            Self::WireguardV6 | Self::VxlanV6 => Family::V6,
        }
    }

    /// The tunnel that an address is for, if it is for one.
    #[must_use]
    pub fn of(attributes: &AllocationAttribute) -> Option<Self> {
        let kind = attributes.secondary.get("type")?;
        Self::ALL.into_iter().find(|tunnel| tunnel.attribute() == kind)
    }

    /// A request for its address from these pools, by name or CIDR; the one that it has, if it has
    /// one. Without pools, from those that allow tunnels and select the node.
    #[must_use]
    pub fn request(self, node: &str, pools: Vec<String>) -> AssignRequest {
        let mut request = AssignRequest::new(node).handle(self.handle(node)).reuse();
        request.attributes = self.attributes(node);
        request.intended_use = AllowedUse::Tunnel;
        match self.family() {
            Family::V4 => (request.v4, request.v4_pools) = (1, pools),
            Family::V6 => (request.v6, request.v6_pools) = (1, pools),
        }
        request
    }
}
