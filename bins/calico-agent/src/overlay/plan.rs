//! From resources to routes, devices and addresses.

use std::collections::BTreeMap;
use std::net::IpAddr;

use calico_core::dataplane::{NextHop, RouteTarget};
use calico_core::key::Family;
use calico_core::resource::{AllowedUse, EncapMode, IpPoolSpec, Node};
use calico_core::selector::Selector;
use calico_netlink::link::MacAddr;
use calico_netlink::tunnel::{
    Encapsulation, IPIP_OVERHEAD, Remote, Tunnel, VXLAN_OVERHEAD, VXLAN_V6_OVERHEAD, Vxlan,
};
use ipnet::IpNet;
use sha1::{Digest, Sha1};
use tracing::warn;

use super::Overlay;
use super::addresses::{TunnelKind, Wanted, WantedAddress};
use super::devices::{Size, WantedTunnel};

/// Upstream's defaults.
const VNI: u32 = 4096;
const PORT: u16 = 4789;

impl TunnelKind {
    /// Name of its device, as upstream's.
    pub(crate) const fn device(self) -> &'static str {
        match self {
            Self::Ipip => "tunl0",
            Self::VxlanV4 => "vxlan.calico",
            Self::VxlanV6 => "vxlan-v6.calico",
        }
    }

    const fn family(self) -> Family {
        match self {
            Self::Ipip | Self::VxlanV4 => Family::V4,
            Self::VxlanV6 => Family::V6,
        }
    }

    const fn overhead(self) -> u32 {
        match self {
            Self::Ipip => IPIP_OVERHEAD,
            Self::VxlanV4 => VXLAN_OVERHEAD,
            Self::VxlanV6 => VXLAN_V6_OVERHEAD,
        }
    }

    /// How a pool's packets are wrapped, and when.
    fn of_pool(pool: &IpPoolSpec) -> Option<(Self, EncapMode)> {
        let kind = if pool.is_ipv6() { Self::VxlanV6 } else { Self::VxlanV4 };
        match (pool.vxlan_mode(), pool.ipip_mode()) {
            (EncapMode::Never, EncapMode::Never) => None,
            (EncapMode::Never, _) if pool.is_ipv6() => None,
            (EncapMode::Never, mode) => Some((Self::Ipip, mode)),
            (mode, _) => Some((kind, mode)),
        }
    }

    /// The address of a node's device.
    fn address(self, node: &Node) -> Option<IpAddr> {
        let spec = &node.spec;
        match self {
            Self::Ipip => spec.bgp.as_ref()?.ipv4_ipip_tunnel_addr.map(IpAddr::V4),
            Self::VxlanV4 => spec.ipv4_vxlan_tunnel_addr.map(IpAddr::V4),
            Self::VxlanV6 => spec.ipv6_vxlan_tunnel_addr.map(IpAddr::V6),
        }
    }

    /// The hardware address of a node's device: as its Node resource says, else made of its name.
    fn mac(self, name: &str, node: &Node) -> MacAddr {
        let (said, suffix) = match self {
            Self::VxlanV6 => (&node.spec.vxlan_tunnel_mac_addr_v6, "-v6"),
            Self::VxlanV4 | Self::Ipip => (&node.spec.vxlan_tunnel_mac_addr, ""),
        };
        said.parse().unwrap_or_else(|_unset| {
            let hash = Sha1::digest(format!("{name}{suffix}"));
            MacAddr([0x66, hash[0], hash[1], hash[2], hash[3], hash[4]])
        })
    }
}

impl Overlay {
    fn me(&self) -> Option<&Node> {
        self.nodes.get(&self.node)
    }

    /// How packets to addresses of a block are wrapped, by the most specific pool that has it.
    fn encapsulation(&self, block: &IpNet) -> Option<(TunnelKind, EncapMode)> {
        let pools = self.pools.values().filter(|pool| pool.cidr.contains(block));
        self.wraps(pools.max_by_key(|pool| pool.cidr.prefix_len())?)
    }

    /// How a pool's packets are wrapped, and when, unless the settings forbid it.
    fn wraps(&self, pool: &IpPoolSpec) -> Option<(TunnelKind, EncapMode)> {
        let family_on =
            |kind: TunnelKind| kind.family() == Family::V4 || self.settings.ipv6_support();
        TunnelKind::of_pool(pool)
            .filter(|(kind, _)| self.enabled(*kind) != Some(false) && family_on(*kind))
    }

    /// What the settings say of a way of wrapping; nothing: as the pools ask for.
    fn enabled(&self, kind: TunnelKind) -> Option<bool> {
        match kind {
            TunnelKind::Ipip => self.settings.ipip_enabled,
            TunnelKind::VxlanV4 | TunnelKind::VxlanV6 => self.settings.vxlan_enabled,
        }
    }

    /// The routes of a block: none of those of this node, and none if nothing is wrapped.
    pub(super) fn routes_of(&self, cidr: IpNet) -> BTreeMap<IpNet, RouteTarget> {
        let mut routes = BTreeMap::new();
        let (Some(block), Some((kind, mode))) = (self.blocks.get(&cidr), self.encapsulation(&cidr))
        else {
            return routes;
        };
        let mut add = |destination, node: &String| {
            if *node != self.node
                && let Some(hop) = self.hop(node, kind, mode)
            {
                routes.insert(destination, RouteTarget::Via(vec![hop]));
            }
        };
        if let Some(owner) = &block.owner {
            add(cidr, owner);
        }
        for (address, node) in &block.borrowed {
            add(IpNet::from(*address), node);
        }
        routes
    }

    fn hop(&self, name: &str, kind: TunnelKind, mode: EncapMode) -> Option<NextHop> {
        let node = self.nodes.get(name)?;
        let address = address_of(node, kind.family())?;
        if mode == EncapMode::CrossSubnet && self.me().is_some_and(|me| is_near(me, address)) {
            return Some(NextHop { gateway: address, interface: None });
        }
        let gateway = match kind {
            TunnelKind::Ipip => address,
            TunnelKind::VxlanV4 | TunnelKind::VxlanV6 => kind.address(node)?,
        };
        Some(NextHop { gateway, interface: Some(kind.device().into()) })
    }

    /// Devices of this node: those that have an address, and whose packets go to somebody.
    pub(super) fn tunnels(&self) -> Vec<WantedTunnel> {
        let Some(me) = self.me() else { return Vec::new() };
        let wanted = |kind: TunnelKind| {
            let address = kind.address(me)?;
            let encapsulation = match kind {
                TunnelKind::Ipip => Encapsulation::Ipip,
                TunnelKind::VxlanV4 | TunnelKind::VxlanV6 => {
                    Encapsulation::Vxlan(self.vxlan(me, kind)?)
                }
            };
            let size = self.size(kind);
            let name = kind.device().to_owned();
            let mtu = size.mtu.unwrap_or_default();
            Some(WantedTunnel { tunnel: Tunnel { name, encapsulation, address, mtu }, size })
        };
        self.used().filter_map(wanted).collect()
    }

    /// The ways in which packets are wrapped, or may be at any time. Upstream does not make
    /// devices of IPv6 without a pool.
    pub(super) fn used(&self) -> impl Iterator<Item = TunnelKind> {
        TunnelKind::ALL.into_iter().filter(|kind| {
            self.pools.values().filter_map(|pool| self.wraps(pool)).any(|(used, _)| used == *kind)
                || (self.enabled(*kind) == Some(true) && *kind != TunnelKind::VxlanV6)
        })
    }

    pub(super) fn size(&self, kind: TunnelKind) -> Size {
        let mtu = match kind {
            TunnelKind::Ipip => self.settings.ipip_mtu,
            TunnelKind::VxlanV4 => self.settings.vxlan_mtu,
            TunnelKind::VxlanV6 => self.settings.vxlan_mtu_v6,
        };
        Size { mtu: mtu.filter(|mtu| *mtu > 0), overhead: kind.overhead() }
    }

    fn vxlan(&self, me: &Node, kind: TunnelKind) -> Option<Vxlan> {
        let others = self.nodes.iter().filter(|(name, _)| **name != self.node);
        let remote = |(name, node): (&String, &Node)| {
            let address = kind.address(node)?;
            let mac = kind.mac(name, node);
            Some(Remote { node: address_of(node, kind.family())?, address, mac })
        };
        Some(Vxlan {
            vni: self.settings.vxlan_vni.unwrap_or(VNI),
            port: self.settings.vxlan_port.unwrap_or(PORT),
            local: address_of(me, kind.family())?,
            mac: kind.mac(&self.node, me),
            remotes: others.filter_map(remote).collect(),
        })
    }

    /// Addresses that this node's devices are to have, and have.
    pub(super) fn addresses(&self) -> Wanted {
        let absence = self.absent.absence(&self.node);
        let Some(me) = self.me() else { return Wanted { addresses: None, absence } };
        let of = |kind: TunnelKind| {
            let fits = |pool: &&IpPoolSpec| {
                !pool.disabled
                    && self.wraps(pool).is_some_and(|(it, _)| it == kind)
                    && pool.allowed_uses().contains(&AllowedUse::Tunnel)
                    && selects(pool, me)
            };
            let pools = self.pools.values().filter(fits).map(|pool| pool.cidr).collect();
            (kind, WantedAddress { pools, present: kind.address(me) })
        };
        Wanted { addresses: Some(TunnelKind::ALL.into_iter().map(of).collect()), absence }
    }
}

fn address_of(node: &Node, family: Family) -> Option<IpAddr> {
    match family {
        Family::V4 => node.spec.ipv4().map(IpAddr::V4),
        Family::V6 => node.spec.ipv6().map(IpAddr::V6),
    }
}

/// Whether an address is in a subnet of the node.
fn is_near(me: &Node, address: IpAddr) -> bool {
    let own = me.spec.bgp.iter().flat_map(|bgp| [bgp.ipv4_address, bgp.ipv6_address]).flatten();
    own.into_iter().any(|cidr| cidr.trunc().contains(&address))
}

fn selects(pool: &IpPoolSpec, node: &Node) -> bool {
    match pool.node_selector().parse::<Selector>() {
        Ok(selector) => selector.matches(&node.metadata.labels),
        Err(error) => {
            warn!(pool = %pool.cidr, %error, "a pool selects no node: bad selector");
            false
        }
    }
}
