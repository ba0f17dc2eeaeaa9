//! Restarts of the server, and what it forgets.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use calico_core::Datastore;
use calico_core::datastore::{Revision, WatchEvent, WatchStream};
use calico_core::key::{Key, Scope};
use calico_core::kind::Kind;
use calico_datastore::conversion::ApiGroup;
use serde_json::json;

use super::{Etcd, LIMIT, Turn, any};

fn pool(name: &str) -> Key {
    Key::resource(Kind::IpPool, None, name)
}

fn text(count: u64) -> Arc<str> {
    json!({"metadata": {"annotations": {"n": count.to_string()}}, "spec": {"cidr": "10.0.0.0/16"}})
        .to_string()
        .into()
}

fn count(value: &str) -> u64 {
    let value: serde_json::Value = serde_json::from_str(value).unwrap();
    value["metadata"]["annotations"]["n"].as_str().unwrap().parse().unwrap()
}

/// What a watcher knows.
#[derive(Default)]
struct Seen {
    objects: BTreeMap<Key, u64>,
    listing: Option<BTreeMap<Key, u64>>,
    listings: usize,
    interruptions: usize,
}

impl Seen {
    fn take(&mut self, event: WatchEvent) {
        match event {
            WatchEvent::Begin => self.listing = Some(BTreeMap::new()),
            WatchEvent::Item(entry) => {
                let listing = self.listing.as_mut().expect("items stand in a listing");
                listing.insert(entry.key, count(&entry.value));
            }
            WatchEvent::Ready(_) => {
                self.objects = self.listing.take().expect("a listing has a beginning");
                self.listings += 1;
            }
            WatchEvent::Put(entry) => {
                let now = count(&entry.value);
                if let Some(before) = self.objects.insert(entry.key.clone(), now) {
                    assert!(before <= now, "{} went back from {before} to {now}", entry.key);
                }
            }
            WatchEvent::Gone { key, .. } => drop(self.objects.remove(&key)),
            WatchEvent::Interrupted { .. } => self.interruptions += 1,
            other => panic!("{other:?}"),
        }
    }

    async fn until(&mut self, watch: &mut WatchStream, expected: &BTreeMap<Key, u64>) {
        while self.listing.is_some() || self.objects != *expected {
            self.take(any(watch).await);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_compacted_is_listed_anew() {
    for etcd in [Etcd::Debian, Etcd::Current] {
        let Some(turn) = Turn::take(etcd) else { return };
        turn.clear().await;
        let store = turn.store(ApiGroup::Crd);
        let first = store.put(pool("gone"), text(1)).await.unwrap();
        store.delete(pool("gone"), None).await.unwrap();
        let last = store.put(pool("kept"), text(7)).await.unwrap();
        turn.cluster.etcdctl(&["compact", &last.to_string()]);
        // The server remembers by itself what it has seen; a new one does not.
        turn.cluster.kill_server();
        turn.cluster.start_server();
        turn.cluster.wait().unwrap();
        let mut watch = store.watch(Scope::Kind(Kind::IpPool), Some(first));
        let mut seen = Seen { objects: [(pool("gone"), 1)].into(), ..Seen::default() };
        seen.until(&mut watch, &[(pool("kept"), 7)].into()).await;
        assert_eq!(seen.listings, 1, "in brackets");
        store.put(pool("later"), text(1)).await.unwrap();
        seen.until(&mut watch, &[(pool("kept"), 7), (pool("later"), 1)].into()).await;
        assert_eq!(seen.listings, 1);
        turn.clear().await;
    }
}

/// Writes until told to stop; returns what is there at last. While the server is away, writes
/// fail and are made again.
async fn write_on(
    store: Arc<dyn Datastore>,
    writer: usize,
    stop: Arc<AtomicBool>,
) -> BTreeMap<Key, u64> {
    let mut last = BTreeMap::new();
    let mut done = 0;
    loop {
        let key = pool(&format!("w{writer}-{}", done % 5));
        done += 1;
        let gone = done % 7 == 0 && last.contains_key(&key) && !stop.load(Ordering::Relaxed);
        // After an error nobody knows; so it is done again until it succeeds.
        loop {
            let result = match gone {
                true => match store.delete(key.clone(), None).await {
                    Err(error) if error.is_not_found() => Ok(Revision(0)),
                    result => result,
                },
                false => store.put(key.clone(), text(done)).await,
            };
            match result {
                Ok(_) => break,
                Err(error) => assert!(error.is_retryable() || error.is_conflict(), "{error:?}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        if gone {
            last.remove(&key);
        } else {
            last.insert(key, done);
        }
        if stop.load(Ordering::Relaxed) {
            return last;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_restarts_under_load_loses_nothing() {
    let Some(turn) = Turn::take(Etcd::Current) else { return };
    turn.clear().await;
    let store: Arc<dyn Datastore> = Arc::new(turn.store(ApiGroup::V3));
    let stop = Arc::new(AtomicBool::new(false));
    let mut watches = Vec::new();
    for scope in [Scope::Kind(Kind::IpPool), Scope::Kind(Kind::IpPool), Scope::All] {
        let mut watch = store.watch(scope, None);
        let (mut seen, stop) = (Seen::default(), Arc::clone(&stop));
        let (finish, finished) = tokio::sync::oneshot::channel::<BTreeMap<Key, u64>>();
        let task = tokio::spawn(async move {
            let own = |event: &WatchEvent| match event {
                WatchEvent::Item(entry) | WatchEvent::Put(entry) => {
                    entry.key.kind() == Some(Kind::IpPool)
                }
                WatchEvent::Gone { key, .. } => key.kind() == Some(Kind::IpPool),
                _ => true,
            };
            let mut finished = finished;
            let expected = loop {
                tokio::select! {
                    event = any(&mut watch) => if own(&event) { seen.take(event) },
                    expected = &mut finished => break expected.unwrap(),
                }
            };
            assert!(stop.load(Ordering::Relaxed));
            let caught_up = async {
                while seen.listing.is_some() || seen.objects != expected {
                    let event = any(&mut watch).await;
                    if own(&event) {
                        seen.take(event);
                    }
                }
            };
            let late = tokio::time::timeout(LIMIT, caught_up).await.is_err();
            assert!(!late, "a watcher knows {:?} instead of {expected:?}", seen.objects);
            (seen.listings, seen.interruptions)
        });
        watches.push((finish, task));
    }
    let writers: Vec<_> = (0..3)
        .map(|writer| tokio::spawn(write_on(Arc::clone(&store), writer, Arc::clone(&stop))))
        .collect();
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_secs(2)).await;
        turn.cluster.kill_server();
        tokio::time::sleep(Duration::from_secs(1)).await;
        turn.cluster.start_server();
        turn.cluster.wait().unwrap();
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    stop.store(true, Ordering::Relaxed);
    let mut model = BTreeMap::new();
    for writer in writers {
        model.extend(writer.await.unwrap());
    }
    assert!(model.len() > 5, "{model:?}");
    let listed = store.list(&Scope::Kind(Kind::IpPool)).await.unwrap().entries;
    let listed: BTreeMap<Key, u64> =
        listed.into_iter().map(|entry| (entry.key, count(&entry.value))).collect();
    assert_eq!(listed, model);
    for (finish, task) in watches {
        finish.send(model.clone()).unwrap();
        let (listings, interruptions) = task.await.unwrap();
        println!("{listings} listing(s), {interruptions} interruption(s)");
        assert!((1..=6).contains(&interruptions), "told once an outage: {interruptions}");
    }
    turn.clear().await;
}
