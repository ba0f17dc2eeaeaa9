//! Servers that are there and say nothing any more, as one does that is stopped. Time is virtual.

use std::sync::Arc;
use std::time::Duration;

use calico_core::Datastore;
use calico_core::datastore::{Revision, WatchEvent};
use calico_core::key::Scope;
use calico_core::memory::MemoryStore;
use calico_core::testing::{Call, Fault, FaultyStore};
use calico_datastore::remote::RemoteStore;
use futures_util::StreamExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;
use tokio::time::{Instant, sleep, timeout};

use super::link::over_cuttable;
use super::{node, place, reason};

/// A server is known to be gone after ten seconds, and a new connection fails after five.
const NOTICED: Duration = Duration::from_secs(16);

#[tokio::test(start_paused = true)]
async fn a_server_that_is_stopped_is_noticed_by_who_waits_and_by_who_listens() {
    let inner = Arc::new(MemoryStore::new());
    let (store, link) = over_cuttable(inner.clone());
    let mut watch = store.watch(Scope::All, None);
    for expected in [WatchEvent::Begin, WatchEvent::Ready(Revision(0))] {
        assert_eq!(watch.next().await, Some(expected));
    }
    link.silent_after(0);
    let start = Instant::now();
    let read = reason(store.get(&node("a")).await.unwrap_err());
    println!("{:?}: {read}", start.elapsed());
    assert!(read.contains("a test") && start.elapsed() < NOTICED, "{read}");
    let Some(WatchEvent::Interrupted { reason: told }) = watch.next().await else { panic!() };
    assert!(told.contains("silent for 10 s"), "{told}");

    // It goes on where it was.
    link.silent_after(usize::MAX);
    let put = inner.put(node("a"), "{}".into()).await.unwrap();
    let seen = timeout(NOTICED, watch.next()).await.expect("in time");
    assert!(matches!(seen, Some(WatchEvent::Put(entry)) if entry.revision == put));
}

#[tokio::test(start_paused = true)]
async fn a_write_to_a_stopped_server_is_told_as_what_it_is() {
    let (store, link) = over_cuttable(Arc::new(MemoryStore::new()));
    store.put(node("a"), "1".into()).await.unwrap();
    link.silent_after(0);
    let start = Instant::now();
    let text = reason(store.put(node("a"), "2".into()).await.unwrap_err());
    assert!(text.contains("silent for 10 s") && text.contains("may or may not"), "{text}");
    assert!(start.elapsed() < NOTICED, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_listing_that_stops_in_its_middle_is_asked_for_elsewhere() {
    let inner = MemoryStore::new();
    for n in 0..2000 {
        inner.put(node(&format!("n{n}")), "x".repeat(100).into()).await.unwrap();
    }
    let (store, link) = over_cuttable(Arc::new(inner));
    link.silent_after(100_000);
    let (listing, ()) = tokio::join!(store.list(&Scope::All), async {
        sleep(Duration::from_secs(5)).await;
        link.silent_after(usize::MAX);
    });
    assert_eq!(listing.unwrap().entries.len(), 2000);
    assert_eq!(link.connections(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_takes_long_is_waited_for_and_one_with_nothing_to_say_is_kept() {
    let slow = FaultyStore::new(Arc::new(MemoryStore::new()), |_, call| match call {
        Call::List(_) => Fault::after(sleep(Duration::from_secs(45))),
        _ => Fault::None,
    });
    let (store, link) = over_cuttable(Arc::new(slow));
    store.list(&Scope::All).await.unwrap();
    sleep(Duration::from_secs(600)).await;
    store.get(&node("a")).await.unwrap_err();
    assert_eq!(link.connections(), 1);
}

/// A server of an earlier release makes itself not heard, and is kept although it is quiet.
#[tokio::test]
async fn an_older_server_is_not_taken_for_a_stopped_one() {
    let (_dir, socket) = place();
    let listener = UnixListener::bind(&socket).unwrap();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let frame = async |stream: &mut tokio::net::UnixStream| {
            let length = stream.read_u32().await.unwrap();
            let mut text = vec![0; length as usize];
            stream.read_exact(&mut text).await.unwrap();
            String::from_utf8(text).unwrap()
        };
        let say = async |stream: &mut tokio::net::UnixStream, text: &str| {
            stream.write_u32(text.len() as u32).await.unwrap();
            stream.write_all(text.as_bytes()).await.unwrap();
        };
        let hello = frame(&mut stream).await;
        say(&mut stream, r#"{"welcome":{"instance":7}}"#).await;
        frame(&mut stream).await;
        sleep(Duration::from_secs(12)).await;
        say(&mut stream, r#"{"id":1,"say":{"failed":{"unsupported":{"what":"this"}}}}"#).await;
        hello
    });
    let error = RemoteStore::connect(&socket).get(&node("a")).await.unwrap_err();
    let hello = server.await.unwrap();
    assert!(hello.contains(r#""version":1"#), "{hello}");
    assert!(error.to_string().contains("this"), "{error}");
}
