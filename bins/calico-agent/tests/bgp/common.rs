use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use calico_agent::brain::Brain;
use calico_agent::config::Bgp;
use calico_agent::metrics::Metrics;
use calico_agent::node::Node;
use calico_agent::progress::Progress;
use calico_agent::router::{Router, RouterView};
use calico_agent::secrets::SecretFiles;
use calico_agent::workload_addresses::WorkloadAddresses;
use calico_bgp::rib::RouteView;
use calico_bgp::runtime::SpeakerHandle;
use calico_bgp::session::State;
use calico_bgp::speaker::{Config, PeerConfig};
use calico_core::Datastore;
use calico_core::dataplane::NullDataplane;
use calico_core::datastore::Revision;
use calico_core::key::{Key, OwnerType};
use calico_core::kind::Kind;
use calico_core::memory::MemoryStore;
use calico_core::resource::FelixConfigurationSpec;
use calico_peering::{HostRoute, Options};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

/// Longest wait for anything: sessions come up in seconds, on a busy machine in more.
const PATIENCE: Duration = Duration::from_secs(40);

/// AS of the router outside.
pub(crate) const TOR_AS: u32 = 65_001;

static CLUSTERS: AtomicU8 = AtomicU8::new(1);

/// Nodes `a` and `b`, and a router outside, each with a loopback address that no other test has.
pub(crate) struct Cluster {
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) directory: TempDir,
    net: [u8; 3],
    port: u16,
    nodes: BTreeMap<&'static str, Running>,
}

struct Running {
    view: RouterView,
    progress: watch::Receiver<Progress>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

/// A session: when it entered its state, and how often it was established.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Uptime {
    since: Instant,
    established: u64,
}

impl Cluster {
    /// The nodes have addresses, and listen on nothing else. No agent runs yet.
    pub(crate) async fn new() -> Self {
        let process = std::process::id();
        let number = CLUSTERS.fetch_add(1, Ordering::Relaxed);
        // All of 127/8 is this host's: two runs at a time do not meet.
        let net = [127, u8::try_from(1 + process % 250).unwrap(), number];
        let port = 20_000 + u16::try_from(process % 10_000).unwrap();
        let cluster = Self {
            store: Arc::new(MemoryStore::new()),
            directory: tempfile::tempdir().unwrap(),
            net,
            port,
            nodes: BTreeMap::new(),
        };
        for name in ["a", "b"] {
            let bgp = json!({"ipv4Address": format!("{}/24", cluster.address(name))});
            cluster.put(Kind::Node, name, json!({"bgp": bgp})).await;
        }
        cluster.configure(json!({})).await;
        cluster
    }

    pub(crate) fn address(&self, name: &str) -> Ipv4Addr {
        let host = match name {
            "a" => 1,
            "b" => 2,
            "tor" => 3,
            other => panic!("no node {other}"),
        };
        Ipv4Addr::new(self.net[0], self.net[1], self.net[2], host)
    }

    /// `address:port` of the router outside, for `peerIP`.
    pub(crate) fn tor_peer_ip(&self) -> String {
        format!("{}:{}", self.address("tor"), self.port)
    }

    /// Puts the global BGPConfiguration, with what every test needs.
    pub(crate) async fn configure(&self, mut spec: Value) -> Revision {
        spec["listenPort"] = json!(self.port);
        spec["bindMode"] = json!("NodeIP");
        self.put(Kind::BgpConfiguration, "default", spec).await
    }

    pub(crate) async fn put(&self, kind: Kind, name: &str, spec: Value) -> Revision {
        let namespace = kind.is_namespaced().then_some("default");
        let value = json!({"metadata": {"name": name, "namespace": namespace}, "spec": spec});
        self.put_value(Key::resource(kind, namespace, name), &value).await
    }

    pub(crate) async fn put_value(&self, key: Key, value: &Value) -> Revision {
        self.store.put(key, Arc::from(value.to_string())).await.unwrap()
    }

    pub(crate) async fn exists(&self, key: &Key) -> bool {
        self.store.find(key).await.unwrap().is_some()
    }

    pub(crate) async fn delete(&self, key: &Key) -> Revision {
        self.store.delete(key.clone(), None).await.unwrap()
    }

    pub(crate) async fn put_block(&self, owner: &str, block: &str) -> Revision {
        let (owner_type, owner) = (OwnerType::Host, owner.to_owned());
        let key = Key::Affinity { owner_type, owner, block: block.parse().unwrap() };
        self.put_value(key, &json!({"state": "confirmed", "deleted": false})).await
    }

    pub(crate) async fn put_workload(&self, node: &str, id: &str, address: &str) -> Revision {
        let spec = json!({"orchestrator": "cni", "node": node, "containerID": id,
            "endpoint": "eth0", "interfaceName": format!("cali{id}"), "ipNetworks": [address]});
        self.put(Kind::WorkloadEndpoint, &format!("{node}-cni-{id}-eth0"), spec).await
    }

    /// Runs the agent of a node.
    pub(crate) fn start(&mut self, name: &'static str) {
        self.start_with(name, Vec::new());
    }

    /// Likewise, on a host that has these routes.
    pub(crate) fn start_with(&mut self, name: &'static str, host: Vec<HostRoute>) {
        let run = self.directory.path().join(name);
        std::fs::create_dir_all(&run).unwrap();
        let router = Router::new(Some(&Bgp::default()), &run);
        let (progress, watcher) = watch::channel(Progress::default());
        let view = router.view();
        let mut brain = Brain::new(name, Options::default());
        brain.set_host_routes(host);
        let node = Node {
            kernel: None,
            brain,
            store: Arc::clone(&self.store) as Arc<dyn Datastore>,
            dataplane: Arc::new(NullDataplane),
            router,
            secrets: SecretFiles::new(self.secrets().to_owned()),
            workload_addresses: WorkloadAddresses::default(),
            devices: None,
            tunnel_addresses: watch::Sender::default(),
            settings: watch::Sender::new(FelixConfigurationSpec::default()),
            metrics: Metrics::default(),
            progress,
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(node.run(async move { drop(stopped.await) }));
        self.nodes.insert(name, Running { view, progress: watcher, stop: Some(stop), task });
    }

    pub(crate) fn secrets(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn view(&self, node: &str) -> RouterView {
        self.nodes[node].view.clone()
    }

    /// Waits until both agents have done what the datastore said up to `revision`.
    pub(crate) async fn settle(&self, revision: Revision) {
        // What is acknowledged in the kernel may not be with the speaker yet. The loop does one
        // thing after the other: when it has acknowledged the next thing, it has done this.
        for target in [Some(revision), None] {
            let target = match target {
                Some(revision) => revision,
                None => self.put(Kind::IpReservation, "next", json!({"reservedCIDRs": []})).await,
            };
            for (name, node) in &self.nodes {
                let mut progress = node.progress.clone();
                let reached = progress.wait_for(|progress| progress.store >= target);
                let waited = tokio::time::timeout(PATIENCE, reached).await;
                assert!(matches!(waited, Ok(Ok(_))), "{name} did not get to {target:?}");
            }
        }
    }

    /// The session of a node with an address.
    pub(crate) async fn session(&self, node: &str, with: Ipv4Addr) -> Option<(State, Uptime)> {
        let report = self.nodes[node].view.report().await?;
        let (_, peer) = report.peers.into_iter().find(|(_, peer)| peer.config.address == with)?;
        let uptime = Uptime { since: peer.since, established: peer.counters.established };
        Some((peer.state, uptime))
    }

    /// Waits for a session, and says since when it is up.
    pub(crate) async fn established(&self, node: &str, with: Ipv4Addr) -> Uptime {
        self.until(&format!("session of {node} with {with}"), async || {
            let session = self.session(node, with).await?;
            (session.0 == State::Established).then_some(session.1)
        })
        .await
    }

    /// Waits for something to be there.
    pub(crate) async fn until<T>(&self, what: &str, look: impl AsyncFn() -> Option<T>) -> T {
        let started = Instant::now();
        loop {
            if let Some(found) = look().await {
                return found;
            }
            if started.elapsed() > PATIENCE {
                let states = self.states().await;
                panic!("{what}: not within {PATIENCE:?}; sessions: {states:#?}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn states(&self) -> Vec<String> {
        let mut states = Vec::new();
        for (name, node) in &self.nodes {
            for (_, peer) in node.view.report().await.map(|report| report.peers).unwrap_or_default()
            {
                states.push(format!(
                    "{name} with {}: {} ({:?})",
                    peer.config.address, peer.state, peer.last_error
                ));
            }
        }
        states
    }

    /// The router outside: it waits for the nodes.
    pub(crate) async fn tor(&self, change: impl Fn(&mut PeerConfig)) -> SpeakerHandle {
        let address = self.address("tor");
        let mut config = Config::new(TOR_AS, address);
        config.listen = vec![SocketAddr::new(address.into(), self.port)];
        let tor = SpeakerHandle::spawn(config).unwrap();
        self.set_tor_peers(&tor, change).await;
        tor
    }

    pub(crate) async fn set_tor_peers(
        &self,
        tor: &SpeakerHandle,
        change: impl Fn(&mut PeerConfig),
    ) {
        let peers = ["a", "b"].map(|name| {
            let mut peer = PeerConfig::new(IpAddr::V4(self.address(name)), 64_512);
            peer.port = self.port;
            peer.passive = true;
            peer.local_address = Some(self.address("tor").into());
            change(&mut peer);
            peer
        });
        tor.set_peers(peers.to_vec()).await.unwrap().unwrap();
    }

    /// Ends the agents.
    pub(crate) async fn stop(mut self) {
        for (_, mut node) in std::mem::take(&mut self.nodes) {
            drop(node.stop.take());
            node.task.await.unwrap();
        }
    }
}

/// The route of a table to a prefix, if there is one with an accepted path.
pub(crate) fn route<'a>(routes: &'a [RouteView], prefix: &str) -> Option<&'a RouteView> {
    let prefix = prefix.parse().unwrap();
    routes.iter().find(|route| route.prefix == prefix && route.paths.iter().any(|p| p.accepted))
}
