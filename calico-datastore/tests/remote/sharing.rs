//! Requests and watches of one connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use calico_core::Datastore;
use calico_core::datastore::{Revision, StoreError, WatchEvent, WatchStream, Write};
use calico_core::key::{Key, Scope};
use calico_core::memory::MemoryStore;
use calico_core::testing::{Call, Fault, FaultyStore};
use futures_util::StreamExt;
use futures_util::future::join_all;
use tokio::sync::oneshot;

use super::link::over_cuttable;
use super::{next, node};

#[tokio::test]
async fn requests_share_one_connection_and_do_not_wait_for_each_other() {
    let (go, wait) = oneshot::channel::<()>();
    let mut wait = Some(wait);
    let faulty = FaultyStore::new(Arc::new(MemoryStore::new()), move |_, call| match call {
        Call::List(_) => {
            let wait = wait.take().unwrap();
            Fault::after(async {
                let _ = wait.await;
            })
        }
        _ => Fault::None,
    });
    let (store, link) = over_cuttable(Arc::new(faulty));
    let slow = tokio::spawn({
        let store = store.clone();
        async move { store.list(&Scope::All).await }
    });
    let writes = (0..200).map(|n| store.create(node(&format!("n{n}")), "{}".into()));
    assert!(join_all(writes).await.iter().all(Result::is_ok));
    go.send(()).unwrap();
    assert_eq!(slow.await.unwrap().unwrap().entries.len(), 200);
    assert_eq!(link.connections(), 1);
}

/// Counts what its watches hand out.
#[derive(Debug)]
struct Counting(MemoryStore, Arc<AtomicUsize>);

#[async_trait]
impl Datastore for Counting {
    async fn get(&self, key: &Key) -> Result<calico_core::datastore::Entry, StoreError> {
        self.0.get(key).await
    }
    async fn list(&self, scope: &Scope) -> Result<calico_core::datastore::Listing, StoreError> {
        self.0.list(scope).await
    }
    async fn write(
        &self,
        writes: Vec<Write>,
    ) -> Result<Vec<Revision>, calico_core::datastore::WriteFailed> {
        self.0.write(writes).await
    }
    fn watch(&self, scope: Scope, from: Option<Revision>) -> WatchStream {
        let count = Arc::clone(&self.1);
        Box::pin(self.0.watch(scope, from).inspect(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
        }))
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_costs_a_window_of_events() {
    let handed_out = Arc::new(AtomicUsize::new(0));
    let store = Counting(MemoryStore::with_history(64), Arc::clone(&handed_out));
    let (remote, _link) = over_cuttable(Arc::new(store));
    let mut watch = remote.watch(Scope::All, None);
    assert_eq!(next(&mut watch).await, WatchEvent::Begin);
    assert_eq!(next(&mut watch).await, WatchEvent::Ready(Revision(0)));
    for n in 0..5000 {
        remote.put(node("busy"), n.to_string().into()).await.unwrap();
    }
    let sent = handed_out.load(Ordering::Relaxed);
    assert!((256..=513).contains(&sent), "{sent} events for a client that reads none");
    // It catches up, by a new listing.
    loop {
        match next(&mut watch).await {
            WatchEvent::Ready(Revision(5000)) => break,
            WatchEvent::Put(entry) => assert!(entry.revision < Revision(5000)),
            _ => {}
        }
    }
}

#[tokio::test]
async fn dropping_a_watch_ends_it_on_the_server() {
    let inner = Arc::new(MemoryStore::new());
    let handed_out = Arc::new(AtomicUsize::new(0));
    let counting = Counting((*inner).clone(), Arc::clone(&handed_out));
    let (remote, _link) = over_cuttable(Arc::new(counting));
    let mut watch = remote.watch(Scope::All, None);
    next(&mut watch).await;
    drop(watch);
    // The cancellation travels ahead of this.
    remote.get(&node("a")).await.unwrap_err();
    let before = handed_out.load(Ordering::Relaxed);
    for _ in 0..100 {
        remote.put(node("a"), "{}".into()).await.unwrap();
    }
    assert_eq!(handed_out.load(Ordering::Relaxed), before);
}
