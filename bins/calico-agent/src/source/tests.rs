use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use calico_core::datastore::Revision;
use calico_core::kind::Kind;
use futures_util::stream;
use serde_json::json;
use tokio::time::timeout;

use super::*;

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(30);

fn endpoint(number: u64, node: &str) -> Entry {
    let name = format!("pod-{number}");
    let value = json!({"metadata": {"name": name, "labels": {"app": "web"}},
        "spec": {"node": node, "interfaceName": "cali1", "ipNetworks": ["10.0.0.1/32"]}});
    let key = Key::resource(Kind::WorkloadEndpoint, Some("default"), &name);
    Entry { key, value: value.to_string().into(), revision: Revision(number) }
}

fn listing(numbers: std::ops::Range<u64>) -> Vec<WatchEvent> {
    let items = numbers.clone().map(|number| WatchEvent::Item(endpoint(number, "n2")));
    let begun = std::iter::once(WatchEvent::Begin).chain(items);
    begun.chain([WatchEvent::Ready(Revision(numbers.end))]).collect()
}

/// A watch that says this and then stays silent.
fn watch(events: Vec<WatchEvent>) -> WatchStream {
    Box::pin(stream::iter(events).chain(stream::pending()))
}

async fn next(source: &mut Source) -> News {
    let next = timeout(PATIENCE, source.next()).await;
    next.expect("something is said in time").expect("the watch goes on")
}

/// The event that was read.
fn unread(news: News) -> WatchEvent {
    match news {
        News::Object(Stored { entry, listed: true, .. }) => WatchEvent::Item(entry),
        News::Object(Stored { entry, .. }) => WatchEvent::Put(entry),
        News::Event(event) => event,
    }
}

#[tokio::test]
async fn everything_comes_in_order_and_once() {
    let mut events = listing(0..500);
    events.push(WatchEvent::Put(endpoint(7, "n1")));
    events.push(WatchEvent::Gone { key: endpoint(8, "n2").key, revision: Revision(501) });
    // A listing that another one follows before it is complete.
    events.extend(listing(500..600).into_iter().take(50));
    events.push(WatchEvent::Interrupted { reason: "away".to_owned() });
    events.extend(listing(500..700));
    events.push(WatchEvent::Put(endpoint(9, "n2")));
    let mut source = Source::new("n1", watch(events.clone()));
    for (index, event) in events.into_iter().enumerate() {
        // Calls that are given up lose nothing.
        if index % 7 == 0
            && let Some(news) = source.next().now_or_never()
        {
            assert_eq!(unread(news.unwrap()), event);
            continue;
        }
        assert_eq!(unread(next(&mut source).await), event);
    }
    assert!(source.next().now_or_never().is_none(), "nothing more");
}

#[tokio::test]
async fn a_change_is_read_by_who_asks_and_at_once() {
    let mut events = listing(0..3);
    let changes = (0..100).map(|number| WatchEvent::Put(endpoint(number, "n1")));
    events.extend(changes);
    let mut source = Source::new("n1", watch(events));
    for _ in 0..6 {
        next(&mut source).await;
    }
    for _ in 0..99 {
        // No other task runs here meanwhile.
        let news = source.next().now_or_never().expect("at once").unwrap();
        let News::Object(Stored { read: Ok(Read::Object(object, _)), listed: false, .. }) = news
        else {
            panic!("{news:?}")
        };
        assert!(matches!(object, Object::WorkloadEndpoint(_)), "{object:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_slow_is_not_run_over() {
    let said = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&said);
    let events = stream::iter(listing(0..20_000)).inspect(move |_| {
        counter.fetch_add(1, Ordering::Relaxed);
    });
    let mut source = Source::new("n1", Box::pin(events.chain(stream::pending())));
    next(&mut source).await;
    // The queue, a batch that waits for a place in it, and the one being made.
    let most = (AHEAD + 2) * BATCH + 1;
    let mut taken = 1;
    while taken < 20_002 {
        let ahead = said.load(Ordering::Relaxed) - taken;
        assert!(ahead <= most, "{ahead} are read ahead");
        if taken == 1 {
            // It does read ahead.
            timeout(PATIENCE, async {
                while said.load(Ordering::Relaxed) < AHEAD * BATCH {
                    tokio::task::yield_now().await;
                }
            })
            .await
            .expect("a full queue");
        }
        next(&mut source).await;
        taken += 1;
    }
}

#[tokio::test]
async fn what_cannot_be_read_is_told_of_and_stops_nothing() {
    let key = Key::resource(Kind::GlobalNetworkPolicy, None, "default.bad");
    let bad = Entry { key, value: r#"{"spec":{"order":"x"}}"#.into(), revision: Revision(1) };
    let mut events = listing(0..2);
    events.insert(1, WatchEvent::Item(bad.clone()));
    events.push(WatchEvent::Put(bad));
    let mut source = Source::new("n1", watch(events));
    let mut read = Vec::new();
    for _ in 0..6 {
        if let News::Object(stored) = next(&mut source).await {
            read.push(stored.read.map(|_| ()).map_err(|error| error.to_string()));
        }
    }
    let [Err(first), Ok(()), Ok(()), Err(again)] = &read[..] else { panic!("{read:?}") };
    assert!(first.contains("default.bad") && first.contains("spec.order"), "{first}");
    assert_eq!(first, again);
}

#[tokio::test]
async fn a_watch_that_ends_is_over() {
    for events in [vec![], listing(0..2), listing(0..200).into_iter().take(100).collect()] {
        let count = events.len();
        let mut source = Source::new("n1", Box::pin(stream::iter(events)));
        for _ in 0..count {
            next(&mut source).await;
        }
        for _ in 0..2 {
            assert!(timeout(PATIENCE, source.next()).await.expect("in time").is_none());
        }
    }
}

#[tokio::test]
async fn who_goes_away_ends_the_watch() {
    let held = Arc::new(());
    let holds = Arc::clone(&held);
    let events = stream::iter(listing(0..20_000)).inspect(move |_| drop(Arc::clone(&holds)));
    let mut source = Source::new("n1", Box::pin(events.chain(stream::pending())));
    next(&mut source).await;
    next(&mut source).await;
    drop(source);
    timeout(PATIENCE, async {
        while Arc::strong_count(&held) > 1 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the task is gone, and the watch with it");
}
