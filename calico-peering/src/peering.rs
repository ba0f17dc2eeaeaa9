//! The resources that sessions and exports follow from, as they come and go.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use calico_core::datastore::{Entry, StoreError};
use calico_core::key::{Key, OwnerType};
use calico_core::kind::Kind;
use calico_core::resource::{
    AffinityState, BgpConfiguration, BgpConfigurationSpec, BgpFilter, BgpFilterSpec, BgpPeer,
    BlockAffinityValue, IpPoolSpec, Node, Profile, WorkloadEndpoint,
};
use ipnet::IpNet;

use crate::host::HostRoute;
use crate::secrets::{Secret, SecretRef};
use crate::services::Services;

/// What no resource says: upstream has it from the environment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// `CALICO_ROUTER_ID`.
    pub router_id: RouterId,
    /// `CALICO_ADVERTISE_CLUSTER_IPS`: ranges of cluster addresses to announce, whatever
    /// `serviceClusterIPs` of the BGPConfiguration says.
    pub cluster_ips: Option<Vec<IpNet>>,
}

/// Where the BGP identifier is from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RouterId {
    /// The node's IPv4 address; a number made from its name if it has none.
    #[default]
    NodeAddress,
    /// A number made from the node's name.
    NodeName,
    /// This one.
    Fixed(Ipv4Addr),
}

/// A block of this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BlockState {
    /// Announced, and nothing beneath it.
    Confirmed,
    /// On its way out: announced, and so is what lies beneath it.
    PendingDeletion,
}

/// The resources that sessions and exports of one node follow from.
#[derive(Debug)]
pub struct Peering {
    pub(crate) node: String,
    pub(crate) options: Options,
    pub(crate) nodes: BTreeMap<String, Node>,
    pub(crate) peers: BTreeMap<String, BgpPeer>,
    pub(crate) configurations: BTreeMap<String, BgpConfigurationSpec>,
    pub(crate) filters: BTreeMap<String, BgpFilterSpec>,
    pub(crate) pools: BTreeMap<String, IpPoolSpec>,
    pub(crate) blocks: BTreeMap<IpNet, BlockState>,
    /// Endpoints of this node, by namespace and name.
    pub(crate) workloads: BTreeMap<(String, String), WorkloadEndpoint>,
    /// Labels that profiles pass on.
    pub(crate) profiles: BTreeMap<String, BTreeMap<String, String>>,
    pub(crate) services: Services,
    /// What the host has besides.
    pub(crate) host: Vec<HostRoute>,
    pub(crate) secrets: BTreeMap<SecretRef, Secret>,
    /// What names of this node's endpoints begin with.
    workload_prefix: String,
}

impl Peering {
    /// Of the node of this name.
    #[must_use]
    pub fn new(node: impl Into<String>) -> Self {
        Self::with_options(node, Options::default())
    }

    /// Of the node of this name, with settings that are in no resource.
    #[must_use]
    pub fn with_options(node: impl Into<String>, options: Options) -> Self {
        let node = node.into();
        Self {
            workload_prefix: format!("{}-", node.replace('-', "--")),
            node,
            options,
            nodes: BTreeMap::new(),
            peers: BTreeMap::new(),
            configurations: BTreeMap::new(),
            filters: BTreeMap::new(),
            pools: BTreeMap::new(),
            blocks: BTreeMap::new(),
            workloads: BTreeMap::new(),
            profiles: BTreeMap::new(),
            services: Services::default(),
            host: Vec::new(),
            secrets: BTreeMap::new(),
        }
    }

    /// Takes an object of the datastore; others than those that matter here are ignored. Says
    /// whether the plan may have changed.
    ///
    /// # Errors
    ///
    /// [`StoreError::BadObject`]; what was known of the object stays in force.
    pub fn put(&mut self, entry: &Entry) -> Result<bool, StoreError> {
        let (kind, namespace, name) = match &entry.key {
            Key::Affinity { block, .. } if self.is_own(&entry.key) => {
                let value: BlockAffinityValue = entry.decode()?;
                return Ok(self.put_block(*block, &value));
            }
            Key::Resource { kind, namespace, name } => (kind, namespace, name.clone()),
            _ => return Ok(false),
        };
        Ok(match kind {
            Kind::Node => self.put_node(&name, entry.resource()?),
            Kind::BgpPeer => {
                let peer: BgpPeer = entry.resource()?;
                let changed = self.peers.get(&name).is_none_or(|old| old.spec != peer.spec);
                self.peers.insert(name, peer);
                changed
            }
            Kind::BgpFilter => {
                let filter: BgpFilter = entry.resource()?;
                replace(&mut self.filters, name, filter.spec)
            }
            Kind::BgpConfiguration => {
                let configuration: BgpConfiguration = entry.resource()?;
                self.put_configuration(&name, &configuration.spec)
            }
            Kind::IpPool => self.put_pool(&name, &entry.resource::<IpPoolSpec>()?.spec),
            Kind::Profile => {
                let profile: Profile = entry.resource()?;
                self.put_labels(&name, &profile.spec.labels_to_apply)
            }
            Kind::WorkloadEndpoint if name.starts_with(&self.workload_prefix) => self.put_workload(
                namespace.as_deref().unwrap_or_default(),
                &name,
                entry.resource()?,
            ),
            Kind::KubernetesService => self.put_service(entry, named(namespace, &name))?,
            Kind::KubernetesEndpointSlice => {
                self.put_slice(namespace.as_deref().unwrap_or_default(), &name, &entry.resource()?)
            }
            _ => false,
        })
    }

    /// As [`put`](Self::put), of a Node that somebody has read already.
    pub fn put_node(&mut self, name: &str, node: Node) -> bool {
        let same =
            |old: &Node| old.spec == node.spec && old.metadata.labels == node.metadata.labels;
        let changed = !self.nodes.get(name).is_some_and(same);
        self.nodes.insert(name.to_owned(), node);
        changed
    }

    /// As [`put`](Self::put), of an IPPool that somebody has read already.
    pub fn put_pool(&mut self, name: &str, pool: &IpPoolSpec) -> bool {
        differs(&mut self.pools, name, pool)
    }

    /// As [`put`](Self::put), of a BGPConfiguration that somebody has read already.
    pub fn put_configuration(&mut self, name: &str, configuration: &BgpConfigurationSpec) -> bool {
        differs(&mut self.configurations, name, configuration)
    }

    /// As [`put`](Self::put), of the labels that a Profile passes on.
    pub fn put_labels(&mut self, name: &str, labels: &BTreeMap<String, String>) -> bool {
        differs(&mut self.profiles, name, labels) && self.has_workload_peers()
    }

    /// As [`put`](Self::put), of a WorkloadEndpoint that somebody has read already. Those that are not
    /// called as this node's are ignored.
    pub fn put_workload(
        &mut self,
        namespace: &str,
        name: &str,
        workload: WorkloadEndpoint,
    ) -> bool {
        if !name.starts_with(&self.workload_prefix) {
            return false;
        }
        self.workloads.insert((namespace.to_owned(), name.to_owned()), workload);
        self.has_workload_peers()
    }

    /// As [`gone`](Self::gone), of a WorkloadEndpoint: it is gone, or none of this node. Most are
    /// told apart by their names.
    pub fn workload_gone(&mut self, namespace: &str, name: &str) -> bool {
        name.starts_with(&self.workload_prefix)
            && self.workloads.remove(&(namespace.to_owned(), name.to_owned())).is_some()
            && self.has_workload_peers()
    }

    /// As [`put`](Self::put), of a block that this node claims, if somebody has read the claim
    /// already.
    pub fn put_block(&mut self, block: IpNet, claim: &BlockAffinityValue) -> bool {
        let state = match claim.state {
            // As upstream: without a state, the claim was made when there was none to go through.
            None | Some(AffinityState::Confirmed) if !claim.deleted => BlockState::Confirmed,
            Some(AffinityState::Pending) => return self.blocks.remove(&block).is_some(),
            _ => BlockState::PendingDeletion,
        };
        replace(&mut self.blocks, block, state)
    }

    /// Forgets an object. Says whether the plan may have changed.
    pub fn gone(&mut self, key: &Key) -> bool {
        let (kind, namespace, name) = match key {
            Key::Affinity { block, .. } if self.is_own(key) => {
                return self.blocks.remove(block).is_some();
            }
            Key::Resource { kind, namespace, name } => (kind, namespace, name),
            _ => return false,
        };
        match kind {
            Kind::Node => self.nodes.remove(name).is_some(),
            Kind::BgpPeer => self.peers.remove(name).is_some(),
            Kind::BgpFilter => self.filters.remove(name).is_some(),
            Kind::BgpConfiguration => self.configurations.remove(name).is_some(),
            Kind::IpPool => self.pools.remove(name).is_some(),
            Kind::Profile => self.profiles.remove(name).is_some() && self.has_workload_peers(),
            Kind::WorkloadEndpoint => {
                self.workload_gone(namespace.as_deref().unwrap_or_default(), name)
            }
            Kind::KubernetesService => self.service_gone(&named(namespace, name)),
            Kind::KubernetesEndpointSlice => self.slice_gone(&named(namespace, name)),
            _ => false,
        }
    }

    /// The passwords that resources refer to, to be brought with
    /// [`set_secret`](Self::set_secret). A changed BGPPeer or BGPConfiguration may change them.
    #[must_use]
    pub fn wanted_secrets(&self) -> BTreeSet<SecretRef> {
        let own = self.peers.values().filter_map(|peer| peer.spec.password.as_ref());
        let mesh = self.global().and_then(|global| global.node_mesh_password.as_ref());
        own.chain(mesh).filter_map(SecretRef::of).collect()
    }

    /// Brings a password, or why there is none. Says whether the plan may have changed.
    pub fn set_secret(&mut self, reference: SecretRef, secret: Secret) -> bool {
        replace(&mut self.secrets, reference, secret)
    }

    /// Brings the routes that the host has besides Calico's. Says whether the plan may have
    /// changed.
    pub fn set_host_routes(&mut self, routes: Vec<HostRoute>) -> bool {
        let changed = self.host != routes;
        self.host = routes;
        changed
    }

    /// The addresses of all nodes.
    pub fn node_addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.nodes.values().flat_map(|node| {
            let v4 = node.spec.ipv4().map(IpAddr::V4);
            v4.into_iter().chain(node.spec.ipv6().map(IpAddr::V6))
        })
    }

    pub(crate) fn global(&self) -> Option<&BgpConfigurationSpec> {
        self.configurations.get("default")
    }

    pub(crate) fn own_configuration(&self) -> Option<&BgpConfigurationSpec> {
        self.configuration_of(&self.node)
    }

    /// The port that a node is told to listen on, if it is.
    pub(crate) fn listen_port(&self, node: &str) -> Option<u16> {
        let own = self.configuration_of(node).and_then(|own| own.listen_port);
        own.or_else(|| self.global()?.listen_port)
    }

    pub(crate) fn global_as(&self) -> u32 {
        self.global().map_or(BgpConfigurationSpec::DEFAULT_AS_NUMBER, |g| g.as_number()).0
    }

    pub(crate) fn as_number(&self, node: &Node) -> u32 {
        let own = node.spec.bgp.as_ref().and_then(|bgp| bgp.as_number);
        own.map_or_else(|| self.global_as(), |own| own.0)
    }

    fn configuration_of(&self, node: &str) -> Option<&BgpConfigurationSpec> {
        self.configurations.get(&format!("node.{node}"))
    }

    fn is_own(&self, key: &Key) -> bool {
        matches!(key, Key::Affinity { owner_type: OwnerType::Host, owner, .. }
            if *owner == self.node)
    }

    fn has_workload_peers(&self) -> bool {
        self.peers.values().any(|peer| !peer.spec.local_workload_selector.is_empty())
    }
}

fn named(namespace: &Option<String>, name: &str) -> (String, String) {
    (namespace.clone().unwrap_or_default(), name.to_owned())
}

/// Takes over a value that is another than before; says whether it is.
fn differs<V: PartialEq + Clone>(map: &mut BTreeMap<String, V>, name: &str, value: &V) -> bool {
    let changed = map.get(name) != Some(value);
    if changed {
        map.insert(name.to_owned(), value.clone());
    }
    changed
}

/// Inserts a value; says whether it was not there before.
fn replace<K: Ord, V: PartialEq>(map: &mut BTreeMap<K, V>, key: K, value: V) -> bool {
    let changed = map.get(&key) != Some(&value);
    map.insert(key, value);
    changed
}
