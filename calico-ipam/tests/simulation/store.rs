//! A store whose every call takes two steps: to get there, and to get back.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use calico_core::Datastore;
use calico_core::datastore::{
    Entry, Listing, Revision, StoreError, WatchStream, Write, WriteFailed,
};
use calico_core::key::{Key, Scope};
use calico_core::memory::MemoryStore;
use calico_ipam::plan::geometry::scramble;

/// Draws by seed.
#[derive(Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = scramble(self.0);
        self.0 % bound
    }

    pub(crate) fn one_in(&mut self, many: u64) -> bool {
        self.below(many) == 0
    }
}

/// What goes wrong, each with a chance of one in so many.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Faults {
    /// Of several writes, only some are made.
    pub(crate) crash: u64,
    /// A call is carried out, but its reply never comes.
    pub(crate) lose: u64,
    /// A call never gets to the store.
    pub(crate) fail: u64,
}

#[derive(Debug)]
pub(crate) struct Steps {
    inner: MemoryStore,
    dice: Mutex<Dice>,
    faults: Faults,
    calm: AtomicBool,
    conflicts: AtomicU64,
    lost: AtomicU64,
}

impl Steps {
    pub(crate) fn new(inner: MemoryStore, seed: u64, faults: Faults) -> Arc<Self> {
        Arc::new(Self {
            inner,
            dice: Mutex::new(Dice::new(seed)),
            faults,
            calm: AtomicBool::new(false),
            conflicts: AtomicU64::new(0),
            lost: AtomicU64::new(0),
        })
    }

    /// From now on nothing goes wrong any more.
    pub(crate) fn calm(&self) {
        self.calm.store(true, Ordering::Relaxed);
    }

    /// Writes that others were faster than, and replies that were lost.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.conflicts.load(Ordering::Relaxed), self.lost.load(Ordering::Relaxed))
    }

    fn happens(&self, one_in: u64) -> bool {
        !self.calm.load(Ordering::Relaxed) && self.dice.lock().unwrap().one_in(one_in)
    }

    async fn reach(&self) -> Result<(), StoreError> {
        tokio::task::yield_now().await;
        if self.happens(self.faults.fail) { Err(gone("did not get there")) } else { Ok(()) }
    }

    async fn answer(&self) -> Result<(), StoreError> {
        tokio::task::yield_now().await;
        if self.happens(self.faults.lose) {
            self.lost.fetch_add(1, Ordering::Relaxed);
            return Err(gone("reply lost"));
        }
        Ok(())
    }
}

fn gone(reason: &str) -> StoreError {
    StoreError::Unavailable { reason: reason.to_owned() }
}

#[async_trait]
impl Datastore for Steps {
    async fn get(&self, key: &Key) -> Result<Entry, StoreError> {
        self.reach().await?;
        let result = self.inner.get(key).await;
        self.answer().await?;
        result
    }

    async fn list(&self, scope: &Scope) -> Result<Listing, StoreError> {
        self.reach().await?;
        let result = self.inner.list(scope).await;
        self.answer().await?;
        result
    }

    /// Others come between the single writes, as on a store without transactions.
    async fn write(&self, writes: Vec<Write>) -> Result<Vec<Revision>, WriteFailed> {
        let mut done = Vec::new();
        for write in writes {
            self.reach().await?;
            if self.happens(self.faults.crash) {
                return Err(gone("crashed").into());
            }
            match self.inner.write(vec![write]).await {
                Ok(revisions) => done.extend(revisions),
                Err(failed) => {
                    self.conflicts.fetch_add(1, Ordering::Relaxed);
                    return Err(WriteFailed { done, error: failed.error });
                }
            }
        }
        self.answer().await?;
        Ok(done)
    }

    fn watch(&self, scope: Scope, from: Option<Revision>) -> WatchStream {
        self.inner.watch(scope, from)
    }
}
