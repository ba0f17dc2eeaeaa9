//! A whole BGP speaker as a value: many peerings, one table.
//!
//! [`Speaker`] owns no socket and reads no clock. A driver pushes inputs with `handle_*` and
//! drains `poll_action`, `poll_event` and, for each connection that can take bytes,
//! `poll_transmit`; `poll_writable` says which of many have any. UPDATEs are written only when
//! somebody fetches them, and once for all peers that are to hear the same. A peer that does not
//! read costs a megabyte of them at most, and then a position in the log of changes.

mod config;
mod config_error;
mod core;
mod dynamic;
mod event;
mod events;
mod graceful;
mod limits;
mod output;
mod peer;
mod transport;

#[cfg(test)]
mod add_path;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod histories;
#[cfg(test)]
mod options;
#[cfg(test)]
mod reflection;
#[cfg(test)]
mod tests;

pub use self::core::Speaker;
pub use config::{Config, LocalAsMode, PeerConfig};
pub use config_error::ConfigError;
pub use dynamic::DynamicPeers;
pub use event::{AcceptError, ConnectionId, PeerChanges, SpeakerAction, SpeakerEvent};
pub use graceful::{Expiry, RestartHelper};
pub use limits::{LimitAction, LimitLevel, PrefixLimit};
pub use peer::{PeerCounters, PeerStatus};
pub use transport::{Distance, Password, PasswordError, Transport};
