//! A real etcd, against a client that decodes its answers and does nothing with them.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use calico_core::Datastore as _;
use calico_core::key::Scope;
use calico_core::kind::Kind;
use calico_datastore::config::EtcdConfig;
use calico_datastore::etcd::EtcdStore;

use super::pace::{self, Pace, Run, Seen};
use super::{
    AT_ONCE, Best, HELD, ROUNDS, Result, UPDATES, Writes, bare_etcd, follow, key, value, write,
};

/// Writes of one object each.
const WRITES: usize = 300;

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) async fn measure(objects: usize) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let port = || TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let (url, peer) = (format!("http://{}", port()?), format!("http://{}", port()?));
    let mut command = Command::new("etcd");
    command
        .args(["--unsafe-no-fsync", "--quota-backend-bytes=8589934592", "--data-dir"])
        .arg(dir.path())
        .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("default={peer}")]);
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let _server = Server(child.map_err(|error| format!("etcd: {error}; install etcd-server"))?);
    let store = EtcdStore::connect(EtcdConfig::new([url.as_str()]))?;
    let deadline = Instant::now() + Duration::from_secs(60);
    while let Err(error) = store.revision().await {
        if Instant::now() > deadline {
            return Err(error.into());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    write(&store, objects, 0).await?;
    let mut bare = bare_etcd::Client::connect(url.clone()).await?;
    let scope = Scope::Kind(Kind::WorkloadEndpoint);
    let prefix = scope.prefixes().concat();

    let mut best = Best::new();
    for _ in 0..ROUNDS {
        let start = Instant::now();
        for n in 0..WRITES {
            bare.put(&key(n).to_string(), &value(n, 0)).await?;
        }
        best.raw(start);
        let start = Instant::now();
        for n in 0..WRITES {
            store.put(key(n), value(n, 0)).await?;
        }
        best.ours(start);
    }
    best.print(&format!("etcd: {WRITES} transactions, one after the other"));

    let mut best = Best::new();
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let all = bare.list(&prefix).await?;
        best.raw(start);
        assert_eq!(all.len(), objects);
        drop(all);
        let start = Instant::now();
        let all = store.list(&scope).await?;
        best.ours(start);
        assert_eq!(all.entries.len(), objects);
    }
    best.print(&format!("etcd: list of {objects}"));

    let (mut time, mut cpu) = (Best::new(), Best::new());
    for round in 1..=ROUNDS {
        let runs = both(&url, &store, &mut bare, AT_ONCE, round).await?;
        time.runs(&runs, |run| run.time);
        cpu.runs(&runs, |run| run.watcher);
    }
    time.print(&format!("etcd: {UPDATES} updates, written and seen"));
    cpu.print(&format!("etcd: {UPDATES} updates, CPU of the watcher"));
    let runs = both(&url, &store, &mut bare, HELD, 0).await?;
    pace::print("etcd: paced", &runs, |run| run.watcher);
    Ok(())
}

/// A raw watcher, then ours, each with the raw client as its writer.
async fn both(
    url: &str,
    store: &EtcdStore,
    writer: &mut bare_etcd::Client,
    pace: Pace,
    version: usize,
) -> Result<[Run; 2]> {
    let scope = Scope::Kind(Kind::WorkloadEndpoint);
    // The only object at its revision, so that nothing at it is told again.
    let from = store.put(key(0), value(0, 0)).await?;
    let (address, prefix) = (url.to_owned(), scope.prefixes().concat());
    let raw = async move |seen: &mut Seen| {
        let mut bare = bare_etcd::Client::connect(address).await?;
        bare.watch(&prefix, from.0 + 1, seen).await
    };
    let writes = Writes::new(pace, version);
    let raw = pace::run(pace, raw, async |n| writer.put_all(&writes.0[n]).await).await?;
    let from = store.put(key(0), value(0, 0)).await?;
    let address = url.to_owned();
    let ours = async move |seen: &mut Seen| {
        let store = EtcdStore::connect(EtcdConfig::new([address]))?;
        follow(&store, scope, from, seen).await
    };
    let ours = pace::run(pace, ours, async |n| writer.put_all(&writes.0[n]).await).await?;
    Ok([raw, ours])
}
