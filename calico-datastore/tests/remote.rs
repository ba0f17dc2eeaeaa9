//! A store over a socket, when things go wrong.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use calico_core::Datastore;
use calico_core::datastore::{Revision, StoreError, WatchEvent, WatchStream, Write};
use calico_core::key::{Key, Scope};
use calico_core::kind::Kind;
use calico_core::memory::MemoryStore;
use calico_core::testing::{Call, Fault, FaultyStore};
use calico_datastore::remote::{Connect, Listen, LocalListener, RemoteStore, Server, Transport};
use futures_util::StreamExt;
use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

fn node(name: &str) -> Key {
    Key::resource(Kind::Node, None, name)
}

fn place() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("datastore.sock");
    (dir, path)
}

/// A server, and what ends it in good order.
fn serve(socket: &Path, store: Arc<dyn Datastore>) -> (oneshot::Sender<()>, JoinHandle<()>) {
    let listener = LocalListener::bind(socket).unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let server = Server::run(listener, store, async {
        let _ = stopped.await;
    });
    (stop, tokio::spawn(server))
}

async fn next(watch: &mut WatchStream) -> WatchEvent {
    timeout(Duration::from_secs(10), watch.next()).await.expect("an event in 10 s").unwrap()
}

fn reason(error: StoreError) -> String {
    match error {
        StoreError::Unavailable { reason } => reason,
        other => panic!("{other:?}"),
    }
}

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

/// Connections in memory that the test can cut.
#[derive(Debug)]
struct Cuttable {
    accept: mpsc::UnboundedSender<DuplexStream>,
    links: std::sync::Mutex<Vec<oneshot::Sender<()>>>,
}

struct Accepting(mpsc::UnboundedReceiver<DuplexStream>);

#[async_trait]
impl Listen for Accepting {
    type Io = DuplexStream;
    async fn accept(&mut self) -> std::io::Result<DuplexStream> {
        match self.0.recv().await {
            Some(stream) => Ok(stream),
            None => std::future::pending().await,
        }
    }
}

#[async_trait]
impl Connect for Cuttable {
    async fn connect(&self) -> std::io::Result<Box<dyn Transport>> {
        let (client, mut near) = tokio::io::duplex(1024);
        let (mut far, server) = tokio::io::duplex(1024);
        let (cut, is_cut) = oneshot::channel();
        self.links.lock().unwrap().push(cut);
        self.accept.send(server).unwrap();
        tokio::spawn(async move {
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                _ = is_cut => {}
            }
        });
        Ok(Box::new(client))
    }
    fn describe(&self) -> String {
        "a test".into()
    }
    fn advice(&self, _: &std::io::Error) -> Option<&'static str> {
        None
    }
}

fn over_cuttable(store: Arc<dyn Datastore>) -> (RemoteStore, Arc<Cuttable>) {
    let (accept, accepted) = mpsc::unbounded_channel();
    tokio::spawn(Server::run(Accepting(accepted), store, std::future::pending()));
    let link = Arc::new(Cuttable { accept, links: std::sync::Mutex::default() });
    (RemoteStore::over(Arc::clone(&link)), link)
}

impl Cuttable {
    fn cut(&self) {
        self.links.lock().unwrap().drain(..).for_each(drop);
    }
    fn connections(&self) -> usize {
        self.links.lock().unwrap().len()
    }
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

#[tokio::test]
async fn requests_share_one_connection_and_do_not_wait_for_each_other() {
    let (go, wait) = oneshot::channel::<()>();
    let mut wait = Some(wait);
    let faulty = FaultyStore::new(Arc::new(MemoryStore::new()), move |_, call| match call {
        Call::List(_) => {
            let wait = wait.take().unwrap();
            Fault::after(async {
                let _ = wait.await;
            })
        }
        _ => Fault::None,
    });
    let (store, link) = over_cuttable(Arc::new(faulty));
    let slow = tokio::spawn({
        let store = store.clone();
        async move { store.list(&Scope::All).await }
    });
    let writes = (0..200).map(|n| store.create(node(&format!("n{n}")), "{}".into()));
    assert!(join_all(writes).await.iter().all(Result::is_ok));
    go.send(()).unwrap();
    assert_eq!(slow.await.unwrap().unwrap().entries.len(), 200);
    assert_eq!(link.connections(), 1);
}

/// Counts what its watches hand out.
#[derive(Debug)]
struct Counting(MemoryStore, Arc<AtomicUsize>);

#[async_trait]
impl Datastore for Counting {
    async fn get(&self, key: &Key) -> Result<calico_core::datastore::Entry, StoreError> {
        self.0.get(key).await
    }
    async fn list(&self, scope: &Scope) -> Result<calico_core::datastore::Listing, StoreError> {
        self.0.list(scope).await
    }
    async fn write(
        &self,
        writes: Vec<Write>,
    ) -> Result<Vec<Revision>, calico_core::datastore::WriteFailed> {
        self.0.write(writes).await
    }
    fn watch(&self, scope: Scope, from: Option<Revision>) -> WatchStream {
        let count = Arc::clone(&self.1);
        Box::pin(self.0.watch(scope, from).inspect(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
        }))
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_costs_a_window_of_events() {
    let handed_out = Arc::new(AtomicUsize::new(0));
    let store = Counting(MemoryStore::with_history(64), Arc::clone(&handed_out));
    let (remote, _link) = over_cuttable(Arc::new(store));
    let mut watch = remote.watch(Scope::All, None);
    assert_eq!(next(&mut watch).await, WatchEvent::Begin);
    assert_eq!(next(&mut watch).await, WatchEvent::Ready(Revision(0)));
    for n in 0..5000 {
        remote.put(node("busy"), n.to_string().into()).await.unwrap();
    }
    let sent = handed_out.load(Ordering::Relaxed);
    assert!((256..=513).contains(&sent), "{sent} events for a client that reads none");
    // It catches up, by a new listing.
    loop {
        match next(&mut watch).await {
            WatchEvent::Ready(Revision(5000)) => break,
            WatchEvent::Put(entry) => assert!(entry.revision < Revision(5000)),
            _ => {}
        }
    }
}

#[tokio::test]
async fn dropping_a_watch_ends_it_on_the_server() {
    let inner = Arc::new(MemoryStore::new());
    let handed_out = Arc::new(AtomicUsize::new(0));
    let counting = Counting((*inner).clone(), Arc::clone(&handed_out));
    let (remote, _link) = over_cuttable(Arc::new(counting));
    let mut watch = remote.watch(Scope::All, None);
    next(&mut watch).await;
    drop(watch);
    // The cancellation travels ahead of this.
    remote.get(&node("a")).await.unwrap_err();
    let before = handed_out.load(Ordering::Relaxed);
    for _ in 0..100 {
        remote.put(node("a"), "{}".into()).await.unwrap();
    }
    assert_eq!(handed_out.load(Ordering::Relaxed), before);
}

#[tokio::test]
async fn garbage_from_a_client_hurts_nobody_else() {
    let (_dir, socket) = place();
    let _server = serve(&socket, Arc::new(MemoryStore::new()));
    let store = RemoteStore::connect(&socket);
    store.put(node("a"), "{}".into()).await.unwrap();
    let hello = br#"{"protocol":"calico-datastore","version":1}"#;
    let hello = [&(hello.len() as u32).to_be_bytes()[..], hello].concat();
    let after_hello = |bytes: &[u8]| [&hello, bytes].concat();
    for bytes in [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        b"\xff\xff\xff\xff".to_vec(),
        b"\0\0\0\x02[]".to_vec(),
        after_hello(b"\0\0\0\x03nul"),
        after_hello(b"\xff\xff\xff\xff"),
        after_hello(&[&b"\0\x10\0\0"[..], &[b'['; 0x10_0000]].concat()),
    ] {
        let mut stream = UnixStream::connect(&socket).await.unwrap();
        // It may hang up before it has read everything.
        let _ = stream.write_all(&bytes).await;
        let mut answer = Vec::new();
        let hung_up = timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await;
        assert!(hung_up.is_ok(), "{:?}...", &bytes[..16.min(bytes.len())]);
        assert!(store.get(&node("a")).await.is_ok());
    }
}

#[tokio::test]
async fn another_version_is_refused_in_words() {
    let (_dir, socket) = place();
    let _server = serve(&socket, Arc::new(MemoryStore::new()));
    let mut stream = UnixStream::connect(&socket).await.unwrap();
    let hello = br#"{"protocol":"calico-datastore","version":9}"#;
    stream.write_all(&(hello.len() as u32).to_be_bytes()).await.unwrap();
    stream.write_all(hello).await.unwrap();
    let mut answer = String::new();
    let _ = stream.read_u32().await.unwrap();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains("refused") && answer.contains("version 9"), "{answer}");
}

#[tokio::test]
async fn a_large_store_is_listed_and_too_large_a_request_is_explained() {
    let (_dir, socket) = place();
    let inner = MemoryStore::new();
    let value: Arc<str> = "y".repeat(10_000).into();
    for n in 0..3000 {
        inner.put(node(&format!("n{n}")), Arc::clone(&value)).await.unwrap();
    }
    let _server = serve(&socket, Arc::new(inner));
    let store = RemoteStore::connect(&socket);
    let listing = store.list(&Scope::All).await.unwrap();
    assert_eq!((listing.entries.len(), listing.revision), (3000, Revision(3000)));
    let writes = (0..3000).map(|n| Write::put(node(&format!("m{n}")), Arc::clone(&value)));
    let failed = store.write(writes.collect()).await.unwrap_err();
    assert!(matches!(failed.error, StoreError::Unsupported { .. }), "{:?}", failed.error);
    assert!(store.get(&node("m0")).await.is_err());
}

const AS_NOBODY: &str = "CALICO_TEST_SOCKET_AS_NOBODY";

/// Not a test of its own: what the child of the next test does.
#[tokio::test]
async fn child() {
    let Some(socket) = std::env::var_os(AS_NOBODY) else { return };
    let error = RemoteStore::connect(PathBuf::from(socket)).get(&node("a")).await.unwrap_err();
    println!("said: {error}");
}

/// Needs root, to become another user.
#[tokio::test(flavor = "multi_thread")]
async fn another_user_is_refused_even_if_the_socket_lets_everyone_in() {
    use std::fs::{self, Permissions};
    use std::os::unix::{fs::PermissionsExt, process::CommandExt};
    if std::env::var_os("CALICO_SKIP_PRIVILEGED").is_some_and(|value| value == "1") {
        println!("SKIPPED (CALICO_SKIP_PRIVILEGED=1)");
        return;
    }
    let (dir, socket) = place();
    let _server = serve(&socket, Arc::new(MemoryStore::new()));
    let program = dir.path().join("test");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    for (path, mode) in [(dir.path(), 0o755), (&program, 0o755), (&socket, 0o666)] {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }
    let output = std::process::Command::new(&program)
        .args(["child", "--exact", "--nocapture"])
        .env(AS_NOBODY, &socket)
        .uid(65534)
        .output()
        .expect("this test needs root; set CALICO_SKIP_PRIVILEGED=1 to skip it");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("user 65534 may not use it; run as root"), "{text}");
}
