//! A real kube-apiserver, against the client `kube` on its own.

use std::sync::Arc;
use std::time::Instant;

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
use kube::Api;
use kube::api::{ApiResource, DynamicObject, ListParams, WatchEvent, WatchParams};

use super::{Best, ROUNDS, Result, follow};

/// Updates that a watch is told of: as many as the server remembers for certain.
const UPDATES: usize = 1_000;

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
    let store = KubernetesStore::connect(&KubernetesConfig {
        kubeconfig_inline: Some(Secret::new(cluster.kubeconfig(ADMIN))),
        api_group: Some(ApiGroup::V3),
        ..KubernetesConfig::default()
    })?;
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

    write(&store, UPDATES, 1).await?;
    let mut best = Best::new();
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let mut events = raw.watch(&WatchParams::default(), &from.to_string()).await?.boxed();
        let mut seen = 0;
        while seen < UPDATES {
            match events.next().await.ok_or("the watch ended")?? {
                WatchEvent::Modified(_) => seen += 1,
                WatchEvent::Bookmark(_) => {}
                other => return Err(format!("{other:?}").into()),
            }
        }
        best.raw(start);
        let start = Instant::now();
        follow(&store, scope.clone(), from, UPDATES).await?;
        best.ours(start);
    }
    best.print(&format!("kubernetes: {UPDATES} updates, seen"));
    Ok(())
}
