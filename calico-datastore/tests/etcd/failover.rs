//! Members that die, stop, and come back, under load.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use calico_core::Datastore;
use calico_core::datastore::{Entry, Revision, StoreError, WatchEvent};
use calico_core::key::Key;
use tokio::task::JoinHandle;

use super::server::Cluster;
use super::{LIMIT, any, listing, next, pool, pools, rest_of_listing, state};

/// The writes that were acknowledged, and how many were not.
type Written = (Vec<(Key, String, Revision)>, usize);

/// Writes without pause until told to stop.
struct Writer {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Written>,
}

impl Writer {
    fn start(store: Arc<dyn Datastore>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let task = tokio::spawn(write_until(store, Arc::clone(&stop)));
        Self { stop, task }
    }

    async fn finish(self) -> Written {
        self.stop.store(true, Ordering::Relaxed);
        tokio::time::timeout(LIMIT, self.task).await.expect("an end").expect("no panic")
    }
}

async fn write_until(store: Arc<dyn Datastore>, stop: Arc<AtomicBool>) -> Written {
    let (mut done, mut failed) = (Vec::new(), 0);
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let (key, value) = (pool(&(n % 5).to_string()), n.to_string());
        match store.put(key.clone(), value.as_str().into()).await {
            Ok(revision) => done.push((key, value, revision)),
            Err(StoreError::Unavailable { .. }) => {
                failed += 1;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
    (done, failed)
}

/// Every change that a watcher saw, in order; it must not be given a second listing.
async fn follow(store: Arc<dyn Datastore>, stop: Key) -> Vec<Entry> {
    let mut watch = store.watch(pools(), None);
    listing(&mut watch).await;
    let mut seen: Vec<Entry> = Vec::new();
    loop {
        match next(&mut watch).await {
            WatchEvent::Put(entry) if entry.key == stop => return seen,
            WatchEvent::Put(entry) => {
                let last = seen.last().map_or(Revision(0), |entry| entry.revision);
                assert!(entry.revision > last, "each change once, in order");
                seen.push(entry);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_event_is_lost_when_members_die() {
    let mut cluster = Cluster::start(3).await;
    let store = Arc::new(cluster.store());
    // Several clients: they begin at different members.
    let watchers: Vec<_> =
        (0..4).map(|_| tokio::spawn(follow(Arc::new(cluster.store()), pool("stop")))).collect();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let writer = Writer::start(store.clone());
    let leader = cluster.leader();
    // The leader first, then every other: each watch is on one of them.
    for victim in [leader, (leader + 1) % 3, (leader + 2) % 3] {
        tokio::time::sleep(Duration::from_millis(300)).await;
        cluster.members[victim].kill();
        settles(&*store).await;
        cluster.members[victim].spawn();
        let only = cluster.config_of([cluster.members[victim].url.clone()]);
        settles(&calico_datastore::etcd::EtcdStore::connect(only).unwrap()).await;
    }
    let (done, failed) = writer.finish().await;
    println!("{} writes done, {failed} without an answer", done.len());
    assert!(done.len() > 100, "{} writes", done.len());
    let expected = state(&*store).await;
    until_done(|| store.put(pool("stop"), "1".into())).await;
    for watcher in watchers {
        let seen = watcher.await.expect("no panic");
        check(&done, &seen, &expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_stops_answering_is_left() {
    let cluster = Cluster::start(3).await;
    let store = Arc::new(cluster.store());
    let watchers: Vec<_> =
        (0..6).map(|_| tokio::spawn(follow(Arc::new(cluster.store()), pool("stop")))).collect();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let writer = Writer::start(store.clone());
    let leader = cluster.leader();
    cluster.members[leader].pause();
    let paused = Instant::now();
    settles(&*store).await;
    println!("writes go on after {:?}", paused.elapsed());
    // As long as it takes to find out that connections are dead.
    tokio::time::sleep(Duration::from_secs(18)).await;
    let (done, failed) = writer.finish().await;
    println!("{} writes done, {failed} without an answer", done.len());
    let expected = state(&*store).await;
    until_done(|| store.put(pool("stop"), "1".into())).await;
    for watcher in watchers {
        // While the member is still paused.
        let seen = tokio::time::timeout(LIMIT, watcher).await.expect("in time").expect("no panic");
        check(&done, &seen, &expected);
    }
    cluster.members[leader].resume();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_killed_compacted_and_restarted_under_load_leaves_watchers_right() {
    let mut cluster = Cluster::start(1).await;
    let store = Arc::new(cluster.store());
    let watchers: Vec<_> = (0..3)
        .map(|_| {
            let store = cluster.store();
            tokio::spawn(async move { replica(&store).await })
        })
        .collect();
    let writer = Writer::start(store.clone());
    for round in 0..5 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        cluster.members[0].kill();
        tokio::time::sleep(Duration::from_millis(200)).await;
        let error = cluster.store().get(&pool("a")).await.unwrap_err();
        assert!(error.is_retryable(), "{error}");
        cluster.members[0].spawn();
        settles(&*store).await;
        if round % 2 == 0 {
            cluster.compact(store.revision().await.unwrap());
        }
    }
    let (done, failed) = writer.finish().await;
    println!("{} writes done, {failed} without an answer", done.len());
    assert!(failed > 0, "the server was never missed: nothing was tested");
    until_done(|| store.put(pool("stop"), "1".into())).await;
    let expected = state(&*store).await;
    for (key, value, _) in &done {
        let stored: u32 = expected[key].parse().unwrap();
        assert!(stored >= value.parse().unwrap(), "{key} was set back from {value} to {stored}");
    }
    for watcher in watchers {
        assert_eq!(watcher.await.expect("no panic"), expected);
    }
}

#[tokio::test]
async fn a_cluster_that_is_not_there_yet_is_waited_for() {
    let mut cluster = Cluster::start(1).await;
    cluster.members[0].kill();
    let store = cluster.store();
    let started = Instant::now();
    let error = store.get(&pool("a")).await.unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    let text = error.to_string();
    assert!(text.contains(&cluster.members[0].url) && text.contains("refused"), "{text}");

    let mut watch = store.watch(pools(), None);
    let mut interruptions = 0;
    let begun = loop {
        tokio::select! {
            event = any(&mut watch) => match event {
                WatchEvent::Interrupted { .. } => interruptions += 1,
                other => break other,
            },
            () = tokio::time::sleep(Duration::from_secs(1)), if interruptions > 0 => {
                cluster.members[0].spawn();
            }
        }
        assert!(interruptions <= 1, "said once");
    };
    assert_eq!((begun, interruptions), (WatchEvent::Begin, 1));
}

#[tokio::test]
async fn another_cluster_at_the_same_address_is_listed_anew() {
    let mut cluster = Cluster::start(1).await;
    let other = Cluster::start(1).await;
    let proxy = super::proxy::Proxy::before(&cluster.members[0].url).await;
    let config = cluster.config_of([proxy.url.clone()]);
    let store = calico_datastore::etcd::EtcdStore::connect(config).unwrap();
    for n in 0..20 {
        cluster.store().put(pool(&n.to_string()), "old".into()).await.unwrap();
    }
    let mut watch = store.watch(pools(), None);
    listing(&mut watch).await;
    for n in 0..40 {
        other.store().put(pool(&(n % 3).to_string()), "new".into()).await.unwrap();
    }
    cluster.members[0].kill();
    proxy.lead_to(&other.members[0].url);
    let (seen, _) = listing(&mut watch).await;
    assert_eq!(seen, state(&other.store()).await, "higher revisions of another cluster");
}

/// Waits until a write succeeds.
async fn settles(store: &dyn Datastore) {
    until_done(|| store.put(pool("0"), "0".into())).await;
}

async fn until_done<F>(write: impl Fn() -> F)
where
    F: Future<Output = Result<Revision, StoreError>>,
{
    let started = Instant::now();
    while let Err(error) = write().await {
        assert!(started.elapsed() < LIMIT, "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Keeps a copy by a watch, until `stop` is written.
async fn replica(store: &dyn Datastore) -> BTreeMap<Key, Arc<str>> {
    let mut watch = store.watch(pools(), None);
    let (mut seen, _) = listing(&mut watch).await;
    while !seen.contains_key(&pool("stop")) {
        match next(&mut watch).await {
            WatchEvent::Begin => (seen, _) = rest_of_listing(&mut watch).await,
            WatchEvent::Put(entry) => drop(seen.insert(entry.key, entry.value)),
            WatchEvent::Gone { key, .. } => drop(seen.remove(&key)),
            other => panic!("{other:?}"),
        }
    }
    seen
}

/// Every acknowledged write was seen, and the last one seen is what is stored.
fn check(done: &[(Key, String, Revision)], seen: &[Entry], expected: &BTreeMap<Key, Arc<str>>) {
    let by_revision: BTreeMap<Revision, &Entry> =
        seen.iter().map(|entry| (entry.revision, entry)).collect();
    for (key, value, revision) in done {
        let entry = by_revision.get(revision).expect("an acknowledged write was seen");
        assert_eq!((&entry.key, &*entry.value), (key, value.as_str()));
    }
    let end: BTreeMap<Key, Arc<str>> =
        seen.iter().map(|entry| (entry.key.clone(), entry.value.clone())).collect();
    assert_eq!(&end, expected);
}
