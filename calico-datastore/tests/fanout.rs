//! One watch on a store, any number of watches on the fan-out.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "etcd/authority.rs"]
mod authority;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use calico_core::Datastore;
use calico_core::datastore::{
    Entry, Listing, Revision, StoreError, WatchEvent, WatchStream, Write, WriteFailed,
};
use calico_core::key::{Key, Scope};
use calico_core::kind::Kind;
use calico_core::memory::MemoryStore;
use calico_core::testing::contract::{CASES, HISTORY};
use calico_core::testing::{Call, Fault, FaultyStore};
use calico_datastore::config::{FanoutConfig, Pem, TlsConfig};
use calico_datastore::fanout::Fanout;
use calico_datastore::remote::{
    Counters, LocalListener, RemoteStore, Server, TlsAddress, TlsListener,
};
use futures_util::future::join_all;
use futures_util::{FutureExt as _, StreamExt};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(30);

fn node(name: &str) -> Key {
    Key::resource(Kind::Node, None, name)
}

async fn next(watch: &mut WatchStream) -> WatchEvent {
    timeout(PATIENCE, watch.next()).await.expect("an event in time").unwrap()
}

/// What somebody knows who follows a watch.
#[derive(Debug, Default, PartialEq)]
struct Model(BTreeMap<String, String>, /* in a listing */ bool);

impl Model {
    fn handle(&mut self, event: WatchEvent) {
        match event {
            WatchEvent::Begin => (self.0, self.1) = (BTreeMap::new(), true),
            WatchEvent::Ready(_) => self.1 = false,
            WatchEvent::Item(entry) | WatchEvent::Put(entry) => {
                self.0.insert(entry.key.to_string(), entry.value.to_string());
            }
            WatchEvent::Gone { key, .. } => {
                self.0.remove(&key.to_string());
            }
            _ => {}
        }
    }

    /// Follows until an object has this value.
    async fn until(&mut self, watch: &mut WatchStream, key: &Key, value: &str) {
        while self.1 || self.0.get(&key.to_string()).map(String::as_str) != Some(value) {
            self.handle(next(watch).await);
        }
    }
}

#[tokio::test]
async fn it_keeps_the_contract() {
    for case in CASES {
        let store = Arc::new(MemoryStore::with_history(HISTORY));
        let fanout = Arc::new(Fanout::with_history(store, HISTORY));
        // What happened before it was there, it does not know.
        while !fanout.is_listed() {
            tokio::task::yield_now().await;
        }
        timeout(PATIENCE, case.run(fanout)).await.unwrap_or_else(|_| panic!("{case:?}: too slow"));
    }
}

#[tokio::test]
async fn two_hundred_clients_see_the_same_and_the_store_has_one_watch() {
    let store = Arc::new(MemoryStore::new());
    for number in 0..100 {
        store.put(node(&format!("old{number}")), "{}".into()).await.unwrap();
    }
    let watches = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&watches);
    let counted = FaultyStore::new(store.clone(), move |_, call| {
        if matches!(call, Call::Watch(_)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        Fault::None
    });
    let fanout: Arc<dyn Datastore> = Arc::new(Fanout::start(Arc::new(counted)));
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("fanout.sock");
    let listener = LocalListener::bind(&socket).unwrap();
    let counters = Arc::<Counters>::default();
    let (counted, never) = (Arc::clone(&counters), std::future::pending());
    let server = tokio::spawn(Server::run_counted(200, counted, listener, fanout, never));

    let clients = (0..200).map(|_| RemoteStore::connect(&socket));
    let mut followers: Vec<_> =
        clients.map(|client| (client.watch(Scope::All, None), Model::default())).collect();
    for number in 0..300 {
        store.put(node(&format!("new{}", number % 50)), format!("{number}").into()).await.unwrap();
        if number % 3 == 0 {
            store.delete(node(&format!("new{}", number % 50)), None).await.unwrap();
        }
    }
    let last = node("last");
    store.put(last.clone(), "1".into()).await.unwrap();
    join_all(followers.iter_mut().map(|(watch, model)| model.until(watch, &last, "1"))).await;
    let (_, first) = &followers[0];
    assert!(followers.iter().all(|(_, model)| model == first));
    let truth = store.list(&Scope::All).await.unwrap().entries;
    let truth = truth.into_iter().map(|entry| (entry.key.to_string(), entry.value.to_string()));
    assert_eq!(first.0, truth.collect());
    assert_eq!(watches.load(Ordering::Relaxed), 1, "watches on the store");

    // What each of them is told is written once.
    let before = counters.figures();
    for number in 0..100 {
        store.put(node("more"), format!("{number}").into()).await.unwrap();
    }
    let last = node("more");
    join_all(followers.iter_mut().map(|(watch, model)| model.until(watch, &last, "99"))).await;
    let after = counters.figures();
    assert_eq!(after.connected, 200);
    assert_eq!(after.events - before.events, 200 * 100);
    // Two clients may find at the same time that it is not written yet.
    let written = after.written - before.written;
    assert!((100..=200).contains(&written), "written {written} times");
    server.abort();
}

#[tokio::test]
async fn who_follows_is_told_the_difference_after_an_interruption() {
    let store = Arc::new(MemoryStore::with_history(4));
    store.put(node("stays"), "{}".into()).await.unwrap();
    store.put(node("goes"), "{}".into()).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("store.sock");
    let serve = || {
        let listener = LocalListener::bind(&socket).unwrap();
        tokio::spawn(Server::run(listener, store.clone(), std::future::pending()))
    };
    let server = serve();
    let fanout = Fanout::start(Arc::new(RemoteStore::connect(&socket)));
    let (mut watch, mut model) = (fanout.watch(Scope::All, None), Model::default());
    model.until(&mut watch, &node("goes"), "{}").await;

    // The store goes away, and more happens meanwhile than it remembers.
    server.abort();
    assert!(server.await.unwrap_err().is_cancelled());
    timeout(PATIENCE, async {
        while fanout.trouble().is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("the trouble is known");
    store.delete(node("goes"), None).await.unwrap();
    for number in 0..10 {
        store.put(node("busy"), format!("{number}").into()).await.unwrap();
    }
    let _server = serve();
    let mut events = Vec::new();
    let is_known = |model: &Model| {
        model.0.get(&node("busy").to_string()).is_some_and(|value| value == "9")
            && !model.0.contains_key(&node("goes").to_string())
    };
    while !is_known(&model) {
        let event = next(&mut watch).await;
        events.push(event.clone());
        model.handle(event);
    }
    assert!(!events.contains(&WatchEvent::Begin), "no listing was needed: {events:?}");
    assert_eq!(fanout.trouble(), None);
    assert!(model.0.contains_key(&node("stays").to_string()));
}

#[tokio::test]
async fn who_is_slow_gets_a_new_listing_and_costs_no_memory() {
    let store = Arc::new(MemoryStore::new());
    let fanout = Fanout::with_history(store.clone(), 16);
    let (mut slow, mut model) = (fanout.watch(Scope::All, None), Model::default());
    store.put(node("a"), "0".into()).await.unwrap();
    model.until(&mut slow, &node("a"), "0").await;
    let mut other = fanout.watch(Scope::All, None);
    for number in 1..=1000 {
        store.put(node("a"), format!("{number}").into()).await.unwrap();
    }
    Model::default().until(&mut other, &node("a"), "1000").await;
    let mut count = 0;
    while model.0.get(&node("a").to_string()).is_none_or(|value| value != "1000") {
        model.handle(next(&mut slow).await);
        count += 1;
    }
    assert!(count < 600, "{count} events for one that fell behind");
}

#[tokio::test]
async fn a_write_of_ones_own_is_seen_by_a_watch_from_it() {
    let store = Arc::new(MemoryStore::new());
    let fanout = Fanout::start(store);
    let first = fanout.put(node("a"), "1".into()).await.unwrap();
    let mut watch = fanout.watch(Scope::All, Some(first));
    fanout.put(node("a"), "2".into()).await.unwrap();
    let mut seen = Vec::new();
    while seen.last().is_none_or(|value| value != "2") {
        if let WatchEvent::Put(entry) | WatchEvent::Item(entry) = next(&mut watch).await {
            seen.push(entry.value.to_string());
        }
    }
    let future = fanout.watch(Scope::All, Some(Revision(u64::MAX))).next().await;
    assert_eq!(future, Some(WatchEvent::Begin), "of another store: a listing");
}

#[tokio::test]
async fn certificates_of_both_sides_open_the_door() {
    let dir = authority::certificates();
    let file = |name: &str| Pem::File(dir.path().join(name));
    let tls = |ca: &str, name: &str| TlsConfig {
        ca: file(&format!("{ca}.pem")),
        certificate: file(&format!("{name}.pem")),
        key: file(&format!("{name}-key.pem")),
    };
    let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = socket.local_addr().unwrap().port();
    let store = Arc::new(MemoryStore::new());
    let fanout = Arc::new(Fanout::start(store));
    let listener = TlsListener::new(socket, tls("ca", "server")).unwrap();
    tokio::spawn(Server::run(listener, fanout, std::future::pending()));

    let connect = |host: &str, name: Option<&str>, tls: TlsConfig| {
        RemoteStore::over(TlsAddress(FanoutConfig {
            address: format!("{host}:{port}"),
            server_name: name.map(str::to_owned),
            tls,
        }))
    };
    let good = connect("127.0.0.1", None, tls("ca", "client"));
    good.put(node("a"), "{}".into()).await.unwrap();
    let named = connect("127.0.0.1", Some("localhost"), tls("ca", "client"));
    let (mut watch, mut model) = (named.watch(Scope::All, None), Model::default());
    model.until(&mut watch, &node("a"), "{}").await;

    // Somebody who says nothing holds up nobody.
    let _silent = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    for (what, store) in [
        ("expired", connect("127.0.0.1", None, tls("ca", "expired"))),
        ("of another authority", connect("127.0.0.1", None, tls("ca", "stranger"))),
        ("another name", connect("127.0.0.1", Some("db.example"), tls("ca", "client"))),
        ("server of another authority", connect("127.0.0.1", None, tls("other-ca", "client"))),
    ] {
        let error = timeout(PATIENCE, store.get(&node("a"))).await.expect(what).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(&port.to_string()) && !text.contains('\n'), "{what}: {text}");
        println!("{what}: {text}");
    }
    let missing = connect("127.0.0.1", None, tls("ca", "missing"));
    let text = missing.get(&node("a")).await.unwrap_err().to_string();
    assert!(text.contains("missing.pem"), "{text}");
    good.get(&node("a")).await.unwrap();
}

/// A client that speaks the protocol by hand, to do what no good client does.
struct Rude(tokio::net::UnixStream);

impl Rude {
    /// Greets the server, and asks for everything.
    async fn follow(socket: &std::path::Path) -> Self {
        let mut rude = Self(tokio::net::UnixStream::connect(socket).await.unwrap());
        rude.send(r#"{"protocol":"calico-datastore","version":1}"#).await;
        rude.read().await;
        rude.send(r#"{"id":1,"ask":{"watch":{"scope":"All","from":null,"credit":512}}}"#).await;
        rude
    }

    async fn send(&mut self, text: &str) {
        let length = u32::try_from(text.len()).unwrap();
        self.0.write_all(&[&length.to_be_bytes()[..], text.as_bytes()].concat()).await.unwrap();
    }

    /// The next frame; nothing at the end.
    async fn read(&mut self) -> Option<String> {
        let length = self.0.read_u32().await.ok()?;
        let mut text = vec![0; length as usize];
        self.0.read_exact(&mut text).await.ok()?;
        Some(String::from_utf8(text).unwrap())
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_nothing_is_dropped_and_the_others_are_not() {
    for reads in [false, true] {
        let store = Arc::new(MemoryStore::new());
        let value: Arc<str> = "x".repeat(8 << 10).into();
        for number in 0..1000 {
            store.put(node(&format!("n{number}")), value.clone()).await.unwrap();
        }
        let fanout = Arc::new(Fanout::start(store.clone()));
        let counters = Arc::<Counters>::default();
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("fanout.sock");
        let listener = LocalListener::bind(&socket).unwrap();
        let (counted, never) = (Arc::clone(&counters), std::future::pending());
        let server = tokio::spawn(Server::run_counted(9, counted, listener, fanout, never));
        let good = RemoteStore::connect(&socket);
        let (mut watch, mut model) = (good.watch(Scope::All, None), Model::default());
        model.until(&mut watch, &node("n999"), &value).await;

        let mut rude = Rude::follow(&socket).await;
        if reads {
            // It has no room for more events, and never says that it has.
            while rude.read().await.is_some() {}
        }
        // Time passes at once where nothing else happens.
        while counters.figures().slow == 0 {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        store.put(node("later"), "1".into()).await.unwrap();
        model.until(&mut watch, &node("later"), "1").await;
        let figures = counters.figures();
        assert_eq!(
            (figures.slow, figures.accepted, figures.connected),
            (1, 2, 1),
            "reads: {reads}"
        );
        server.abort();
    }
}

/// A store that says what it is told to say; its revisions come in no order.
#[derive(Debug)]
struct Scripted(std::sync::Mutex<Option<tokio::sync::mpsc::UnboundedReceiver<WatchEvent>>>);

#[async_trait::async_trait]
impl Datastore for Scripted {
    async fn get(&self, key: &Key) -> Result<Entry, StoreError> {
        Err(StoreError::NotFound { key: key.clone() })
    }

    async fn list(&self, _: &Scope) -> Result<Listing, StoreError> {
        Ok(Listing::default())
    }

    async fn write(&self, _: Vec<Write>) -> Result<Vec<Revision>, WriteFailed> {
        Ok(Vec::new())
    }

    fn watch(&self, _: Scope, _: Option<Revision>) -> WatchStream {
        let mut events = self.0.lock().unwrap().take().expect("one watch");
        Box::pin(futures_util::stream::poll_fn(move |context| events.poll_recv(context)))
    }
}

#[tokio::test]
async fn clients_go_on_where_they_were_though_revisions_come_in_no_order() {
    let (say, events) = tokio::sync::mpsc::unbounded_channel();
    let fanout = Fanout::start(Arc::new(Scripted(std::sync::Mutex::new(Some(events)))));
    say.send(WatchEvent::Begin).unwrap();
    say.send(WatchEvent::Ready(Revision(100))).unwrap();
    let mut watch = fanout.watch(Scope::All, None);
    assert_eq!(next(&mut watch).await, WatchEvent::Begin);
    assert_eq!(next(&mut watch).await, WatchEvent::Ready(Revision(100)));
    let put = |number: u64| {
        let (key, value) = (node(&format!("n{number}")), "{}".into());
        WatchEvent::Put(Entry { key, value, revision: Revision(number) })
    };
    const NUMBERS: [u64; 5] = [120, 105, 130, 110, 140];
    for number in NUMBERS {
        say.send(put(number)).unwrap();
        assert_eq!(next(&mut watch).await, put(number));
    }
    for (at, number) in NUMBERS.into_iter().enumerate() {
        let mut again = fanout.watch(Scope::All, Some(Revision(number)));
        for missed in &NUMBERS[at + 1..] {
            assert_eq!(next(&mut again).await, put(*missed), "after {number}");
        }
        assert!(again.next().now_or_never().is_none(), "after {number}");
    }
    // Nobody was shown this one here.
    let mut other = fanout.watch(Scope::All, Some(Revision(115)));
    assert_eq!(next(&mut other).await, WatchEvent::Begin);
}
