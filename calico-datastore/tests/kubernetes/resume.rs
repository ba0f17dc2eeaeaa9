//! Watches of several collections go on where they were.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use calico_core::Datastore;
use calico_core::datastore::{Revision, WatchEvent, WatchStream};
use calico_core::key::{Key, Scope};
use calico_core::kind::Kind;
use calico_datastore::conversion::ApiGroup;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{Etcd, LIMIT, Turn, any};

const POLICIES: &str = "/apis/networking.k8s.io/v1/namespaces/prod/networkpolicies";

type Objects = BTreeMap<Key, (Arc<str>, Revision)>;

/// Somebody who follows a scope, loses the watch now and then, and goes on.
struct Follower {
    store: Arc<dyn Datastore>,
    scope: Scope,
    watch: WatchStream,
    objects: Objects,
    listing: Option<Objects>,
    /// What it was shown last; nothing while it is given a listing.
    shown: Option<Revision>,
    listings: usize,
}

impl Follower {
    fn new(store: Arc<dyn Datastore>, scope: Scope) -> Self {
        let watch = store.watch(scope.clone(), None);
        let (objects, listing, shown, listings) = (Objects::new(), None, None, 0);
        Self { store, scope, watch, objects, listing, shown, listings }
    }

    fn take(&mut self, event: WatchEvent) {
        match event {
            WatchEvent::Begin => (self.listing, self.shown) = (Some(Objects::new()), None),
            WatchEvent::Item(entry) => {
                let listing = self.listing.as_mut().expect("items stand in a listing");
                listing.insert(entry.key, (entry.value, entry.revision));
            }
            WatchEvent::Ready(revision) => {
                self.objects = self.listing.take().expect("a listing has a beginning");
                (self.shown, self.listings) = (Some(revision), self.listings + 1);
            }
            WatchEvent::Put(entry) => {
                self.shown = Some(entry.revision);
                self.objects.insert(entry.key, (entry.value, entry.revision));
            }
            WatchEvent::Gone { key, revision } => {
                self.shown = Some(revision);
                self.objects.remove(&key);
            }
            WatchEvent::Interrupted { reason } => println!("interrupted: {reason}"),
            other => panic!("{other:?}"),
        }
    }

    /// Takes up to that many events that come within a moment.
    async fn take_some(&mut self, count: usize) {
        for _ in 0..count {
            let Ok(event) = timeout(Duration::from_millis(100), any(&mut self.watch)).await else {
                return;
            };
            self.take(event);
        }
    }

    fn come_back(&mut self) {
        self.listing = None;
        self.watch = self.store.watch(self.scope.clone(), self.shown);
    }

    /// Follows until it knows what the store says, which nobody changes now.
    async fn catch_up(&mut self) {
        let truth = self.store.list(&self.scope).await.unwrap().entries;
        let truth: Objects =
            truth.into_iter().map(|entry| (entry.key, (entry.value, entry.revision))).collect();
        let reads = async {
            while self.listings == 0 || self.listing.is_some() || self.objects != truth {
                let event = any(&mut self.watch).await;
                self.take(event);
            }
        };
        if timeout(LIMIT, reads).await.is_err() {
            let differs = |key: &&Key| self.objects.get(key) != truth.get(key);
            let keys: Vec<_> = self.objects.keys().chain(truth.keys()).filter(differs).collect();
            panic!("it does not come to know the truth about {keys:?}");
        }
    }
}

/// Writes to three collections at once, until told to stop.
struct Writers {
    stop: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    written: Arc<AtomicU64>,
}

impl Writers {
    fn start(turn: &Turn, store: &Arc<dyn Datastore>) -> Self {
        let (stop, written) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let mut tasks = Vec::new();
        for kind in [Kind::IpPool, Kind::NetworkPolicy] {
            let (store, stop, written) =
                (Arc::clone(store), Arc::clone(&stop), Arc::clone(&written));
            tasks.push(tokio::spawn(async move {
                for n in 0_u64.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let key = Key::resource(kind, Some("prod"), &format!("o{}", n % 7));
                    // Away for a while, or changed by nobody else: either way the next comes.
                    let _ = match n % 5 {
                        4 => store.delete(key, None).await,
                        _ => store.put(key, object(kind, n)).await,
                    };
                    written.fetch_add(1, Ordering::Relaxed);
                }
            }));
        }
        let (cluster, stopped) = (turn.cluster, Arc::clone(&stop));
        let count = Arc::clone(&written);
        tasks.push(tokio::spawn(async move {
            for n in 0_u64.. {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let name = format!("k{}", n % 3);
                let spec = json!({"podSelector": {"matchLabels": {"n": n.to_string()}}});
                let body = json!({"metadata": {"name": name}, "spec": spec});
                let path = format!("{POLICIES}/{name}");
                if cluster.ask("PUT", &path, &body).await.is_err() {
                    let _ = cluster.ask("POST", POLICIES, &body).await;
                }
                if n % 4 == 3 {
                    let _ = cluster.ask("DELETE", &path, &Value::Null).await;
                }
                count.fetch_add(1, Ordering::Relaxed);
            }
        }));
        Self { stop, tasks, written }
    }

    /// Waits until that much more was written.
    async fn more(&self, count: u64) {
        let goal = self.written.load(Ordering::Relaxed) + count;
        let reached = async {
            while self.written.load(Ordering::Relaxed) < goal {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(LIMIT, reached).await.expect("writes go on");
    }

    async fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            timeout(LIMIT, task).await.expect("an end").unwrap();
        }
    }
}

fn object(kind: Kind, n: u64) -> Arc<str> {
    let spec = match kind {
        Kind::IpPool => json!({"cidr": "10.0.0.0/16"}),
        _ => json!({"selector": format!("n == '{n}'")}),
    };
    json!({"metadata": {"annotations": {"n": n.to_string()}}, "spec": spec}).to_string().into()
}

async fn clear(turn: &Turn) {
    turn.clear().await;
    turn.cluster.must("DELETE", POLICIES, Value::Null).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_back_is_given_no_listing_and_misses_nothing() {
    for (etcd, group) in [(Etcd::Debian, ApiGroup::Crd), (Etcd::Current, ApiGroup::V3)] {
        let Some(turn) = Turn::take(etcd) else { return };
        clear(&turn).await;
        let store: Arc<dyn Datastore> = Arc::new(turn.store(group));
        let scopes = [Scope::All, Scope::All, Scope::Kind(Kind::NetworkPolicy)];
        let mut followers = scopes.map(|scope| Follower::new(Arc::clone(&store), scope));
        for follower in &mut followers {
            follower.catch_up().await;
        }
        let writers = Writers::start(&turn, &store);
        for round in 0..8 {
            writers.more(8).await;
            for (number, follower) in followers.iter_mut().enumerate() {
                // In the middle of what there is to take.
                follower.take_some(1 + (round * 5 + number * 3) % 9).await;
                follower.come_back();
            }
        }
        writers.finish().await;
        for follower in &mut followers {
            follower.catch_up().await;
            assert_eq!(follower.listings, 1, "{}: the first", follower.scope);
        }

        // What is deleted while it is away, it is told.
        let pool = Key::resource(Kind::IpPool, None, "goes");
        store.put(pool.clone(), object(Kind::IpPool, 1)).await.unwrap();
        let follower = &mut followers[0];
        follower.catch_up().await;
        follower.watch = Box::pin(futures_util::stream::pending());
        store.delete(pool.clone(), None).await.unwrap();
        follower.come_back();
        follower.catch_up().await;
        assert!(!follower.objects.contains_key(&pool));
        assert_eq!(follower.listings, 1);
        clear(&turn).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_restarts_or_forgets_leads_to_a_listing_at_most() {
    let Some(turn) = Turn::take(Etcd::Current) else { return };
    clear(&turn).await;
    let store: Arc<dyn Datastore> = Arc::new(turn.store(ApiGroup::V3));
    let mut followers = [Scope::All, Scope::Kind(Kind::NetworkPolicy)]
        .map(|scope| Follower::new(Arc::clone(&store), scope));
    for compacts in [false, true] {
        for follower in &mut followers {
            follower.catch_up().await;
        }
        let listings = followers.each_ref().map(|follower| follower.listings);
        let goes = Key::resource(Kind::IpPool, None, "goes");
        store.put(goes.clone(), object(Kind::IpPool, 1)).await.unwrap();
        followers[0].catch_up().await;
        followers[1].take_some(3).await;
        for follower in &mut followers {
            follower.watch = Box::pin(futures_util::stream::pending());
        }
        let writers = Writers::start(&turn, &store);
        writers.more(20).await;
        writers.finish().await;
        let last = store.delete(goes.clone(), None).await.unwrap();
        if compacts {
            turn.cluster.etcdctl(&["compact", &last.to_string()]);
        }
        turn.cluster.kill_server();
        followers.iter_mut().for_each(Follower::come_back);
        turn.cluster.start_server();
        turn.cluster.wait().unwrap();
        for (follower, before) in followers.iter_mut().zip(listings) {
            follower.catch_up().await;
            assert!(!follower.objects.contains_key(&goes));
            let more = follower.listings - before;
            println!("compacted: {compacts}, {}: {more} listing(s)", follower.scope);
            assert!(more <= 2, "{more} listings");
        }
    }
    clear(&turn).await;
}
