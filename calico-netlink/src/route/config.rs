/// Which routes are ours, and how they are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteConfig {
    /// Interfaces whose names start so belong to workloads.
    pub interface_prefix: String,
    /// Protocol number of routes to workloads: upstream's `deviceRouteProtocol`, 3 (boot).
    pub workload_protocol: u8,
    /// Protocol number of routes via other routers. 12 (bird) takes over what upstream's BIRD
    /// left, and is what operators look for.
    pub via_protocol: u8,
    /// Protocol number of blackhole routes of own blocks, also 12.
    pub blackhole_protocol: u8,
    /// Names of tunnel devices: routes over them have the next protocol number.
    pub tunnel_interfaces: Vec<String>,
    /// Protocol number of routes over tunnels: upstream's Felix gives them 80. Those that it left
    /// on a tunnel device are taken over.
    pub tunnel_protocol: u8,
    /// Number of the routing table: 254, main.
    pub table: u32,
    /// Metric (priority) of the routes; absent: the kernel's default, 0 in IPv4, 1024 in IPv6.
    pub metric: Option<u32>,
    /// Whether next hops with an interface are taken to be on its link although no address says
    /// so, as in upstream's routes over tunnels.
    pub onlink: bool,
}

impl Default for RouteConfig {
    fn default() -> Self {
        Self {
            interface_prefix: "cali".into(),
            workload_protocol: 3,
            via_protocol: 12,
            blackhole_protocol: 12,
            tunnel_interfaces: ["tunl0", "vxlan.calico", "vxlan-v6.calico"].map(Into::into).into(),
            tunnel_protocol: 80,
            table: 254,
            metric: None,
            onlink: false,
        }
    }
}
