use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

/// One way to a destination.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NextHop {
    /// The router.
    pub gateway: IpAddr,
    /// The interface; found by the kernel if absent.
    pub interface: Option<Arc<str>>,
}

/// Where packets to a destination go.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RouteTarget {
    /// To a workload of this host, over the interface of this name.
    Workload(Arc<str>),
    /// To another router; several next hops share the traffic (ECMP). Never empty.
    Via(Vec<NextHop>),
    /// Nowhere: an own block, of which only the addresses of workloads are in use.
    Blackhole,
}

/// A route to have. There is at most one of ours per destination.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Route {
    /// The prefix.
    pub destination: IpNet,
    /// Where to.
    pub target: RouteTarget,
    /// Its priority among the kernel's routes to the destination, of which the least wins; the
    /// kernel's usual one (0 in IPv4, 1024 in IPv6) if absent.
    pub metric: Option<u32>,
}

impl Route {
    /// A route with the kernel's usual priority.
    #[must_use]
    pub const fn new(destination: IpNet, target: RouteTarget) -> Self {
        Self { destination, target, metric: None }
    }
}
