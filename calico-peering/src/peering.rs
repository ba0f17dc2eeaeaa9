//! The resources that sessions follow from.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use calico_core::datastore::{Entry, StoreError};
use calico_core::key::Key;
use calico_core::kind::Kind;
use calico_core::resource::{
    BgpConfiguration, BgpConfigurationSpec, BgpFilter, BgpFilterSpec, BgpPeer, BgpPeerSpec, Node,
};

use crate::filters::Advertisement;
use crate::session::{PeerType, Session};

/// Everything a speaker of this node needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpeakerPlan {
    /// AS of this node.
    pub local_as: u32,
    /// Router id: the node's IPv4 address, else a number made from its name.
    pub router_id: Ipv4Addr,
    /// TCP port to listen on.
    pub listen_port: u16,
    /// Cluster id, if this node reflects routes (RFC 4456).
    pub cluster_id: Option<Ipv4Addr>,
    /// Next hop of this node's own IPv4 prefixes.
    pub ipv4: Option<IpAddr>,
    /// Next hop of this node's own IPv6 prefixes.
    pub ipv6: Option<IpAddr>,
    /// What this node's own prefixes are announced with.
    pub advertisements: Vec<Advertisement>,
    /// Sessions, sorted by address.
    pub sessions: Vec<Session>,
}

/// The resources that sessions follow from.
#[derive(Debug)]
pub struct Peering {
    pub(crate) node: String,
    pub(crate) nodes: BTreeMap<String, Node>,
    pub(crate) peers: BTreeMap<String, BgpPeer>,
    pub(crate) configurations: BTreeMap<String, BgpConfigurationSpec>,
    pub(crate) filters: BTreeMap<String, BgpFilterSpec>,
}

impl Peering {
    /// Of the node of this name.
    #[must_use]
    pub const fn new(node: String) -> Self {
        Self {
            node,
            nodes: BTreeMap::new(),
            peers: BTreeMap::new(),
            configurations: BTreeMap::new(),
            filters: BTreeMap::new(),
        }
    }

    /// Takes a resource; others than those that matter here are ignored. Says whether the plan
    /// may have changed.
    ///
    /// # Errors
    ///
    /// [`StoreError::BadObject`]; what was known of the object stays in force.
    pub fn put(&mut self, entry: &Entry) -> Result<bool, StoreError> {
        let Key::Resource { kind, name, .. } = &entry.key else { return Ok(false) };
        match kind {
            Kind::Node => {
                let node: Node = entry.decode()?;
                let old = self.nodes.insert(name.clone(), node);
                let new = &self.nodes[name];
                Ok(!old.is_some_and(|old| {
                    old.spec == new.spec && old.metadata.labels == new.metadata.labels
                }))
            }
            Kind::BgpPeer => {
                self.peers.insert(name.clone(), entry.decode()?);
                Ok(true)
            }
            Kind::BgpFilter => {
                let filter: BgpFilter = entry.decode()?;
                self.filters.insert(name.clone(), filter.spec);
                Ok(true)
            }
            Kind::BgpConfiguration => {
                let configuration: BgpConfiguration = entry.decode()?;
                self.configurations.insert(name.clone(), configuration.spec);
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Forgets a resource. Says whether the plan may have changed.
    pub fn gone(&mut self, key: &Key) -> bool {
        let Key::Resource { kind, name, .. } = key else { return false };
        match kind {
            Kind::Node => self.nodes.remove(name).is_some(),
            Kind::BgpPeer => self.peers.remove(name).is_some(),
            Kind::BgpFilter => self.filters.remove(name).is_some(),
            Kind::BgpConfiguration => self.configurations.remove(name).is_some(),
            _ => false,
        }
    }

    /// The addresses of all nodes.
    pub fn node_addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.nodes.values().flat_map(|node| {
            let v4 = node.spec.ipv4().map(IpAddr::V4);
            v4.into_iter().chain(node.spec.ipv6().map(IpAddr::V6))
        })
    }

    pub(crate) fn global(&self) -> BgpConfigurationSpec {
        self.configurations.get("default").cloned().unwrap_or_default()
    }

    pub(crate) fn listen_port(&self, node: &str) -> u16 {
        let own = self.configurations.get(&format!("node.{node}"));
        own.and_then(|own| own.listen_port).unwrap_or_else(|| self.global().listen_port())
    }

    pub(crate) fn as_number(&self, node: &Node) -> u32 {
        let own = node.spec.bgp.as_ref().and_then(|bgp| bgp.as_number);
        own.unwrap_or_else(|| self.global().as_number()).0
    }
}

pub(crate) fn type_of(spec: &BgpPeerSpec) -> PeerType {
    if spec.node.is_empty() && spec.node_selector.is_empty() {
        PeerType::GlobalPeer
    } else {
        PeerType::NodePeer
    }
}
