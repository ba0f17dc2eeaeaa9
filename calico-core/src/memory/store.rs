use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use async_trait::async_trait;
use futures_core::Stream;

use super::table::{Prepared, Table};
use crate::datastore::{
    Datastore, Entry, Listing, Revision, StoreError, WatchEvent, WatchStream, Write, WriteFailed,
};
use crate::key::{Key, Scope};

/// Changes that a watcher may fall behind before it is given a new listing.
const LOG: usize = 8192;

/// Events handed to a watcher per lock of the table.
const BATCH: usize = 256;

/// A [`Table`] shared by writers and watchers.
#[derive(Debug)]
pub struct WatchHub {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    table: Table,
    /// One per watcher that waits; it goes with the watcher.
    waiting: Vec<(u64, Waker)>,
    watchers: u64,
    closed: bool,
}

impl Inner {
    fn wait(&mut self, watcher: u64, waker: Waker) -> Option<Waker> {
        let old = self.stop_waiting(watcher);
        self.waiting.push((watcher, waker));
        old
    }

    fn stop_waiting(&mut self, watcher: u64) -> Option<Waker> {
        let at = self.waiting.iter().position(|(id, _)| *id == watcher)?;
        Some(self.waiting.swap_remove(at).1)
    }
}

impl WatchHub {
    /// Shares `table`.
    #[must_use]
    pub fn new(table: Table) -> Arc<Self> {
        Arc::new(Self {
            inner: Mutex::new(Inner { table, waiting: Vec::new(), watchers: 0, closed: false }),
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
        waiting.into_iter().for_each(|(_, waker)| waker.wake());
        result
    }

    /// Ends every watch, once it has yielded what happened so far.
    pub fn close(&self) {
        self.lock().closed = true;
        self.change(|_| ());
    }

    /// Follows `scope`; see [`Datastore::watch`].
    #[must_use]
    pub fn watch(self: &Arc<Self>, scope: Scope, from: Option<Revision>) -> WatchStream {
        let id = {
            let mut inner = self.lock();
            inner.watchers += 1;
            inner.watchers
        };
        Box::pin(Follow { id, hub: Arc::clone(self), scope, at: from, ready: VecDeque::new() })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic elsewhere cannot leave the table half changed: it happens before or after.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Follow {
    id: u64,
    hub: Arc<WatchHub>,
    scope: Scope,
    /// Everything up to here was yielded or is in `ready`.
    at: Option<Revision>,
    ready: VecDeque<WatchEvent>,
}

impl Follow {
    fn fill(&mut self, inner: &Inner) {
        let Some(from) = self.at else { return self.relist(inner) };
        let Some(changes) = inner.table.changes_after(from) else { return self.relist(inner) };
        for change in changes.take(BATCH) {
            self.at = Some(change.revision);
            if self.scope.contains(&change.key) {
                let (key, revision) = (change.key.clone(), change.revision);
                self.ready.push_back(match &change.value {
                    Some(value) => {
                        WatchEvent::Put(Entry { key, value: Arc::clone(value), revision })
                    }
                    None => WatchEvent::Gone { key, revision },
                });
            }
        }
    }

    fn relist(&mut self, inner: &Inner) {
        let listing = inner.table.list(&self.scope);
        self.ready.push_back(WatchEvent::Begin);
        self.ready.extend(listing.entries.into_iter().map(WatchEvent::Item));
        self.ready.push_back(WatchEvent::Ready(listing.revision));
        self.at = Some(listing.revision);
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        let old = self.hub.lock().stop_waiting(self.id);
        drop(old);
    }
}

impl Stream for Follow {
    type Item = WatchEvent;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<WatchEvent>> {
        let this = self.get_mut();
        if let Some(event) = this.ready.pop_front() {
            return Poll::Ready(Some(event));
        }
        let hub = Arc::clone(&this.hub);
        let mut inner = hub.lock();
        // Changes outside the scope fill nothing: go on until there is an event or no change.
        loop {
            let before = this.at;
            this.fill(&inner);
            if let Some(event) = this.ready.pop_front() {
                return Poll::Ready(Some(event));
            }
            if this.at == before {
                break;
            }
        }
        if inner.closed {
            return Poll::Ready(None);
        }
        let old = inner.wait(this.id, context.waker().clone());
        // A waker may own a task, and a task another watch: none is dropped under the lock.
        drop(inner);
        drop(old);
        Poll::Pending
    }
}

/// A store that lives as long as the process: for tests, for simulations, and for programs that
/// bring their own persistence.
#[derive(Debug, Clone)]
pub struct MemoryStore {
    hub: Arc<WatchHub>,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::with_history(LOG)
    }

    /// An empty store that remembers `changes` changes for watchers that resume.
    #[must_use]
    pub fn with_history(changes: usize) -> Self {
        Self { hub: WatchHub::new(Table::new(changes)) }
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Datastore for MemoryStore {
    async fn get(&self, key: &Key) -> Result<Entry, StoreError> {
        self.hub
            .read(|table| table.get(key).cloned())
            .ok_or_else(|| StoreError::NotFound { key: key.clone() })
    }

    async fn list(&self, scope: &Scope) -> Result<Listing, StoreError> {
        Ok(self.hub.read(|table| table.list(scope)))
    }

    async fn write(&self, writes: Vec<Write>) -> Result<Vec<Revision>, WriteFailed> {
        self.hub.change(|table| {
            let mut prepared = Prepared::default();
            let result = table.prepare(writes, &mut prepared);
            table.commit(prepared);
            result
        })
    }

    fn watch(&self, scope: Scope, from: Option<Revision>) -> WatchStream {
        self.hub.watch(scope, from)
    }
}
