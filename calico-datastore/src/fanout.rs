//! One store for a thousand programs: [`Fanout`] follows a store with a single watch, and serves
//! every other watch from memory.
//!
//! Reads and writes go through to the store: whoever compares and swaps sees what is true. A
//! watch is served from the objects as they were last seen, with a bounded history; who falls
//! behind it gets a new listing. While the store does not answer, watches stay as they are, and
//! new ones begin with what was seen last. It takes the place of upstream's Typha.
//!
//! ```
//! use std::sync::Arc;
//! use calico_core::datastore::{Datastore, WatchEvent};
//! use calico_core::key::{Key, Scope};
//! use calico_core::memory::MemoryStore;
//! use calico_datastore::fanout::Fanout;
//! use futures_util::StreamExt;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), calico_core::datastore::StoreError> {
//! let store = Arc::new(MemoryStore::new());
//! let fanout = Fanout::start(store.clone());
//! let mut watches: Vec<_> = (0..1000).map(|_| fanout.watch(Scope::All, None)).collect();
//!
//! store.create(Key::IpamConfig, "{}".into()).await?;
//! for watch in &mut watches {
//!     while !matches!(watch.next().await, Some(WatchEvent::Item(_) | WatchEvent::Put(_))) {}
//! }
//! # Ok(())
//! # }
//! ```

mod feed;
mod hub;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use calico_core::Datastore;
use calico_core::datastore::{
    Entry, Listing, Revision, StoreError, WatchStream, Write, WriteFailed,
};
use calico_core::key::{Key, Scope};
use tokio::task::JoinHandle;

use self::hub::Hub;

/// Changes that a watch may fall behind before it is given a new listing.
const HISTORY: usize = 16_384;

/// A store whose watches are served from memory. It needs a tokio runtime.
#[derive(Debug)]
pub struct Fanout {
    store: Arc<dyn Datastore>,
    hub: Arc<Hub>,
    feed: JoinHandle<()>,
    /// The latest revision written by way of this: what was written is seen by who asks after.
    written: AtomicU64,
}

impl Fanout {
    /// Follows `store` from now on, until this is dropped.
    #[must_use]
    pub fn start(store: Arc<dyn Datastore>) -> Self {
        Self::with_history(store, HISTORY)
    }

    /// Likewise, and remembers that many changes for watches that fall behind.
    #[must_use]
    pub fn with_history(store: Arc<dyn Datastore>, changes: usize) -> Self {
        let hub = Arc::new(Hub::new(changes));
        let feed = tokio::spawn(feed::run(Arc::clone(&store), Arc::clone(&hub)));
        Self { store, hub, feed, written: AtomicU64::new(0) }
    }

    /// Whether the store was listed: before that, watches wait.
    #[must_use]
    pub fn is_listed(&self) -> bool {
        self.hub.is_listed()
    }

    /// Why the store does not answer now, if so.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.hub.trouble()
    }

    /// Objects held.
    #[must_use]
    pub fn objects(&self) -> usize {
        self.hub.objects()
    }
}

impl Drop for Fanout {
    fn drop(&mut self) {
        self.feed.abort();
        self.hub.close();
    }
}

#[async_trait]
impl Datastore for Fanout {
    async fn get(&self, key: &Key) -> Result<Entry, StoreError> {
        self.store.get(key).await
    }

    async fn list(&self, scope: &Scope) -> Result<Listing, StoreError> {
        self.store.list(scope).await
    }

    async fn write(&self, writes: Vec<Write>) -> Result<Vec<Revision>, WriteFailed> {
        let result = self.store.write(writes).await;
        let done = match &result {
            Ok(revisions) => revisions,
            Err(failed) => &failed.done,
        };
        if let Some(last) = done.iter().max() {
            self.written.fetch_max(last.0, Ordering::Relaxed);
        }
        result
    }

    fn watch(&self, scope: Scope, from: Option<Revision>) -> WatchStream {
        let written = Revision(self.written.load(Ordering::Relaxed));
        hub::follow(Arc::clone(&self.hub), scope, from, written)
    }
}
