//! The speaker itself: joins peerings and table.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ipnet::IpNet;

use super::peer::Peer;
use super::{
    AcceptError, Config, ConfigError, ConnectionId, PeerChanges, PeerConfig, PeerStatus,
    SpeakerAction, SpeakerEvent,
};
use crate::rib::{BestRoute, ExportBatch, PeerId, Rib, RouteView};
use crate::session::{Action, DownReason, Negotiated, PeeringEvent, State};
use crate::wire::{
    CeaseCode, Family, Notification, NotificationCode, PathAttributes, Update, UpdatePacker,
};

/// No more UPDATEs are written for a peer while this many octets wait to be sent to it.
const OUTPUT_HIGH_WATER: usize = 64 * 1024;
/// Changed prefixes looked at in one go.
const EXPORT_BATCH: usize = 4096;
/// After a restart, peers that are not up by then are not waited for.
const SETTLE_TIME: Duration = Duration::from_secs(12);

/// While a restarted speaker holds its routes back (RFC 4724, section 4.1).
#[derive(Debug)]
struct Deferral {
    /// From then on only peers that are up are waited for.
    settled_at: Instant,
    /// That time has come.
    settled: bool,
    /// Then it ends in any case.
    until: Instant,
}

/// A BGP speaker: see the [module](super).
#[derive(Debug)]
pub struct Speaker {
    config: Config,
    seed: u64,
    peers: BTreeMap<PeerId, Peer>,
    by_key: HashMap<SocketAddr, PeerId>,
    next_peer: u32,
    rib: Rib,
    deferral: Option<Deferral>,
    actions: VecDeque<SpeakerAction>,
    events: VecDeque<SpeakerEvent>,
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
            deferral,
            actions: VecDeque::new(),
            events: VecDeque::new(),
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
        let gone: BTreeSet<SocketAddr> =
            self.by_key.keys().filter(|k| !wanted.contains_key(k)).copied().collect();
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
                peer.config = config;
                let (id, kind) = (peer.id, peer.config.kind(&self.config));
                self.rib.set_routing(id, kind, peer.config.routing());
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
        let peer = candidates
            .max_by_key(|p| p.config.local_address == Some(local))
            .ok_or(AcceptError::UnknownPeer(address))?;
        let serial = peer.peering.handle_accepted(now)?;
        peer.note_local(serial, local);
        let id = peer.id;
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
        self.settle(now, id.peer);
    }

    /// A deadline passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        let due: Vec<PeerId> = self
            .peers
            .values()
            .filter(|p| next_deadline(p).is_some_and(|at| at <= now))
            .map(|p| p.id)
            .collect();
        for id in due {
            let Some(peer) = self.peers.get_mut(&id) else { continue };
            peer.peering.handle_timeout(now);
            for family in peer.helper.handle_timeout(now) {
                self.rib.sweep_stale(id, family);
            }
            self.settle(now, id);
        }
        self.check_deferral(now);
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called, if ever.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let deferral =
            self.deferral.as_ref().map(|d| if d.settled { d.until } else { d.settled_at });
        self.peers.values().filter_map(next_deadline).chain(deferral).min()
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<SpeakerAction> {
        self.actions.pop_front()
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<SpeakerEvent> {
        if let Some(event) = self.events.pop_front() {
            return Some(event);
        }
        let prefix = self.rib.poll_change()?;
        Some(SpeakerEvent::RouteChanged { prefix, route: self.rib.best(&prefix) })
    }

    /// Bytes for a connection. Ask only when it can take some: UPDATEs are written here, from
    /// the table as it is now.
    pub fn poll_transmit(&mut self, id: ConnectionId) -> Option<Bytes> {
        let peer = self.peers.get_mut(&id.peer)?;
        if self.deferral.is_none() && peer.peering.established_serial() == Some(id.serial) {
            while self.rib.has_export(id.peer) && peer.peering.pending_output() < OUTPUT_HIGH_WATER
            {
                let batch = self.rib.poll_export(id.peer, EXPORT_BATCH);
                write_batch(peer, &batch, &mut self.rib, &mut self.events);
            }
        }
        peer.peering.poll_transmit(id.serial)
    }

    /// The peers, in the order in which they were configured.
    pub fn peers(&self) -> impl Iterator<Item = PeerStatus> {
        self.peers.values().map(|p| p.status(&self.config, self.rib.counts(p.id)))
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

impl Speaker {
    fn add(&mut self, now: Instant, config: PeerConfig) {
        let id = PeerId(self.next_peer);
        self.next_peer += 1;
        self.by_key.insert(config.key(), id);
        let restarting = self.deferral.is_some();
        let mut peer = Peer::new(id, config, &self.config, restarting, self.seed, now);
        self.rib.add_peer(id, peer.facts(&self.config), peer.config.routing());
        peer.peering.start(now);
        self.peers.insert(id, peer);
        self.settle(now, id);
    }

    fn remove(&mut self, now: Instant, key: SocketAddr, code: CeaseCode) {
        let Some(id) = self.by_key.remove(&key) else { return };
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.peering.stop(now, Some(Notification::new(NotificationCode::Cease(code))));
        }
        self.settle(now, id);
        self.peers.remove(&id);
        self.rib.remove_peer(id);
        self.check_deferral(now);
    }

    /// Takes over what a peering has to say.
    fn settle(&mut self, now: Instant, id: PeerId) {
        while let Some(event) = self.peers.get_mut(&id).and_then(|p| p.peering.poll_event()) {
            self.handle_event(now, id, event);
        }
        let Some(peer) = self.peers.get_mut(&id) else { return };
        while let Some(action) = peer.peering.poll_action() {
            self.actions.push_back(match action {
                Action::Connect { serial } => SpeakerAction::Connect {
                    id: ConnectionId { peer: id, serial },
                    remote: peer.config.key(),
                    local: peer.config.local_address,
                },
                Action::Close { serial, last } => {
                    SpeakerAction::Close { id: ConnectionId { peer: id, serial }, last }
                }
            });
        }
    }

    fn handle_event(&mut self, now: Instant, id: PeerId, event: PeeringEvent) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let key = peer.key();
        match event {
            PeeringEvent::StateChanged { from, to } => {
                peer.since = now;
                self.events.push_back(SpeakerEvent::StateChanged { peer: key, from, to });
            }
            PeeringEvent::Established(negotiated) => self.peer_up(now, id, negotiated),
            PeeringEvent::Update(update) => self.handle_update(now, id, &update),
            PeeringEvent::RouteRefresh(family) => self.rib.refresh(id, family),
            PeeringEvent::Down(reason) => self.peer_down(now, id, reason),
            PeeringEvent::Failed(reason) => {
                peer.last_error = Some(reason.clone());
                self.events.push_back(SpeakerEvent::SessionFailed { peer: key, reason });
            }
        }
    }

    fn peer_up(&mut self, now: Instant, id: PeerId, negotiated: Box<Negotiated>) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let gr = negotiated.graceful_restart.as_ref();
        // Only a peer with graceful restart is sure to send the markers, and one that is itself
        // restarting waits for ours (RFC 4724, section 4.1).
        let waited_for = gr.is_some_and(|gr| !gr.restarting);
        peer.awaited = if waited_for { negotiated.families.clone() } else { Vec::new() };
        let sweep = peer.helper.handle_back(now, gr);
        let families = negotiated.families.clone();
        peer.negotiated = Some(negotiated);
        peer.counters.established += 1;
        peer.settle_local();
        let facts = peer.facts(&self.config);
        self.rib.peer_up(id, facts, families);
        for family in sweep {
            self.rib.sweep_stale(id, family);
        }
        self.check_deferral(now);
    }

    fn peer_down(&mut self, now: Instant, id: PeerId, reason: DownReason) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.counters.lost += 1;
        peer.awaited.clear();
        let kept = match &peer.negotiated {
            Some(n) if reason.keeps_routes() => n.restartable_families(),
            _ => Vec::new(),
        };
        let restart_time = peer
            .negotiated
            .as_ref()
            .and_then(|n| n.graceful_restart.as_ref())
            .map_or(0, |gr| gr.restart_time);
        self.rib.peer_down(id, &kept);
        let routes_kept = !kept.is_empty();
        peer.helper.handle_lost(now, kept, restart_time);
        peer.last_error = Some(reason.clone());
        let peer = peer.key();
        self.events.push_back(SpeakerEvent::SessionDown { peer, reason, routes_kept });
        self.check_deferral(now);
    }

    fn handle_update(&mut self, now: Instant, id: PeerId, update: &Update) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.counters.updates_received += 1;
        peer.counters.update_errors += update.errors.len() as u64;
        for error in &update.errors {
            let event = SpeakerEvent::UpdateError { peer: peer.key(), error: *error };
            self.events.push_back(event);
        }
        let Some(family) = update.is_end_of_rib() else {
            self.rib.handle_update(id, update);
            return;
        };
        peer.awaited.retain(|f| *f != family);
        if peer.helper.handle_end_of_rib(family) {
            self.rib.sweep_stale(id, family);
        }
        self.check_deferral(now);
    }

    /// Ends the deferral after a restart when nobody is left to wait for.
    fn check_deferral(&mut self, now: Instant) {
        let Some(deferral) = &mut self.deferral else { return };
        let told = self.peers.values().all(|p| p.awaited.is_empty());
        let up = self.peers.values().all(|p| p.peering.state() == State::Established);
        deferral.settled |= deferral.settled_at <= now;
        let settled = deferral.settled;
        let somebody = !self.peers.is_empty();
        let all_heard = told && ((up && somebody) || settled);
        if all_heard || deferral.until <= now {
            self.deferral = None;
            self.peers.values_mut().for_each(|p| p.peering.clear_restarting());
            self.events.push_back(SpeakerEvent::Converged);
        }
    }
}

fn next_deadline(peer: &Peer) -> Option<Instant> {
    [peer.peering.poll_timeout(), peer.helper.poll_timeout()].into_iter().flatten().min()
}

/// Writes a batch into the output of an established session.
fn write_batch(
    peer: &mut Peer,
    batch: &ExportBatch,
    rib: &mut Rib,
    events: &mut VecDeque<SpeakerEvent>,
) {
    let (id, key) = (peer.id, peer.key());
    let Some((out, negotiated)) = peer.peering.output() else { return };
    for family in negotiated.families {
        let of_family = |prefixes: &[IpNet]| -> Vec<IpNet> {
            prefixes.iter().filter(|p| Family::of_prefix(p) == family).copied().collect()
        };
        let packer = UpdatePacker::new(&negotiated.context, family);
        let withdrawn = of_family(&batch.withdraw);
        let fits = packer.withdraw(&withdrawn, out);
        debug_assert!(fits.is_ok(), "a withdrawal always fits");
        for (attributes, prefixes) in &batch.announce {
            let prefixes = of_family(prefixes);
            if prefixes.is_empty() {
                continue;
            }
            if let Err(error) = packer.announce(attributes, &prefixes, out) {
                // The peer must not keep an older version of what it cannot be told.
                let fits = packer.withdraw(&prefixes, out);
                debug_assert!(fits.is_ok(), "a withdrawal always fits");
                rib.unexport(id, &prefixes);
                let routes = prefixes.len();
                events.push_back(SpeakerEvent::NotSent { peer: key, routes, error });
            }
        }
    }
    for family in &batch.end_of_rib {
        peer.peering.send_end_of_rib(*family);
    }
    peer.counters.batches_sent += 1;
}
