//! A node in memory: store, pools, a network that only remembers, a policy that waits to be told.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

pub mod machine;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use async_trait::async_trait;
use calico_cni::engine::{Engine, Journal, NetworkError, Options, Parts, PodNetwork, PolicyGate};
use calico_cni::facts::{NoPods, PodSource};
use calico_cni::protocol::{PROTOCOL, Plugin, Request, Response};
use calico_cni::spec::{Call, Verb};
use calico_core::dataplane::{EndpointId, Limits};
use calico_core::datastore::Revision;
use calico_core::key::{Key, Scope};
use calico_core::memory::MemoryStore;
use calico_core::{Datastore, Kind};
use calico_ipam::Ipam;
use calico_netlink::link::MacAddr;
use calico_netlink::pod::{HOST_MAC, PodInterface, PodInterfaces, PodSpec};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Interfaces by the host's name, and who may not be served.
#[derive(Debug, Default)]
pub struct FakeNetwork {
    pub interfaces: Mutex<BTreeMap<String, PodSpec>>,
    pub refuse: Mutex<Option<NetworkError>>,
}

impl FakeNetwork {
    pub fn names(&self) -> Vec<String> {
        self.interfaces.lock().unwrap().keys().cloned().collect()
    }
}

#[async_trait]
impl PodNetwork for FakeNetwork {
    async fn setup(&self, spec: PodSpec) -> Result<PodInterfaces, NetworkError> {
        if let Some(error) = self.refuse.lock().unwrap().clone() {
            return Err(error);
        }
        let end = |name: &str, mac| PodInterface { name: name.into(), index: 7, mac, mtu: 1500 };
        let interfaces = PodInterfaces {
            host: end(&spec.host_ifname, HOST_MAC),
            container: end(&spec.ifname, spec.mac.unwrap_or(MacAddr([2; 6]))),
        };
        self.interfaces.lock().unwrap().insert(spec.host_ifname.clone(), spec);
        Ok(interfaces)
    }

    async fn teardown(
        &self,
        host_interface: Option<&str>,
        netns: Option<&Path>,
        ifname: &str,
    ) -> Result<(), NetworkError> {
        self.interfaces.lock().unwrap().retain(|name, spec| {
            let inside = netns == Some(&spec.netns) && ifname == spec.ifname;
            host_interface != Some(name) && !inside
        });
        Ok(())
    }

    async fn check(&self, spec: PodSpec) -> Result<(), NetworkError> {
        match self.interfaces.lock().unwrap().get(&spec.host_ifname) {
            Some(made) if made.addresses == spec.addresses && made.limits == spec.limits => Ok(()),
            _ => Err(NetworkError::Failed(format!("{} is not there", spec.host_ifname))),
        }
    }

    async fn interfaces(&self) -> Result<Option<BTreeSet<String>>, NetworkError> {
        Ok(Some(self.names().into_iter().collect()))
    }

    fn has_namespace(&self, netns: &Path) -> Option<bool> {
        Some(netns.exists())
    }
}

/// Says at once what it is told to say.
#[derive(Debug, Default)]
pub struct FakePolicy {
    pub refuse: Mutex<Option<String>>,
    /// The limits that are in force; `None`: whatever is asked for.
    pub limits: Mutex<Option<Limits>>,
    pub asked: Mutex<Vec<String>>,
}

#[async_trait]
impl PolicyGate for FakePolicy {
    async fn wait_programmed(
        &self,
        endpoint: &EndpointId,
        _written: Revision,
        _patience: Duration,
    ) -> Result<(), String> {
        self.asked.lock().unwrap().push(endpoint.to_string());
        self.refuse.lock().unwrap().clone().map_or(Ok(()), Err)
    }

    async fn check_limits(&self, host_interface: &str, limits: &Limits) -> Result<(), String> {
        match &*self.limits.lock().unwrap() {
            Some(in_force) if in_force != limits => Err(format!("{host_interface} is unlimited")),
            _ => Ok(()),
        }
    }
}

pub struct Node {
    pub memory: MemoryStore,
    pub network: Arc<FakeNetwork>,
    pub policy: Arc<FakePolicy>,
    pub engine: Arc<Engine>,
    pub directory: TempDir,
    seconds: Arc<AtomicU64>,
}

pub const NODE: &str = "node1";

impl Node {
    pub async fn new() -> Self {
        let memory = MemoryStore::new();
        Self::on(memory.clone(), Arc::new(memory)).await
    }

    /// A node whose engine uses `store`, in front of `memory`.
    pub async fn on(memory: MemoryStore, store: Arc<dyn Datastore>) -> Self {
        Self::of(NODE, memory, store, Arc::new(NoPods)).await
    }

    /// The node of this name, whose pods `pods` knows.
    pub async fn of(
        name: &str,
        memory: MemoryStore,
        store: Arc<dyn Datastore>,
        pods: Arc<dyn PodSource>,
    ) -> Self {
        for (name, cidr) in [("four", "10.65.0.0/16"), ("six", "fd00:65::/48")] {
            pool(&memory, name, &format!(r#"{{"cidr":"{cidr}"}}"#)).await;
        }
        let directory = tempfile::tempdir().unwrap();
        let network = Arc::new(FakeNetwork::default());
        let policy = Arc::new(FakePolicy::default());
        let seconds = Arc::new(AtomicU64::new(1_700_000_000));
        let now = Arc::clone(&seconds);
        let clock = Arc::new(move || UNIX_EPOCH + Duration::from_secs(now.load(Ordering::Relaxed)));
        let engine = Engine::new(Parts {
            node: name.into(),
            ipam: Ipam::new(Arc::clone(&store), calico_ipam::Options::default()),
            store,
            network: Arc::clone(&network) as Arc<dyn PodNetwork>,
            policy: Arc::clone(&policy) as Arc<dyn PolicyGate>,
            journal: Journal::new(directory.path().join("journal")),
            options: Options {
                store_patience: Duration::from_millis(200),
                mtu_file: directory.path().join("mtu"),
                clock,
                pods,
                ..Options::default()
            },
        });
        Self { memory, network, policy, engine: Arc::new(engine), directory, seconds }
    }

    /// Lets time go by for the engine.
    pub fn later(&self, by: Duration) {
        self.seconds.fetch_add(by.as_secs(), Ordering::Relaxed);
    }

    /// A directory that stands for a network namespace.
    pub fn netns(&self, name: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::write(&path, "").unwrap();
        path
    }

    pub fn journal(&self) -> Journal {
        Journal::new(self.directory.path().join("journal"))
    }

    pub async fn call(&self, verb: Verb, config: &Value, call: &Call) -> Result<Value, Value> {
        let request = Request {
            protocol: PROTOCOL,
            plugin: Plugin::Main,
            verb,
            call: call.clone(),
            config: config.to_string(),
        };
        answer(&self.engine.handle(&request).await)
    }

    pub fn sandbox(&self, container: &str) -> Call {
        Call {
            container: container.into(),
            netns: self.netns(container),
            ifname: "eth0".into(),
            ..Call::default()
        }
    }

    /// A sandbox of a Kubernetes pod.
    pub fn pod(&self, container: &str, name: &str) -> Call {
        let variable = |key: &str| match key {
            "CNI_CONTAINERID" => Some(container.to_owned()),
            "CNI_NETNS" => Some(self.netns(container).display().to_string()),
            "CNI_IFNAME" => Some("eth0".to_owned()),
            "CNI_ARGS" => {
                Some(format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={name}"))
            }
            _ => None,
        };
        Call::new(Verb::Add, variable).unwrap()
    }

    pub async fn endpoints(&self) -> Vec<String> {
        self.names(&Scope::Kind(Kind::WorkloadEndpoint)).await
    }

    pub async fn handles(&self) -> Vec<String> {
        self.names(&Scope::Handles).await
    }

    async fn names(&self, scope: &Scope) -> Vec<String> {
        let listing = self.memory.list(scope).await.unwrap();
        listing.entries.iter().map(|entry| entry.key.name()).collect()
    }

    /// Sees that no trace of any container is left.
    pub async fn assert_clean(&self) {
        assert_eq!(self.endpoints().await, [] as [&str; 0], "endpoints");
        assert_eq!(self.handles().await, [] as [&str; 0], "handles");
        assert_eq!(self.network.names(), [] as [&str; 0], "interfaces");
        let ipam = Ipam::new(Arc::new(self.memory.clone()), calico_ipam::Options::default());
        let left: Vec<_> =
            ipam.blocks().await.unwrap().into_iter().flat_map(|b| b.allocations).collect();
        assert_eq!(left, [], "addresses");
        assert_eq!(self.journal().pending().unwrap().0.len(), 0, "journal");
    }
}

pub async fn pool(store: &MemoryStore, name: &str, spec: &str) {
    let json = format!(r#"{{"metadata":{{"name":"{name}"}},"spec":{spec}}}"#);
    store.put(Key::resource(Kind::IpPool, None, name), json.into()).await.unwrap();
}

pub fn answer(response: &Response) -> Result<Value, Value> {
    let value = if response.output.is_empty() {
        Value::Null
    } else {
        serde_json::from_str(&response.output).unwrap()
    };
    if response.failed { Err(value) } else { Ok(value) }
}

pub fn config(version: &str) -> Value {
    json!({
        "cniVersion": version, "name": "net", "type": "calico",
        "ipam": { "type": "calico-ipam", "assign_ipv6": "true" },
    })
}

pub fn with(mut config: Value, key: &str, value: Value) -> Value {
    config[key] = value;
    config
}

pub fn addresses(result: &Value) -> Vec<String> {
    let ips = result["ips"].as_array().into_iter().flatten();
    ips.map(|ip| ip["address"].as_str().unwrap().to_owned()).collect()
}
