//! What can go wrong around a running speaker.

use std::io;
use std::net::SocketAddr;

use thiserror::Error;

use crate::speaker::ConfigError;

/// A speaker that could not be started.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SpawnError {
    /// The configuration cannot work.
    #[error("invalid configuration of the BGP speaker")]
    Config(#[from] ConfigError),
    /// The port cannot be listened on: it is taken, or below 1024 without the privilege for it.
    #[error("cannot listen for BGP on {address}: is another speaker running there?")]
    Listen {
        /// The address and port.
        address: SocketAddr,
        /// The system's reason.
        source: io::Error,
    },
}

/// The speaker has been shut down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the BGP speaker has been shut down")]
pub struct SpeakerStopped;
