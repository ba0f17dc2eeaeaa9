//! A store in one file: durable, crash-safe, watchable.
//!
//! The file is a log of changes, each group of them with a checksum; the objects themselves live
//! in memory. That suits what is stored: watching and listing need every object at hand anyway,
//! and a cluster's objects fit. A page-based database file was considered instead: it would keep a
//! second copy, grow without giving space back, and answer damaged pages with a panic or, worse,
//! with wrong data. A log is cut or refused.
//!
//! What a crash, or a disk, can do to it:
//!
//! - *Crash in the middle of a write*: the unfinished end is cut off at the next start, reported,
//!   and kept in `<file>.torn`. No write that was acknowledged is lost (see [`Durability`]).
//! - *Damage anywhere else*: [`StoreError::Corrupt`] names the place; the file is left untouched.
//! - *Crash while the log is compacted*: the new log is complete before it takes the old one's name.
//! - *Full disk*: the write fails, what was there stays, and later writes may succeed.
//!
//! One process has the file open at a time. Others reach the store through [`crate::remote`].

mod explain;
mod file;
mod format;
mod lock;
mod scan;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use async_trait::async_trait;
use calico_core::Datastore;
use calico_core::datastore::{
    Entry, Listing, Revision, SharedWatchStream, StoreError, WatchStream, Write, WriteFailed,
};
use calico_core::key::{Key, Scope};
use calico_core::memory::WatchHub;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

pub use format::{MAX_PATH, MAX_VALUE};

use writer::Job;

/// Writes that wait for the disk before callers have to wait for a place.
const QUEUE: usize = 1024;

/// What an acknowledged write survives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// The loss of power: each write waits for the disk. Concurrent writers share one wait.
    #[default]
    Disk,
    /// The death of this process, but not that of the kernel: for labs, and for state that is
    /// worthless after a reboot.
    Process,
}

/// How to open an [`EmbeddedStore`].
#[derive(Debug, Clone, Copy)]
pub struct Options {
    durability: Durability,
    history: usize,
    compact_from: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { durability: Durability::Disk, history: 8192, compact_from: 4 << 20 }
    }
}

impl Options {
    /// The defaults: [`Durability::Disk`], a history of 8192 changes, no compaction below 4 MiB.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Says what an acknowledged write survives.
    #[must_use]
    pub const fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Says how many changes a watcher may fall behind before it is given a new listing.
    #[must_use]
    pub const fn history(mut self, changes: usize) -> Self {
        self.history = changes;
        self
    }

    /// Says from which size on, in bytes, a file is compacted once half of it is garbage.
    #[must_use]
    pub const fn compact_from(mut self, bytes: u64) -> Self {
        self.compact_from = bytes;
        self
    }

    /// Opens the store at `path`, which is created if it does not exist. Blocks on the disk.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`] if the file cannot be used or another process uses it,
    /// [`StoreError::Corrupt`] if it is damaged or is no store, [`StoreError::Unsupported`] if a
    /// newer version wrote it.
    pub fn open(self, path: impl AsRef<Path>) -> Result<EmbeddedStore, StoreError> {
        EmbeddedStore::start(path.as_ref(), self)
    }
}

/// A [`Datastore`] in one file; see the [module](self).
///
/// Dropping it waits for the writes that were handed in, then gives the file free.
#[derive(Debug)]
pub struct EmbeddedStore {
    path: PathBuf,
    hub: Arc<WatchHub>,
    /// `None` only while being dropped.
    jobs: Option<mpsc::Sender<Job>>,
    writer: Option<JoinHandle<()>>,
}

impl EmbeddedStore {
    /// Opens the store at `path` with the default [`Options`].
    ///
    /// # Errors
    ///
    /// As [`Options::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        Options::new().open(path)
    }

    /// Where it is stored.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn start(path: &Path, options: Options) -> Result<Self, StoreError> {
        let (log, table) = file::open(path, options)?;
        let hub = WatchHub::new(table);
        let (jobs, queue) = mpsc::channel(QUEUE);
        let writer = writer::spawn(log, Arc::clone(&hub), queue)?;
        Ok(Self { path: path.to_owned(), hub, jobs: Some(jobs), writer: Some(writer) })
    }

    fn stopped(&self) -> StoreError {
        StoreError::Unavailable {
            reason: format!("the writer of {} has stopped; see the log", self.path.display()),
        }
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!(path = %self.path.display(), "the writer of the store panicked");
        }
        self.hub.close();
    }
}

#[async_trait]
impl Datastore for EmbeddedStore {
    async fn get(&self, key: &Key) -> Result<Entry, StoreError> {
        self.hub
            .read(|table| table.get(key))
            .ok_or_else(|| StoreError::NotFound { key: key.clone() })
    }

    async fn list(&self, scope: &Scope) -> Result<Listing, StoreError> {
        Ok(self.hub.read(|table| table.list(scope)))
    }

    async fn write(&self, writes: Vec<Write>) -> Result<Vec<Revision>, WriteFailed> {
        if writes.is_empty() {
            return Ok(Vec::new());
        }
        let (reply, done) = oneshot::channel();
        let jobs = self.jobs.as_ref().ok_or_else(|| self.stopped())?;
        if jobs.send(Job { writes, reply }).await.is_err() {
            return Err(self.stopped().into());
        }
        match done.await {
            Ok(result) => result,
            Err(_) => Err(self.stopped().into()),
        }
    }

    fn watch(&self, scope: Scope, from: Option<Revision>) -> WatchStream {
        self.hub.watch(scope, from)
    }
    fn watch_shared(&self, scope: Scope, from: Option<Revision>) -> SharedWatchStream {
        self.hub.watch_shared(scope, from)
    }
}
