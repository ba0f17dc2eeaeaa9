//! What of the kernel's routes is ours, and what a desired route looks like there.

use std::net::IpAddr;

use calico_core::dataplane::RouteTarget;
use ipnet::IpNet;

use super::{RouteTable, Standing, Wanted};
use crate::route::config::RouteConfig;
use crate::route::kernel::{Hop, KernelRoute, KernelTarget};

impl RouteTable {
    /// Whether this route is ours, by protocol and interface.
    #[must_use]
    pub fn owns(&self, route: &KernelRoute) -> bool {
        let config = &self.config;
        if route.table != config.table {
            return false;
        }
        let to_workload = match &route.target {
            KernelTarget::Hops(hops) => hops.iter().all(|hop| {
                hop.gateway.is_none()
                    && self.interfaces.get(&hop.index).is_some_and(|interface| {
                        interface.name.starts_with(&config.interface_prefix)
                    })
            }),
            KernelTarget::Blackhole | KernelTarget::Other => false,
        };
        let over_tunnel = match &route.target {
            KernelTarget::Hops(hops) => hops.iter().all(|hop| {
                let interface = self.interfaces.get(&hop.index);
                interface.is_some_and(|interface| self.is_tunnel(&interface.name))
            }),
            KernelTarget::Blackhole | KernelTarget::Other => false,
        };
        // One that leads where ours is to lead is what an earlier run left, with another number.
        let as_desired = || {
            let wanted = self.desired.get(&route.destination).map(|wanted| &wanted.target);
            matches!(wanted, Some(RouteTarget::Workload(_)))
        };
        (to_workload && (self.is_workload_protocol(route.protocol) || as_desired()))
            || (over_tunnel && self.is_tunnel_protocol(route.protocol))
            || route.protocol == config.via_protocol
            || route.protocol == config.blackhole_protocol
    }

    pub(super) fn is_workload_protocol(&self, protocol: u8) -> bool {
        protocol == self.config.workload_protocol
            || protocol == RouteConfig::WORKLOAD_PROTOCOL
            || self.former.workload.contains(&protocol)
    }

    fn is_tunnel_protocol(&self, protocol: u8) -> bool {
        protocol == self.config.tunnel_protocol
            || protocol == RouteConfig::TUNNEL_PROTOCOL
            || self.former.tunnel.contains(&protocol)
    }

    pub(super) fn resolve(
        &self,
        destination: IpNet,
        wanted: &Wanted,
    ) -> Result<KernelRoute, Standing> {
        let config = &self.config;
        let (default_metric, source) = match destination {
            IpNet::V4(_) => (0, config.source_v4.map(IpAddr::V4)),
            IpNet::V6(_) => (1024, config.source_v6.map(IpAddr::V6)),
        };
        let (protocol, target) = match &wanted.target {
            RouteTarget::Workload(name) => {
                let index = self.index_of(name)?;
                (config.workload_protocol, KernelTarget::Hops(vec![Hop { gateway: None, index }]))
            }
            RouteTarget::Via(next_hops) => {
                let mut hops = Vec::with_capacity(next_hops.len());
                for hop in next_hops {
                    if destination.addr().is_ipv6() && hop.gateway.is_ipv4() {
                        let reason = format!("{} cannot be a router for IPv6", hop.gateway);
                        return Err(Standing::Refused { reason });
                    }
                    match (&hop.interface, self.detours.of(hop.gateway)) {
                        (Some(name), _) => {
                            let index = self.index_of(name)?;
                            hops.push(Hop { gateway: Some(hop.gateway), index });
                        }
                        (None, Some(detour)) => hops.extend(detour),
                        (None, None) => hops.push(Hop { gateway: Some(hop.gateway), index: 0 }),
                    }
                }
                if hops.is_empty() {
                    return Err(Standing::Refused { reason: "it has no next hop".into() });
                }
                hops.sort_unstable();
                hops.dedup();
                let over_tunnel = next_hops
                    .iter()
                    .all(|hop| hop.interface.as_ref().is_some_and(|name| self.is_tunnel(name)));
                let protocol =
                    if over_tunnel { config.tunnel_protocol } else { config.via_protocol };
                (protocol, KernelTarget::Hops(hops))
            }
            RouteTarget::Blackhole => (config.blackhole_protocol, KernelTarget::Blackhole),
            _ => return Err(Standing::Refused { reason: "its target is unknown here".into() }),
        };
        // One that leads nowhere has no source.
        let source = source.filter(|_| target != KernelTarget::Blackhole);
        let metric = wanted.metric.or(config.metric).unwrap_or(default_metric);
        Ok(KernelRoute { destination, protocol, metric, table: config.table, target, source })
    }

    fn is_tunnel(&self, name: &str) -> bool {
        self.config.tunnel_interfaces.iter().any(|tunnel| tunnel == name)
    }

    fn index_of(&self, name: &str) -> Result<u32, Standing> {
        let index = self.indexes.get(name).copied();
        index
            .filter(|index| self.interfaces.get(index).is_some_and(|interface| interface.up))
            .ok_or_else(|| Standing::Waiting { interface: name.to_owned() })
    }
}
