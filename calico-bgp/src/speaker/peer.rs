//! One peer of a speaker.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use super::{Config, LimitLevel, PeerConfig, RestartHelper};
use crate::rib::{PeerFacts, PeerId, PeerKind, Rib, SessionTraits};
use crate::session::{DownReason, Negotiated, Peering, State};
use crate::wire::Family;

/// What a session counted since the peer was configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PeerCounters {
    /// UPDATEs received.
    pub updates_received: u64,
    /// Batches of UPDATEs written for the peer.
    pub batches_sent: u64,
    /// Sessions established.
    pub established: u64,
    /// Established sessions that ended.
    pub lost: u64,
    /// Faulty attributes that did not end the session (RFC 7606).
    pub update_errors: u64,
}

/// A peer as others see it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerStatus {
    /// Number of the peer.
    pub id: PeerId,
    /// Its configuration.
    pub config: PeerConfig,
    /// Relation to this speaker.
    pub kind: PeerKind,
    /// State of the session.
    pub state: State,
    /// When the state was entered.
    pub since: Instant,
    /// What was agreed, while established.
    pub negotiated: Option<Negotiated>,
    /// Address of this side, once there was a connection.
    pub local_address: Option<IpAddr>,
    /// It was not configured, but came by itself ([`DynamicPeers`](super::DynamicPeers)).
    pub dynamic: bool,
    /// How far it is from its prefix limit.
    pub limit: LimitLevel,
    /// Counters.
    pub counters: PeerCounters,
    /// Prefixes that the peer sent and that are held now; with ADD-PATH, paths.
    pub prefixes_received: usize,
    /// Prefixes that the peer has been sent; with ADD-PATH, paths.
    pub prefixes_advertised: usize,
    /// Paths that were left out because they were too many to one destination (RFC 7911).
    pub paths_left_out: u64,
    /// Routes of the peer are kept over its restart.
    pub restart_pending: bool,
    /// Families that it has not told all its routes of in this session: their End-of-RIB marker
    /// has not come. Only peers with graceful restart are sure to send any.
    pub end_of_rib_awaited: Vec<Family>,
    /// Why the last session or attempt ended.
    pub last_error: Option<DownReason>,
}

#[derive(Debug)]
pub(super) struct Peer {
    pub(super) id: PeerId,
    pub(super) config: PeerConfig,
    pub(super) peering: Peering,
    pub(super) helper: RestartHelper,
    pub(super) since: Instant,
    pub(super) negotiated: Option<Box<Negotiated>>,
    /// Families whose End-of-RIB marker this session still owes us.
    pub(super) awaited: Vec<Family>,
    pub(super) counters: PeerCounters,
    pub(super) last_error: Option<DownReason>,
    /// It came by itself ([`DynamicPeers`](super::DynamicPeers)).
    pub(super) dynamic: bool,
    /// How far it was from its prefix limit when somebody was told last.
    pub(super) level: LimitLevel,
    /// Families whose first listing has been sent.
    pub(super) listed: Vec<Family>,
    /// Families that it is told again, with marks (RFC 7313).
    pub(super) refreshing: Vec<Family>,
    /// The deadline that the speaker has noted for it.
    pub(super) deadline: Option<Instant>,
    local_address: Option<IpAddr>,
    /// Local addresses of the latest connections.
    locals: Vec<(u32, IpAddr)>,
}

impl Peer {
    pub(super) fn new(
        id: PeerId,
        config: PeerConfig,
        speaker: &Config,
        restarting: bool,
        seed: u64,
        now: Instant,
    ) -> Self {
        // Odd multiples of the golden ratio spread the peers' timers.
        let seed = seed ^ u64::from(id.0).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        Self {
            id,
            peering: Peering::new(config.session(speaker, restarting), seed),
            config,
            helper: RestartHelper::default(),
            since: now,
            negotiated: None,
            awaited: Vec::new(),
            counters: PeerCounters::default(),
            last_error: None,
            dynamic: false,
            level: LimitLevel::Fine,
            listed: Vec::new(),
            refreshing: Vec::new(),
            deadline: None,
            local_address: None,
            locals: Vec::new(),
        }
    }

    pub(super) const fn key(&self) -> SocketAddr {
        self.config.key()
    }

    /// Whether it came by itself and has gone.
    pub(super) const fn is_forgettable(&self) -> bool {
        self.dynamic && self.peering.is_vacant() && !self.helper.is_active()
    }

    /// When it wants to be woken.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        [self.peering.poll_timeout(), self.helper.poll_timeout()].into_iter().flatten().min()
    }

    /// Whether nothing waits to be sent to it.
    pub(super) fn has_fetched_all(&self) -> bool {
        self.peering.pending_output() == 0
    }

    /// Notes the local address of a connection; a peering has at most three at a time.
    pub(super) fn note_local(&mut self, serial: u32, address: IpAddr) {
        if self.locals.len() >= 4 {
            self.locals.remove(0);
        }
        self.locals.push((serial, address));
    }

    /// Takes over the local address of the connection that was established.
    pub(super) fn settle_local(&mut self) {
        let serial = self.peering.established_serial();
        let local = self.locals.iter().find(|(s, _)| Some(*s) == serial).map(|(_, a)| *a);
        self.local_address = local.or(self.local_address);
    }

    pub(super) fn facts(&self, speaker: &Config) -> PeerFacts {
        PeerFacts {
            kind: self.config.kind(speaker),
            asn: self.config.remote_as,
            local_as: self.config.local_as.unwrap_or(speaker.local_as),
            router_id: self
                .negotiated
                .as_ref()
                .map_or(std::net::Ipv4Addr::UNSPECIFIED, |n| n.remote_router_id),
            address: self.config.address,
            local_address: self.local_address.or(self.config.local_address),
            speaker_as: speaker.local_as,
            cluster_id: self.config.cluster_id,
            traits: self.negotiated.as_ref().map_or_else(SessionTraits::default, |n| {
                SessionTraits {
                    role: n.role,
                    extended_next_hop: n.extended_next_hop,
                    long_lived: n.long_lived.is_some(),
                    interface: self.config.interface.clone(),
                    format: n.context.clone(),
                }
            }),
        }
    }

    pub(super) fn status(&self, speaker: &Config, rib: &Rib) -> PeerStatus {
        let counts = rib.counts(self.id);
        PeerStatus {
            id: self.id,
            config: self.config.clone(),
            kind: self.config.kind(speaker),
            state: self.peering.state(),
            since: self.since,
            negotiated: self.peering.negotiated().cloned(),
            local_address: self.local_address.or(self.config.local_address),
            dynamic: self.dynamic,
            limit: self.level,
            counters: self.counters,
            prefixes_received: counts.0,
            prefixes_advertised: counts.1,
            paths_left_out: rib.left_out(self.id),
            restart_pending: self.helper.is_active(),
            end_of_rib_awaited: self.awaited.clone(),
            last_error: self.last_error.clone(),
        }
    }
}
