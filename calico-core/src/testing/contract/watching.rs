//! Watching.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::{FutureExt as _, StreamExt as _};

use super::{HISTORY, listing, next, policy, pool, put, rest_of_listing, watch_from_now};
use crate::datastore::{Datastore, Entry, Revision, WatchEvent, WatchStream, Write};
use crate::key::{Key, Scope};
use crate::kind::Kind;

type Store = Arc<dyn Datastore>;

fn pools() -> Scope {
    Scope::Kind(Kind::IpPool)
}

pub(super) async fn brackets_the_first_listing(store: Store) {
    assert_eq!(listing(&mut store.watch(pools(), None)).await.0, [], "an empty store");
    put(&*store, pool("b"), "1").await;
    put(&*store, pool("a"), "2").await;
    let last = put(&*store, policy("x", "y"), "3").await;
    let (entries, ready) = listing(&mut store.watch(pools(), None)).await;
    assert_eq!(entries, store.list(&pools()).await.expect("list").entries);
    assert_eq!(entries.len(), 2);
    assert!(ready >= last, "the listing is as of the store's revision");
}

pub(super) async fn follows_changes_in_order(store: Store) {
    let mut watch = watch_from_now(&*store, pools()).await;
    let first = put(&*store, pool("a"), "1").await;
    let second = put(&*store, pool("a"), "2").await;
    let third = store.delete(pool("a"), None).await.expect("delete");
    let entry = |value: &str, revision| Entry { key: pool("a"), value: value.into(), revision };
    assert_eq!(next(&mut watch).await, WatchEvent::Put(entry("1", first)));
    assert_eq!(next(&mut watch).await, WatchEvent::Put(entry("2", second)));
    is_gone(&next(&mut watch).await, &pool("a"), second, third);
}

/// A deletion is told with its own revision. To the writer, a store may have told a later one, as
/// of which the object is known to be gone.
fn is_gone(event: &WatchEvent, expected: &Key, after: Revision, by: Revision) {
    match event {
        WatchEvent::Gone { key, revision } => {
            assert_eq!(key, expected);
            assert!(after < *revision && *revision <= by, "{after} < {revision} <= {by}");
        }
        other => panic!("{other:?} instead of the deletion of {expected}"),
    }
}

pub(super) async fn yields_only_the_scope(store: Store) {
    let scope = Scope::Namespace(Kind::NetworkPolicy, "prod".into());
    let mut watch = watch_from_now(&*store, scope).await;
    put(&*store, policy("default", "web"), "{}").await;
    put(&*store, pool("prod"), "{}").await;
    put(&*store, policy("prod-2", "web"), "{}").await;
    put(&*store, policy("prod", "last"), "{}").await;
    match next(&mut watch).await {
        WatchEvent::Put(entry) => assert_eq!(entry.key, policy("prod", "last")),
        other => panic!("{other:?}"),
    }
}

pub(super) async fn resumes_after_a_revision(store: Store) {
    let first = put(&*store, pool("a"), "1").await;
    let second = put(&*store, pool("b"), "1").await;
    let third = store.delete(pool("a"), None).await.expect("delete");

    let mut watch = store.watch(pools(), Some(first));
    match next(&mut watch).await {
        WatchEvent::Put(entry) => assert_eq!((entry.key, entry.revision), (pool("b"), second)),
        other => panic!("{other:?}: no listing is due"),
    }
    is_gone(&next(&mut watch).await, &pool("a"), second, third);

    let mut at_end = store.watch(pools(), Some(third));
    let fourth = put(&*store, pool("c"), "1").await;
    assert!(matches!(next(&mut at_end).await, WatchEvent::Put(e) if e.revision == fourth));
}

pub(super) async fn relists_when_history_is_forgotten(store: Store) {
    let first = put(&*store, pool("gone"), "1").await;
    store.delete(pool("gone"), None).await.expect("delete");
    let writes = (0..HISTORY * 4).map(|n| Write::put(pool(&format!("p{}", n % 8)), n.to_string()));
    let last = *store.write(writes.collect()).await.expect("write").last().expect("revisions");

    let mut seen = BTreeMap::from([(pool("gone"), "1".into())]);
    let mut watch = store.watch(pools(), Some(first));
    // A deletion that was forgotten is seen all the same.
    follow_until(&mut watch, &mut seen, last, &state(&*store).await).await;
}

pub(super) async fn relists_for_a_revision_of_the_future(store: Store) {
    let last = put(&*store, pool("a"), "1").await;
    let (entries, ready) = listing(&mut store.watch(pools(), Some(Revision(last.0 + 1000)))).await;
    assert_eq!(entries.len(), 1);
    assert!(ready >= last);
}

pub(super) async fn brings_a_slow_watcher_up_to_date(store: Store) {
    put(&*store, pool("first"), "1").await;
    let mut watch = watch_from_now(&*store, pools()).await;
    let mut seen = state(&*store).await;
    let mut last = store.delete(pool("first"), None).await.expect("delete");
    for round in 0..HISTORY {
        let writes = (0..32).map(|n| Write::put(pool(&format!("p{n}")), round.to_string()));
        last = *store.write(writes.collect()).await.expect("write").last().expect("revisions");
    }
    follow_until(&mut watch, &mut seen, last, &state(&*store).await).await;

    // And it goes on from there.
    let after = put(&*store, pool("after"), "1").await;
    follow_until(&mut watch, &mut seen, after, &state(&*store).await).await;
}

pub(super) async fn keeps_watchers_apart(store: Store) {
    let mut kept = watch_from_now(&*store, pools()).await;
    let dropped = watch_from_now(&*store, pools()).await;
    let mut other = watch_from_now(&*store, Scope::Kind(Kind::NetworkPolicy)).await;
    drop(dropped);
    let first = put(&*store, pool("a"), "1").await;
    let second = put(&*store, policy("n", "a"), "1").await;
    assert!(matches!(next(&mut other).await, WatchEvent::Put(e) if e.revision == second));
    assert!(matches!(next(&mut kept).await, WatchEvent::Put(e) if e.revision == first));
}

async fn state(store: &dyn Datastore) -> BTreeMap<Key, Arc<str>> {
    let listing = store.list(&pools()).await.expect("list");
    listing.entries.into_iter().map(|entry| (entry.key, entry.value)).collect()
}

/// Applies what `watch` yields to `seen` until revision `last` was reached and `seen` is as
/// `expected`: several objects may have been written at that revision. Without end if that never
/// happens.
async fn follow_until(
    watch: &mut WatchStream,
    seen: &mut BTreeMap<Key, Arc<str>>,
    last: Revision,
    expected: &BTreeMap<Key, Arc<str>>,
) {
    let mut at = Revision::default();
    while at < last || seen != expected {
        at = match next(watch).await {
            WatchEvent::Begin => {
                let (entries, ready) = rest_of_listing(watch).await;
                *seen = entries.into_iter().map(|entry| (entry.key, entry.value)).collect();
                ready
            }
            WatchEvent::Put(entry) => {
                seen.insert(entry.key, entry.value);
                entry.revision
            }
            WatchEvent::Gone { key, revision } => {
                seen.remove(&key);
                revision
            }
            other => panic!("{other:?}"),
        };
    }
}

/// A watch that is left alone, at whatever point of its work, keeps nobody waiting: also not the
/// first one, which is left while the store is being connected to.
pub(super) async fn waits_for_no_watcher(store: Store) {
    let mut left = Vec::new();
    for looks in 1..12 {
        let mut watch = store.watch(pools(), None);
        for _ in 0..looks {
            let _ = watch.next().now_or_never();
        }
        left.push(watch);
        let written = put(&*store, pool("a"), &looks.to_string()).await;
        let read = store.get(&pool("a")).await.expect("get");
        assert_eq!((&*read.value, read.revision), (&*looks.to_string(), written));
        assert_eq!(store.list(&pools()).await.expect("list").entries, [read]);
    }
}
