use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Waker;

use super::follow::{Follow, Owned};
use super::table::Table;
use crate::datastore::{Revision, SharedEvent, SharedWatchStream, WatchEvent, WatchStream};
use crate::key::Scope;

/// A [`Table`] shared by writers and watchers.
#[derive(Debug)]
pub struct WatchHub {
    inner: Mutex<Inner>,
}

/// How much a [`WatchHub`] holds and did. What is counted never goes back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HubFigures {
    /// Objects held.
    pub objects: usize,
    /// Events in the log.
    pub history: usize,
    /// Events that were logged.
    pub position: u64,
    /// Watches that are open.
    pub watchers: usize,
    /// Listings that were made for watchers who share events.
    pub listings_made: u64,
    /// Listings that watchers who share events got from one made for another.
    pub listings_shared: u64,
    /// Bytes of paths and values of the last such listing.
    pub listing_bytes: usize,
    /// Times that a watcher fell out of the log and was given a new listing.
    pub fell_behind: u64,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) table: Table,
    /// One per watcher that waits; it goes with the watcher.
    waiting: HashMap<u64, Waker>,
    last_watcher: u64,
    pub(super) closed: bool,
    /// Listings that somebody still reads.
    snapshots: Vec<Weak<Snapshot>>,
    pub(super) figures: HubFigures,
}

/// The objects of a scope at a position, for whoever needs them.
#[derive(Debug)]
pub(super) struct Snapshot {
    scope: Scope,
    /// What was logged before is in it.
    pub(super) position: u64,
    revision: Revision,
    pub(super) events: Vec<SharedEvent>,
}

impl Inner {
    pub(super) fn wait(&mut self, watcher: u64, waker: Waker) -> Option<Waker> {
        self.waiting.insert(watcher, waker)
    }

    pub(super) fn leave(&mut self, watcher: u64) -> Option<Waker> {
        self.figures.watchers -= 1;
        self.waiting.remove(&watcher)
    }

    /// A listing in its brackets.
    pub(super) fn listing(&self, scope: &Scope) -> impl Iterator<Item = WatchEvent> + use<> {
        let listing = self.table.list(scope);
        // Who names this goes on at the end of the log.
        let latest = self.table.history().latest();
        let items = listing.entries.into_iter().map(WatchEvent::Item);
        std::iter::once(WatchEvent::Begin).chain(items).chain([WatchEvent::Ready(latest)])
    }

    /// A listing that others may read, too: the one that somebody reads now, if what came after
    /// it is in the log and it has everything up to `least`.
    pub(super) fn snapshot(&mut self, scope: &Scope, least: Revision) -> Arc<Snapshot> {
        self.snapshots.retain(|snapshot| snapshot.strong_count() > 0);
        let history = self.table.history();
        let at_hand = self.snapshots.iter().filter_map(Weak::upgrade).find(|snapshot| {
            let behind = history.end() - snapshot.position;
            let fresh = snapshot.position == history.end() || snapshot.revision >= least;
            snapshot.scope == *scope && fresh && behind as usize <= history.len() / 2
        });
        if let Some(snapshot) = at_hand {
            self.figures.listings_shared += 1;
            return snapshot;
        }
        let events: Vec<_> = self.listing(scope).map(SharedEvent::new).collect();
        self.figures.listings_made += 1;
        self.figures.listing_bytes = self.table.bytes();
        let (position, revision) = (self.table.history().end(), self.table.revision());
        let snapshot = Arc::new(Snapshot { scope: scope.clone(), position, revision, events });
        self.snapshots.push(Arc::downgrade(&snapshot));
        snapshot
    }
}

impl WatchHub {
    /// Shares `table`.
    #[must_use]
    pub fn new(table: Table) -> Arc<Self> {
        Arc::new(Self {
            inner: Mutex::new(Inner {
                table,
                waiting: HashMap::new(),
                last_watcher: 0,
                closed: false,
                snapshots: Vec::new(),
                figures: HubFigures::default(),
            }),
        })
    }

    /// Reads the table.
    pub fn read<T>(&self, read: impl FnOnce(&Table) -> T) -> T {
        read(&self.lock().table)
    }

    /// Changes the table and wakes the watchers.
    pub fn change<T>(&self, change: impl FnOnce(&mut Table) -> T) -> T {
        let (result, waiting) = {
            let mut inner = self.lock();
            (change(&mut inner.table), std::mem::take(&mut inner.waiting))
        };
        waiting.into_values().for_each(Waker::wake);
        result
    }

    /// Ends every watch, once it has yielded what happened so far.
    pub fn close(&self) {
        self.lock().closed = true;
        self.change(|_| ());
    }

    /// How much it holds and did.
    #[must_use]
    pub fn figures(&self) -> HubFigures {
        let inner = self.lock();
        let history = inner.table.history();
        HubFigures {
            objects: inner.table.len(),
            history: history.len(),
            position: history.end(),
            ..inner.figures
        }
    }

    /// Follows `scope`; see [`Datastore::watch`](crate::Datastore::watch).
    #[must_use]
    pub fn watch(self: &Arc<Self>, scope: Scope, from: Option<Revision>) -> WatchStream {
        Box::pin(Owned(self.follow(scope, from, None)))
    }

    /// Follows `scope`; see [`Datastore::watch_shared`](crate::Datastore::watch_shared).
    #[must_use]
    pub fn watch_shared(
        self: &Arc<Self>,
        scope: Scope,
        from: Option<Revision>,
    ) -> SharedWatchStream {
        Box::pin(self.follow(scope, from, Some(Revision(u64::MAX))))
    }

    /// As [`watch_shared`](Self::watch_shared); a listing may be one that was made earlier for
    /// another watcher, if it has everything up to the revision `least`. What came after it
    /// follows at once.
    #[must_use]
    pub fn watch_since(
        self: &Arc<Self>,
        scope: Scope,
        from: Option<Revision>,
        least: Revision,
    ) -> SharedWatchStream {
        Box::pin(self.follow(scope, from, Some(least)))
    }

    fn follow(
        self: &Arc<Self>,
        scope: Scope,
        from: Option<Revision>,
        least: Option<Revision>,
    ) -> Follow {
        let mut inner = self.lock();
        inner.last_watcher += 1;
        inner.figures.watchers += 1;
        let at = from.and_then(|from| inner.table.history().position(from));
        Follow::new(inner.last_watcher, Arc::clone(self), scope, at, least)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic elsewhere cannot leave the table half changed: it happens before or after.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
