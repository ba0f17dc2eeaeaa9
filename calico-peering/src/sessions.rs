//! From BGPPeers and the mesh to sessions.

mod build;
mod workloads;

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use calico_bgp::filter::Filter;
use calico_core::key::Family;
use calico_core::resource::{BgpPeer, BgpPeerSpec, Node, ReversePeering};
use calico_core::selector::{Labels, Selector};
use ipnet::IpNet;

use crate::export::Exports;
use crate::node::{address, cluster_id};
use crate::notes::Note;
use crate::peering::Peering;
use crate::secrets::SecretRef;
use crate::session::{PeerType, Session};

/// Import and export of one list of filters and one family.
type Policies = (Option<Arc<Filter>>, Arc<Filter>);

/// Collects the sessions of one node.
#[derive(Debug)]
pub(crate) struct Sessions<'a> {
    peering: &'a Peering,
    me: &'a Node,
    exports: &'a Exports,
    /// Filters that sessions share.
    policies: HashMap<(Family, &'a [String]), Policies>,
    pub(crate) found: BTreeMap<SocketAddr, Session>,
    pub(crate) gateways: BTreeMap<IpNet, IpAddr>,
    pub(crate) workload_addresses: BTreeMap<String, Vec<IpAddr>>,
    pub(crate) notes: Vec<Note>,
}

/// The far end of a session.
struct Far<'a> {
    address: IpAddr,
    port: Option<u16>,
    asn: u32,
    /// The node, if it was selected as one. A peer given by its address is not, even if it is
    /// one: as upstream, a reflector then takes it for a client.
    node: Option<&'a Node>,
}

impl<'a> Sessions<'a> {
    pub(crate) fn new(
        peering: &'a Peering,
        me: &'a Node,
        exports: &'a Exports,
        notes: Vec<Note>,
    ) -> Self {
        Self {
            peering,
            me,
            exports,
            policies: HashMap::new(),
            found: BTreeMap::new(),
            gateways: BTreeMap::new(),
            workload_addresses: BTreeMap::new(),
            notes,
        }
    }

    /// As upstream: of several that lead to one address and port, global ones win over those for
    /// some nodes, and both over the mirror images of others; the mesh comes last.
    pub(crate) fn all(mut self) -> Self {
        let peers = || self.peering.peers.values();
        let (global, specific): (Vec<_>, Vec<_>) = peers().partition(|peer| is_global(&peer.spec));
        for peer in global.into_iter().chain(specific) {
            if self.is_local_end(self.me, peer) {
                self.add_peer(peer);
            }
        }
        for peer in self.peering.peers.values() {
            self.add_mirror(peer);
        }
        self.add_mesh();
        self
    }

    fn add_peer(&mut self, peer: &'a BgpPeer) {
        let spec = &peer.spec;
        if !spec.local_workload_selector.is_empty() {
            self.add_workloads(peer);
        } else if !spec.peer_selector.is_empty() {
            self.note_with_selector(peer);
            for other in self.others() {
                if self.selects("peerSelector", &spec.peer_selector, &other.metadata.labels, peer) {
                    self.add_node(peer, other, &Family::BOTH);
                }
            }
        } else {
            self.add_address(peer);
        }
    }

    fn add_address(&mut self, peer: &'a BgpPeer) {
        let spec = &peer.spec;
        let Some((address, port)) = spec.peer_address() else {
            let why = format!("{:?} is no address of a peer", spec.peer_ip);
            return self.notes.push(Note::bad(named(peer), "peerIP", why));
        };
        if self.is_own(address) {
            return;
        }
        let Some(reachable_by) = self.reachable_by(peer, address) else { return };
        if spec.as_number.0 == 0 {
            return self.notes.push(Note::bad(named(peer), "asNumber", "a peer has one"));
        }
        let port = port.or_else(|| {
            let node = self.nodes_at(address, spec.as_number.0, None).next()?;
            self.peering.listen_port(node.name())
        });
        let kind = type_of(spec);
        let far = Far { address, port, asn: spec.as_number.0, node: None };
        let Some(mut session) = self.session(&far, spec.local_as_number.map(|asn| asn.0), kind)
        else {
            return self.no_session(peer, address);
        };
        let is_node = self.peering.nodes.values().any(|node| has_address(node, address));
        session.passive = kind == PeerType::GlobalPeer && is_node && self.is_greater(address);
        let allowed = spec.num_allowed_local_as_numbers.unwrap_or_default();
        session.allowed_own_as = u8::try_from(allowed.max(0)).unwrap_or(u8::MAX);
        self.apply(peer, &mut session);
        if self.insert(session)
            && let Some(gateway) = reachable_by
        {
            self.gateways.insert(IpNet::from(address), gateway);
        }
    }

    fn add_node(&mut self, peer: &'a BgpPeer, other: &'a Node, families: &[Family]) {
        for family in families {
            let Some(address) = address(other, *family) else { continue };
            if self.is_own(address) {
                continue;
            }
            let Some(reachable_by) = self.reachable_by(peer, address) else { continue };
            let port = self.peering.listen_port(other.name());
            let asn = self.peering.as_number(other);
            let far = Far { address, port, asn, node: Some(other) };
            // The other node may lack nothing but our family.
            let Some(mut session) = self.session(&far, None, type_of(&peer.spec)) else { continue };
            self.apply(peer, &mut session);
            if self.insert(session)
                && let Some(gateway) = reachable_by
            {
                self.gateways.insert(IpNet::from(address), gateway);
            }
        }
    }

    /// The session of a BGPPeer whose far end is this node.
    fn add_mirror(&mut self, peer: &'a BgpPeer) {
        let spec = &peer.spec;
        let automatic = spec.reverse_peering.unwrap_or_default() == ReversePeering::Auto;
        if !automatic || !spec.local_workload_selector.is_empty() {
            return;
        }
        let families = if spec.peer_selector.is_empty() {
            let Some((address, port)) = spec.peer_address() else { return };
            if !self.nodes_at(address, spec.as_number.0, port).any(|n| n.name() == self.me.name()) {
                return;
            }
            vec![Family::of(address)]
        } else {
            let labels = &self.me.metadata.labels;
            if !self.selects("peerSelector", &spec.peer_selector, labels, peer) {
                return;
            }
            Family::BOTH.to_vec()
        };
        for other in self.others() {
            if self.is_local_end(other, peer) {
                self.add_node(peer, other, &families);
            }
        }
    }

    fn add_mesh(&mut self) {
        let global = self.peering.global();
        let enabled = global.is_none_or(|global| global.node_to_node_mesh_enabled());
        if !enabled || cluster_id(self.me).is_some() {
            return;
        }
        let reference = global.and_then(|global| global.node_mesh_password.as_ref());
        let reference = reference.and_then(SecretRef::of);
        let password = self.password(reference, "BGPConfiguration default");
        let restart_time = global.and_then(|global| global.node_mesh_max_restart_time);
        for other in self.others() {
            if cluster_id(other).is_some() {
                continue;
            }
            for family in Family::BOTH {
                let Some(address) = address(other, family) else { continue };
                if self.is_own(address) || self.found.keys().any(|key| key.ip() == address) {
                    continue;
                }
                let port = self.peering.listen_port(other.name());
                let asn = self.peering.as_number(other);
                let far = Far { address, port, asn, node: Some(other) };
                let Some(mut session) = self.session(&far, None, PeerType::NodeMesh) else {
                    continue;
                };
                session.passive = self.is_greater(address);
                session.restart_time = restart_time.map(|time| time.0);
                session.password.clone_from(&password);
                self.set_policies(&[], "", &mut session);
                self.insert(session);
            }
        }
    }

    /// Whether the session is new; one that is there wins.
    fn insert(&mut self, session: Session) -> bool {
        let key = SocketAddr::new(session.address, session.port);
        if self.found.contains_key(&key) {
            return false;
        }
        self.found.insert(key, session);
        true
    }

    /// Whether a BGPPeer is for this node as the near end.
    fn is_local_end(&mut self, node: &Node, peer: &BgpPeer) -> bool {
        let spec = &peer.spec;
        if spec.node_selector.is_empty() {
            return spec.node.is_empty() || spec.node == node.name();
        }
        self.selects("nodeSelector", &spec.node_selector, &node.metadata.labels, peer)
    }

    fn selects(
        &mut self,
        field: &'static str,
        selector: &str,
        labels: &impl Labels,
        peer: &BgpPeer,
    ) -> bool {
        match selector.parse::<Selector>() {
            Ok(selector) => selector.matches(labels),
            Err(error) => {
                self.notes.push(Note::bad(named(peer), field, error));
                false
            }
        }
    }

    /// Nodes with this address and AS number (0: the cluster's) that may listen on this port.
    fn nodes_at(
        &self,
        address: IpAddr,
        asn: u32,
        port: Option<u16>,
    ) -> impl Iterator<Item = &'a Node> {
        let peering = self.peering;
        let asn = if asn == 0 { peering.global_as() } else { asn };
        peering.nodes.values().filter(move |node| {
            has_address(node, address)
                && peering.as_number(node) == asn
                && port.is_none_or(|port| {
                    peering.listen_port(node.name()).is_none_or(|listens| listens == port)
                })
        })
    }

    fn others(&self) -> Vec<&'a Node> {
        let me = self.me.name();
        self.peering.nodes.values().filter(|node| node.name() != me).collect()
    }

    fn is_own(&self, address: IpAddr) -> bool {
        has_address(self.me, address)
    }

    /// As upstream: the texts are compared, not the numbers, and both ends must agree.
    fn is_greater(&self, theirs: IpAddr) -> bool {
        let own = address(self.me, Family::of(theirs));
        own.is_some_and(|own| theirs.to_string() > own.to_string())
    }
}

fn has_address(node: &Node, wanted: IpAddr) -> bool {
    address(node, Family::of(wanted)) == Some(wanted)
}

fn is_global(spec: &BgpPeerSpec) -> bool {
    spec.node.is_empty() && spec.node_selector.is_empty()
}

fn type_of(spec: &BgpPeerSpec) -> PeerType {
    if is_global(spec) { PeerType::GlobalPeer } else { PeerType::NodePeer }
}

fn named(peer: &BgpPeer) -> String {
    format!("BGPPeer {}", peer.name())
}
