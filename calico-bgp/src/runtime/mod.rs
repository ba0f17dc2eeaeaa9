//! The speaker on tokio: sockets, timers and a handle.
//!
//! One task owns the [`Speaker`](crate::speaker::Speaker); each connection has a task that reads
//! and one that writes. All queues are bounded. The owning task never waits for a peer: it hands
//! a connection the next bytes when the last ones are written, so a slow peer delays nobody.

mod connection;
mod distributor;
mod driver;
mod error;
mod handle;
mod listener;
mod subscription;
mod sys;

pub use error::{SpawnError, SpeakerStopped};
pub use handle::{Shutdown, SpeakerHandle};
pub use subscription::{RouteSubscription, RouteUpdate};
