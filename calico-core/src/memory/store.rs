use std::sync::Arc;

use async_trait::async_trait;

use super::hub::WatchHub;
use super::table::{Prepared, Table};
use crate::datastore::{
    Datastore, Entry, Listing, Revision, SharedWatchStream, StoreError, WatchStream, Write,
    WriteFailed,
};
use crate::key::{Key, Scope};

/// Changes that a watcher may fall behind before it is given a new listing.
const LOG: usize = 8192;

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
            .read(|table| table.get(key))
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
    fn watch_shared(&self, scope: Scope, from: Option<Revision>) -> SharedWatchStream {
        self.hub.watch_shared(scope, from)
    }
}
