use std::pin::Pin;

use futures_core::Stream;
use serde::{Deserialize, Serialize};

use super::{Entry, Revision};
use crate::key::Key;

/// What a watch yields, without end; it ends only when the store is closed for good.
pub type WatchStream = Pin<Box<dyn Stream<Item = WatchEvent> + Send>>;

/// One step of a watch.
///
/// `Begin`, then `Item`s, then `Ready` bracket a full listing: an object known from before that is
/// missing between them is gone. After `Ready`, `Put` and `Gone` are changes. A `Begin` at any
/// time starts a new listing, because something may have been missed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum WatchEvent {
    /// A full listing starts.
    Begin,
    /// An object of the listing.
    Item(Entry),
    /// The listing is complete, as of this revision.
    Ready(Revision),
    /// An object was written.
    Put(Entry),
    /// An object was deleted.
    Gone {
        /// The object.
        key: Key,
        /// The revision of its deletion.
        revision: Revision,
    },
    /// Something is stored that cannot be understood; the watch goes on without it.
    Bad {
        /// Where it is stored.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The store cannot be reached; what was seen so far stays valid and the watch will go on.
    Interrupted {
        /// What happened.
        reason: String,
    },
}
