//! What a peering says to its surroundings.

use std::fmt;

use bytes::Bytes;
use thiserror::Error;

use super::Negotiated;
use crate::wire::{CeaseCode, Family, Notification, NotificationCode, Update};

/// The states of RFC 4271, section 8.2.2. With two connections at once, the state of the one
/// that is further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Not started, or waiting after an error.
    Idle,
    /// Connecting to the peer.
    Connect,
    /// Waiting for the peer to connect, or for the next attempt.
    Active,
    /// OPEN sent, none received.
    OpenSent,
    /// OPEN received, waiting for the first KEEPALIVE.
    OpenConfirm,
    /// Exchanging routes.
    Established,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Why a connection or session ended.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DownReason {
    /// This side ended it. The text says what it saw.
    #[error("sent NOTIFICATION {notification}{}", detail(.cause))]
    NotificationSent {
        /// What was sent.
        notification: Notification,
        /// What led to it, if the code does not say it all.
        cause: Option<String>,
    },
    /// The peer ended it.
    #[error("received NOTIFICATION {0}")]
    NotificationReceived(Notification),
    /// The connection broke without a NOTIFICATION.
    #[error("connection lost: {0}")]
    ConnectionLost(String),
    /// No connection came about.
    #[error("cannot connect: {0}")]
    ConnectFailed(String),
    /// The peer came back on a new connection while the old one still looked alive (RFC 4724,
    /// section 4.2).
    #[error("peer restarted and connected anew")]
    PeerRestarted,
    /// This side closed it without a NOTIFICATION, so that the peer keeps its routes.
    #[error("closed for a graceful restart")]
    ClosedForRestart,
}

impl DownReason {
    /// Whether graceful restart keeps the peer's routes over this: any end of the connection but
    /// a NOTIFICATION (RFC 4724, section 4.2), or, if so agreed, but a hard reset (RFC 8538).
    pub fn keeps_routes(&self, over_notification: bool) -> bool {
        let hard = NotificationCode::Cease(CeaseCode::HardReset);
        match self {
            Self::ConnectionLost(_) | Self::PeerRestarted => true,
            Self::NotificationSent { notification, .. }
            | Self::NotificationReceived(notification) => {
                over_notification && notification.code != hard
            }
            Self::ConnectFailed(_) | Self::ClosedForRestart => false,
        }
    }
}

fn detail(cause: &Option<String>) -> String {
    cause.as_ref().map_or_else(String::new, |cause| format!(": {cause}"))
}

/// What happened in a peering.
#[expect(
    clippy::large_enum_variant,
    reason = "it is moved a few times and never stored; a box would cost an allocation per UPDATE"
)]
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PeeringEvent {
    /// The state changed.
    StateChanged {
        /// State before.
        from: State,
        /// State now.
        to: State,
    },
    /// The session is up: send all routes, then End-of-RIB for each family.
    Established(Box<Negotiated>),
    /// Routes arrived.
    Update(Update),
    /// The peer wants all routes of a family again (RFC 2918).
    RouteRefresh(Family),
    /// The peer begins to tell all routes of a family anew (RFC 7313).
    RefreshBegins(Family),
    /// It has told them all; what it has not repeated is gone (RFC 7313).
    RefreshEnds(Family),
    /// An established session ended.
    Down(DownReason),
    /// Something failed before the session was established.
    Failed(DownReason),
}

/// What the surroundings have to do. Connections are told apart by their serial number.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Connect to the peer; answer with `handle_connected` or `handle_connect_failed`.
    Connect {
        /// The number of the connection to be.
        serial: u32,
    },
    /// Close a connection, or stop connecting. Nothing needs to be answered.
    Close {
        /// The number of the connection.
        serial: u32,
        /// Bytes to be sent first, if there are any: what was queued and the NOTIFICATION.
        last: Bytes,
    },
}

/// Why an incoming connection is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Refused {
    /// The peering is not started.
    #[error("the peering is shut down")]
    Stopped,
    /// The peering waits after a protocol error (RFC 4271, section 8.1.1, DampPeerOscillations).
    #[error("the peering is held down after an error")]
    HeldDown,
}
