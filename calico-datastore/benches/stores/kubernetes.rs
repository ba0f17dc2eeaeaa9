//! A real kube-apiserver, against the client `kube` on its own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use calico_core::Datastore;
use calico_core::datastore::{Revision, Write};
use calico_core::key::{Key, Scope};
use calico_core::kind::Kind;
use calico_datastore::config::{KubernetesConfig, Secret};
use calico_datastore::conversion::ApiGroup;
use calico_datastore::kubernetes::KubernetesStore;
use calico_test_servers::ADMIN;
use calico_test_servers::cluster::{Cluster, Etcd};
use futures_util::StreamExt as _;
use futures_util::stream::iter;
use kube::api::{ApiResource, DynamicObject, ListParams, WatchEvent, WatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};

use super::pace::{self, Pace, Run, Seen};
use super::{Best, ROUNDS, Result, follow};

/// Updates as fast as the server takes them from sixteen at once.
const AT_ONCE: Pace = Pace { writes: 10, changes: 100, every: Duration::ZERO };

/// What the server takes besides other work on two cores: 10,000 a second are out of its reach,
/// whoever watches.
const HELD: Pace = Pace { writes: 50, changes: 20, every: Duration::from_millis(100) };

fn set(n: usize) -> Key {
    Key::resource(Kind::NetworkSet, Some("prod"), &format!("set-{n:06}"))
}

fn nets(n: usize, version: usize) -> Arc<str> {
    let nets: Vec<_> =
        (0..20).map(|at| format!("10.{}.{}.{at}/32", n >> 8 & 255, n & 255)).collect();
    let labels = serde_json::json!({"team": format!("t{}", n % 200), "v": version.to_string()});
    serde_json::json!({"metadata": {"labels": labels}, "spec": {"nets": nets}}).to_string().into()
}

async fn write(store: &KubernetesStore, count: usize, version: usize) -> Result<Revision> {
    let writes = iter(0..count).map(|n| store.write(vec![Write::put(set(n), nets(n, version))]));
    let mut writes = writes.buffer_unordered(16);
    let mut last = Revision::default();
    while let Some(done) = writes.next().await {
        last = done?.into_iter().fold(last, Revision::max);
    }
    Ok(last)
}

pub(crate) async fn measure(objects: usize) -> Result<()> {
    let cluster = Cluster::start(Etcd::Current);
    let store = connect(&cluster)?;
    let from = write(&store, objects, 0).await?;
    let resource = ApiResource {
        group: "projectcalico.org".to_owned(),
        version: "v3".to_owned(),
        api_version: "projectcalico.org/v3".to_owned(),
        kind: "NetworkSet".to_owned(),
        plural: "networksets".to_owned(),
    };
    let raw: Api<DynamicObject> = Api::all_with(cluster.client(ADMIN).await, &resource);
    let scope = Scope::Kind(Kind::NetworkSet);

    let mut best = Best::new();
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let (mut seen, mut params) = (0, ListParams::default().limit(500));
        loop {
            let page = raw.list(&params).await?;
            seen += page.items.len();
            match page.metadata.continue_.filter(|next| !next.is_empty()) {
                Some(next) => params = params.continue_token(&next),
                None => break,
            }
        }
        best.raw(start);
        assert_eq!(seen, objects);
        let start = Instant::now();
        assert_eq!(store.list(&scope).await?.entries.len(), objects);
        best.ours(start);
    }
    best.print(&format!("kubernetes: list of {objects}"));

    let (mut time, mut cpu) = (Best::new(), Best::new());
    for round in 1..=3 {
        let runs = both(&cluster, &resource, from, AT_ONCE, round).await?;
        time.runs(&runs, |run| run.time);
        cpu.runs(&runs, |run| run.watcher);
    }
    let updates = AT_ONCE.writes * AT_ONCE.changes;
    time.print(&format!("kubernetes: {updates} updates, written and seen"));
    cpu.print(&format!("kubernetes: {updates} updates, CPU of the watcher"));
    let runs = both(&cluster, &resource, from, HELD, 0).await?;
    pace::print("kubernetes: paced", &runs, |run| run.watcher);
    Ok(())
}

/// A raw watcher, then ours, each with our store as its writer.
async fn both(
    cluster: &Cluster,
    resource: &ApiResource,
    from: Revision,
    pace: Pace,
    version: usize,
) -> Result<[Run; 2]> {
    let writer = connect(cluster)?;
    let from = writer.put(set(0), nets(0, 1_000 + version)).await?.max(from);
    let config = cluster.kubeconfig(ADMIN);
    let watched = resource.clone();
    let raw = async move |seen: &mut Seen| {
        // The connection must be of the watcher's runtime.
        let config = Kubeconfig::from_yaml(&config)?;
        let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
        let api: Api<DynamicObject> = Api::all_with(Client::try_from(config)?, &watched);
        let mut events = api.watch(&WatchParams::default(), &from.to_string()).await?.boxed();
        loop {
            match events.next().await.ok_or("the watch ended")?? {
                WatchEvent::Modified(_) if seen.saw(1) => return Ok(()),
                WatchEvent::Modified(_) | WatchEvent::Bookmark(_) => {}
                other => return Err(format!("{other:?}").into()),
            }
        }
    };
    let first = pace::run(pace, raw, async |n| update(&writer, pace, n, version).await).await?;
    let from = writer.put(set(0), nets(0, 2_000 + version)).await?;
    let ours = connect_later(cluster);
    let ours = async move |seen: &mut Seen| {
        follow(&ours()?, Scope::Kind(Kind::NetworkSet), from, seen).await
    };
    let version = version + 100;
    let second = pace::run(pace, ours, async |n| update(&writer, pace, n, version).await).await?;
    Ok([first, second])
}

fn connect(cluster: &Cluster) -> Result<KubernetesStore> {
    connect_later(cluster)()
}

/// What connects on the runtime that it is called on.
fn connect_later(cluster: &Cluster) -> impl FnOnce() -> Result<KubernetesStore> + Send + use<> {
    let kubeconfig_inline = Some(Secret::new(cluster.kubeconfig(ADMIN)));
    move || {
        let config = KubernetesConfig {
            kubeconfig_inline,
            api_group: Some(ApiGroup::V3),
            ..KubernetesConfig::default()
        };
        Ok(KubernetesStore::connect(&config)?)
    }
}

/// Changes as many objects as a write of this pace has; write 0 changes one.
async fn update(store: &KubernetesStore, pace: Pace, n: usize, version: usize) -> Result<()> {
    let count = if n == 0 { 1 } else { pace.changes };
    let write = |at| store.write(vec![Write::put(set(at), nets(at, version * 1_000 + n))]);
    let mut writes = iter(0..count).map(write).buffer_unordered(16);
    while let Some(done) = writes.next().await {
        done?;
    }
    Ok(())
}
