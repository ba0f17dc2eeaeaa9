//! The state machine of one peer, with up to three connections at a time: one outgoing, one
//! incoming, and the established one while its peer comes back on another.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::connection::{Connection, Direction, Expired, Phase};
use super::machine::{ERROR_WAIT, FIRST_RETRY, collision, sent};
use super::{Action, DownReason, Negotiated, PeeringEvent, Refused, SessionConfig, State};
use crate::wire::{Family, Message, Notification, NotificationCode, RouteRefresh, Update};

/// One peering: the session with one peer, through all its connections.
#[derive(Debug)]
pub struct Peering {
    pub(super) config: SessionConfig,
    pub(super) started: bool,
    pub(super) connections: Vec<Connection>,
    pub(super) next_serial: u32,
    pub(super) retry_at: Option<Instant>,
    /// Next pause before connecting again, if the configured one is not shorter.
    pub(super) retry_wait: Duration,
    pub(super) held_until: Option<Instant>,
    pub(super) error_wait: Duration,
    pub(super) random: u64,
    pub(super) state: State,
    pub(super) events: VecDeque<PeeringEvent>,
    pub(super) actions: VecDeque<Action>,
}

impl Peering {
    /// A peering that does nothing until [`start`](Self::start). `seed` only spreads timers.
    pub fn new(config: SessionConfig, seed: u64) -> Self {
        Self {
            config,
            started: false,
            connections: Vec::new(),
            next_serial: 0,
            retry_at: None,
            retry_wait: FIRST_RETRY,
            held_until: None,
            error_wait: ERROR_WAIT.0,
            random: seed | 1,
            state: State::Idle,
            events: VecDeque::new(),
            actions: VecDeque::new(),
        }
    }

    /// What the peering was told.
    pub const fn config(&self) -> &SessionConfig {
        &self.config
    }

    /// The state; with two connections, that of the one that is further.
    pub const fn state(&self) -> State {
        self.state
    }

    /// What was agreed, while the session is established.
    pub fn negotiated(&self) -> Option<&Negotiated> {
        self.established().and_then(|c| c.negotiated.as_deref())
    }

    /// The serial number of the established connection.
    pub fn established_serial(&self) -> Option<u32> {
        self.established().map(|c| c.serial)
    }

    /// From now on the R bit is not set any more in new OPENs.
    pub const fn clear_restarting(&mut self) {
        self.config.restarting = false;
    }

    /// Starts the peering (ManualStart).
    pub fn start(&mut self, now: Instant) {
        self.started = true;
        self.retry_wait = FIRST_RETRY;
        self.retry_at = Some(now);
        self.connect_if_due(now);
        self.note_state();
    }

    /// Stops the peering (ManualStop), with a NOTIFICATION, or without one so that a peer with
    /// graceful restart keeps the routes.
    pub fn stop(&mut self, now: Instant, notification: Option<Notification>) {
        self.started = false;
        self.held_until = None;
        while let Some(serial) = self.connections.first().map(|c| c.serial) {
            let reason = match notification.clone() {
                Some(notification) => DownReason::NotificationSent { notification, cause: None },
                None => DownReason::ClosedForRestart,
            };
            self.close(now, serial, reason);
        }
        self.retry_at = None;
        self.note_state();
    }

    /// Ends the session with a NOTIFICATION and has none for a while, whoever connects.
    pub fn hold_down(
        &mut self,
        now: Instant,
        notification: &Notification,
        cause: &str,
        time: Duration,
    ) {
        self.held_until = Some(now + time);
        while let Some(serial) = self.connections.first().map(|c| c.serial) {
            self.close(now, serial, sent(notification.clone(), Some(cause.to_owned())));
        }
        self.note_state();
    }

    /// Whether nothing goes on: no connection, and none being held down.
    pub const fn is_vacant(&self) -> bool {
        self.connections.is_empty() && self.held_until.is_none()
    }

    /// Ends the established session with a NOTIFICATION and starts over; ends a hold-down too.
    pub fn reset(&mut self, now: Instant, notification: Notification, cause: &str) {
        if self.held_until.take().is_some() {
            self.retry_at = Some(now);
            self.connect_if_due(now);
        }
        if let Some(serial) = self.established_serial() {
            self.close(now, serial, sent(notification, Some(cause.to_owned())));
        }
        self.note_state();
    }

    /// The connection asked for by [`Action::Connect`] is there.
    pub fn handle_connected(&mut self, now: Instant, serial: u32) {
        let config = &self.config;
        let found = self.connections.iter_mut().find(|c| c.serial == serial);
        // Told twice, it counts once.
        if let Some(c) = found.filter(|c| c.phase == Phase::Connecting) {
            c.send_open(now, config);
        }
        self.note_state();
    }

    /// The connection asked for by [`Action::Connect`] failed.
    pub fn handle_connect_failed(&mut self, now: Instant, serial: u32, why: &str) {
        self.forget(now, serial, DownReason::ConnectFailed(why.to_owned()));
        self.note_state();
    }

    /// The peer connected. Returns the number of the new connection.
    ///
    /// # Errors
    /// [`Refused`]: close the connection without a word.
    pub fn handle_accepted(&mut self, now: Instant) -> Result<u32, Refused> {
        if !self.started {
            return Err(Refused::Stopped);
        }
        if self.held_until.is_some_and(|at| at > now) {
            return Err(Refused::HeldDown);
        }
        // A peer that connects again has given up its earlier attempt. So there is never more
        // than one half-open incoming connection per peer.
        let earlier = self
            .connections
            .iter()
            .find(|c| c.direction == Direction::Incoming && c.phase < Phase::Established)
            .map(|c| c.serial);
        if let Some(serial) = earlier {
            self.close(now, serial, collision());
        }
        let serial = self.add(Direction::Incoming, now);
        // While there is a session, the peer speaks first: what it wants with another connection
        // shows in its OPEN, and one that it never gets an answer on cannot make it give up the
        // session for it (RFC 4271, section 6.8).
        if self.established().is_none() {
            self.handle_connected(now, serial);
        }
        Ok(serial)
    }

    /// Bytes arrived.
    pub fn handle_bytes(&mut self, now: Instant, serial: u32, bytes: &[u8]) {
        if let Some(c) = self.connection(serial) {
            c.framer.push(bytes);
        }
        let mut message = Message::Keepalive;
        // A message may close the connection, so it is looked up for each of them.
        while let Some(c) = self.connection(serial) {
            let read = match c.framer.poll_frame() {
                Ok(None) => break,
                Ok(Some(frame)) => match &c.negotiated {
                    Some(n) => message.read(frame, &n.context),
                    None => message.read(frame, &c.context()),
                },
                Err(e) => Err(e),
            };
            match read {
                Ok(()) => self.handle_message(now, serial, &mut message),
                Err(e) => self.fail(now, serial, &e),
            }
        }
        self.note_state();
    }

    /// The connection is gone; `why` is for people.
    pub fn handle_closed(&mut self, now: Instant, serial: u32, why: &str) {
        self.forget(now, serial, DownReason::ConnectionLost(why.to_owned()));
        self.note_state();
    }

    /// A deadline passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.held_until.is_some_and(|at| at <= now) {
            self.held_until = None;
            self.retry_at = Some(now);
        }
        let expired: Vec<_> = self
            .connections
            .iter_mut()
            .filter_map(|c| c.handle_timeout(now).map(|e| (c.serial, e)))
            .collect();
        for (serial, expired) in expired {
            let reason = match expired {
                Expired::Connect => DownReason::ConnectFailed("timed out".to_owned()),
                Expired::Hold => sent(Notification::new(NotificationCode::HoldTimerExpired), None),
                Expired::SendHold => {
                    sent(Notification::new(NotificationCode::SendHoldTimerExpired), None)
                }
            };
            self.close(now, serial, reason);
        }
        self.connect_if_due(now);
        self.note_state();
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called, if ever.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let retry = self.retry_at.filter(|_| self.wants_connection());
        let connections = self.connections.iter().filter_map(Connection::next_deadline);
        connections.chain(retry).chain(self.held_until).min()
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<PeeringEvent> {
        self.events.pop_front()
    }

    /// Bytes to send on a connection.
    pub fn poll_transmit(&mut self, serial: u32) -> Option<Bytes> {
        self.connection(serial)?.take_out()
    }

    /// Queues encoded messages for the established session. Look at
    /// [`pending_output`](Self::pending_output) first: whoever queues without end for a peer
    /// that does not read pays with memory.
    pub fn push_output(&mut self, messages: Bytes) {
        if let Some(c) = self.connections.iter_mut().find(|c| c.phase == Phase::Established) {
            c.push(messages);
        }
    }

    /// Connections that have something to send.
    pub fn transmitting(&self) -> impl Iterator<Item = u32> {
        self.connections.iter().filter(|c| c.pending() > 0).map(|c| c.serial)
    }

    /// Octets queued for the established session and not fetched yet.
    pub fn pending_output(&self) -> usize {
        self.established().map_or(0, Connection::pending)
    }

    /// Queues an End-of-RIB marker.
    pub fn send_end_of_rib(&mut self, family: Family) {
        self.send(&Message::Update(Update::end_of_rib(family)));
    }

    /// Asks the peer for all routes of a family again, if it understands that.
    pub fn send_route_refresh(&mut self, family: Family) -> bool {
        if !self.negotiated().is_some_and(|n| n.route_refresh && n.families.contains(&family)) {
            return false;
        }
        self.send(&Message::RouteRefresh(RouteRefresh { family, subtype: 0 }));
        true
    }

    /// Marks the beginning, or the end, of telling all routes of a family again, if the peer
    /// understands that (RFC 7313). Returns whether it does.
    pub fn send_refresh_mark(&mut self, family: Family, end: bool) -> bool {
        if !self.negotiated().is_some_and(|n| n.enhanced_refresh) {
            return false;
        }
        let subtype = if end { 2 } else { 1 };
        self.send(&Message::RouteRefresh(RouteRefresh { family, subtype }));
        true
    }
}
