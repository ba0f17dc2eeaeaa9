//! Connections that break, and servers that come and go.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use calico_core::Datastore;
use calico_core::datastore::{Revision, WatchEvent, Write};
use calico_core::key::Scope;
use calico_core::memory::MemoryStore;
use calico_core::testing::{Call, Fault, FaultyStore};
use calico_datastore::remote::RemoteStore;
use tokio::sync::mpsc;

use super::link::over_cuttable;
use super::{next, node, place, reason, serve};

#[tokio::test]
async fn without_a_server_it_says_where_and_what_to_do() {
    let (_dir, socket) = place();
    let store = RemoteStore::connect(&socket);
    let text = reason(store.get(&node("a")).await.unwrap_err());
    assert!(text.contains(socket.to_str().unwrap()) && text.contains("calico-agent"), "{text}");
    let failed = store.write(vec![Write::put(node("a"), "{}")]).await.unwrap_err();
    assert_eq!(failed.done, []);
    reason(failed.error);

    let mut watch = store.watch(Scope::All, None);
    assert!(matches!(next(&mut watch).await, WatchEvent::Interrupted { .. }));
    let _server = serve(&socket, Arc::new(MemoryStore::new()));
    assert_eq!(next(&mut watch).await, WatchEvent::Begin, "told once, then it goes on");
    assert_eq!(next(&mut watch).await, WatchEvent::Ready(Revision(0)));
}

#[tokio::test]
async fn another_server_means_a_new_listing() {
    let (_dir, socket) = place();
    let (stop, server) = serve(&socket, Arc::new(MemoryStore::new()));
    let store = RemoteStore::connect(&socket);
    store.put(node("old"), "{}".into()).await.unwrap();
    let mut watch = store.watch(Scope::All, Some(Revision(0)));
    assert!(matches!(next(&mut watch).await, WatchEvent::Put(e) if e.key == node("old")));

    stop.send(()).unwrap();
    server.await.unwrap();
    assert!(!socket.exists());
    assert!(matches!(next(&mut watch).await, WatchEvent::Interrupted { .. }));
    // Its history looks as if the watch could go on in it, but it is another one.
    let other = MemoryStore::new();
    for name in ["new", "newer", "newest"] {
        other.put(node(name), "{}".into()).await.unwrap();
    }
    let _server = serve(&socket, Arc::new(other));
    assert_eq!(next(&mut watch).await, WatchEvent::Begin);
    for _ in 0..3 {
        assert!(matches!(next(&mut watch).await, WatchEvent::Item(_)));
    }
    assert_eq!(next(&mut watch).await, WatchEvent::Ready(Revision(3)));
    assert!(store.get(&node("new")).await.is_ok(), "requests go on too");
}

#[tokio::test]
async fn after_a_broken_connection_a_watch_goes_on_where_it_was() {
    let inner = Arc::new(MemoryStore::new());
    let (store, link) = over_cuttable(inner.clone());
    store.put(node("a"), "{}".into()).await.unwrap();
    let mut watch = store.watch(Scope::All, None);
    for _ in 0..3 {
        next(&mut watch).await;
    }
    for round in 0..5 {
        link.cut();
        assert!(matches!(next(&mut watch).await, WatchEvent::Interrupted { .. }), "{round}");
        let revision = inner.put(node("b"), "{}".into()).await.unwrap();
        assert!(matches!(next(&mut watch).await, WatchEvent::Put(e) if e.revision == revision));
    }
}

#[tokio::test]
async fn a_listing_that_is_cut_starts_again() {
    let inner = Arc::new(MemoryStore::new());
    for n in 0..2000 {
        inner.put(node(&format!("n{n}")), "x".repeat(100).into()).await.unwrap();
    }
    let (store, link) = over_cuttable(inner.clone());
    let mut watch = store.watch(Scope::All, None);
    assert_eq!(next(&mut watch).await, WatchEvent::Begin);
    for _ in 0..700 {
        assert!(matches!(next(&mut watch).await, WatchEvent::Item(_)));
    }
    link.cut();
    let mut items = 0;
    loop {
        match next(&mut watch).await {
            WatchEvent::Begin => items = 0,
            WatchEvent::Item(_) => items += 1,
            WatchEvent::Interrupted { .. } => {}
            WatchEvent::Ready(revision) => break assert_eq!(revision, Revision(2000)),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(items, 2000, "between the last Begin and Ready");
}

#[tokio::test]
async fn reads_are_repeated_and_writes_are_not() {
    let calls = Arc::new(AtomicUsize::new(0));
    let (cut, mut cuts) = mpsc::unbounded_channel();
    let count = Arc::clone(&calls);
    // The first two calls never answer: the connection is cut under them.
    let faulty = FaultyStore::new(Arc::new(MemoryStore::new()), move |nth, call| {
        count.fetch_add(1, Ordering::Relaxed);
        let is_first = matches!((nth, call), (0, Call::Get(_)) | (2, Call::Write(_)));
        if is_first {
            cut.send(()).unwrap();
            return Fault::after(std::future::pending());
        }
        Fault::None
    });
    let (store, link) = over_cuttable(Arc::new(faulty));
    tokio::spawn(async move {
        while cuts.recv().await.is_some() {
            link.cut();
        }
    });
    assert!(store.get(&node("a")).await.unwrap_err().is_not_found(), "asked a second time");
    let text = reason(store.put(node("a"), "{}".into()).await.unwrap_err());
    assert!(text.contains("may or may not have happened"), "{text}");
    assert_eq!(calls.load(Ordering::Relaxed), 3);
    store.put(node("a"), "{}".into()).await.unwrap();
}
