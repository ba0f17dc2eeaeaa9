//! Who has which address and which interface, kept up to date.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use calico_core::Datastore;
use calico_core::datastore::{Entry, WatchEvent, WatchStream};
use calico_core::key::{Key, Scope};
use calico_core::kind::Kind;
use calico_core::resource::WorkloadEndpoint;
use futures_util::{FutureExt, StreamExt};

/// Time for the first listing; names that come later are known later.
const PATIENCE: Duration = Duration::from_secs(10);

/// A workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Workload {
    pub(super) namespace: String,
    /// Name of its WorkloadEndpoint.
    pub(super) endpoint: String,
    /// Name of its pod, if it is one.
    pub(super) pod: String,
}

impl Workload {
    /// Whether people mean it by `NAMESPACE/NAME`, or by `NAME` in the namespace `default`.
    pub(super) fn is(&self, text: &str) -> bool {
        let (namespace, name) = text.split_once('/').unwrap_or(("default", text));
        self.namespace == namespace && (self.pod == name || self.endpoint == name)
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = if self.pod.is_empty() { &self.endpoint } else { &self.pod };
        write!(f, "{}/{name}", self.namespace)
    }
}

/// The workloads of the cluster.
#[derive(Default)]
pub(super) struct Names {
    watch: Option<WatchStream>,
    /// What a listing that is under way has told.
    listing: Option<HashMap<Key, Known>>,
    known: HashMap<Key, Known>,
    by_interface: HashMap<(String, String), Key>,
    by_address: HashMap<IpAddr, Key>,
}

struct Known {
    workload: Workload,
    place: (String, String),
    addresses: Vec<IpAddr>,
}

impl Names {
    /// Those of a datastore; false if it has not told all of them yet.
    pub(super) async fn of(store: &dyn Datastore) -> (Self, bool) {
        let mut watch = store.watch(Scope::Kind(Kind::WorkloadEndpoint), None);
        let mut names = Self::default();
        let listed = tokio::time::timeout(PATIENCE, async {
            while let Some(event) = watch.next().await {
                let ready = matches!(event, WatchEvent::Ready(_));
                names.handle(event);
                if ready {
                    return true;
                }
            }
            false
        });
        let listed = listed.await.unwrap_or(false);
        names.watch = Some(watch);
        (names, listed)
    }

    /// Takes in what the datastore said meanwhile.
    pub(super) fn catch_up(&mut self) {
        let Some(mut watch) = self.watch.take() else { return };
        while let Some(event) = watch.next().now_or_never() {
            let Some(event) = event else { return };
            self.handle(event);
        }
        self.watch = Some(watch);
    }

    /// Whose interface of a node it is.
    pub(super) fn at(&self, node: &str, interface: &str) -> Option<&Workload> {
        let key = self.by_interface.get(&(node.to_owned(), interface.to_owned()))?;
        self.known.get(key).map(|known| &known.workload)
    }

    /// Who has the address.
    pub(super) fn with(&self, address: IpAddr) -> Option<&Workload> {
        self.known.get(self.by_address.get(&address)?).map(|known| &known.workload)
    }

    fn handle(&mut self, event: WatchEvent) {
        match event {
            WatchEvent::Begin => self.listing = Some(HashMap::new()),
            WatchEvent::Item(entry) | WatchEvent::Put(entry) => self.put(entry),
            WatchEvent::Gone { key, .. } => self.forget(&key),
            WatchEvent::Ready(_) => {
                let listed = self.listing.take().unwrap_or_default();
                let old = std::mem::take(&mut self.known).into_keys();
                let gone: Vec<Key> = old.filter(|key| !listed.contains_key(key)).collect();
                self.by_interface.retain(|_, key| !gone.contains(key));
                self.by_address.retain(|_, key| !gone.contains(key));
                self.known = listed;
            }
            _ => {}
        }
    }

    fn put(&mut self, entry: Entry) {
        let Ok(endpoint) = entry.decode::<WorkloadEndpoint>() else { return };
        let known = Known {
            workload: Workload {
                namespace: endpoint.namespace().to_owned(),
                endpoint: endpoint.name().to_owned(),
                pod: endpoint.spec.pod.clone(),
            },
            place: (endpoint.spec.node.clone(), endpoint.spec.interface_name.clone()),
            addresses: endpoint.spec.ip_networks.iter().map(|net| net.addr()).collect(),
        };
        self.forget(&entry.key);
        self.by_interface.insert(known.place.clone(), entry.key.clone());
        for address in &known.addresses {
            self.by_address.insert(*address, entry.key.clone());
        }
        self.listing.as_mut().unwrap_or(&mut self.known).insert(entry.key, known);
    }

    fn forget(&mut self, key: &Key) {
        let Some(known) = self.known.remove(key) else { return };
        // Another may have taken over what it had.
        if self.by_interface.get(&known.place) == Some(key) {
            self.by_interface.remove(&known.place);
        }
        for address in known.addresses {
            if self.by_address.get(&address) == Some(key) {
                self.by_address.remove(&address);
            }
        }
    }
}
