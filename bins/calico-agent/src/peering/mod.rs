//! Which BGP sessions this node has, from Node, BGPPeer and BGPConfiguration resources. Pure.
//!
//! As upstream: a full mesh of the nodes that are no route reflectors, sessions to the peers of
//! global and node-specific BGPPeers, and the mirror sessions of BGPPeers whose `peerSelector`
//! selects this node. IPv4 and IPv6 have sessions of their own, over addresses of their family.

mod filters;
mod plan;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

pub use filters::Advertisement;

use calico_bgp::filter::Filter;
use calico_core::datastore::{Entry, StoreError};
use calico_core::key::Key;
use calico_core::kind::Kind;
use calico_core::resource::{
    BgpConfiguration, BgpConfigurationSpec, BgpFilter, BgpFilterSpec, BgpPeer, BgpPeerSpec,
    NextHopMode, Node,
};
use ipnet::IpNet;

use crate::control::PeerType;

/// One session to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// The peer.
    pub address: IpAddr,
    /// Its TCP port.
    pub port: u16,
    /// Its AS.
    pub remote_as: u32,
    /// Our AS on this session.
    pub local_as: u32,
    /// Our address on this session; the kernel's choice if absent.
    pub local_address: Option<IpAddr>,
    /// Whether we wait for the peer to connect.
    pub passive: bool,
    /// Whether the peer is a client of ours (RFC 4456).
    pub reflector_client: bool,
    /// Next hop of the routes we send.
    pub next_hop: NextHopMode,
    /// The subnet that we share with the peer, if so.
    pub subnet: Option<IpNet>,
    /// Time between keepalives; the hold time is three times this.
    pub keepalive: Option<Duration>,
    /// Restart time that we ask for (RFC 4724).
    pub restart_time: Option<Duration>,
    /// How often our AS may be in a path that the peer sends.
    pub allowed_own_as: u8,
    /// How many hops away the peer is, if packets from further away are to be dropped.
    pub secured_hops: Option<u8>,
    /// Which routes of the peer are used, and how they are changed; all if absent.
    pub import: Option<Filter>,
    /// Which routes the peer is told, and how they are changed; all if absent.
    pub export: Option<Filter>,
    /// Where the session comes from.
    pub peer_type: PeerType,
}

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
    node: String,
    nodes: BTreeMap<String, Node>,
    peers: BTreeMap<String, BgpPeer>,
    configurations: BTreeMap<String, BgpConfigurationSpec>,
    filters: BTreeMap<String, BgpFilterSpec>,
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

    fn global(&self) -> BgpConfigurationSpec {
        self.configurations.get("default").cloned().unwrap_or_default()
    }

    fn listen_port(&self, node: &str) -> u16 {
        let own = self.configurations.get(&format!("node.{node}"));
        own.and_then(|own| own.listen_port).unwrap_or_else(|| self.global().listen_port())
    }

    fn as_number(&self, node: &Node) -> u32 {
        let own = node.spec.bgp.as_ref().and_then(|bgp| bgp.as_number);
        own.unwrap_or_else(|| self.global().as_number()).0
    }
}

fn type_of(spec: &BgpPeerSpec) -> PeerType {
    if spec.node.is_empty() && spec.node_selector.is_empty() {
        PeerType::GlobalPeer
    } else {
        PeerType::NodePeer
    }
}
