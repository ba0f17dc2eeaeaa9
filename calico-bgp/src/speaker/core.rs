//! The speaker itself: joins peerings and table.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::peer::Peer;
use super::{
    AcceptError, Config, ConfigError, ConnectionId, DynamicPeers, PeerChanges, PeerConfig,
    PeerStatus, SpeakerAction, SpeakerEvent,
};
use crate::rib::{BestRoute, PeerId, Rib, RouteView};
use crate::wire::{CeaseCode, Notification, NotificationCode, PathAttributes};

/// After a restart, peers that are not up by then are not waited for.
const SETTLE_TIME: Duration = Duration::from_secs(12);

/// While a restarted speaker holds its routes back (RFC 4724, section 4.1).
#[derive(Debug)]
pub(super) struct Deferral {
    /// From then on only peers that are up are waited for.
    pub(super) settled_at: Instant,
    /// That time has come.
    pub(super) settled: bool,
    /// Then it ends in any case.
    pub(super) until: Instant,
}

/// A BGP speaker: see the [module](super).
#[derive(Debug)]
pub struct Speaker {
    pub(super) config: Config,
    pub(super) seed: u64,
    pub(super) peers: BTreeMap<PeerId, Peer>,
    pub(super) by_key: HashMap<SocketAddr, PeerId>,
    pub(super) next_peer: u32,
    pub(super) dynamic: Vec<DynamicPeers>,
    pub(super) rib: Rib,
    pub(super) deferral: Option<Deferral>,
    pub(super) actions: VecDeque<SpeakerAction>,
    pub(super) events: VecDeque<SpeakerEvent>,
    /// Connections that may have something to send.
    pub(super) writable: BTreeSet<ConnectionId>,
    /// Deadlines of peers.
    pub(super) timers: BTreeSet<(Instant, PeerId)>,
}

impl Speaker {
    /// A speaker without peers. `seed` only spreads timers.
    ///
    /// # Errors
    /// [`ConfigError`]
    pub fn new(config: Config, seed: u64, now: Instant) -> Result<Self, ConfigError> {
        config.validate()?;
        let deferral = config.restarting.then(|| Deferral {
            settled_at: now + SETTLE_TIME.min(config.selection_deferral),
            settled: false,
            until: now + config.selection_deferral,
        });
        Ok(Self {
            rib: Rib::new(config.rib()),
            config,
            seed,
            peers: BTreeMap::new(),
            by_key: HashMap::new(),
            next_peer: 1,
            dynamic: Vec::new(),
            deferral,
            actions: VecDeque::new(),
            events: VecDeque::new(),
            writable: BTreeSet::new(),
            timers: BTreeSet::new(),
        })
    }

    /// The configuration.
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// The table.
    pub const fn rib(&self) -> &Rib {
        &self.rib
    }

    /// The number of a peer, by address and port.
    pub fn peer_id(&self, peer: SocketAddr) -> Option<PeerId> {
        self.by_key.get(&peer).copied()
    }

    /// Whether the table is complete: false only after a restart, until the peers have told
    /// their routes.
    pub const fn is_converged(&self) -> bool {
        self.deferral.is_none()
    }

    /// Makes `peers` the peers of this speaker. A session restarts only if something about the
    /// session itself changed; a change of policy is applied to it in place.
    ///
    /// # Errors
    /// [`ConfigError`]; then nothing was changed.
    pub fn set_peers(
        &mut self,
        now: Instant,
        peers: Vec<PeerConfig>,
    ) -> Result<PeerChanges, ConfigError> {
        let mut wanted = BTreeMap::new();
        for peer in peers {
            peer.validate()?;
            let key = peer.key();
            if wanted.insert(key, peer).is_some() {
                return Err(ConfigError::Duplicate { peer: key });
            }
        }
        let mut changes = PeerChanges::default();
        // Who came by itself and is configured now becomes a configured peer.
        let gone: BTreeSet<SocketAddr> = self
            .peers
            .values()
            .filter(|p| p.dynamic == wanted.contains_key(&p.key()))
            .map(Peer::key)
            .collect();
        for key in gone {
            self.remove(now, key, CeaseCode::PeerDeconfigured);
            changes.removed.push(key);
        }
        for (key, config) in wanted {
            let Some(peer) = self.by_key.get(&key).and_then(|id| self.peers.get_mut(id)) else {
                self.add(now, config);
                changes.added.push(key);
                continue;
            };
            if peer.config == config {
                continue;
            }
            if peer.config.same_session(&config) {
                let id = peer.id;
                self.adjust(id, config);
                changes.adjusted.push(key);
            } else {
                self.remove(now, key, CeaseCode::OtherConfigurationChange);
                self.add(now, config);
                changes.restarted.push(key);
            }
        }
        Ok(changes)
    }

    /// Announces a route of this speaker; see [`Rib::announce`].
    pub fn announce(&mut self, prefix: IpNet, attributes: PathAttributes) -> bool {
        self.rib.announce(prefix, attributes)
    }

    /// Takes back a route of this speaker. Returns whether it was there.
    pub fn withdraw(&mut self, prefix: IpNet) -> bool {
        self.rib.withdraw(prefix)
    }

    /// Tells the metric of the way to a next hop; see [`Rib::set_next_hop_metric`].
    pub fn set_next_hop_metric(&mut self, next_hop: IpAddr, metric: Option<u32>) {
        self.rib.set_next_hop_metric(next_hop, metric);
    }

    /// Ends all sessions: with a NOTIFICATION that carries `text`, or without one so that peers
    /// with graceful restart keep the routes.
    pub fn shutdown(&mut self, now: Instant, text: Option<&str>) {
        let ids: Vec<PeerId> = self.peers.keys().copied().collect();
        for id in ids {
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.peering.stop(now, text.map(Notification::shutdown));
            }
            self.settle(now, id);
        }
    }

    /// Resets the established session of a peer (RFC 4486, administrative reset). Returns
    /// whether the peer is known.
    pub fn reset(&mut self, now: Instant, peer: SocketAddr) -> bool {
        let Some(id) = self.by_key.get(&peer).copied() else { return false };
        if let Some(peer) = self.peers.get_mut(&id) {
            let code = NotificationCode::Cease(CeaseCode::AdministrativeReset);
            peer.peering.reset(now, Notification::new(code), "asked for");
        }
        self.settle(now, id);
        true
    }

    /// Asks a peer for all its routes again (RFC 2918). Returns whether it is there and
    /// understands that.
    pub fn request_refresh(&mut self, peer: SocketAddr) -> bool {
        let id = self.by_key.get(&peer);
        let Some(peer) = id.and_then(|id| self.peers.get_mut(id)) else { return false };
        let families = peer.peering.negotiated().map(|n| n.families.clone()).unwrap_or_default();
        let asked = families.iter().filter(|f| peer.peering.send_route_refresh(**f));
        let asked = asked.count() > 0;
        let id = peer.id;
        self.note_output(id);
        asked
    }

    /// Someone connected.
    ///
    /// # Errors
    /// [`AcceptError`]: close the connection.
    pub fn handle_accepted(
        &mut self,
        now: Instant,
        remote: SocketAddr,
        local: SocketAddr,
    ) -> Result<ConnectionId, AcceptError> {
        let (address, local) = (remote.ip().to_canonical(), local.ip().to_canonical());
        let candidates = self.peers.values_mut().filter(|p| p.config.address == address);
        // With several peers behind one address, the local address tells which is meant.
        let found = candidates.max_by_key(|p| p.config.local_address == Some(local)).map(|p| p.id);
        let id = match found {
            Some(id) => id,
            None => self.add_dynamic(now, address)?,
        };
        let peer = self.peers.get_mut(&id).ok_or(AcceptError::UnknownPeer(address))?;
        let serial = peer.peering.handle_accepted(now)?;
        peer.note_local(serial, local);
        self.settle(now, id);
        Ok(ConnectionId { peer: id, serial })
    }

    /// A connection asked for is there.
    pub fn handle_connected(&mut self, now: Instant, id: ConnectionId, local: SocketAddr) {
        if let Some(peer) = self.peers.get_mut(&id.peer) {
            peer.note_local(id.serial, local.ip().to_canonical());
            peer.peering.handle_connected(now, id.serial);
        }
        self.settle(now, id.peer);
    }

    /// A connection asked for did not come about.
    pub fn handle_connect_failed(&mut self, now: Instant, id: ConnectionId, why: &str) {
        if let Some(peer) = self.peers.get_mut(&id.peer) {
            peer.peering.handle_connect_failed(now, id.serial, why);
        }
        self.settle(now, id.peer);
    }

    /// Bytes arrived.
    pub fn handle_bytes(&mut self, now: Instant, id: ConnectionId, bytes: &[u8]) {
        if let Some(peer) = self.peers.get_mut(&id.peer) {
            peer.peering.handle_bytes(now, id.serial, bytes);
        }
        self.settle(now, id.peer);
    }

    /// A connection is gone.
    pub fn handle_closed(&mut self, now: Instant, id: ConnectionId, why: &str) {
        if let Some(peer) = self.peers.get_mut(&id.peer) {
            peer.peering.handle_closed(now, id.serial, why);
        }
        self.writable.remove(&id);
        self.settle(now, id.peer);
    }

    /// A deadline passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        let due = self.timers.iter().take_while(|(at, _)| *at <= now);
        let due: Vec<PeerId> = due.map(|(_, id)| *id).collect();
        for id in due {
            let Some(peer) = self.peers.get_mut(&id) else { continue };
            peer.peering.handle_timeout(now);
            let expired = peer.helper.handle_timeout(now);
            self.expire(id, expired);
            self.settle(now, id);
        }
        self.check_deferral(now);
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called, if ever.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let deferral =
            self.deferral.as_ref().map(|d| if d.settled { d.until } else { d.settled_at });
        self.timers.first().map(|(at, _)| *at).into_iter().chain(deferral).min()
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<SpeakerAction> {
        self.actions.pop_front()
    }

    /// Whether [`SpeakerEvent::RouteChanged`] is told; it is unless this says otherwise. What
    /// changes in the meantime is not told later.
    pub fn set_following(&mut self, following: bool) {
        self.rib.set_following(following);
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<SpeakerEvent> {
        if let Some(event) = self.events.pop_front() {
            return Some(event);
        }
        let prefix = self.rib.poll_change()?;
        Some(SpeakerEvent::RouteChanged { prefix, route: self.rib.best(&prefix) })
    }

    /// The peers, in the order in which they were configured.
    pub fn peers(&self) -> impl Iterator<Item = PeerStatus> {
        self.peers.values().map(|p| p.status(&self.config, &self.rib))
    }

    /// The whole table with all paths, in no order.
    pub fn routes(&self) -> impl Iterator<Item = RouteView> {
        self.rib.routes()
    }

    /// The best routes, in no order.
    pub fn best_routes(&self) -> impl Iterator<Item = BestRoute> {
        self.rib.best_routes()
    }
}
