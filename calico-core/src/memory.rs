//! An in-memory [`Datastore`](crate::Datastore), and the versioned table that other backends build on.
//!
//! Watchers share one bounded log of changes and each hold only a position in it, so a slow
//! watcher costs no memory: one that falls out of the log is given a new listing.
//!
//! - [`Table`]: objects and the log. Positions count what was logged; revisions are what the
//!   objects say. Where revisions grow, they name positions; where they do not (a table that
//!   follows a store whose collections have revisions of their own), the log is searched for them.
//! - [`WatchHub`]: a table shared by writers and watchers.
//! - [`MemoryStore`]: the store.

mod follow;
mod history;
mod hub;
mod objects;
mod store;
mod table;

pub use hub::{HubFigures, WatchHub};
pub use store::MemoryStore;
pub use table::{Change, Prepared, Table};
