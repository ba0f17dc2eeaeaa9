//! One peering as a value: the state machine of RFC 4271, section 8.
//!
//! [`Peering`] owns no socket and reads no clock. Push inputs with `handle_*`, then drain
//! [`poll_action`](Peering::poll_action), [`poll_event`](Peering::poll_event) and
//! [`poll_transmit`](Peering::poll_transmit), and call
//! [`handle_timeout`](Peering::handle_timeout) when [`poll_timeout`](Peering::poll_timeout) says
//! so. Times passed in must not go backwards.

mod config;
mod connection;
mod event;
mod machine;
mod negotiated;
mod peering;

#[cfg(test)]
mod simulator;
#[cfg(test)]
mod tests;

pub use config::{SessionConfig, passive_by_address_text};
pub use event::{Action, DownReason, PeeringEvent, Refused, State};
pub use negotiated::{AddPath, Negotiated};
pub use peering::Peering;
