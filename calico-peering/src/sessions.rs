//! From BGPPeers and the mesh to sessions.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use calico_bgp::filter::{Filter, Otherwise};
use calico_bgp::speaker::Password;
use calico_core::key::Family;
use calico_core::resource::{
    BgpPeer, BgpPeerSpec, NextHopMode, Node, ReversePeering, SourceAddress, WorkloadEndpoint,
};
use calico_core::selector::{Labels, Selector};
use ipnet::IpNet;

use crate::export::Exports;
use crate::filters::{self, Direction, Labelled};
use crate::node::{address, cluster_id, subnet};
use crate::notes::{Note, Problem};
use crate::peering::Peering;
use crate::plan::BGP_PORT;
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

    fn add_workloads(&mut self, peer: &'a BgpPeer) {
        let spec = &peer.spec;
        let selected: Vec<&WorkloadEndpoint> = self
            .peering
            .workloads
            .values()
            .filter(|endpoint| endpoint.spec.node == self.peering.node)
            .collect();
        for endpoint in selected {
            let labels = self.labels(endpoint);
            let selector = &spec.local_workload_selector;
            let mine = self.selects("localWorkloadSelector", selector, &labels, peer)
                && self.workload_peer(&labels) == Some(peer.name());
            if mine {
                self.add_workload(peer, endpoint);
            }
        }
    }

    fn add_workload(&mut self, peer: &'a BgpPeer, endpoint: &WorkloadEndpoint) {
        let spec = &peer.spec;
        let global = self.peering.global();
        for family in Family::BOTH {
            let addresses = endpoint.spec.ip_networks.iter().map(|net| net.addr());
            let Some(address) = addresses.into_iter().find(|a| Family::of(*a) == family) else {
                continue;
            };
            let far = Far { address, port: None, asn: spec.as_number.0, node: None };
            let local_as = spec.local_as_number.map(|asn| asn.0);
            let Some(mut session) = self.session(&far, local_as, PeerType::LocalWorkload) else {
                self.no_session(peer, address);
                continue;
            };
            session.passive = true;
            session.local_address = None;
            self.set_policies(&spec.filters, &named(peer), &mut session);
            session.reflector_client = self.is_client(&session, None);
            self.insert(session);
            let ours = global.and_then(|global| match family {
                Family::V4 => global.local_workload_peering_ip_v4.map(IpAddr::V4),
                Family::V6 => global.local_workload_peering_ip_v6.map(IpAddr::V6),
            });
            match ours {
                Some(ours) if !endpoint.spec.interface_name.is_empty() => {
                    let interface = endpoint.spec.interface_name.clone();
                    self.workload_addresses.entry(interface).or_default().push(ours);
                }
                Some(_) => {}
                None => {
                    let field = match family {
                        Family::V4 => "localWorkloadPeeringIPV4",
                        Family::V6 => "localWorkloadPeeringIPV6",
                    };
                    let why = "workloads of this node are BGP peers and have nothing to connect to";
                    let problem = Problem::Missing { field, why };
                    self.notes.push(Note::new("BGPConfiguration default", problem));
                }
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

    /// A session without what a BGPPeer adds; `None` if this node does not speak its family.
    fn session(&self, far: &Far<'_>, local_as: Option<u32>, kind: PeerType) -> Option<Session> {
        let family = Family::of(far.address);
        let own = address(self.me, family)?;
        let mut session = Session {
            address: far.address,
            port: far.port.unwrap_or(BGP_PORT),
            remote_as: far.asn,
            local_as: local_as.unwrap_or_else(|| self.peering.as_number(self.me)),
            local_address: Some(own),
            passive: false,
            reflector_client: false,
            next_hop: NextHopMode::Auto,
            subnet: subnet(self.me, family).filter(|subnet| subnet.contains(&far.address)),
            keepalive: None,
            restart_time: None,
            allowed_own_as: 0,
            secured_hops: None,
            password: None,
            import: None,
            export: Arc::default(),
            peer_type: kind,
        };
        session.reflector_client = kind != PeerType::NodeMesh && self.is_client(&session, far.node);
        Some(session)
    }

    fn apply(&mut self, peer: &'a BgpPeer, session: &mut Session) {
        let spec = &peer.spec;
        if spec.source_address == Some(SourceAddress::None) {
            session.local_address = None;
        }
        session.next_hop = match spec.next_hop_mode() {
            // As upstream: the deprecated flag is for external peers.
            NextHopMode::Keep if spec.next_hop_mode.is_none() && session.is_internal() => {
                NextHopMode::Auto
            }
            mode => mode,
        };
        // As upstream, no hops at all means no security.
        session.secured_hops = spec.ttl_security.filter(|hops| *hops > 0);
        session.keepalive = spec.keepalive_time.map(|time| time.0);
        session.restart_time = spec.max_restart_time.map(|time| time.0);
        session.password = self.password(SecretRef::of_peer(spec), &named(peer));
        self.set_policies(&spec.filters, &named(peer), session);
    }

    fn set_policies(&mut self, names: &'a [String], resource: &str, session: &mut Session) {
        let family = Family::of(session.address);
        let (peering, exports, notes) = (self.peering, self.exports, &mut self.notes);
        let (import, export) = self.policies.entry((family, names)).or_insert_with(|| {
            let mut rules = |direction| {
                filters::rules(names, &peering.filters, family, direction, resource, notes)
            };
            let import = rules(Direction::Import);
            let mut export = rules(Direction::Export);
            export.extend(exports.rules(family));
            let import = filter(import, Otherwise::Accept, "");
            let export = filter(export, Otherwise::Reject, "in no IPPool and no range of services");
            let import = (!import.rules.is_empty()).then(|| Arc::new(import));
            (import, Arc::new(export))
        });
        session.import.clone_from(import);
        session.export = Arc::clone(export);
    }

    fn password(&mut self, reference: Option<SecretRef>, resource: &str) -> Option<Password> {
        let secret = reference?;
        let why = match self.peering.secrets.get(&secret) {
            Some(Ok(password)) => return Some(password.clone()),
            Some(Err(why)) => why.clone(),
            None => "is not known here".to_owned(),
        };
        self.notes.push(Note::new(resource, Problem::NoPassword { secret, why }));
        None
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

    /// The gateway to a peer, if it has one; `None` if what the BGPPeer says makes no sense.
    #[expect(clippy::option_option, reason = "absent is fine, nonsense is not")]
    fn reachable_by(&mut self, peer: &BgpPeer, address: IpAddr) -> Option<Option<IpAddr>> {
        let text = &peer.spec.reachable_by;
        if text.is_empty() {
            return Some(None);
        }
        let why = match text.parse::<IpAddr>() {
            Ok(gateway) if gateway.is_ipv4() == address.is_ipv4() => return Some(Some(gateway)),
            Ok(_) => format!("{text} is of another family than {address}; no session"),
            Err(_) => format!("{text:?} is no address; no session"),
        };
        self.notes.push(Note::bad(named(peer), "reachableBy", why));
        None
    }

    fn no_session(&mut self, peer: &BgpPeer, address: IpAddr) {
        let why = "this node has no BGP address of its family";
        self.notes.push(Note::new(named(peer), Problem::NoSession { peer: address, why }));
    }

    /// As upstream, these are only for peers that are given by their address.
    fn note_with_selector(&mut self, peer: &BgpPeer) {
        let fields = [
            ("localASNumber", peer.spec.local_as_number.is_some()),
            ("numAllowedLocalASNumbers", peer.spec.num_allowed_local_as_numbers.is_some()),
        ];
        for (field, _) in fields.iter().filter(|(_, set)| *set) {
            self.notes.push(Note::no_effect(named(peer), field, "the peer has no peerIP"));
        }
    }

    /// Whether the peer is a client of this node (RFC 4456): one of this AS and of another
    /// cluster, or of none.
    fn is_client(&self, session: &Session, far: Option<&Node>) -> bool {
        let own = cluster_id(self.me);
        session.is_internal() && own.is_some() && own != far.and_then(cluster_id)
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

    /// The BGPPeer that a workload belongs to: of those that select it, the first by name.
    fn workload_peer(&mut self, labels: &BTreeMap<String, String>) -> Option<&'a str> {
        let (me, peering) = (self.me, self.peering);
        let mut peers = peering.peers.values();
        let found = peers.find(|peer| {
            let selector = &peer.spec.local_workload_selector;
            !selector.is_empty()
                && self.is_local_end(me, peer)
                && self.selects("localWorkloadSelector", selector, labels, peer)
        });
        found.map(BgpPeer::name)
    }

    /// Labels of an endpoint: its own win over those that its profiles pass on.
    fn labels(&self, endpoint: &WorkloadEndpoint) -> BTreeMap<String, String> {
        let mut labels = endpoint.selector_labels();
        for profile in &endpoint.spec.profiles {
            for (key, value) in self.peering.profiles.get(profile).into_iter().flatten() {
                labels.entry(key.clone()).or_insert_with(|| value.clone());
            }
        }
        labels
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

fn filter(rules: Vec<Labelled>, otherwise: Otherwise, none_matches: &str) -> Filter {
    let (rules, labels): (Vec<_>, Vec<_>) = rules.into_iter().unzip();
    let labels = labels.iter().map(String::as_str).chain([none_matches]);
    Filter { rules, otherwise, labels: labels.map(Arc::from).collect() }
}
