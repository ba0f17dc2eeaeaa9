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

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use calico_core::Datastore;
use calico_core::datastore::{
    Entry, Listing, Revision, SharedEvent, SharedWatchStream, StoreError, WatchStream, Write,
    WriteFailed,
};
use calico_core::key::{Key, Scope};
use calico_core::memory::{HubFigures, Table, WatchHub};
use futures_util::StreamExt;
use futures_util::stream::{empty, once};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Changes that a watch may fall behind before it is given a new listing.
const HISTORY: usize = 16_384;

/// Who names a revision that has not been seen here waits this long for it: it was written through
/// another connection, and is on its way.
const PATIENCE: Duration = Duration::from_secs(2);

/// A store whose watches are served from memory. It needs a tokio runtime.
#[derive(Debug)]
pub struct Fanout {
    store: Arc<dyn Datastore>,
    hub: Arc<WatchHub>,
    state: Arc<watch::Sender<State>>,
    feed: JoinHandle<()>,
    /// The latest revision written by way of this: what was written is seen by who asks after.
    written: AtomicU64,
}

/// How far the feed is.
#[derive(Debug, Default)]
struct State {
    listed: bool,
    closed: bool,
    /// The highest revision seen.
    revision: Revision,
    /// Changes and listings that were taken over.
    updates: u64,
    trouble: Option<String>,
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
        let hub = WatchHub::new(Table::new(changes));
        let state = Arc::new(watch::Sender::new(State::default()));
        let feed = feed::run(Arc::clone(&store), Arc::clone(&hub), Arc::clone(&state));
        let feed = tokio::spawn(feed);
        Self { store, hub, state, feed, written: AtomicU64::new(0) }
    }

    /// Whether the store was listed: before that, watches wait.
    #[must_use]
    pub fn is_listed(&self) -> bool {
        self.state.borrow().listed
    }

    /// Why the store does not answer now, if so.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.state.borrow().trouble.clone()
    }

    /// Objects held.
    #[must_use]
    pub fn objects(&self) -> usize {
        self.hub.read(Table::len)
    }

    /// Changes and listings that the store told of.
    #[must_use]
    pub fn updates(&self) -> u64 {
        self.state.borrow().updates
    }

    /// What is held for watches, and what was done for them.
    #[must_use]
    pub fn figures(&self) -> HubFigures {
        self.hub.figures()
    }
}

impl Drop for Fanout {
    fn drop(&mut self) {
        self.feed.abort();
        self.hub.close();
        self.state.send_modify(|state| state.closed = true);
    }
}

/// Waits until the store was listed, and `revision` was seen. What never comes, or is another
/// store's, is given up after a while. `false`: it was never listed, and never will be.
async fn wait_for(mut state: watch::Receiver<State>, revision: Revision) -> bool {
    let listed = state.wait_for(|state| state.closed || state.listed);
    if !listed.await.is_ok_and(|state| state.listed) {
        return false;
    }
    let seen = state.wait_for(|state| state.closed || state.revision >= revision);
    let _ = tokio::time::timeout(PATIENCE, seen).await;
    true
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
        Box::pin(self.watch_shared(scope, from).map(SharedEvent::into_event))
    }

    fn watch_shared(&self, scope: Scope, from: Option<Revision>) -> SharedWatchStream {
        let written = Revision(self.written.load(Ordering::Relaxed));
        let (hub, state) = (Arc::clone(&self.hub), self.state.subscribe());
        // A listing has what was written by way of this; who goes on, goes on where it was.
        let ready = wait_for(state, from.unwrap_or(written));
        let watch = once(ready).flat_map(move |listed| match listed {
            true => hub.watch_since(scope.clone(), from, written),
            false => Box::pin(empty()),
        });
        Box::pin(watch)
    }
}
