use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnet::IpNet;

use crate::rtnl::ANSWER_WITHIN;

/// Which routes are ours, and how they are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteConfig {
    /// Interfaces whose names start so belong to workloads.
    pub interface_prefix: String,
    /// Protocol number of routes to workloads: upstream's `deviceRouteProtocol`, 3 (boot). Those
    /// that were made with [`WORKLOAD_PROTOCOL`](Self::WORKLOAD_PROTOCOL) are ours, too.
    pub workload_protocol: u8,
    /// Protocol number of routes via other routers. 12 (bird) takes over what upstream's BIRD
    /// left, and is what operators look for.
    pub via_protocol: u8,
    /// Protocol number of blackhole routes of own blocks, also 12.
    pub blackhole_protocol: u8,
    /// Names of tunnel devices: routes over them have the next protocol number.
    pub tunnel_interfaces: Vec<String>,
    /// Protocol number of routes over tunnels: upstream's Felix gives them 80, unless a
    /// `deviceRouteProtocol` is set. Those that it left on a tunnel device are taken over.
    pub tunnel_protocol: u8,
    /// Number of the routing table: 254, main.
    pub table: u32,
    /// Metric (priority) of routes that have none of their own; absent: the kernel's default, 0 in
    /// IPv4, 1024 in IPv6.
    pub metric: Option<u32>,
    /// Source address of what this host itself sends over our IPv4 routes (upstream's
    /// `deviceRouteSourceAddress`); the kernel's choice if absent. It must be one of the host's.
    pub source_v4: Option<Ipv4Addr>,
    /// Likewise in IPv6.
    pub source_v6: Option<Ipv6Addr>,
    /// Whether IPv4 routes are made and removed; otherwise they stay as they are.
    pub manage_v4: bool,
    /// Likewise in IPv6.
    pub manage_v6: bool,
    /// Whether next hops with an interface are taken to be on its link although no address says
    /// so, as in upstream's routes over tunnels.
    pub onlink: bool,
    /// How long the kernel may take to answer (upstream's `netlinkTimeout`).
    pub answer_within: Duration,
}

impl Default for RouteConfig {
    fn default() -> Self {
        Self {
            interface_prefix: "cali".into(),
            workload_protocol: Self::WORKLOAD_PROTOCOL,
            via_protocol: 12,
            blackhole_protocol: 12,
            tunnel_interfaces: ["tunl0", "vxlan.calico", "vxlan-v6.calico"].map(Into::into).into(),
            tunnel_protocol: Self::TUNNEL_PROTOCOL,
            table: 254,
            metric: None,
            source_v4: None,
            source_v6: None,
            manage_v4: true,
            manage_v6: true,
            onlink: false,
            answer_within: ANSWER_WITHIN,
        }
    }
}

impl RouteConfig {
    /// What routes to workloads have unless somebody wants it otherwise (`RTPROT_BOOT`): also
    /// those that the CNI program of upstream makes.
    pub const WORKLOAD_PROTOCOL: u8 = 3;
    /// What routes over tunnels have unless somebody wants it otherwise, as upstream's.
    pub const TUNNEL_PROTOCOL: u8 = 80;

    /// Whether routes to this destination are made and removed.
    pub(super) const fn manages(&self, destination: &IpNet) -> bool {
        match destination {
            IpNet::V4(_) => self.manage_v4,
            IpNet::V6(_) => self.manage_v6,
        }
    }
}
