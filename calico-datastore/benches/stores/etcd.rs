//! A real etcd, against a client that decodes its answers and does nothing with them.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use calico_core::Datastore as _;
use calico_core::key::Scope;
use calico_core::kind::Kind;
use calico_datastore::config::EtcdConfig;
use calico_datastore::etcd::EtcdStore;

use super::{Best, ROUNDS, Result, UPDATES, bare_etcd, follow, key, value, write};

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
    let mut bare = bare_etcd::Client::connect(url).await?;
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
        assert_eq!(bare.list(&prefix).await?, objects);
        best.raw(start);
        let start = Instant::now();
        assert_eq!(store.list(&scope).await?.entries.len(), objects);
        best.ours(start);
    }
    best.print(&format!("etcd: list of {objects}"));

    let from = store.revision().await?;
    write(&store, UPDATES, 1).await?;
    let mut best = Best::new();
    for _ in 0..ROUNDS {
        let start = Instant::now();
        bare.watch(&prefix, from.0 + 1, UPDATES).await?;
        best.raw(start);
        let start = Instant::now();
        follow(&store, scope.clone(), from, UPDATES).await?;
        best.ours(start);
    }
    best.print(&format!("etcd: {UPDATES} updates, seen"));
    Ok(())
}
