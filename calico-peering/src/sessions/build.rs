//! One session: what the node, a BGPPeer and its filters say about it.

use std::net::IpAddr;
use std::sync::Arc;

use calico_bgp::filter::{Filter, Otherwise};
use calico_bgp::speaker::Password;
use calico_core::key::Family;
use calico_core::resource::{BgpPeer, NextHopMode, Node, SourceAddress};

use super::{Far, Sessions, named};
use crate::filters::{self, Direction, Labelled};
use crate::node::{address, cluster_id, subnet};
use crate::notes::{Note, Problem};
use crate::plan::BGP_PORT;
use crate::secrets::SecretRef;
use crate::session::{PeerType, Session};

impl<'a> Sessions<'a> {
    /// A session without what a BGPPeer adds; `None` if this node does not speak its family.
    pub(super) fn session(
        &self,
        far: &Far<'_>,
        local_as: Option<u32>,
        kind: PeerType,
    ) -> Option<Session> {
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

    pub(super) fn apply(&mut self, peer: &'a BgpPeer, session: &mut Session) {
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

    pub(super) fn set_policies(
        &mut self,
        names: &'a [String],
        resource: &str,
        session: &mut Session,
    ) {
        let family = Family::of(session.address);
        let (peering, exports, notes) = (self.peering, self.exports, &mut self.notes);
        let (import, export) = self.policies.entry((family, names)).or_insert_with(|| {
            let (known, host) = (&peering.filters, &exports.host);
            let mut rules =
                |direction| filters::rules(names, known, family, direction, resource, host, notes);
            let import = rules(Direction::Import);
            let mut export = host.rules(family);
            export.extend(rules(Direction::Export));
            export.extend(exports.rules(family));
            let import = filter(import, Otherwise::Accept, "");
            let export = filter(export, Otherwise::Reject, "in no IPPool and no range of services");
            let import = (!import.rules.is_empty()).then(|| Arc::new(import));
            (import, Arc::new(export))
        });
        session.import.clone_from(import);
        session.export = Arc::clone(export);
    }

    pub(super) fn password(
        &mut self,
        reference: Option<SecretRef>,
        resource: &str,
    ) -> Option<Password> {
        let secret = reference?;
        let why = match self.peering.secrets.get(&secret) {
            Some(Ok(password)) => return Some(password.clone()),
            Some(Err(why)) => why.clone(),
            None => "is not known here".to_owned(),
        };
        self.notes.push(Note::new(resource, Problem::NoPassword { secret, why }));
        None
    }

    /// The gateway to a peer, if it has one; `None` if what the BGPPeer says makes no sense.
    #[expect(clippy::option_option, reason = "absent is fine, nonsense is not")]
    pub(super) fn reachable_by(
        &mut self,
        peer: &BgpPeer,
        address: IpAddr,
    ) -> Option<Option<IpAddr>> {
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

    pub(super) fn no_session(&mut self, peer: &BgpPeer, address: IpAddr) {
        let why = "this node has no BGP address of its family";
        self.notes.push(Note::new(named(peer), Problem::NoSession { peer: address, why }));
    }

    /// As upstream, these are only for peers that are given by their address.
    pub(super) fn note_with_selector(&mut self, peer: &BgpPeer) {
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
    pub(super) fn is_client(&self, session: &Session, far: Option<&Node>) -> bool {
        let own = cluster_id(self.me);
        session.is_internal() && own.is_some() && own != far.and_then(cluster_id)
    }
}

fn filter(rules: Vec<Labelled>, otherwise: Otherwise, none_matches: &str) -> Filter {
    let (rules, labels): (Vec<_>, Vec<_>) = rules.into_iter().unzip();
    let labels = labels.iter().map(String::as_str).chain([none_matches]);
    Filter { rules, otherwise, labels: labels.map(Arc::from).collect() }
}
