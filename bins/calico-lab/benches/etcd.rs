//! Twenty hosts that start 250 pods each, on a real etcd, against one read-modify-write round trip
//! per address: `cargo bench -p calico-lab --bench etcd` (needs Debian's `etcd-server`).
#![allow(clippy::unwrap_used, missing_docs, reason = "a bench stops where it fails")]

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use calico_core::datastore::{
    Entry, Listing, Revision, StoreError, WatchStream, Write, WriteFailed,
};
use calico_core::key::{Key, Scope};
use calico_core::{Datastore, Kind};
use calico_datastore::config::EtcdConfig;
use calico_datastore::etcd::EtcdStore;
use calico_ipam::{Allocator, AssignRequest, Ipam, Options};

const HOSTS: usize = 20;
const PODS: usize = 250;
/// Goal of the project.
const GOAL: f64 = 10.0;

#[tokio::main]
async fn main() {
    let server = Etcd::start().await;
    let store: Arc<dyn Datastore> = Arc::new(server.store());
    let floor = one_by_one(&store).await;
    println!("{HOSTS} hosts x {PODS} pods on one etcd, all hosts at the same time\n");
    line("read and write of a block per address", floor, 2 * HOSTS * PODS, floor);
    let least = what_is_stored(&store).await;
    line("what a burst stores, written blindly", least, 2 * HOSTS, floor);
    let pool = r#"{"metadata":{"name":"p"},"spec":{"cidr":"10.0.0.0/8","blockSize":26}}"#;
    store.create(Key::resource(Kind::IpPool, None, "p"), pool.into()).await.unwrap();
    for (what, batch) in
        [("one pod after the other", 1), ("ten at once", 10), ("all at once", PODS)]
    {
        let counted = Arc::new(Counted { inner: Arc::clone(&store), calls: AtomicU64::new(0) });
        let took = ours(&counted, what, batch).await;
        let calls = counted.calls.load(Ordering::Relaxed);
        line(&format!("ours, {what}"), took, calls as usize, floor);
    }
    let trips = round_trips().await;
    println!(
        "\nround trips per assignment from a block that the host has: {trips:.2}; goal: at most 1"
    );
}

fn line(what: &str, took: Duration, calls: usize, floor: Duration) {
    let ratio = floor.as_secs_f64() / took.as_secs_f64();
    let verdict = if ratio >= GOAL && what.starts_with("ours") { "   goal: 10 x: met" } else { "" };
    println!("{what:<44} {:>9.3} s {calls:>7} calls {ratio:>7.1} x{verdict}", took.as_secs_f64());
}

/// What an allocator without memory and batches would do at least, free of conflicts.
async fn one_by_one(store: &Arc<dyn Datastore>) -> Duration {
    let value: Arc<str> = format!(r#"{{"x":"{}"}}"#, "x".repeat(1500)).into();
    for host in 0..HOSTS {
        store.put(stand_in(host), Arc::clone(&value)).await.unwrap();
    }
    let start = Instant::now();
    let hosts = (0..HOSTS).map(|host| {
        let (store, value) = (Arc::clone(store), Arc::clone(&value));
        tokio::spawn(async move {
            for _ in 0..PODS {
                let entry = store.get(&stand_in(host)).await.unwrap();
                store.update(entry.key, Arc::clone(&value), entry.revision).await.unwrap();
            }
        })
    });
    for host in hosts.collect::<Vec<_>>() {
        host.await.unwrap();
    }
    start.elapsed()
}

/// As many objects of the same sizes as a burst leaves behind (a handle for each pod, blocks and
/// claims), without reading anything: no way to keep this layout is faster.
async fn what_is_stored(store: &Arc<dyn Datastore>) -> Duration {
    let of_size =
        |bytes: usize| -> Arc<str> { format!(r#"{{"x":"{}"}}"#, "x".repeat(bytes)).into() };
    let (handle, block, claim) = (of_size(40), of_size(6400), of_size(40));
    let start = Instant::now();
    let hosts = (0..HOSTS).map(|host| {
        let key = move |what: &str, nth: usize| {
            Key::resource(Kind::Profile, None, &format!("stands-for-{what}-{host}-{nth}"))
        };
        let handles = (0..PODS).map(|nth| Write::create(key("handle", nth), Arc::clone(&handle)));
        let blocks = (0..4).flat_map(|nth| {
            let claim = Write::create(key("claim", nth), Arc::clone(&claim));
            [claim, Write::create(key("block", nth), Arc::clone(&block))]
        });
        let writes: Vec<Write> = handles.chain(blocks).collect();
        let store = Arc::clone(store);
        tokio::spawn(async move { drop(store.write(writes).await.unwrap()) })
    });
    for host in hosts.collect::<Vec<_>>() {
        host.await.unwrap();
    }
    start.elapsed()
}

fn stand_in(host: usize) -> Key {
    Key::resource(Kind::Profile, None, &format!("stands-for-the-block-of-{host}"))
}

/// Time until every host has all its addresses, `batch` at a time.
async fn ours(store: &Arc<Counted>, what: &str, batch: usize) -> Duration {
    let start = Instant::now();
    let hosts = (0..HOSTS).map(|host| {
        let store: Arc<dyn Datastore> = Arc::clone(store) as _;
        let node = format!("{}-{host}", what.replace(' ', "-"));
        tokio::spawn(async move {
            let allocator = Allocator::new(Ipam::new(store, Options::default()), &node);
            for first in (0..PODS).step_by(batch) {
                let request = |nth| {
                    let handle = format!("net.{node}.{nth}");
                    AssignRequest::new(&node).handle(handle).attribute("node", &node).v4(1)
                };
                let requests: Vec<_> = (first..PODS.min(first + batch)).map(request).collect();
                for answer in allocator.assign_many(&requests).await {
                    assert_eq!(answer.unwrap().v4.len(), 1);
                }
            }
        })
    });
    for host in hosts.collect::<Vec<_>>() {
        host.await.unwrap();
    }
    let took = start.elapsed();
    let ipam = Ipam::new(Arc::clone(&store.inner), Options::default());
    assert_eq!(ipam.check().await.unwrap(), []);
    took
}

/// Of 50 assignments, one after the other.
async fn round_trips() -> f64 {
    let memory = Arc::new(calico_core::memory::MemoryStore::new());
    let pool = r#"{"metadata":{"name":"p"},"spec":{"cidr":"10.0.0.0/8","blockSize":26}}"#;
    memory.create(Key::resource(Kind::IpPool, None, "p"), pool.into()).await.unwrap();
    let counted = Arc::new(Counted { inner: memory, calls: AtomicU64::new(0) });
    let allocator = Allocator::new(Ipam::new(Arc::clone(&counted) as _, Options::default()), "n");
    allocator.auto_assign(AssignRequest::new("n").handle("first").v4(1)).await.unwrap();
    counted.calls.store(0, Ordering::Relaxed);
    for nth in 0..50 {
        let request = AssignRequest::new("n").handle(format!("h{nth}")).v4(1);
        allocator.auto_assign(request).await.unwrap();
    }
    counted.calls.load(Ordering::Relaxed) as f64 / 50.0
}

/// Counts calls, each of which is one round trip.
#[derive(Debug)]
struct Counted {
    inner: Arc<dyn Datastore>,
    calls: AtomicU64,
}

#[async_trait::async_trait]
impl Datastore for Counted {
    async fn get(&self, key: &Key) -> Result<Entry, StoreError> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.inner.get(key).await
    }

    async fn list(&self, scope: &Scope) -> Result<Listing, StoreError> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.inner.list(scope).await
    }

    async fn write(&self, writes: Vec<Write>) -> Result<Vec<Revision>, WriteFailed> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.inner.write(writes).await
    }

    fn watch(&self, scope: Scope, from: Option<Revision>) -> WatchStream {
        self.inner.watch(scope, from)
    }
}

/// A server of this bench's own.
struct Etcd {
    child: Child,
    url: String,
    _directory: tempfile::TempDir,
}

impl Etcd {
    async fn start() -> Self {
        let port = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (url, peer) =
            (format!("http://127.0.0.1:{}", port()), format!("http://127.0.0.1:{}", port()));
        let directory = tempfile::tempdir().unwrap();
        let child = Command::new("etcd")
            .args(["--name=bench", "--logger=zap", "--log-level=error"])
            .arg(format!("--data-dir={}", directory.path().join("data").display()))
            .arg(format!("--listen-client-urls={url}"))
            .arg(format!("--advertise-client-urls={url}"))
            .arg(format!("--listen-peer-urls={peer}"))
            .arg(format!("--initial-advertise-peer-urls={peer}"))
            .arg(format!("--initial-cluster=bench={peer}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd; run `apt-get install etcd-server`");
        let server = Self { child, url, _directory: directory };
        let started = Instant::now();
        while server.store().list(&Scope::Handles).await.is_err() {
            assert!(started.elapsed() < Duration::from_secs(30), "etcd does not answer");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        server
    }

    fn store(&self) -> EtcdStore {
        EtcdStore::connect(EtcdConfig::new([self.url.as_str()])).unwrap()
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
