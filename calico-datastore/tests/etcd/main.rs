//! The etcd backend against real etcd servers.
//!
//! Needs etcd, etcdctl and dnsmasq (Debian: `etcd-server`, `etcd-client`, `dnsmasq-base`). Each test starts its own
//! servers on loopback ports, in a temporary directory.

#![cfg(feature = "etcd")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod access;
mod authority;
mod contract;
mod discovery;
mod failover;
mod golden;
mod proxy;
mod server;
mod soak;
mod watch;
mod write;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use calico_core::Datastore;
use calico_core::datastore::{Revision, WatchEvent, WatchStream};
use calico_core::key::{Key, Scope};
use calico_core::kind::Kind;
use futures_util::StreamExt as _;

/// No step of a test takes longer.
const LIMIT: Duration = Duration::from_secs(60);

fn pool(name: &str) -> Key {
    Key::resource(Kind::IpPool, None, name)
}

fn pools() -> Scope {
    Scope::Kind(Kind::IpPool)
}

/// The next event; an interruption is passed over.
async fn next(watch: &mut WatchStream) -> WatchEvent {
    loop {
        match any(watch).await {
            WatchEvent::Interrupted { reason } => println!("interrupted: {reason}"),
            event => return event,
        }
    }
}

async fn any(watch: &mut WatchStream) -> WatchEvent {
    let event = tokio::time::timeout(LIMIT, watch.next()).await;
    event.expect("an event in time").expect("a watch has no end")
}

/// Reads a whole listing in its brackets.
async fn listing(watch: &mut WatchStream) -> (BTreeMap<Key, Arc<str>>, Revision) {
    assert_eq!(next(watch).await, WatchEvent::Begin);
    rest_of_listing(watch).await
}

/// As [`listing`], after its `Begin`.
async fn rest_of_listing(watch: &mut WatchStream) -> (BTreeMap<Key, Arc<str>>, Revision) {
    let mut entries = BTreeMap::new();
    loop {
        match next(watch).await {
            WatchEvent::Begin => entries.clear(),
            WatchEvent::Item(entry) => drop(entries.insert(entry.key, entry.value)),
            WatchEvent::Ready(revision) => return (entries, revision),
            other => panic!("{other:?} inside a listing"),
        }
    }
}

/// What the store holds, as a watcher keeps it.
async fn state(store: &dyn Datastore) -> BTreeMap<Key, Arc<str>> {
    let listing = store.list(&pools()).await.expect("list");
    listing.entries.into_iter().map(|entry| (entry.key, entry.value)).collect()
}
