//! The host's own routes: those that somebody else made, and the subnets of its interfaces.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::kernel::{KernelRoute, KernelTarget};
use super::table::RouteTable;
use crate::address::Address;
use crate::link::Link;

/// `RTPROT_REDIRECT` and `RTPROT_KERNEL` in linux/rtnetlink.h: what the kernel makes itself.
const BY_THE_KERNEL: [u8; 2] = [1, 2];

/// A route of the host that is not Calico's: what upstream's BIRD learns from the kernel (`learn`)
/// and from interfaces (`direct`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostRoute {
    /// The prefix.
    pub prefix: IpNet,
    /// The interface that it leads to, if it is one.
    pub interface: Option<String>,
    /// Its priority in the kernel; `None`: it is the subnet of an address of the interface.
    pub metric: Option<u32>,
}

/// Those among what the kernel has, sorted, at most so many of them; and how many more there are.
pub(super) fn of(
    table: &RouteTable,
    links: &[Link],
    addresses: &[Address],
    routes: &[KernelRoute],
    most: usize,
) -> (Vec<HostRoute>, usize) {
    let links: BTreeMap<u32, &Link> = links.iter().map(|link| (link.index, link)).collect();
    let of_interface = addresses.iter().filter_map(|address| {
        let link = links.get(&address.index).filter(|link| link.up)?;
        let prefix = address.address.trunc();
        let interface = Some(link.name.clone());
        is_global(prefix.addr()).then_some(HostRoute { prefix, interface, metric: None })
    });
    let others = routes.iter().filter(|route| {
        route.table == table.config().table
            && !BY_THE_KERNEL.contains(&route.protocol)
            && (is_global(route.destination.addr()) || route.destination.prefix_len() == 0)
            && !table.owns(route)
    });
    let of_kernel = others.map(|route| {
        let index = match &route.target {
            KernelTarget::Hops(hops) => hops.first().map(|hop| hop.index),
            KernelTarget::Blackhole | KernelTarget::Other => None,
        };
        let interface = index.and_then(|index| Some(links.get(&index)?.name.clone()));
        HostRoute { prefix: route.destination, interface, metric: Some(route.metric) }
    });
    let mut found: Vec<HostRoute> = of_interface.chain(of_kernel).collect();
    found.sort_unstable();
    found.dedup();
    let more = found.len().saturating_sub(most);
    found.truncate(most);
    (found, more)
}

/// Whether others than hosts of one link may know the address.
fn is_global(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            !(address.is_loopback()
                || address.is_link_local()
                || address.is_multicast()
                || address.is_unspecified())
        }
        IpAddr::V6(address) => {
            !(address.is_loopback()
                || address.is_unicast_link_local()
                || address.is_multicast()
                || address.is_unspecified())
        }
    }
}
