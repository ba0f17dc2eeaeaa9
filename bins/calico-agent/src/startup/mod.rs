//! What a node does about itself at its start, as upstream's calico-node: it finds its addresses
//! and writes them to its Node, and makes what a new cluster lacks, among it the first pools.
//!
//! Variables say how, with upstream's names: `IP`, `IP6`, `IP_AUTODETECTION_METHOD`,
//! `IP6_AUTODETECTION_METHOD`, `AUTODETECT_POLL_INTERVAL`, `AS`, `CALICO_NETWORKING_BACKEND`,
//! `CALICO_K8S_NODE_REF`, `CLUSTER_TYPE`, `DISABLE_NODE_IP_CHECK`, `NO_DEFAULT_POOLS`,
//! `CALICO_IPV4POOL_...` and `CALICO_IPV6POOL_...`.

pub mod condition;
pub mod detect;
pub mod pools;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use calico_core::Datastore;
use calico_core::datastore::StoreError;
use calico_core::key::{Key, Scope};
use calico_core::kind::Kind;
use calico_core::resource::{
    BgpConfiguration, ClusterInformation, FelixConfiguration, IpPool, Node, NodeAddress,
    NodeAddressType, NodeBgp, NodeCidr, OrchRef,
};
use calico_datastore::KubernetesStore;
use calico_netlink::link::LinkFilter;
use calico_netlink::rtnl::Connection;
use calico_netlink::{address, link};
use ipnet::IpNet;
use serde_json::json;
use tracing::{error, info, warn};

use self::detect::{Interface, Method, with_network};
use crate::init::create;

/// How often addresses are looked for again where they are to be found (upstream's default).
const POLL: Duration = Duration::from_secs(60);
/// When a start that the datastore was in the way of is tried again.
const RETRY: Duration = Duration::from_secs(2);
/// Attempts at an object that others write, too.
const ATTEMPTS: usize = 5;

/// How to start.
#[derive(Debug, Clone)]
pub struct Startup {
    /// Name of this node.
    pub node: String,
    /// The cluster's API server, where it is the datastore.
    pub kubernetes: Option<KubernetesStore>,
    /// Variables that win over those of the environment.
    pub variables: BTreeMap<String, String>,
}

/// What the variables say about one family's address.
#[derive(Debug, Clone)]
enum Wish {
    /// To be found, also later.
    Find(Method),
    /// To be found if the Node has none.
    FindIfMissing(Method),
    /// This one; its network is that of the interface that has it, if it names none.
    This(IpAddr, Option<IpNet>),
    /// None.
    Never,
    /// As the Node has it.
    Keep,
}

/// Why a start failed.
#[derive(Debug, thiserror::Error)]
enum StartupError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{0}")]
    Wrong(String),
}

impl Startup {
    /// Starts the node, and looks after its addresses for as long as they are to be found. Tries
    /// again for as long as something is in the way.
    pub async fn run(self, store: Arc<dyn Datastore>, state_dir: std::path::PathBuf) {
        let mut done = false;
        loop {
            let wait = match self.start(&*store, &state_dir, done).await {
                Ok(true) => {
                    done = true;
                    self.poll()
                }
                Ok(false) => return,
                Err(StartupError::Store(StoreError::Unavailable { .. })) => RETRY,
                Err(reason) => {
                    error!(%reason, "the node's start is not complete");
                    self.poll()
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    /// Whether it is to be done again later.
    async fn start(
        &self,
        store: &dyn Datastore,
        state_dir: &Path,
        again: bool,
    ) -> Result<bool, StartupError> {
        let wrong = StartupError::Wrong;
        let interfaces = interfaces().map_err(|error| wrong(error.to_string()))?;
        let wishes = [self.wish(false).map_err(wrong)?, self.wish(true).map_err(wrong)?];
        self.write_node(store, &wishes, &interfaces).await?;
        if !again {
            let kubeadm = match &self.kubernetes {
                Some(kubernetes) => kubernetes.kubeadm_pod_subnets().await?.unwrap_or_default(),
                None => String::new(),
            };
            self.make_pools(store, &kubeadm, &interfaces).await?;
            self.make_defaults(store, !kubeadm.is_empty()).await?;
            let path = state_dir.join("nodename");
            if let Err(error) = std::fs::write(&path, &self.node) {
                warn!(path = %path.display(), %error, "cannot write the node's name for other programs");
            }
        }
        Ok(wishes.iter().any(|wish| matches!(wish, Wish::Find(_))))
    }

    fn variable(&self, name: &str) -> Option<String> {
        let own = self.variables.get(name).cloned();
        own.or_else(|| std::env::var(name).ok()).filter(|text| !text.is_empty())
    }

    fn poll(&self) -> Duration {
        let text = self.variable("AUTODETECT_POLL_INTERVAL").unwrap_or_default();
        let seconds = text.strip_suffix('s').and_then(|number| number.parse().ok());
        seconds.filter(|seconds| *seconds > 0).map_or(POLL, Duration::from_secs)
    }

    fn wish(&self, v6: bool) -> Result<Wish, String> {
        let name = if v6 { "IP6" } else { "IP" };
        if self.variable("CALICO_NETWORKING_BACKEND").is_some_and(|backend| backend == "none") {
            return Ok(Wish::Keep);
        }
        let method = || {
            let text = self.variable(&format!("{name}_AUTODETECTION_METHOD"));
            Method::parse(&text.unwrap_or_default())
                .map_err(|reason| format!("{name}_AUTODETECTION_METHOD: {reason}"))
        };
        match self.variable(name).as_deref() {
            None if v6 => Ok(Wish::Keep),
            None => Ok(Wish::FindIfMissing(method()?)),
            Some("none") => Ok(Wish::Never),
            Some("autodetect") => Ok(Wish::Find(method()?)),
            Some(text) => {
                let net = text.parse::<IpNet>().ok();
                let address = net.map(|net| net.addr()).or_else(|| text.parse().ok());
                let address = address.filter(|address| address.is_ipv6() == v6);
                let address = address.ok_or_else(|| {
                    format!("{name}={text}: neither autodetect, none, nor an address")
                })?;
                Ok(Wish::This(address, net))
            }
        }
    }

    /// Writes the node's addresses and number, unless others have the addresses.
    async fn write_node(
        &self,
        store: &dyn Datastore,
        wishes: &[Wish; 2],
        interfaces: &[Interface],
    ) -> Result<(), StartupError> {
        let key = Key::resource(Kind::Node, None, &self.node);
        for _ in 0..ATTEMPTS {
            let stored = store.find(&key).await?;
            let mut node: Node = match &stored {
                Some(entry) => entry.decode()?,
                None => Node::new(&self.node, <_>::default()),
            };
            let before = node.clone();
            self.fill(&mut node, wishes, interfaces)?;
            if node == before && stored.is_some() {
                return Ok(());
            }
            self.check_conflicts(store, &node).await?;
            let written = match stored {
                Some(entry) => store.update(key.clone(), node.to_json(), entry.revision).await,
                None => store.create(key.clone(), node.to_json()).await,
            };
            match written {
                Ok(_) => {
                    let bgp = node.spec.bgp.unwrap_or_default();
                    let text = |cidr: Option<NodeCidr>| {
                        cidr.map_or_else(|| "none".to_owned(), |cidr| cidr.0.to_string())
                    };
                    let (ipv4, ipv6) = (text(bgp.ipv4_address), text(bgp.ipv6_address));
                    info!(node = self.node, ipv4, ipv6, "wrote this node's addresses");
                    return Ok(());
                }
                Err(error) if error.is_conflict() || error.is_not_found() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(StartupError::Wrong(format!("others keep writing {key}")))
    }

    fn fill(
        &self,
        node: &mut Node,
        wishes: &[Wish; 2],
        interfaces: &[Interface],
    ) -> Result<(), StartupError> {
        let known = node.spec.addresses.iter();
        let known = known.filter(|it| it.kind == Some(NodeAddressType::InternalIp));
        let internal: Vec<IpAddr> =
            known.filter_map(|it| it.address.split('/').next()?.parse().ok()).collect();
        let mut bgp: NodeBgp = node.spec.bgp.clone().unwrap_or_default();
        for (v6, wish) in [false, true].into_iter().zip(wishes) {
            let current = if v6 { &mut bgp.ipv6_address } else { &mut bgp.ipv4_address };
            let found = match wish {
                Wish::Keep => continue,
                Wish::FindIfMissing(_) if current.is_some() => continue,
                Wish::Never => None,
                Wish::This(address, net) => {
                    let net = net.or_else(|| with_network(*address, interfaces));
                    Some(net.unwrap_or_else(|| IpNet::from(*address)))
                }
                Wish::Find(method) | Wish::FindIfMissing(method) => {
                    match method.find(v6, interfaces, &internal) {
                        Some(found) => Some(found),
                        // A cable that is out for a moment is no reason to forget the address.
                        None if current.is_some() => continue,
                        None => {
                            let digit = if v6 { 6 } else { 4 };
                            return Err(StartupError::Wrong(format!(
                                "no IPv{digit} address of this host fits; set IP or its \
                                 autodetection method"
                            )));
                        }
                    }
                }
            };
            *current = found.map(NodeCidr::from);
        }
        if let Some(text) = self.variable("AS") {
            let number = serde_json::from_value(json!(text));
            let number =
                number.map_err(|error| StartupError::Wrong(format!("AS={text}: {error}")))?;
            bgp.as_number = Some(number);
        }
        if bgp != NodeBgp::default() || node.spec.bgp.is_some() {
            node.spec.bgp = Some(bgp.clone());
        }
        // Kubernetes has both of its own.
        if self.kubernetes.is_none() {
            let own = [&bgp.ipv4_address, &bgp.ipv6_address].into_iter().flatten();
            let own = own.map(|cidr| NodeAddress {
                address: cidr.0.to_string(),
                kind: Some(NodeAddressType::CalicoNodeIp),
                ..NodeAddress::default()
            });
            let others = node.spec.addresses.iter();
            let others =
                others.filter(|it| it.kind != Some(NodeAddressType::CalicoNodeIp)).cloned();
            node.spec.addresses = own.chain(others.collect::<Vec<_>>()).collect();
            if let Some(name) = self.variable("CALICO_K8S_NODE_REF") {
                let reference =
                    OrchRef { node_name: name, orchestrator: "k8s".into(), ..OrchRef::default() };
                node.spec.orch_refs.retain(|it| it.orchestrator != "k8s");
                node.spec.orch_refs.push(reference);
            }
        }
        Ok(())
    }

    async fn check_conflicts(&self, store: &dyn Datastore, own: &Node) -> Result<(), StartupError> {
        if self.variable("DISABLE_NODE_IP_CHECK").is_some_and(|text| text == "true") {
            return Ok(());
        }
        for entry in store.list(&Scope::Kind(Kind::Node)).await?.entries {
            // One that cannot be read takes nobody's address.
            let Ok(other) = entry.decode::<Node>() else { continue };
            if other.metadata.name == self.node {
                continue;
            }
            let (Some(bgp), Some(own)) = (&other.spec.bgp, &own.spec.bgp) else { continue };
            for (own, theirs) in
                [(&own.ipv4_address, &bgp.ipv4_address), (&own.ipv6_address, &bgp.ipv6_address)]
            {
                if let (Some(own), Some(theirs)) = (own, theirs)
                    && own.0.addr() == theirs.0.addr()
                {
                    return Err(StartupError::Wrong(format!(
                        "node {} has the address {} already; give each node its own, or set \
                         DISABLE_NODE_IP_CHECK",
                        other.metadata.name,
                        own.0.addr()
                    )));
                }
            }
        }
        Ok(())
    }

    async fn make_pools(
        &self,
        store: &dyn Datastore,
        kubeadm: &str,
        interfaces: &[Interface],
    ) -> Result<(), StartupError> {
        let entries = store.list(&Scope::Kind(Kind::IpPool)).await?.entries;
        let existing: Vec<IpNet> =
            entries.iter().filter_map(|it| Some(it.decode::<IpPool>().ok()?.spec.cidr)).collect();
        let host: Vec<IpNet> =
            interfaces.iter().flat_map(|interface| interface.addresses.clone()).collect();
        let variable = |name: &str| self.variable(name);
        let wanted = pools::wanted(&variable, kubeadm, &existing, &host, random());
        for pool in wanted.map_err(StartupError::Wrong)? {
            info!(pool = pool.metadata.name, cidr = %pool.spec.cidr, "the cluster has no pool yet");
            create(store, pool.key(), &pool).await?;
        }
        Ok(())
    }

    /// What upstream's other programs and its users expect to be there.
    async fn make_defaults(
        &self,
        store: &dyn Datastore,
        kubeadm: bool,
    ) -> Result<(), StartupError> {
        let felix = |name: String, spec: serde_json::Value| {
            let spec = serde_json::from_value(spec);
            let spec = spec.map_err(|error| StartupError::Wrong(error.to_string()))?;
            Ok::<_, StartupError>(FelixConfiguration::new(name, spec))
        };
        let usual = json!({"reportingInterval": "0s", "logSeverityScreen": "Info"});
        let usual = felix("default".to_owned(), usual)?;
        create(store, usual.key(), &usual).await?;
        if self.kubernetes.is_none() {
            let own = json!({"defaultEndpointToHostAction": "Return"});
            let own = felix(format!("node.{}", self.node), own)?;
            create(store, own.key(), &own).await?;
        }
        let bgp = BgpConfiguration::new("default", <_>::default());
        create(store, bgp.key(), &bgp).await?;
        self.add_cluster_type(store, kubeadm).await
    }

    /// Says what kind of cluster it is, beside what others say.
    async fn add_cluster_type(
        &self,
        store: &dyn Datastore,
        kubeadm: bool,
    ) -> Result<(), StartupError> {
        let named = self.variable("CLUSTER_TYPE").unwrap_or_default();
        let own = named.split(',').map(str::trim).filter(|part| !part.is_empty());
        let own = own.chain(kubeadm.then_some("kubeadm"));
        let own: Vec<&str> = own.chain(self.kubernetes.as_ref().map(|_| "kdd")).collect();
        let key = Key::resource(Kind::ClusterInformation, None, "default");
        for _ in 0..ATTEMPTS {
            // Made by the agent at the same time; without it there is nothing to add to yet.
            let Some(entry) = store.find(&key).await? else {
                return Err(
                    StoreError::Unavailable { reason: format!("{key} is not made yet") }.into()
                );
            };
            let mut cluster: ClusterInformation = entry.decode()?;
            let before = cluster.spec.cluster_type.clone();
            let mut parts: Vec<&str> = before.split(',').filter(|part| !part.is_empty()).collect();
            for part in &own {
                if !parts.contains(part) {
                    parts.push(part);
                }
            }
            let after = parts.join(",");
            if after == before {
                return Ok(());
            }
            cluster.spec.cluster_type = after;
            match store.update(key.clone(), cluster.to_json(), entry.revision).await {
                Err(error) if error.is_conflict() => {}
                result => return Ok(result.map(drop)?),
            }
        }
        Ok(())
    }
}

/// Interfaces of this host that are up, with their addresses, in the kernel's order.
fn interfaces() -> Result<Vec<Interface>, calico_netlink::rtnl::RtnlError> {
    let mut connection = Connection::open()?;
    let links = link::list(&mut connection, &LinkFilter::default())?;
    let addresses = address::list(&mut connection, None)?;
    let up = links.into_iter().filter(|link| link.up);
    let interface = |link: link::Link| Interface {
        addresses: addresses
            .iter()
            .filter(|it| it.index == link.index)
            .map(|it| it.address)
            .collect(),
        name: link.name,
    };
    Ok(up.map(interface).collect())
}

fn random() -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}
