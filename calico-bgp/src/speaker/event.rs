//! What a speaker says to its driver.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use ipnet::IpNet;
use thiserror::Error;

use super::{LimitLevel, Transport};
use crate::rib::{BestRoute, PeerId};
use crate::session::{DownReason, Refused, State};
use crate::wire::{AttributeError, EncodeError};

/// A TCP connection of a speaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId {
    /// Whose it is.
    pub peer: PeerId,
    /// Which of the peer's it is.
    pub serial: u32,
}

/// What the driver has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SpeakerAction {
    /// Connect; answer with `handle_connected` or `handle_connect_failed`.
    Connect {
        /// The connection to be.
        id: ConnectionId,
        /// Where to.
        remote: SocketAddr,
        /// Where from, if that is configured.
        local: Option<IpAddr>,
        /// What has to be set on the socket first.
        transport: Transport,
    },
    /// Send `last`, then close, or give up connecting.
    Close {
        /// The connection.
        id: ConnectionId,
        /// Last bytes; may be empty.
        last: Bytes,
    },
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SpeakerEvent {
    /// The state of a session changed.
    StateChanged {
        /// The peer.
        peer: SocketAddr,
        /// State before.
        from: State,
        /// State now.
        to: State,
    },
    /// An established session ended.
    SessionDown {
        /// The peer.
        peer: SocketAddr,
        /// Why.
        reason: DownReason,
        /// Its routes are kept for a while (RFC 4724).
        routes_kept: bool,
    },
    /// A session did not come about.
    SessionFailed {
        /// The peer.
        peer: SocketAddr,
        /// Why.
        reason: DownReason,
    },
    /// An UPDATE was faulty, and the session lives on (RFC 7606). Reported for the first, second,
    /// fourth, eighth, … fault of a peer.
    UpdateError {
        /// The peer.
        peer: SocketAddr,
        /// The fault and what it cost.
        error: AttributeError,
        /// Faults of the peer so far.
        total: u64,
    },
    /// Routes could not be sent: their attributes leave no room in a message.
    NotSent {
        /// The peer.
        peer: SocketAddr,
        /// How many.
        routes: usize,
        /// By how much.
        error: EncodeError,
    },
    /// A peer came nearer to its prefix limit than before in this session, or above it.
    PrefixLimit {
        /// The peer.
        peer: SocketAddr,
        /// How far it is.
        level: LimitLevel,
        /// Prefixes it has in the table.
        count: usize,
        /// Its limit.
        max: usize,
    },
    /// The best route to a prefix changed.
    RouteChanged {
        /// The prefix.
        prefix: IpNet,
        /// The best route now, if there is one.
        route: Option<BestRoute>,
    },
    /// After a restart: all peers that are up have told their routes, so the table is complete.
    Converged,
}

/// Why an incoming connection is refused: close it without a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AcceptError {
    /// No peer has this address.
    #[error("no peer is configured for {0}")]
    UnknownPeer(IpAddr),
    /// A prefix of dynamic neighbours has as many as it may.
    #[error("{limit} peers are connected from {prefix} already, as many as may")]
    TooManyPeers {
        /// The prefix.
        prefix: IpNet,
        /// Its limit.
        limit: usize,
    },
    /// The peer's session does not take connections now.
    #[error(transparent)]
    Refused(#[from] Refused),
}

/// What a new set of peers changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerChanges {
    /// Peers that are new.
    pub added: Vec<SocketAddr>,
    /// Peers that are gone.
    pub removed: Vec<SocketAddr>,
    /// Peers whose session started over because something about it changed.
    pub restarted: Vec<SocketAddr>,
    /// Peers with changed policies; their sessions stay.
    pub adjusted: Vec<SocketAddr>,
}
