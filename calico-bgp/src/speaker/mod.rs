//! A whole BGP speaker as a value: many peerings, one table.
//!
//! [`Speaker`] owns no socket and reads no clock. A driver pushes inputs with `handle_*` and
//! drains `poll_action`, `poll_event` and, for each connection that can take bytes,
//! `poll_transmit`. UPDATEs are written only when they are fetched, so a peer that does not read
//! costs a set of changed prefixes and nothing more.

mod config;
mod core;
mod event;
mod events;
mod graceful;
mod peer;

#[cfg(test)]
mod histories;
#[cfg(test)]
mod tests;

pub use self::core::Speaker;
pub use config::{Config, ConfigError, PeerConfig};
pub use event::{AcceptError, ConnectionId, PeerChanges, SpeakerAction, SpeakerEvent};
pub use graceful::RestartHelper;
pub use peer::{PeerCounters, PeerStatus};
