//! The table as others see it.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::decision::compare;
use super::destinations::{Destination, Slot};
use super::path::Path;
use super::{Decision, PeerId, PeerKind, Rib};
use crate::wire::{NextHop, PathAttributes};

/// Where a route comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RouteSource {
    /// Announced by this speaker.
    Local,
    /// Learned from a peer.
    Peer {
        /// The peer's number.
        id: PeerId,
        /// The peer's address.
        address: IpAddr,
        /// The peer's AS.
        asn: u32,
        /// The peer's relation to this speaker.
        kind: PeerKind,
    },
}

impl RouteSource {
    /// The number of the peer; 0 for this speaker.
    pub const fn id(&self) -> PeerId {
        match self {
            Self::Local => PeerId::LOCAL,
            Self::Peer { id, .. } => *id,
        }
    }
}

/// The best way to a destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BestRoute {
    /// The destination.
    pub prefix: IpNet,
    /// Sorted, without repeats; several share the traffic. Empty for this speaker's own routes.
    pub next_hops: Vec<IpAddr>,
    /// Source of the best path.
    pub source: RouteSource,
    /// Attributes of the best path, after import policy.
    pub attributes: Arc<PathAttributes>,
}

/// One path of a destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathView {
    /// Where it comes from.
    pub source: RouteSource,
    /// The identifier that its peer gave it (RFC 7911); 0 without ADD-PATH.
    pub path_id: u32,
    /// Its attributes as received.
    pub received: Arc<PathAttributes>,
    /// Its attributes after import policy.
    pub attributes: Arc<PathAttributes>,
    /// The import policy let it pass.
    pub accepted: bool,
    /// Metric of the way to its next hop; `None` if that is unreachable.
    pub igp_metric: Option<u32>,
    /// It is the best path.
    pub best: bool,
    /// It carries traffic: the best path or one that is equal to it.
    pub multipath: bool,
    /// It is left over from before a restart of its peer (RFC 4724).
    pub stale: bool,
    /// The step that put it behind the best path; for the best path, the step that put the
    /// runner-up behind it.
    pub decided_by: Decision,
}

/// A destination with all its paths, best first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteView {
    /// The destination.
    pub prefix: IpNet,
    /// Its paths.
    pub paths: Vec<PathView>,
}

impl Rib {
    /// The best route to a prefix.
    pub fn best(&self, prefix: &IpNet) -> Option<BestRoute> {
        self.best_of(self.table.get(self.table.find(prefix)?))
    }

    fn best_of(&self, destination: &Destination) -> Option<BestRoute> {
        let best = destination.paths.first().filter(|_| destination.active() > 0)?;
        Some(BestRoute {
            prefix: destination.prefix,
            next_hops: next_hops(&destination.paths[..destination.active()]),
            source: self.source(self.peer_of(best)),
            attributes: Arc::clone(&best.attributes),
        })
    }

    /// All best routes, in no order.
    pub fn best_routes(&self) -> impl Iterator<Item = BestRoute> {
        self.table.occupied().filter_map(|slot| self.best_of(self.table.get(slot)))
    }

    /// One destination with all paths and the reasons for their order.
    pub fn route(&self, prefix: &IpNet) -> Option<RouteView> {
        let destination = self.table.get(self.table.find(prefix)?);
        (!destination.paths.is_empty()).then(|| self.view(destination))
    }

    /// The destinations inside a prefix, itself included, in no order.
    pub fn routes_within(&self, prefix: IpNet) -> impl Iterator<Item = RouteView> {
        let inside = move |slot: &Slot| prefix.contains(&self.table.get(*slot).prefix);
        self.table.occupied().filter(inside).map(|slot| self.view(self.table.get(slot)))
    }

    /// The destination with the longest prefix that an address is in and that has a best path.
    pub fn lookup(&self, address: IpAddr) -> Option<RouteView> {
        let host = IpNet::from(address);
        let prefixes =
            (0..=host.prefix_len()).rev().filter_map(|len| IpNet::new(address, len).ok());
        let mut found = prefixes.filter_map(|p| self.table.find(&p.trunc()));
        let slot = found.find(|slot| self.table.get(*slot).active() > 0)?;
        Some(self.view(self.table.get(slot)))
    }

    /// The whole table, in no order.
    pub fn routes(&self) -> impl Iterator<Item = RouteView> {
        self.table.occupied().map(|slot| self.view(self.table.get(slot)))
    }
}

impl Rib {
    fn source(&self, id: PeerId) -> RouteSource {
        let facts = self.facts(id);
        if id == PeerId::LOCAL {
            return RouteSource::Local;
        }
        RouteSource::Peer { id, address: facts.address, asn: facts.asn, kind: facts.kind }
    }

    pub(super) fn view(&self, destination: &Destination) -> RouteView {
        let paths = &destination.paths;
        let active = destination.active();
        let best = paths.first().filter(|_| active > 0).and_then(|p| self.candidate(p));
        let step = |path: &Path| match (&best, self.candidate(path)) {
            (Some(best), Some(other)) => compare(best, &other).1,
            _ => Decision::NotEligible,
        };
        let runner_up = paths[1.min(paths.len())..].iter().map(step).max();
        let view = |(at, path): (usize, &Path)| PathView {
            source: self.source(self.peer_of(path)),
            path_id: self.sources.received_id(path.source),
            received: Arc::clone(&path.received),
            attributes: Arc::clone(&path.attributes),
            accepted: path.accepted(),
            igp_metric: self.igp_metric(path),
            best: at == 0 && active > 0,
            multipath: at < active,
            stale: path.stale(),
            decided_by: match (at, active) {
                (0, 1..) => runner_up
                    .filter(|step| *step != Decision::NotEligible)
                    .unwrap_or(Decision::OnlyPath),
                _ => step(path),
            },
        };
        RouteView {
            prefix: destination.prefix,
            paths: paths.iter().enumerate().map(view).collect(),
        }
    }
}

/// The distinct next hops of paths, sorted.
fn next_hops(paths: &[Path]) -> Vec<IpAddr> {
    let mut hops: Vec<IpAddr> =
        paths.iter().filter_map(|p| p.attributes.next_hop.map(NextHop::address)).collect();
    hops.sort_unstable();
    hops.dedup();
    hops
}
