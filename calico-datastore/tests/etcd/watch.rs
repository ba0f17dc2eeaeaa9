//! Watches, alone with one server.

use std::process::{Command, Stdio};
use std::time::Duration;

use calico_core::Datastore;
use calico_core::datastore::{Revision, StoreError, WatchEvent, Write};
use calico_core::key::{Key, Scope};
use calico_datastore::config::EtcdConfig;
use calico_datastore::etcd::EtcdStore;

use super::proxy::Proxy;
use super::server::Cluster;
use super::{any, listing, next, pool, pools, rest_of_listing, state};

/// A store that reaches the only member through a proxy.
async fn through_proxy(cluster: &Cluster) -> (EtcdStore, Proxy) {
    let proxy = Proxy::before(&cluster.members[0].url).await;
    let config = EtcdConfig::new([proxy.url.clone()]);
    (EtcdStore::connect(config).unwrap(), proxy)
}

#[tokio::test]
async fn a_cut_watch_goes_on_where_it_was() {
    let cluster = Cluster::start(1).await;
    let (far, proxy) = through_proxy(&cluster).await;
    let store = cluster.store();
    store.put(pool("a"), "1".into()).await.unwrap();
    let mut watch = far.watch(pools(), None);
    listing(&mut watch).await;

    proxy.cut();
    assert!(matches!(any(&mut watch).await, WatchEvent::Interrupted { .. }));
    assert!(matches!(far.get(&pool("a")).await, Err(StoreError::Unavailable { .. })));
    let put = store.put(pool("b"), "1".into()).await.unwrap();
    let gone = store.delete(pool("a"), None).await.unwrap();
    // Nothing more is said while it lasts, and nothing is lost when it ends.
    let quiet = tokio::time::timeout(Duration::from_millis(500), any(&mut watch)).await;
    assert!(quiet.is_err(), "{quiet:?}");
    proxy.restore();
    assert!(matches!(any(&mut watch).await, WatchEvent::Put(entry) if entry.revision == put));
    assert_eq!(any(&mut watch).await, WatchEvent::Gone { key: pool("a"), revision: gone });
}

#[tokio::test]
async fn a_compaction_while_cut_off_leads_to_a_new_listing() {
    let cluster = Cluster::start(1).await;
    let (far, proxy) = through_proxy(&cluster).await;
    let store = cluster.store();
    store.put(pool("gone"), "1".into()).await.unwrap();
    let mut watch = far.watch(pools(), None);
    listing(&mut watch).await;

    proxy.cut();
    store.delete(pool("gone"), None).await.unwrap();
    let last = store.put(pool("a"), "2".into()).await.unwrap();
    cluster.compact(last);
    proxy.restore();
    let (seen, ready) = listing(&mut watch).await;
    assert_eq!((seen, ready), (state(&store).await, last));
    let after = store.put(pool("b"), "1".into()).await.unwrap();
    assert!(matches!(next(&mut watch).await, WatchEvent::Put(entry) if entry.revision == after));
}

#[tokio::test]
async fn a_revision_that_is_compacted_or_about_to_be_leads_to_a_listing() {
    let cluster = Cluster::start(1).await;
    let store = cluster.store();
    let first = store.put(pool("a"), "1".into()).await.unwrap();
    let second = store.delete(pool("a"), None).await.unwrap();
    let third = store.put(pool("b"), "1".into()).await.unwrap();
    cluster.compact(second);
    for from in [first, second] {
        let (seen, ready) = listing(&mut store.watch(pools(), Some(from))).await;
        assert_eq!((seen.len(), ready), (1, third), "from {from}");
    }
    let mut watch = store.watch(pools(), Some(third));
    let fourth = store.put(pool("c"), "1".into()).await.unwrap();
    assert!(matches!(next(&mut watch).await, WatchEvent::Put(entry) if entry.revision == fourth));
}

#[tokio::test]
async fn one_that_resumes_inside_a_transaction_loses_nothing() {
    let cluster = Cluster::start(1).await;
    let store = cluster.store();
    store.put(pool("a"), "0".into()).await.unwrap();
    let writes = vec![
        Write::delete(pool("a"), None),
        Write::put(pool("b"), "1"),
        Write::put(Key::Handle("elsewhere".into()), "1"),
    ];
    let together = store.write(writes).await.unwrap()[0];
    let alone = store.put(pool("c"), "1".into()).await.unwrap();

    let mut watch = store.watch(pools(), Some(together));
    let gone = WatchEvent::Gone { key: pool("a"), revision: together };
    assert_eq!(next(&mut watch).await, gone, "it may not have been seen");
    assert!(matches!(next(&mut watch).await, WatchEvent::Put(entry) if entry.key == pool("b")));
    assert!(matches!(next(&mut watch).await, WatchEvent::Put(entry) if entry.revision == alone));

    // In its scope only one object was written at that revision.
    let mut watch = store.watch(Scope::Handles, Some(together));
    let handle = Key::Handle("new".into());
    store.put(handle.clone(), "1".into()).await.unwrap();
    assert!(matches!(next(&mut watch).await, WatchEvent::Put(entry) if entry.key == handle));

    let mut watch = store.watch(pools(), Some(Revision(0)));
    assert!(matches!(next(&mut watch).await, WatchEvent::Put(entry) if &*entry.value == "0"));
}

#[tokio::test]
async fn what_nobody_understands_is_reported_once() {
    let cluster = Cluster::start(1).await;
    let store = cluster.store();
    let strange = "/calico/resources/v3/projectcalico.org/ippools/a/b";
    cluster.etcdctl(&["put", strange, "{}"]);
    store.put(pool("good"), "{}".into()).await.unwrap();
    let mut watch = store.watch(pools(), None);
    assert_eq!(next(&mut watch).await, WatchEvent::Begin);
    match next(&mut watch).await {
        WatchEvent::Bad { path, .. } => assert_eq!(path, strange),
        other => panic!("{other:?}"),
    }
    let (seen, _) = rest_of_listing(&mut watch).await;
    assert_eq!(seen.len(), 1);

    // Written again, and no better: not worth a second report. Bytes that are no text are.
    cluster.etcdctl(&["put", strange, "[]"]);
    put_bytes(&cluster, &pool("bytes").to_string(), b"\xff\xfe");
    match next(&mut watch).await {
        WatchEvent::Bad { path, reason } => {
            assert_eq!(path, pool("bytes").to_string());
            assert!(reason.contains("utf-8"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(store.get(&pool("bytes")).await, Err(StoreError::BadObject { .. })));
    assert_eq!(state(&store).await.len(), 1, "a listing goes on without it");
    let repaired = store.put(pool("bytes"), "{}".into()).await.unwrap();
    assert!(matches!(next(&mut watch).await, WatchEvent::Put(entry) if entry.revision == repaired));
}

#[tokio::test]
async fn a_watcher_that_does_not_read_costs_little_and_misses_nothing() {
    let cluster = Cluster::start(1).await;
    let (far, proxy) = through_proxy(&cluster).await;
    let store = cluster.store();
    let mut watch = far.watch(pools(), None);
    listing(&mut watch).await;
    let first = store.put(pool("first"), "1".into()).await.unwrap();
    assert!(matches!(next(&mut watch).await, WatchEvent::Put(entry) if entry.revision == first));

    let before = proxy.down();
    let value = "x".repeat(100 << 10);
    let mut last = first;
    for n in 0..300 {
        last = store.put(pool(&(n % 7).to_string()), value.as_str().into()).await.unwrap();
    }
    // Others on the same connection are not kept waiting.
    assert!(far.get(&pool("first")).await.is_ok());
    let ahead = (proxy.down() - before) >> 10;
    println!("{ahead} KiB of 30000 were sent ahead");
    assert!(ahead < 8 << 10, "{ahead} KiB were sent to one that does not read");

    let mut at = first;
    while at < last {
        match next(&mut watch).await {
            WatchEvent::Put(entry) => {
                assert_eq!(entry.revision, Revision(at.0 + 1), "none is missing");
                at = entry.revision;
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn too_much_to_catch_up_with_is_listed_instead() {
    let cluster = Cluster::start(1).await;
    let (far, proxy) = through_proxy(&cluster).await;
    let store = cluster.store();
    let mut watch = far.watch(pools(), None);
    listing(&mut watch).await;
    proxy.cut();
    // One answer would have 100 MB.
    let value = "x".repeat(1 << 20);
    let mut last = Revision::default();
    for n in 0..100 {
        last = store.put(pool(&(n % 5).to_string()), value.as_str().into()).await.unwrap();
    }
    proxy.restore();
    let (seen, ready) = listing(&mut watch).await;
    assert_eq!((seen.len(), ready), (5, last));
}

#[tokio::test]
async fn large_listings_come_in_pages_of_one_moment() {
    let cluster = Cluster::start(1).await;
    let store = cluster.store();
    // Pairs that are always written together; three pages and more of them.
    let side = |letter: char, n: usize| pool(&format!("{letter}{n:05}"));
    let pair =
        move |n: usize, value: &str| [side('a', n), side('b', n)].map(|key| Write::put(key, value));
    let writes = (0..4_000).flat_map(|n| pair(n, "0")).collect();
    store.write(writes).await.unwrap();

    let writer = tokio::spawn({
        let store = cluster.store();
        async move {
            for round in 1.. {
                let writes = pair(round * 37 % 4_000, &round.to_string());
                store.write(writes.into()).await.unwrap();
            }
        }
    });
    for _ in 0..5 {
        let listed = state(&store).await;
        let (watched, _) = listing(&mut store.watch(pools(), None)).await;
        for seen in [listed, watched] {
            assert_eq!(seen.len(), 8_000);
            for n in 0..4_000 {
                assert_eq!(seen[&side('a', n)], seen[&side('b', n)], "pair {n}");
            }
        }
    }
    assert!(!writer.is_finished(), "nobody wrote while it was listed");
    writer.abort();
}

fn put_bytes(cluster: &Cluster, path: &str, value: &[u8]) {
    use std::io::Write as _;
    let mut child = Command::new("etcdctl")
        .env("ETCDCTL_API", "3")
        .args(["--endpoints", &cluster.members[0].url, "put", path])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(value).unwrap();
    assert!(child.wait().unwrap().success());
}
