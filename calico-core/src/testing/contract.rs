//! The behaviour that every [`Datastore`] shares.
//!
//! Run each of [`CASES`] on a fresh, empty store, under a time limit of the caller's:
//!
//! ```
//! use std::sync::Arc;
//! use calico_core::{memory::MemoryStore, testing::contract};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! for case in contract::CASES {
//!     case.run(Arc::new(MemoryStore::with_history(contract::HISTORY))).await;
//! }
//! # }
//! ```

mod cases;
mod watching;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::StreamExt;

use crate::datastore::{Datastore, Entry, Revision, WatchEvent, WatchStream};
use crate::key::{Key, Scope};
use crate::kind::Kind;

/// Changes that the store under test should remember for watchers. One that remembers more may
/// answer a late watcher with all it missed instead of a new listing.
pub const HISTORY: usize = 64;

type Body = fn(Arc<dyn Datastore>) -> Pin<Box<dyn Future<Output = ()> + Send>>;

/// One promise of the contract.
#[derive(Clone, Copy)]
pub struct Case {
    /// What is promised.
    pub name: &'static str,
    body: Body,
}

impl Case {
    /// Checks the promise on `store`, which must be empty.
    ///
    /// # Panics
    ///
    /// If the store breaks it.
    pub async fn run(&self, store: Arc<dyn Datastore>) {
        (self.body)(store).await;
    }
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

macro_rules! cases {
    ($($module:ident :: $case:ident,)*) => {
        /// The contract, promise by promise.
        pub const CASES: &[Case] = &[$(Case {
            name: stringify!($case),
            body: |store| Box::pin($module::$case(store)),
        },)*];
    };
}

cases! {
    cases::reads_what_was_written,
    cases::refuses_a_write_whose_expectation_fails,
    cases::stops_a_sequence_at_the_first_failure,
    cases::lists_exactly_the_scope_in_order_of_paths,
    cases::lets_one_of_many_concurrent_writers_win,
    cases::loses_no_increment_of_concurrent_writers,
    cases::refuses_names_that_cannot_be_stored,
    cases::keeps_malformed_objects_and_reports_them,
    cases::keeps_large_and_odd_values,
    watching::brackets_the_first_listing,
    watching::follows_changes_in_order,
    watching::yields_only_the_scope,
    watching::resumes_after_a_revision,
    watching::relists_when_history_is_forgotten,
    watching::relists_for_a_revision_of_the_future,
    watching::brings_a_slow_watcher_up_to_date,
    watching::keeps_watchers_apart,
    watching::waits_for_no_watcher,
}

fn pool(name: &str) -> Key {
    Key::resource(Kind::IpPool, None, name)
}

fn policy(namespace: &str, name: &str) -> Key {
    Key::resource(Kind::NetworkPolicy, Some(namespace), name)
}

async fn put(store: &dyn Datastore, key: Key, value: &str) -> Revision {
    store.put(key, value.into()).await.expect("an unconditional write")
}

async fn next(watch: &mut WatchStream) -> WatchEvent {
    watch.next().await.expect("a watch has no end while its store is open")
}

/// Reads a whole listing in its brackets.
async fn listing(watch: &mut WatchStream) -> (Vec<Entry>, Revision) {
    assert_eq!(next(watch).await, WatchEvent::Begin);
    rest_of_listing(watch).await
}

/// As [`listing`], after its `Begin`.
async fn rest_of_listing(watch: &mut WatchStream) -> (Vec<Entry>, Revision) {
    let mut entries = Vec::new();
    loop {
        match next(watch).await {
            WatchEvent::Item(entry) => entries.push(entry),
            WatchEvent::Ready(revision) => return (entries, revision),
            other => panic!("{other:?} inside a listing"),
        }
    }
}

/// Opens a watch whose listing has been read.
async fn watch_from_now(store: &dyn Datastore, scope: Scope) -> WatchStream {
    let mut watch = store.watch(scope, None);
    listing(&mut watch).await;
    watch
}
