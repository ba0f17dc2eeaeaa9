//! The plan: every session of the node.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use calico_core::key::Family;
use calico_core::resource::{
    BgpPeer, BgpPeerSpec, Cidr, NextHopMode, Node, ReversePeering, SourceAddress,
};
use calico_core::selector::Selector;
use ipnet::IpNet;
use tracing::warn;

use crate::filters::{Direction, advertisements, filter};
use crate::peering::{Peering, SpeakerPlan, type_of};
use crate::session::{PeerType, Session};

impl Peering {
    /// The plan, or `None` while this node has no BGP address.
    #[must_use]
    pub fn plan(&self) -> Option<SpeakerPlan> {
        let me = self.nodes.get(&self.node)?;
        let (ipv4, ipv6) = (address(me, Family::V4), address(me, Family::V6));
        if ipv4.is_none() && ipv6.is_none() {
            return None;
        }
        let mut sessions = BTreeMap::new();
        // A session that somebody asked for by name wins over one that merely follows.
        for (_, peer) in self.selected(|peer| type_of(&peer.spec) == PeerType::NodePeer) {
            self.add_peer(me, peer, &mut sessions);
        }
        for (_, peer) in self.selected(|peer| type_of(&peer.spec) == PeerType::GlobalPeer) {
            self.add_peer(me, peer, &mut sessions);
        }
        for peer in self.peers.values() {
            self.add_mirror(me, peer, &mut sessions);
        }
        self.add_mesh(me, &mut sessions);
        Some(SpeakerPlan {
            local_as: self.as_number(me),
            router_id: router_id(ipv4, &self.node),
            listen_port: self.listen_port(&self.node),
            cluster_id: cluster_id(me),
            ipv4,
            ipv6,
            advertisements: advertisements(
                self.configurations.get(&format!("node.{}", self.node)),
                &self.global(),
            ),
            sessions: sessions.into_values().collect(),
        })
    }

    fn selected(
        &self,
        wanted: impl Fn(&BgpPeer) -> bool,
    ) -> impl Iterator<Item = (&String, &BgpPeer)> {
        let me = self.nodes.get(&self.node);
        self.peers.iter().filter(move |(_, peer)| {
            wanted(peer) && me.is_some_and(|me| is_local_end(me, &peer.spec))
        })
    }

    fn add_peer(&self, me: &Node, peer: &BgpPeer, sessions: &mut BTreeMap<IpAddr, Session>) {
        let spec = &peer.spec;
        if !spec.peer_selector.is_empty() {
            for other in self.others().filter(|other| selects(&spec.peer_selector, other)) {
                self.add_node(me, other, spec, sessions);
            }
        } else if let Some((address, port)) = spec.peer_address() {
            // The peer may be a node of the cluster, named by its address.
            let node = self.others().find(|node| {
                [Family::V4, Family::V6].iter().any(|f| self::address(node, *f) == Some(address))
            });
            let node_port = node.map_or(179, |node| self.listen_port(node.name()));
            let mut session =
                self.session(me, address, port.unwrap_or(node_port), spec.as_number.0);
            session.peer_type = type_of(spec);
            self.apply_spec(me, spec, node, &mut session);
            sessions.entry(address).or_insert(session);
        }
    }

    /// The other end of a BGPPeer whose `peerSelector` selects this node.
    fn add_mirror(&self, me: &Node, peer: &BgpPeer, sessions: &mut BTreeMap<IpAddr, Session>) {
        let spec = &peer.spec;
        let automatic = spec.reverse_peering.unwrap_or_default() == ReversePeering::Auto;
        if spec.peer_selector.is_empty() || !automatic || !selects(&spec.peer_selector, me) {
            return;
        }
        for other in self.others().filter(|other| is_local_end(other, spec)) {
            self.add_node(me, other, spec, sessions);
        }
    }

    fn add_node(
        &self,
        me: &Node,
        other: &Node,
        spec: &BgpPeerSpec,
        sessions: &mut BTreeMap<IpAddr, Session>,
    ) {
        for mut session in self.node_sessions(me, other) {
            session.peer_type = type_of(spec);
            self.apply_spec(me, spec, Some(other), &mut session);
            sessions.entry(session.address).or_insert(session);
        }
    }

    fn add_mesh(&self, me: &Node, sessions: &mut BTreeMap<IpAddr, Session>) {
        let global = self.global();
        if !global.node_to_node_mesh_enabled() || cluster_id(me).is_some() {
            return;
        }
        for other in self.others().filter(|other| cluster_id(other).is_none()) {
            for mut session in self.node_sessions(me, other) {
                session.restart_time = global.node_mesh_max_restart_time.map(|time| time.0);
                sessions.entry(session.address).or_insert(session);
            }
        }
    }

    fn node_sessions(&self, me: &Node, other: &Node) -> impl Iterator<Item = Session> {
        Family::BOTH.into_iter().filter_map(|family| {
            let (own, theirs) = (address(me, family)?, address(other, family)?);
            let port = self.listen_port(other.name());
            let mut session = self.session(me, theirs, port, self.as_number(other));
            // As upstream: the texts are compared, not the numbers, and both ends must agree.
            session.passive = theirs.to_string() > own.to_string();
            session.reflector_client = is_client(me, other) && session.is_internal();
            Some(session)
        })
    }

    fn session(&self, me: &Node, address: IpAddr, port: u16, remote_as: u32) -> Session {
        Session {
            address,
            port,
            remote_as,
            local_as: self.as_number(me),
            local_address: self::address(me, Family::of(address)),
            passive: false,
            reflector_client: false,
            next_hop: NextHopMode::Auto,
            subnet: subnet(me, Family::of(address)).filter(|subnet| subnet.contains(&address)),
            keepalive: None,
            restart_time: None,
            allowed_own_as: 0,
            secured_hops: None,
            import: None,
            export: None,
            peer_type: PeerType::NodeMesh,
        }
    }

    fn apply_spec(
        &self,
        me: &Node,
        spec: &BgpPeerSpec,
        node: Option<&Node>,
        session: &mut Session,
    ) {
        if let Some(local_as) = spec.local_as_number {
            session.local_as = local_as.0;
        }
        if spec.source_address == Some(SourceAddress::None) {
            session.local_address = None;
        }
        session.next_hop = spec.next_hop_mode();
        let allowed = spec.num_allowed_local_as_numbers.unwrap_or_default();
        session.allowed_own_as = u8::try_from(allowed.max(0)).unwrap_or(u8::MAX);
        // As upstream, no hops at all means no security.
        session.secured_hops = spec.ttl_security.filter(|hops| *hops > 0);
        let family = Family::of(session.address);
        let filter = |direction| filter(&spec.filters, &self.filters, family, direction);
        (session.import, session.export) = (filter(Direction::Import), filter(Direction::Export));
        session.keepalive = spec.keepalive_time.map(|time| time.0);
        session.restart_time = spec.max_restart_time.map(|time| time.0);
        session.reflector_client = session.is_internal()
            && match node {
                Some(node) => is_client(me, node),
                None => cluster_id(me).is_some(),
            };
    }

    fn others(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|(name, _)| **name != self.node).map(|(_, node)| node)
    }
}

/// The node's BGP address of a family.
fn address(node: &Node, family: Family) -> Option<IpAddr> {
    cidr(node, family).map(|cidr| cidr.addr())
}

fn subnet(node: &Node, family: Family) -> Option<IpNet> {
    cidr(node, family).map(|cidr| cidr.trunc())
}

fn cidr(node: &Node, family: Family) -> Option<Cidr> {
    let bgp = node.spec.bgp.as_ref()?;
    match family {
        Family::V4 => bgp.ipv4_address,
        Family::V6 => bgp.ipv6_address,
    }
}

fn cluster_id(node: &Node) -> Option<Ipv4Addr> {
    let text = &node.spec.bgp.as_ref()?.route_reflector_cluster_id;
    text.parse().ok()
}

/// A reflector's clients are the nodes of another cluster, or of none.
fn is_client(me: &Node, other: &Node) -> bool {
    cluster_id(me).is_some() && cluster_id(me) != cluster_id(other)
}

fn is_local_end(node: &Node, spec: &BgpPeerSpec) -> bool {
    if !spec.node.is_empty() {
        spec.node == node.name()
    } else {
        spec.node_selector.is_empty() || selects(&spec.node_selector, node)
    }
}

fn selects(selector: &str, node: &Node) -> bool {
    match selector.parse::<Selector>() {
        Ok(selector) => selector.matches(&node.metadata.labels),
        Err(error) => {
            warn!(selector, %error, "a BGPPeer is ignored: bad selector");
            false
        }
    }
}

fn router_id(ipv4: Option<IpAddr>, node: &str) -> Ipv4Addr {
    match ipv4 {
        Some(IpAddr::V4(address)) => address,
        // FNV-1a: any stable number that is not zero will do (RFC 6286).
        _ => {
            let hash = node.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
                (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
            });
            Ipv4Addr::from(hash.max(1))
        }
    }
}
