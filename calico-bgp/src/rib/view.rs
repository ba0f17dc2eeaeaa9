//! The table as others see it.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::{Decision, PeerId, PeerKind};
use crate::wire::PathAttributes;

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
    /// Its attributes after import policy.
    pub attributes: Arc<PathAttributes>,
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
