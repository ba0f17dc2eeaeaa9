//! What a speaker does with what its peerings say.

use std::net::SocketAddr;
use std::time::Instant;

use super::peer::Peer;
use super::{
    ConnectionId, Expiry, LimitAction, LimitLevel, PeerConfig, Speaker, SpeakerAction, SpeakerEvent,
};
use crate::rib::PeerId;
use crate::session::{Action, DownReason, Negotiated, PeeringEvent, State};
use crate::wire::{CeaseCode, Family, Notification, NotificationCode, Update};

impl Speaker {
    pub(super) fn add(&mut self, now: Instant, config: PeerConfig) -> PeerId {
        let id = self.next_id();
        self.by_key.insert(config.key(), id);
        let restarting = self.deferral.is_some();
        let mut peer = Peer::new(id, config, &self.config, restarting, self.seed, now);
        self.rib.add_peer(id, peer.facts(&self.config), peer.config.routing(&self.config));
        peer.peering.start(now);
        self.peers.insert(id, peer);
        self.settle(now, id);
        id
    }

    /// A number that no peer has. Those of peers that are gone come again when all others were
    /// used: somebody who connects again and again could get there in weeks.
    fn next_id(&mut self) -> PeerId {
        loop {
            let id = PeerId(self.next_peer);
            // The first number is this speaker's own, and the last means nobody.
            self.next_peer = (self.next_peer + 1) % u32::MAX;
            if id != PeerId::LOCAL && !self.peers.contains_key(&id) {
                return id;
            }
        }
    }

    pub(super) fn remove(&mut self, now: Instant, key: SocketAddr, code: CeaseCode) {
        let Some(id) = self.by_key.remove(&key) else { return };
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.peering.stop(now, Some(Notification::new(NotificationCode::Cease(code))));
        }
        self.settle(now, id);
        if let Some(Peer { deadline: Some(at), .. }) = self.peers.remove(&id) {
            self.timers.remove(&(at, id));
        }
        self.rib.remove_peer(id);
        self.check_deferral(now);
    }

    /// Takes over what a peering has to say.
    pub(super) fn settle(&mut self, now: Instant, id: PeerId) {
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
                    transport: peer.config.transport(),
                },
                Action::Close { serial, last } => {
                    let id = ConnectionId { peer: id, serial };
                    self.writable.remove(&id);
                    SpeakerAction::Close { id, last }
                }
            });
        }
        let deadline = peer.poll_timeout();
        if deadline != peer.deadline {
            let before = std::mem::replace(&mut peer.deadline, deadline);
            before.into_iter().for_each(|at| _ = self.timers.remove(&(at, id)));
            self.timers.extend(deadline.map(|at| (at, id)));
        }
        if peer.is_forgettable() {
            let key = peer.key();
            self.remove(now, key, CeaseCode::PeerDeconfigured);
        }
        self.note_output(id);
    }

    /// Notes the connections of a peer that have something to send.
    pub(super) fn note_output(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get(&id) else { return };
        let serials = peer.peering.transmitting();
        self.writable.extend(serials.map(|serial| ConnectionId { peer: id, serial }));
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
            PeeringEvent::RouteRefresh(family) => {
                // RFC 7313, section 4.1: no marks before the first listing is complete.
                if peer.listed.contains(&family)
                    && !peer.refreshing.contains(&family)
                    && peer.peering.send_refresh_mark(family, false)
                {
                    peer.refreshing.push(family);
                }
                self.rib.refresh(id, family);
            }
            PeeringEvent::RefreshBegins(family) => {
                peer.helper.handle_refresh(now, family);
                self.rib.mark_stale(id, family);
            }
            PeeringEvent::RefreshEnds(family) => {
                if peer.helper.handle_refresh_end(family) {
                    self.rib.sweep_stale(id, family);
                }
            }
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
        let sweep = peer.helper.handle_back(now, gr, negotiated.long_lived.as_deref());
        peer.level = LimitLevel::Fine;
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
        peer.listed.clear();
        peer.refreshing.clear();
        let kept = match &peer.negotiated {
            Some(n) if reason.keeps_routes(n.restarts_over_notification()) => {
                n.restartable_families()
            }
            _ => Vec::new(),
        };
        let families: Vec<Family> = kept.iter().map(|(family, ..)| *family).collect();
        self.rib.peer_down(id, &families);
        let routes_kept = !kept.is_empty();
        peer.helper.handle_lost(now, &kept, peer.config.long_lived_max);
        let expired = peer.helper.handle_timeout(now);
        peer.last_error = Some(reason.clone());
        let peer = peer.key();
        self.events.push_back(SpeakerEvent::SessionDown { peer, reason, routes_kept });
        // A restart time of zero is over at once (RFC 9494, section 4.2).
        self.expire(id, expired);
        self.check_deferral(now);
    }

    fn handle_update(&mut self, now: Instant, id: PeerId, update: &Update) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.counters.updates_received += 1;
        for error in &update.errors {
            peer.counters.update_errors += 1;
            // A peer that sends nothing but faults must not fill the logs.
            let total = peer.counters.update_errors;
            if total.is_power_of_two() {
                let event = SpeakerEvent::UpdateError { peer: peer.key(), error: *error, total };
                self.events.push_back(event);
            }
        }
        let Some(family) = update.is_end_of_rib() else {
            self.rib.handle_update(id, update);
            self.check_limit(now, id);
            return;
        };
        peer.awaited.retain(|f| *f != family);
        if peer.helper.handle_end_of_rib(family) {
            self.rib.sweep_stale(id, family);
        }
        self.check_deferral(now);
    }

    fn check_limit(&mut self, now: Instant, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let Some(limit) = peer.config.prefix_limit else { return };
        let count = self.rib.counts(id).0;
        let level = limit.level(count);
        if level <= peer.level {
            return;
        }
        peer.level = level;
        let event = SpeakerEvent::PrefixLimit { peer: peer.key(), level, count, max: limit.max };
        self.events.push_back(event);
        if let (LimitLevel::Exceeded, LimitAction::Cease { idle }) = (level, limit.action) {
            let code = NotificationCode::Cease(CeaseCode::MaximumPrefixes);
            let cause = format!("{count} prefixes, at most {} are allowed", limit.max);
            peer.peering.hold_down(now, &Notification::new(code), &cause, idle);
        }
    }

    pub(super) fn expire(&mut self, id: PeerId, expired: Vec<(Family, Expiry)>) {
        for (family, expiry) in expired {
            match expiry {
                Expiry::Sweep => self.rib.sweep_stale(id, family),
                Expiry::LongLived => self.rib.keep_long_lived(id, family),
            }
        }
    }

    pub(super) fn adjust(&mut self, id: PeerId, config: PeerConfig) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.config = config;
        let kind = peer.config.kind(&self.config);
        self.rib.set_routing(id, kind, peer.config.routing(&self.config));
    }

    /// Ends the deferral after a restart when nobody is left to wait for.
    pub(super) fn check_deferral(&mut self, now: Instant) {
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
