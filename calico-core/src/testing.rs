//! What a test of a backend, or of a user of one, needs (feature `testing`).
//!
//! - [`contract`]: the behaviour that every [`Datastore`](crate::Datastore) shares, as a suite to
//!   run over a backend.
//! - [`FaultyStore`]: fails, delays, or loses the replies of a real one on schedule.

pub mod contract;
mod faulty;

pub use faulty::{Call, Fault, FaultyStore};
