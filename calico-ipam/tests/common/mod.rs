//! A cluster in memory, and a store that interleaves, crashes and loses replies by seed.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use async_trait::async_trait;
use calico_core::datastore::{
    Entry, Listing, Revision, StoreError, WatchStream, Write, WriteFailed,
};
use calico_core::key::{Key, Scope};
use calico_core::memory::MemoryStore;
use calico_core::{Datastore, Kind};
use calico_ipam::plan::geometry::scramble;
use calico_ipam::{Ipam, Options};

#[derive(Debug)]
pub struct Cluster {
    pub memory: MemoryStore,
    pub seconds: Arc<AtomicU64>,
}

impl Cluster {
    pub fn new() -> Self {
        Self { memory: MemoryStore::new(), seconds: Arc::new(AtomicU64::new(1_000_000)) }
    }

    /// A cluster with pools of these names and specs.
    pub async fn with(pools: &[(&str, &str)]) -> Self {
        let cluster = Self::new();
        for (name, spec) in pools {
            cluster.resource(Kind::IpPool, name, spec).await;
        }
        cluster
    }

    pub async fn resource(&self, kind: Kind, name: &str, spec: &str) {
        let json = format!(r#"{{"metadata":{{"name":"{name}"}},"spec":{spec}}}"#);
        self.memory.put(Key::resource(kind, None, name), json.into()).await.unwrap();
    }

    pub async fn node(&self, name: &str, labels: &str) {
        let json = format!(r#"{{"metadata":{{"name":"{name}","labels":{labels}}},"spec":{{}}}}"#);
        self.memory.put(Key::resource(Kind::Node, None, name), json.into()).await.unwrap();
    }

    pub async fn config(&self, json: &str) {
        self.memory.put(Key::IpamConfig, json.into()).await.unwrap();
    }

    pub fn ipam(&self) -> Ipam {
        self.ipam_on(Arc::new(self.memory.clone()))
    }

    pub fn ipam_on(&self, store: Arc<dyn Datastore>) -> Ipam {
        let seconds = Arc::clone(&self.seconds);
        let clock =
            Arc::new(move || UNIX_EPOCH + Duration::from_secs(seconds.load(Ordering::Relaxed)));
        Ipam::new(store, Options { clock, ..Options::default() })
    }

    pub async fn paths(&self, scope: &Scope) -> BTreeMap<String, Arc<str>> {
        let listing = self.memory.list(scope).await.unwrap();
        listing.entries.into_iter().map(|e| (e.key.to_string(), e.value)).collect()
    }

    /// Every assigned address with its handle.
    pub async fn assigned(&self) -> Vec<(String, String)> {
        let blocks = self.ipam().blocks().await.unwrap();
        blocks
            .iter()
            .flat_map(|block| &block.allocations)
            .filter(|a| a.attributes.released_at.is_none())
            .map(|a| (a.address.to_string(), a.attributes.handle_id.clone().unwrap_or_default()))
            .collect()
    }
}

/// What a [`Chaos`] store may do, each with a chance of one in so many; 0 is never.
#[derive(Debug, Clone, Copy, Default)]
pub struct Chances {
    /// A sequence of writes stops after some of them, and the caller hears nothing of it.
    pub crash: u64,
    /// The reply to a call is lost.
    pub lose: u64,
    /// A call fails before it reaches the store.
    pub fail: u64,
}

/// Lets other tasks run before every single read and write, for a number of turns that depends on
/// the seed, and injects faults.
#[derive(Debug)]
pub struct Chaos {
    inner: MemoryStore,
    state: Mutex<u64>,
    chances: Chances,
}

impl Chaos {
    pub fn new(inner: MemoryStore, seed: u64, chances: Chances) -> Self {
        Self { inner, state: Mutex::new(seed), chances }
    }

    fn draw(&self) -> u64 {
        let mut state = self.state.lock().unwrap();
        *state = scramble(*state);
        *state
    }

    fn happens(&self, one_in: u64) -> bool {
        one_in > 0 && self.draw().is_multiple_of(one_in)
    }

    async fn pause(&self) {
        for _ in 0..self.draw() % 4 {
            tokio::task::yield_now().await;
        }
    }

    async fn enter(&self) -> Result<(), StoreError> {
        self.pause().await;
        if self.happens(self.chances.fail) { Err(gone("refused")) } else { Ok(()) }
    }
}

fn gone(reason: &str) -> StoreError {
    StoreError::Unavailable { reason: reason.to_owned() }
}

#[async_trait]
impl Datastore for Chaos {
    async fn get(&self, key: &Key) -> Result<Entry, StoreError> {
        self.enter().await?;
        let result = self.inner.get(key).await;
        self.pause().await;
        result
    }

    async fn list(&self, scope: &Scope) -> Result<Listing, StoreError> {
        self.enter().await?;
        let result = self.inner.list(scope).await;
        self.pause().await;
        result
    }

    async fn write(&self, writes: Vec<Write>) -> Result<Vec<Revision>, WriteFailed> {
        self.enter().await?;
        let mut done = Vec::new();
        for write in writes {
            if self.happens(self.chances.crash) {
                return Err(gone("crashed").into());
            }
            match self.inner.write(vec![write]).await {
                Ok(revisions) => done.extend(revisions),
                Err(failed) => return Err(WriteFailed { done, error: failed.error }),
            }
            self.pause().await;
        }
        if self.happens(self.chances.lose) {
            return Err(gone("reply lost").into());
        }
        Ok(done)
    }

    fn watch(&self, scope: Scope, from: Option<Revision>) -> WatchStream {
        self.inner.watch(scope, from)
    }
}
