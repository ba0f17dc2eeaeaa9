//! Watches of a cluster in which everything happens that may: what they know at the end is what there is.
//!
//! Four seconds of it are a test; `cargo xtask soak [SECONDS [SEED]]` goes on for longer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use calico_core::Datastore;
use calico_core::datastore::{StoreError, WatchEvent};
use calico_core::key::Key;
use calico_datastore::etcd::EtcdStore;
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::time::{sleep, timeout};

use super::proxy::Proxy;
use super::server::Cluster;
use super::{LIMIT, pool, pools, state};

/// Objects that are written and deleted.
const OBJECTS: u64 = 200;
/// Follows one after the other, each in its own way.
const WATCHERS: usize = 4;

/// Pseudo-random numbers (splitmix64), so that a seed names a run's order of troubles.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % most
    }
}

fn setting(name: &str, default: u64) -> u64 {
    let set = std::env::var(name).ok();
    set.map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// What a watcher knows, and how it came by it.
#[derive(Default)]
struct Known {
    objects: BTreeMap<Key, Arc<str>>,
    events: usize,
    listings: usize,
    interruptions: usize,
}

impl Known {
    fn take(&mut self, event: WatchEvent, listed: &mut Option<BTreeMap<Key, Arc<str>>>) {
        self.events += 1;
        match event {
            WatchEvent::Begin => *listed = Some(BTreeMap::new()),
            WatchEvent::Item(entry) => {
                let listed = listed.as_mut().expect("an item inside a listing");
                listed.insert(entry.key, entry.value);
            }
            WatchEvent::Ready(_) => {
                self.objects = listed.take().expect("a listing");
                self.listings += 1;
            }
            WatchEvent::Put(entry) => drop(self.objects.insert(entry.key, entry.value)),
            WatchEvent::Gone { key, .. } => drop(self.objects.remove(&key)),
            WatchEvent::Interrupted { .. } => self.interruptions += 1,
            other => panic!("{other:?}"),
        }
    }
}

/// Follows until `last` is there. `laziness` in milliseconds is how long it looks away at times, in the
/// middle of whatever the watch does.
async fn follow(store: EtcdStore, last: Key, laziness: u64, mut dice: Dice) -> Known {
    let mut watch = store.watch(pools(), None);
    let (mut known, mut listed) = (Known::default(), None);
    while listed.is_some() || !known.objects.contains_key(&last) {
        if laziness > 0 && dice.below(8) == 0 {
            if let Some(Some(event)) = watch.next().now_or_never() {
                known.take(event, &mut listed);
            }
            sleep(Duration::from_millis(dice.below(laziness))).await;
            continue;
        }
        let event = timeout(LIMIT, watch.next()).await.expect("an event in time").unwrap();
        known.take(event, &mut listed);
    }
    known
}

async fn write(store: EtcdStore, stop: Arc<AtomicBool>, mut dice: Dice) -> usize {
    let mut done = 0;
    while !stop.load(Ordering::Relaxed) {
        let key = pool(&dice.below(OBJECTS).to_string());
        let result = match dice.below(4) {
            0 => store.delete(key, None).await,
            _ => store.put(key, dice.below(u64::MAX).to_string().into()).await,
        };
        match result {
            Ok(_) => done += 1,
            Err(StoreError::NotFound { .. }) => {}
            Err(StoreError::Unavailable { .. }) => sleep(Duration::from_millis(20)).await,
            Err(error) => panic!("{error}"),
        }
    }
    done
}

/// One trouble after the other, each of which passes.
async fn trouble(cluster: &mut Cluster, proxies: &[Proxy], dice: &mut Dice) {
    let member = dice.below(cluster.members.len() as u64) as usize;
    match dice.below(5) {
        0 => {
            // It may be that the cluster has no leader just now.
            if let Ok(revision) = cluster.store().revision().await {
                let revision = revision.to_string();
                drop(cluster.try_etcdctl(&["--command-timeout=5s", "compact", &revision]));
            }
        }
        1 => {
            cluster.members[member].kill();
            sleep(Duration::from_millis(dice.below(800))).await;
            cluster.members[member].spawn();
        }
        2 => {
            cluster.members[member].pause();
            sleep(Duration::from_millis(dice.below(1500))).await;
            cluster.members[member].resume();
        }
        3 => {
            // Whoever leads gives way to another.
            let leader = cluster.leader();
            cluster.members[leader].pause();
            sleep(Duration::from_millis(1500)).await;
            cluster.members[leader].resume();
        }
        _ => {
            for proxy in proxies {
                proxy.cut();
            }
            sleep(Duration::from_millis(dice.below(300))).await;
            for proxy in proxies {
                proxy.restore();
            }
        }
    }
}

/// Waits until nothing changes: a write whose answer was lost may still be on its way.
async fn settled(store: &EtcdStore) {
    let mut before = None;
    loop {
        let now = store.revision().await.ok();
        if now.is_some() && now == before {
            return;
        }
        before = now;
        sleep(Duration::from_secs(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whatever_happens_a_watch_knows_in_the_end_what_there_is() {
    let seconds = setting("CALICO_SOAK_SECONDS", 4);
    let seed = setting("CALICO_SOAK_SEED", 1);
    let mut cluster = Cluster::start(3).await;
    let mut proxies = Vec::new();
    for member in &cluster.members {
        proxies.push(Proxy::before(&member.url).await);
    }
    // Watchers and writers share connections, all of which can be cut.
    let urls = proxies.iter().map(|proxy| proxy.url.clone());
    let store = EtcdStore::connect(cluster.config_of(urls)).unwrap();
    let last = pool("the-last");
    let stop = Arc::new(AtomicBool::new(false));
    let watchers: Vec<_> = (0..WATCHERS)
        .map(|n| {
            let (laziness, dice) = (n as u64 * 200, Dice(seed + n as u64));
            tokio::spawn(follow(store.clone(), last.clone(), laziness, dice))
        })
        .collect();
    let writers: Vec<_> = (0..2)
        .map(|n| tokio::spawn(write(store.clone(), Arc::clone(&stop), Dice(seed + 100 + n))))
        .collect();
    let (start, mut dice, mut troubles) = (Instant::now(), Dice(seed + 200), 0);
    while start.elapsed() < Duration::from_secs(seconds) {
        sleep(Duration::from_millis(200 + dice.below(500))).await;
        trouble(&mut cluster, &proxies, &mut dice).await;
        troubles += 1;
    }
    stop.store(true, Ordering::Relaxed);
    let mut done = 0;
    for writer in writers {
        done += timeout(LIMIT, writer).await.expect("the writer ends").unwrap();
    }
    timeout(LIMIT, settled(&store)).await.expect("nothing is under way any more");
    let put = async {
        while let Err(error) = store.put(last.clone(), "{}".into()).await {
            println!("the last write: {error}");
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(LIMIT, put).await.expect("the cluster recovers");
    let expected = state(&store).await;
    println!("seed {seed}: {troubles} troubles, {done} writes, {} objects left", expected.len());
    assert!(done > 0 && troubles > 0);
    for (number, watcher) in watchers.into_iter().enumerate() {
        let known = timeout(LIMIT, watcher).await.expect("it sees the last write").unwrap();
        println!(
            "watcher {number}: {} events, {} listings, {} interruptions",
            known.events, known.listings, known.interruptions
        );
        assert_eq!(known.objects, expected, "watcher {number}");
    }
}
