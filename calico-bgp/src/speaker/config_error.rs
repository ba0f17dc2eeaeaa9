//! What can be wrong with a configuration.

use std::net::SocketAddr;

use thiserror::Error;

/// A configuration that cannot work. The caller is at fault; nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// AS 0 is reserved (RFC 7607).
    #[error("AS number 0 is reserved: give the speaker another")]
    AsNumber,
    /// The BGP identifier is zero.
    #[error("BGP identifier 0.0.0.0 is invalid: give the speaker another")]
    RouterId,
    /// AS 0 is reserved (RFC 7607).
    #[error("peer {peer}: AS number 0 is reserved")]
    PeerAsNumber {
        /// The peer.
        peer: SocketAddr,
    },
    /// Hold times of 1 and 2 s are invalid (RFC 4271, section 4.2).
    #[error("peer {peer}: hold time of {hold_time} s is invalid, use 0 or at least 3")]
    HoldTime {
        /// The peer.
        peer: SocketAddr,
        /// The value.
        hold_time: u16,
    },
    /// Local and peer address are of different families.
    #[error("peer {peer}: the local address is of another family")]
    LocalAddress {
        /// The peer.
        peer: SocketAddr,
    },
    /// The address is not one of a host.
    #[error("peer {peer}: not the address of a host")]
    Address {
        /// The peer.
        peer: SocketAddr,
    },
    /// A distance of no hop at all.
    #[error("peer {peer}: a peer is at least one hop away")]
    Distance {
        /// The peer.
        peer: SocketAddr,
    },
    /// Two peers with one address and port.
    #[error("peer {peer} is configured twice")]
    Duplicate {
        /// The peer.
        peer: SocketAddr,
    },
}
