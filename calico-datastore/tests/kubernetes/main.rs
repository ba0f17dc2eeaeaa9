//! The Kubernetes backend against a real kube-apiserver with a real etcd.
//!
//! Needs etcd (Debian: `etcd-server`, `etcd-client`), and kube-apiserver or a Go toolchain that
//! builds it; see `tests/servers`. Tests share two clusters, with an
//! older and a current etcd; those on the same one run one after the other.

#![cfg(feature = "kubernetes")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod access;
mod contract;
mod golden;
mod memory;
mod outage;
mod resume;
mod views;

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use calico_core::datastore::{WatchEvent, WatchStream};
use calico_datastore::config::{KubernetesConfig, Secret};
use calico_datastore::conversion::ApiGroup;
use calico_datastore::kubernetes::KubernetesStore;
use calico_test_servers::cluster::{self, Cluster, Etcd};
use calico_test_servers::{ADMIN, NOBODY};
use futures_util::StreamExt as _;
use serde_json::Value;

/// No step of a test takes longer.
const LIMIT: Duration = Duration::from_secs(120);

/// The next event; an interruption is passed over.
async fn next(watch: &mut WatchStream) -> WatchEvent {
    loop {
        match any(watch).await {
            WatchEvent::Interrupted { reason } => println!("interrupted: {reason}"),
            event => return event,
        }
    }
}

async fn any(watch: &mut WatchStream) -> WatchEvent {
    let event = tokio::time::timeout(LIMIT, watch.next()).await;
    event.expect("an event in time").expect("a watch has no end")
}

/// The cluster, for one test at a time. No custom resource is in it.
struct Turn {
    cluster: &'static Cluster,
    _turn: MutexGuard<'static, ()>,
}

impl Turn {
    /// Waits for the test's turn. `None` if the tests are to be left out.
    fn take(etcd: Etcd) -> Option<Self> {
        type Shared = (OnceLock<Cluster>, Mutex<()>);
        static DEBIAN: Shared = (OnceLock::new(), Mutex::new(()));
        static CURRENT: Shared = (OnceLock::new(), Mutex::new(()));
        let (shared, turn) = match etcd {
            Etcd::Debian => &DEBIAN,
            Etcd::Current => &CURRENT,
        };
        if cluster::skipped() {
            return None;
        }
        let turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        Some(Self { cluster: shared.get_or_init(|| Cluster::start(etcd)), _turn: turn })
    }

    fn config(&self, group: ApiGroup) -> KubernetesConfig {
        KubernetesConfig {
            kubeconfig_inline: Some(Secret::new(self.cluster.kubeconfig(ADMIN))),
            api_group: Some(group),
            ..KubernetesConfig::default()
        }
    }

    fn store(&self, group: ApiGroup) -> KubernetesStore {
        KubernetesStore::connect(&self.config(group)).unwrap()
    }

    /// Waits until something holds.
    async fn until(&self, holds: impl AsyncFn() -> bool) {
        let deadline = Instant::now() + LIMIT;
        while !holds().await {
            assert!(Instant::now() < deadline, "it does not come to hold");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Deletes every custom resource of Calico's.
    async fn clear(&self) {
        for group in ApiGroup::ALL {
            let base = format!("/apis/{}", group.api_version());
            let kinds = self.cluster.must("GET", &base, Value::Null).await;
            for kind in kinds["resources"].as_array().unwrap() {
                let plural = kind["name"].as_str().unwrap();
                if plural.contains('/') {
                    continue;
                }
                let all = self.cluster.must("GET", &format!("{base}/{plural}"), Value::Null).await;
                for item in all["items"].as_array().unwrap() {
                    let meta = &item["metadata"];
                    let name = meta["name"].as_str().unwrap();
                    let path = match meta["namespace"].as_str() {
                        Some(namespace) => format!("{base}/namespaces/{namespace}/{plural}/{name}"),
                        None => format!("{base}/{plural}/{name}"),
                    };
                    self.cluster.must("DELETE", &path, Value::Null).await;
                }
            }
        }
    }
}
