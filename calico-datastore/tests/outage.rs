//! How long it takes until a store says that its server does not answer. Each prints its times.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "etcd/authority.rs"]
mod authority;

use std::net::TcpListener;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use calico_core::Datastore;
use calico_core::datastore::{StoreError, WatchEvent, WatchStream};
use calico_core::key::{Key, Scope};
use calico_core::kind::Kind;
use calico_core::memory::MemoryStore;
use calico_datastore::config::{EtcdConfig, FanoutConfig, Pem, TlsConfig};
use calico_datastore::etcd::EtcdStore;
use calico_datastore::fanout::Fanout;
use calico_datastore::remote::{RemoteStore, Server, TlsAddress, TlsListener};
use futures_util::StreamExt as _;
use futures_util::future::join_all;
use nix::sched::{CloneFlags, unshare};

/// Far above what is promised, for machines that have other things to do.
const LIMIT: Duration = Duration::from_secs(60);

fn node(name: &str) -> Key {
    Key::resource(Kind::Node, None, name)
}

fn tls(dir: &std::path::Path, name: &str) -> TlsConfig {
    let file = |name: String| Pem::File(dir.join(name));
    TlsConfig {
        ca: file("ca.pem".to_owned()),
        certificate: file(format!("{name}.pem")),
        key: file(format!("{name}-key.pem")),
    }
}

fn fanout(address: String, dir: &std::path::Path) -> RemoteStore {
    let server_name = Some("127.0.0.1".to_owned());
    RemoteStore::over(TlsAddress(FanoutConfig { address, server_name, tls: tls(dir, "client") }))
}

/// Until the watch says that it was interrupted.
async fn interrupted(watch: &mut WatchStream) -> String {
    loop {
        match watch.next().await.unwrap() {
            WatchEvent::Interrupted { reason } => return reason,
            other => println!("{other:?}"),
        }
    }
}

/// Takes the time of everything that can be asked, at once.
async fn times(what: &str, store: Arc<dyn Datastore>) {
    let start = Instant::now();
    let list = async { (store.list(&Scope::All).await.unwrap_err(), start.elapsed()) };
    let write = async { (store.put(node("a"), "{}".into()).await.unwrap_err(), start.elapsed()) };
    let watch = async {
        let mut watch = store.watch(Scope::All, None);
        (interrupted(&mut watch).await, start.elapsed())
    };
    // Many ask at once; none of them waits for the failures of the others first.
    let more = join_all((0..20).map(|n| {
        let store = &store;
        async move { store.get(&node(&n.to_string())).await.unwrap_err() }
    }));
    let all = async { tokio::join!(list, write, watch, more) };
    let (list, write, watch, _) = tokio::time::timeout(LIMIT, all).await.expect("all of them fail");
    println!(
        "{what}: list {:.2?}, write {:.2?}, watch {:.2?}: {}",
        list.1, write.1, watch.1, list.0
    );
    for error in [&list.0, &write.0] {
        assert!(matches!(error, StoreError::Unavailable { .. }), "{what}: {error}");
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_told_at_once_and_a_silent_one_in_time() {
    let dir = authority::certificates();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    // The kernel accepts for it; nobody reads.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let mute = silent.local_addr().unwrap();
    let socket = dir.path().join("silent.sock");
    let _silent_socket = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let etcd = |at| EtcdStore::connect(EtcdConfig::new([format!("http://{at}")])).unwrap();
    let two = [format!("http://{closed}"), format!("http://{mute}")];
    let two = EtcdStore::connect(EtcdConfig::new(two)).unwrap();
    tokio::join!(
        times("etcd, refused", Arc::new(etcd(closed))),
        times("etcd, silent", Arc::new(etcd(mute))),
        times("etcd, one refused, one silent", Arc::new(two)),
        times("fan-out, refused", Arc::new(fanout(closed.to_string(), dir.path()))),
        times("fan-out, silent", Arc::new(fanout(mute.to_string(), dir.path()))),
        times("agent, no socket", Arc::new(RemoteStore::connect(dir.path().join("none")))),
        times("agent, silent", Arc::new(RemoteStore::connect(&socket))),
    );
}

#[tokio::test]
async fn a_silent_server_is_passed_over_where_there_are_others() {
    let dir = authority::certificates();
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let works = socket.local_addr().unwrap();
    let listener = TlsListener::new(socket, tls(dir.path(), "server")).unwrap();
    tokio::spawn(Server::run(listener, Arc::new(MemoryStore::new()), std::future::pending()));
    let addresses = format!("{}, {works},{closed}", mute.local_addr().unwrap());
    // Each begins at one of them, and nobody knows which.
    let asked = (0..20).map(|n| {
        let store = fanout(addresses.clone(), dir.path());
        async move { store.put(node(&n.to_string()), "{}".into()).await }
    });
    let answers = tokio::time::timeout(LIMIT, join_all(asked)).await.expect("answers in time");
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
}

/// A host that vanishes says no goodbye: who only listens must notice by himself.
#[test]
fn a_server_that_vanished_is_noticed_by_who_only_listens() {
    if std::env::var_os("CALICO_SKIP_PRIVILEGED").is_some() {
        return println!("SKIPPED (needs root for a network namespace)");
    }
    std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("a namespace; this test must run as root");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(vanished());
    })
    .join()
    .unwrap();
}

async fn vanished() {
    let loopback = |state: &str| {
        let done = Command::new("ip").args(["link", "set", "lo", state]).status();
        assert!(done.expect("ip; install iproute2").success());
    };
    loopback("up");
    let dir = authority::certificates();
    let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap().to_string();
    let listener = TlsListener::new(socket, tls(dir.path(), "server")).unwrap();
    let served = Arc::new(MemoryStore::new());
    let server = Arc::new(Fanout::start(Arc::clone(&served) as Arc<dyn Datastore>));
    tokio::spawn(Server::run(listener, server, std::future::pending()));
    let store = fanout(address, dir.path());
    let mut watch = store.watch(Scope::All, None);
    loop {
        let event = tokio::time::timeout(LIMIT, watch.next()).await.expect("a listing");
        if matches!(event, Some(WatchEvent::Ready(_))) {
            break;
        }
    }
    loopback("down");
    let start = Instant::now();
    let reason = tokio::time::timeout(LIMIT, interrupted(&mut watch)).await;
    println!("noticed after {:.1?}: {}", start.elapsed(), reason.expect("noticed in time"));
    loopback("up");
    served.put(node("b"), "{}".into()).await.unwrap();
    let seen = async {
        loop {
            match watch.next().await.unwrap() {
                WatchEvent::Put(entry) | WatchEvent::Item(entry) if entry.key == node("b") => break,
                _ => {}
            }
        }
    };
    tokio::time::timeout(LIMIT, seen).await.expect("it goes on");
}
