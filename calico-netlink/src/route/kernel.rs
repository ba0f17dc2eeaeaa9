//! A route as the kernel has it, without what does not matter here.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

/// A next hop. Without a gateway, the destination is on the interface's link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hop {
    /// The router.
    pub gateway: Option<IpAddr>,
    /// Index of the interface; 0 in a route to make: the kernel finds it.
    pub index: u32,
}

impl Hop {
    /// Whether the kernel's hop is what this one asks for.
    fn is_met_by(self, other: Self) -> bool {
        self.gateway == other.gateway && (self.index == 0 || self.index == other.index)
    }
}

/// Where a route of the kernel leads.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum KernelTarget {
    /// To these hops, sorted; several share the traffic.
    Hops(Vec<Hop>),
    /// Nowhere.
    Blackhole,
    /// Somewhere this crate never makes routes to: unreachable, encapsulations, weights, next hop
    /// objects.
    Other,
}

/// A route of the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KernelRoute {
    /// The prefix.
    pub destination: IpNet,
    /// Who made it (`RTPROT_*` in linux/rtnetlink.h).
    pub protocol: u8,
    /// Its priority: the least one wins.
    pub metric: u32,
    /// The routing table.
    pub table: u32,
    /// Where to.
    pub target: KernelTarget,
    /// Source address of what the host itself sends there, if the route says so.
    pub source: Option<IpAddr>,
}

impl KernelRoute {
    /// Whether the kernel's route is what this one asks for.
    pub(super) fn is_met_by(&self, other: &Self) -> bool {
        let same_target = match (&self.target, &other.target) {
            (KernelTarget::Hops(wanted), KernelTarget::Hops(found)) => {
                wanted.len() == found.len()
                    && wanted.iter().zip(found).all(|(wanted, found)| wanted.is_met_by(*found))
            }
            (KernelTarget::Blackhole, KernelTarget::Blackhole) => true,
            _ => false,
        };
        same_target
            && self.destination == other.destination
            && self.protocol == other.protocol
            && self.metric == other.metric
            && self.table == other.table
            && self.source == other.source
    }

    /// Whether the kernel takes both for one place: a new one there replaces the old one.
    pub(super) fn same_place(&self, other: &Self) -> bool {
        self.destination == other.destination
            && self.metric == other.metric
            && self.table == other.table
    }

    /// Whether a packet to it leaves by this interface.
    pub(super) fn uses(&self, index: u32) -> bool {
        match &self.target {
            KernelTarget::Hops(hops) => hops.iter().any(|hop| hop.index == index),
            KernelTarget::Blackhole | KernelTarget::Other => false,
        }
    }
}

impl fmt::Display for KernelRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.target {
            KernelTarget::Blackhole => write!(f, "blackhole {}", self.destination)?,
            KernelTarget::Other => write!(f, "{} (special)", self.destination)?,
            KernelTarget::Hops(hops) => {
                write!(f, "{}", self.destination)?;
                for hop in hops {
                    if let Some(gateway) = hop.gateway {
                        write!(f, " via {gateway}")?;
                    }
                    if hop.index != 0 {
                        write!(f, " interface {}", hop.index)?;
                    }
                }
            }
        }
        write!(f, " proto {}", self.protocol)?;
        if self.metric != 0 {
            write!(f, " metric {}", self.metric)?;
        }
        self.source.iter().try_for_each(|source| write!(f, " src {source}"))
    }
}
