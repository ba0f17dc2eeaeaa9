//! Stores against raw clients that do the same in the same run, and what a cached object takes:
//! `cargo bench -p calico-datastore --bench stores`.
//!
//! Needs etcd (Debian: `etcd-server`), and a kube-apiserver or a Go toolchain that builds it; see
//! `tests/servers`. Arguments pick some of `size`, `memory`, `embedded`, `etcd`, `kubernetes`.
//! `CALICO_BENCH_OBJECTS` (100,000) and `CALICO_BENCH_KUBERNETES` (5,000) say how many objects.

mod bare_etcd;
mod etcd;
mod kubernetes;
mod local;
mod pace;
mod size;
mod sys;

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use calico_core::Datastore;
use calico_core::datastore::{Revision, WatchEvent, Write};
use calico_core::key::{Key, Scope};
use calico_core::kind::Kind;
use futures_util::StreamExt as _;

use self::pace::{Pace, Run, Seen};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Updates that a watch is told of.
const UPDATES: usize = 10_000;

/// Rounds of each measurement; the best counts.
const ROUNDS: usize = 5;

/// Updates as fast as they are taken.
const AT_ONCE: Pace = Pace { writes: UPDATES / 100, changes: 100, every: Duration::ZERO };

/// 10,000 updates a second, for five seconds.
const HELD: Pace = Pace { writes: 500, changes: 100, every: Duration::from_millis(10) };

fn main() -> Result<()> {
    let wanted: Vec<String> =
        std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let wants = |name: &str| wanted.is_empty() || wanted.iter().any(|wanted| wanted == name);
    let runtime = tokio::runtime::Runtime::new()?;
    let objects = number("CALICO_BENCH_OBJECTS", 100_000)?;
    println!("the best of {ROUNDS} rounds; goal 1.20; load {}", load());
    if wants("size") {
        size::measure(objects);
    }
    if wants("memory") {
        runtime.block_on(local::memory(objects))?;
    }
    if wants("embedded") {
        runtime.block_on(local::embedded(objects))?;
    }
    if wants("etcd") {
        runtime.block_on(etcd::measure(objects))?;
    }
    if wants("kubernetes") {
        runtime.block_on(kubernetes::measure(number("CALICO_BENCH_KUBERNETES", 5_000)?))?;
    }
    Ok(())
}

/// How busy the machine is.
fn load() -> String {
    std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim().to_owned()
}

fn number(name: &str, default: usize) -> Result<usize> {
    match std::env::var(name) {
        Ok(text) => Ok(text.parse()?),
        Err(_) => Ok(default),
    }
}

/// A workload endpoint like those of a cluster.
fn key(n: usize) -> Key {
    let name = format!("node--{}-k8s-web--{:x}--{n:05}-eth0", n % 1000, n * 7919 % 65_536);
    Key::resource(Kind::WorkloadEndpoint, Some(&format!("team-{}", n % 200)), &name)
}

/// Likewise, as compact JSON.
fn value(n: usize, version: usize) -> Arc<str> {
    let (name, node, namespace) = (key(n).name(), n % 1000, n % 200);
    let pod = format!("web-{:x}-{n:05}", n * 7919 % 65_536);
    serde_json::json!({
        "kind": "WorkloadEndpoint", "apiVersion": "projectcalico.org/v3",
        "metadata": {
            "name": name, "namespace": format!("team-{namespace}"),
            "uid": format!("{n:08x}-3f5b-4c1e-9d2a-{version:012x}"),
            "creationTimestamp": "2026-01-02T03:04:05Z",
            "labels": {
                "app": "web", "tier": "frontend", "pod-template-hash": format!("{:x}", n * 31),
                "projectcalico.org/namespace": format!("team-{namespace}"),
                "projectcalico.org/orchestrator": "k8s",
                "projectcalico.org/serviceaccount": "default"
            }
        },
        "spec": {
            "orchestrator": "k8s", "node": format!("node-{node}"), "containerID": format!("{n:064x}"),
            "pod": pod, "endpoint": "eth0", "serviceAccountName": "default",
            "ipNetworks": [format!("10.{}.{}.{}/32", n >> 16 & 255, n >> 8 & 255, n & 255)],
            "profiles": [format!("kns.team-{namespace}"), format!("ksa.team-{namespace}.default")],
            "interfaceName": format!("cali{:011x}", n * 104_729),
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}]
        }
    })
    .to_string()
    .into()
}

/// Which rounds were best: raw, and ours.
struct Best([Duration; 2]);

impl Best {
    const fn new() -> Self {
        Self([Duration::MAX; 2])
    }

    fn raw(&mut self, since: Instant) {
        self.0[0] = self.0[0].min(since.elapsed());
    }

    fn ours(&mut self, since: Instant) {
        self.0[1] = self.0[1].min(since.elapsed());
    }

    /// Two runs, of which CPU counts or time.
    fn runs(&mut self, runs: &[Run; 2], figure: fn(&Run) -> Duration) {
        for (best, run) in self.0.iter_mut().zip(runs) {
            *best = (*best).min(figure(run));
        }
    }

    fn print(&self, what: &str) {
        let [raw, ours] = self.0.map(|time| time.as_secs_f64() * 1e3);
        println!("{what:<52} raw {raw:>8.1} ms, ours {ours:>8.1} ms: {:>5.2}", ours / raw);
    }
}

/// Writes objects `0..count`, a hundred at a time.
async fn write(store: &dyn Datastore, count: usize, version: usize) -> Result<Revision> {
    let mut last = Revision::default();
    for from in (0..count).step_by(100) {
        let writes = (from..count.min(from + 100)).map(|n| Write::put(key(n), value(n, version)));
        last = store.write(writes.collect()).await?.last().copied().unwrap_or(last);
    }
    Ok(last)
}

/// Tells of the changes that come from a watch.
async fn follow(
    store: &dyn Datastore,
    scope: Scope,
    from: Revision,
    seen: &mut Seen,
) -> Result<()> {
    let mut watch = store.watch(scope, Some(from));
    loop {
        match watch.next().await {
            Some(WatchEvent::Put(_)) if seen.saw(1) => return Ok(()),
            Some(WatchEvent::Put(_)) => {}
            other => return Err(format!("{other:?}").into()),
        }
    }
}

/// The writes of a run at a pace, made in advance: what it takes to make them is not the store's.
struct Writes(Vec<Vec<Write>>);

impl Writes {
    fn new(pace: Pace, version: usize) -> Self {
        let put = |n| Write::put(key(n), value(n, version));
        let more = (0..pace.writes).map(|write| {
            let from = write * pace.changes % UPDATES;
            (from..from + pace.changes).map(put).collect()
        });
        Self(std::iter::once(vec![put(0)]).chain(more).collect())
    }

    fn take(&mut self, write: usize) -> Vec<Write> {
        std::mem::take(&mut self.0[write])
    }
}
