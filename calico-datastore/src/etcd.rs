//! A store in an etcd v3 cluster, with upstream's keys and values.
//!
//! Keys are the text form of [`Key`], values the objects' JSON: what upstream's tools wrote is
//! read, and what is written here they read. Two things happen to values on the way: a resource's
//! `metadata.resourceVersion` and `metadata.selfLink` are not stored, and an empty affinity is
//! read as `{}`, both as upstream does. Upstream's other data under `/calico/` (`felix`, `bgp`,
//! `v1`) is left alone. A revision is etcd's: of the object, its `mod_revision`.
//!
//! - *Writes* that are made together go in one transaction wherever etcd's limits allow (128 of
//!   them, 1 MiB, every key once): one round trip, and then they share a revision. If one of them
//!   fails, the transaction tells which, and those before it are done in a second one.
//! - *Members* are named, or found by SRV records (`etcdDiscoverySrv`), which are read when the first
//!   call is made, and again after a connection broke.
//! - *Failover*: a request goes to the endpoint that answered last, and to the others if that one
//!   fails. A write is never sent twice unless it certainly was not received the first time; its
//!   error says so when nobody can tell.
//! - *Watches* go on after the last revision on whichever endpoint answers. What etcd has
//!   compacted in the meantime, another cluster at the same endpoints, or one that was restored
//!   from a backup lead to a new listing. Memory is bounded: what the caller does not take stays
//!   in etcd. One that resumes from a revision at which several objects were written together is
//!   given all of them, also those that it has seen.
//!
//! The client speaks etcd's protocol itself, on tokio; building it needs no `protoc`.
//!
//! ```no_run
//! use calico_core::{Datastore, key::Scope};
//! use calico_datastore::config::EtcdConfig;
//! use calico_datastore::etcd::EtcdStore;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), calico_core::datastore::StoreError> {
//! let store = EtcdStore::connect(EtcdConfig::new(["http://10.0.0.1:2379", "http://10.0.0.2:2379"]))?;
//! for entry in store.list(&Scope::Blocks).await?.entries {
//!     println!("{} at {}", entry.key, entry.revision);
//! }
//! # Ok(())
//! # }
//! ```

mod cluster;
mod discovery;
mod endpoint;
mod failure;
mod field;
mod login;
mod members;
mod pages;
mod range;
mod rpc;
mod span;
mod stored;
mod txn;
mod watch;
mod wire;

use std::sync::Arc;

use async_trait::async_trait;
use calico_core::Datastore;
use calico_core::datastore::{
    Entry, Listing, Revision, StoreError, WatchStream, Write, WriteFailed,
};
use calico_core::key::{Key, Scope};

use self::cluster::{Cluster, Repeat};
use self::failure::{Failure, FailureKind};
use self::pages::Pages;
use self::span::{Found, Span};
use self::txn::{Outcome, Stop};
use self::wire::RangeRequest;
use crate::config::EtcdConfig;

/// Listings that begin again because etcd was compacted meanwhile.
const LISTINGS: usize = 5;

/// Transactions that are tried while others keep changing the same objects; then one by one.
const TRIES: usize = 8;

/// A [`Datastore`] in etcd; see the [module](self). Clones share its connections.
#[derive(Debug, Clone)]
pub struct EtcdStore {
    cluster: Arc<Cluster>,
}

impl EtcdStore {
    /// The store in a cluster. Connects when it is first used, which must be on a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`StoreError::Settings`] for settings that make no sense, such as an endpoint that is
    /// no URL.
    pub fn connect(config: EtcdConfig) -> Result<Self, StoreError> {
        Ok(Self { cluster: Arc::new(Cluster::new(config)?) })
    }

    /// Asks a majority of the cluster for the store's revision: whether it is there, and answers.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`], or [`StoreError::Denied`].
    pub async fn revision(&self) -> Result<Revision, StoreError> {
        let span = Span::of(Scope::One(Key::IpamConfig));
        let request = RangeRequest { key: span.start, count_only: true, ..RangeRequest::default() };
        let answer = self.cluster.call(&rpc::RANGE, &request, Repeat::Yes).await;
        let answer = answer.map_err(Failure::into_error)?;
        Ok(span::revision(answer.header.unwrap_or_default().revision))
    }

    async fn list_once(&self, span: &Span) -> Result<Listing, Failure> {
        let mut pages = Pages::new(span);
        let mut entries = Vec::new();
        while let Some(page) = pages.next(span, &self.cluster).await? {
            entries.reserve(page.len());
            entries.extend(page.into_iter().filter_map(well_formed));
        }
        Ok(Listing { entries, revision: pages.revision() })
    }

    async fn transact(
        &self,
        writes: &[Write],
        stop: Option<&Stop>,
        ask: bool,
    ) -> Result<Outcome, Failure> {
        let request = txn::request(writes, stop, ask);
        let answer = self.cluster.call(&rpc::TXN, &request, Repeat::No).await?;
        Ok(txn::outcome(writes, &answer))
    }

    /// Carries out `writes`, all of which can be stored; `done` gets their revisions.
    async fn write_all(
        &self,
        mut writes: &[Write],
        done: &mut Vec<Revision>,
    ) -> Result<(), StoreError> {
        let (mut limit, mut tries) = (txn::MAX_OPS, 0);
        // How many of the next transaction, if it is known that the write after them fails.
        let mut stop: Option<(usize, Stop)> = None;
        let mut ask = false;
        while let Some(first) = writes.first() {
            let count = stop.as_ref().map_or_else(|| txn::fits(writes, limit), |(count, _)| *count);
            let (now, later) = writes.split_at(count);
            let at_once = txn::asks_at_once(now);
            match self.transact(now, stop.as_ref().map(|(_, stop)| stop), ask || at_once).await {
                Ok(Outcome::Done(revision)) => {
                    ask = false;
                    done.extend(std::iter::repeat_n(revision, count));
                    if let Some((_, stop)) = stop {
                        return Err(stop.error);
                    }
                    writes = later;
                }
                Ok(Outcome::Stopped(0, stop)) => return Err(stop.error),
                Ok(Outcome::Stopped(index, at)) => stop = Some((index, at)),
                Ok(Outcome::Untold) if !ask => ask = true,
                Ok(Outcome::Changed | Outcome::Untold) => {
                    (stop, tries) = (None, tries + 1);
                    if tries >= TRIES {
                        limit = 1;
                    }
                }
                Err(failure) if failure.kind == FailureKind::TooLarge && count > 1 => {
                    (stop, limit) = (None, 1);
                }
                Err(failure) => return Err(failure.into_write_error(&first.key)),
            }
        }
        Ok(())
    }
}

fn well_formed(found: Found) -> Option<Entry> {
    match found {
        Found::Object(entry) => Some(entry),
        Found::Other => None,
        // A listing has no place for it; a watch tells of it once.
        Found::Bad { path, reason } => {
            tracing::debug!(path, reason, "left a malformed object out of a listing");
            None
        }
    }
}

#[async_trait]
impl Datastore for EtcdStore {
    async fn get(&self, key: &Key) -> Result<Entry, StoreError> {
        let span = Span::of(Scope::One(key.clone()));
        let request = RangeRequest { key: span.start.clone(), ..RangeRequest::default() };
        let answer = self.cluster.call(&rpc::RANGE, &request, Repeat::Yes).await;
        let answer = answer.map_err(Failure::into_error)?;
        match answer.kvs.first().map(|kv| span.read(kv.stored())) {
            Some(Found::Object(entry)) => Ok(entry),
            Some(Found::Bad { path, reason }) => Err(StoreError::BadObject { path, reason }),
            Some(Found::Other) | None => Err(StoreError::NotFound { key: key.clone() }),
        }
    }

    async fn list(&self, scope: &Scope) -> Result<Listing, StoreError> {
        let span = Span::of(scope.clone());
        for _ in 1..LISTINGS {
            match self.list_once(&span).await {
                Err(failure) if failure.kind == FailureKind::Compacted => {}
                result => return result.map_err(Failure::into_error),
            }
        }
        self.list_once(&span).await.map_err(Failure::into_error)
    }

    async fn write(&self, writes: Vec<Write>) -> Result<Vec<Revision>, WriteFailed> {
        let storable = writes.iter().take_while(|write| write.key.is_storable()).count();
        let mut done = Vec::with_capacity(writes.len());
        let result = self.write_all(&writes[..storable], &mut done).await;
        match (result, writes.get(storable)) {
            (Ok(()), None) => Ok(done),
            (Ok(()), Some(write)) => {
                let error = StoreError::bad_object(&write.key, &"its name cannot be stored");
                Err(WriteFailed { done, error })
            }
            (Err(error), _) => Err(WriteFailed { done, error }),
        }
    }

    fn watch(&self, scope: Scope, from: Option<Revision>) -> WatchStream {
        watch::stream(Arc::clone(&self.cluster), scope, from)
    }
}
