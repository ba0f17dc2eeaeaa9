//! An in-memory [`Datastore`](crate::Datastore), and the versioned table that other backends build on.
//!
//! Watchers share one bounded log of changes and each hold only a position in it, so a slow
//! watcher costs no memory: one that falls out of the log is given a new listing.

mod store;
mod table;

pub use store::{MemoryStore, WatchHub};
pub use table::{Change, Prepared, Table};
