//! The state machine of one peer, with up to three connections at a time: one outgoing, one
//! incoming, and the established one while its peer comes back on another.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::connection::{Connection, Direction, Expired, Phase};
use super::{Action, DownReason, Negotiated, PeeringEvent, Refused, SessionConfig, State};
use crate::wire::{
    CeaseCode, Family, FsmErrorCode, Message, Notification, NotificationCode, Open, RouteRefresh,
    Update, WireError,
};

/// Longest time a TCP connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause before connecting again after an established session was lost.
const RECONNECT_DELAY: Duration = Duration::from_secs(1);
/// Bounds of the pause after a protocol error; it doubles in between.
const ERROR_WAIT: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(30));

/// One peering: the session with one peer, through all its connections.
#[derive(Debug)]
pub struct Peering {
    config: SessionConfig,
    started: bool,
    connections: Vec<Connection>,
    next_serial: u32,
    retry_at: Option<Instant>,
    held_until: Option<Instant>,
    error_wait: Duration,
    random: u64,
    state: State,
    events: VecDeque<PeeringEvent>,
    actions: VecDeque<Action>,
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

    /// Ends the established session with a NOTIFICATION and starts over.
    pub fn reset(&mut self, now: Instant, notification: Notification, cause: &str) {
        if let Some(serial) = self.established_serial() {
            self.close(now, serial, sent(notification, Some(cause.to_owned())));
        }
        self.note_state();
    }

    /// The connection asked for by [`Action::Connect`] is there.
    pub fn handle_connected(&mut self, now: Instant, serial: u32) {
        let config = &self.config;
        if let Some(c) = self.connections.iter_mut().find(|c| c.serial == serial) {
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
        self.handle_connected(now, serial);
        Ok(serial)
    }

    /// Bytes arrived.
    pub fn handle_bytes(&mut self, now: Instant, serial: u32, bytes: &[u8]) {
        if let Some(c) = self.connection(serial) {
            c.framer.push(bytes);
        }
        // A message may close the connection, so it is looked up for each of them.
        while let Some(c) = self.connection(serial) {
            let message = match c.framer.poll_frame() {
                Ok(None) => break,
                Ok(Some(frame)) => match &c.negotiated {
                    Some(n) => Message::decode(frame, &n.context),
                    None => Message::decode(frame, &c.context()),
                },
                Err(e) => Err(e),
            };
            match message {
                Ok(message) => self.handle_message(now, serial, message),
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

    /// The output of the established session, to append encoded UPDATEs to. Look at its length
    /// first: whoever appends without end to a peer that does not read pays with memory.
    pub fn output(&mut self) -> Option<(&mut BytesMut, Negotiated)> {
        let c = self.connections.iter_mut().find(|c| c.phase == Phase::Established)?;
        let negotiated = c.negotiated.as_deref().cloned()?;
        Some((c.out(), negotiated))
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
}

impl Peering {
    fn send(&mut self, message: &Message) {
        if let Some(c) = self.connections.iter_mut().find(|c| c.phase == Phase::Established) {
            let sent = c.send(message);
            debug_assert!(sent.is_ok(), "only messages of bounded size are sent this way");
        }
    }

    fn established(&self) -> Option<&Connection> {
        self.connections.iter().find(|c| c.phase == Phase::Established)
    }

    fn connection(&mut self, serial: u32) -> Option<&mut Connection> {
        self.connections.iter_mut().find(|c| c.serial == serial)
    }

    fn add(&mut self, direction: Direction, now: Instant) -> u32 {
        let serial = self.next_serial;
        self.next_serial = self.next_serial.wrapping_add(1);
        self.connections.push(Connection::new(serial, direction, now + CONNECT_TIMEOUT));
        serial
    }

    /// Whether an outgoing connection would be of use.
    fn wants_connection(&self) -> bool {
        self.started
            && !self.config.passive
            && self.held_until.is_none()
            && !self
                .connections
                .iter()
                .any(|c| c.direction == Direction::Outgoing || c.phase >= Phase::OpenConfirm)
    }

    fn connect_if_due(&mut self, now: Instant) {
        if self.wants_connection() && self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
            let serial = self.add(Direction::Outgoing, now);
            self.actions.push_back(Action::Connect { serial });
        }
    }

    /// A duration shortened at random by up to a quarter (RFC 4271, section 10).
    fn jittered(&mut self, base: Duration) -> Duration {
        // xorshift64: spreading timers needs no better source.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        base * 3 / 4 + base.mul_f64((self.random >> 40) as f64 / (1u64 << 24) as f64 / 4.0)
    }

    fn handle_message(&mut self, now: Instant, serial: u32, message: Message) {
        let Some(c) = self.connection(serial) else { return };
        c.heard(now);
        match (c.phase, message) {
            (_, Message::Notification(n)) => {
                // The peer should close now, but it is not waited for.
                self.close(now, serial, DownReason::NotificationReceived(n));
            }
            (Phase::OpenSent, Message::Open(open)) => self.handle_open(now, serial, &open),
            (Phase::OpenConfirm, Message::Keepalive) => self.establish(now, serial),
            (Phase::Established, Message::Keepalive) => {}
            (Phase::Established, Message::Update(update)) => {
                self.events.push_back(PeeringEvent::Update(update));
            }
            (Phase::Established, Message::RouteRefresh(refresh)) => {
                let families = c.negotiated.as_ref().map(|n| n.families.as_slice());
                let known = families.unwrap_or_default().contains(&refresh.family);
                // Begin and end markers were not asked for: RFC 7313 wants them ignored.
                if known && refresh.subtype == 0 {
                    self.events.push_back(PeeringEvent::RouteRefresh(refresh.family));
                }
            }
            (phase, message) => {
                let code = match phase {
                    Phase::Connecting | Phase::OpenSent => FsmErrorCode::InOpenSent,
                    Phase::OpenConfirm => FsmErrorCode::InOpenConfirm,
                    Phase::Established => FsmErrorCode::InEstablished,
                };
                let cause = format!("unexpected {}", message_name(&message));
                let notification = Notification::new(NotificationCode::Fsm(code));
                self.close(now, serial, sent(notification, Some(cause)));
            }
        }
    }

    fn handle_open(&mut self, now: Instant, serial: u32, open: &Open) {
        let negotiated = match self.config.negotiate(open) {
            Ok(negotiated) => negotiated,
            Err(notification) => {
                let cause = format!(
                    "peer is AS {} with identifier {}, expected AS {}",
                    open.asn(),
                    open.router_id,
                    self.config.remote_as
                );
                return self.close(now, serial, sent(notification, Some(cause)));
            }
        };
        if self.resolve_collision(now, serial, open)
            && let Some(c) = self.connection(serial)
        {
            c.confirm(now, negotiated);
        }
    }

    /// RFC 4271, section 6.8, and RFC 6286, section 2.3: of two connections, the one opened by
    /// the side with the higher identifier stays. Returns whether `serial` may go on.
    fn resolve_collision(&mut self, now: Instant, serial: u32, open: &Open) -> bool {
        let Some(direction) = self.connection(serial).map(|c| c.direction) else { return false };
        let ours = (self.config.router_id, self.config.local_as);
        let keep = if ours > (open.router_id, open.asn()) {
            Direction::Outgoing
        } else {
            Direction::Incoming
        };
        let others: Vec<_> = self
            .connections
            .iter()
            .filter(|c| c.serial != serial)
            .map(|c| {
                (
                    c.serial,
                    c.phase,
                    c.negotiated.as_ref().is_some_and(|n| n.graceful_restart.is_some()),
                )
            })
            .collect();
        for (other, phase, graceful) in others {
            match phase {
                Phase::Established if graceful => {
                    // RFC 4724, section 4.2: the peer has restarted.
                    self.close(now, other, DownReason::PeerRestarted);
                }
                Phase::Established => {
                    self.close(now, serial, collision());
                    return false;
                }
                Phase::OpenConfirm if direction != keep => {
                    self.close(now, serial, collision());
                    return false;
                }
                // The other one loses whatever its OPEN will say: the identifier is known.
                _ if direction == keep => self.close(now, other, collision()),
                _ => {}
            }
        }
        true
    }

    fn establish(&mut self, now: Instant, serial: u32) {
        let others: Vec<_> =
            self.connections.iter().map(|c| c.serial).filter(|s| *s != serial).collect();
        for other in others {
            self.close(now, other, collision());
        }
        self.error_wait = ERROR_WAIT.0;
        self.retry_at = None;
        self.config.forwarding_preserved = true;
        let Some(c) = self.connection(serial) else { return };
        c.phase = Phase::Established;
        if let Some(negotiated) = c.negotiated.clone() {
            self.events.push_back(PeeringEvent::Established(negotiated));
        }
    }

    fn fail(&mut self, now: Instant, serial: u32, error: &WireError) {
        self.close(now, serial, sent(error.notification(), Some(error.to_string())));
    }

    /// Closes a connection from this side.
    fn close(&mut self, now: Instant, serial: u32, reason: DownReason) {
        let Some(c) = self.connection(serial) else { return };
        if c.phase != Phase::Connecting
            && let DownReason::NotificationSent { notification, .. } = &reason
        {
            // Only its own data could make it too long, and then it goes without.
            let whole = Message::Notification(notification.clone());
            if c.send(&whole).is_err() {
                let bare = Message::Notification(Notification::new(notification.code));
                let sent = c.send(&bare);
                debug_assert!(sent.is_ok(), "a NOTIFICATION without data always fits");
            }
        }
        let last = c.take_out().unwrap_or_default();
        self.actions.push_back(Action::Close { serial, last });
        self.forget(now, serial, reason);
    }

    /// Drops a connection and decides when to try again.
    fn forget(&mut self, now: Instant, serial: u32, reason: DownReason) {
        let Some(at) = self.connections.iter().position(|c| c.serial == serial) else { return };
        let gone = self.connections.remove(at);
        let was_established = gone.phase == Phase::Established;
        if self.started {
            // Only who may not have the session at all is held down: a stray connection beside
            // a good session must not cost anything when that one ends.
            if is_peers_fault(&reason) && (was_established || self.established().is_none()) {
                self.held_until = Some(now + self.error_wait);
                self.error_wait = (self.error_wait * 2).min(ERROR_WAIT.1);
            }
            let base = if was_established { RECONNECT_DELAY } else { self.config.connect_retry };
            let at = now + self.jittered(base);
            self.retry_at = Some(self.retry_at.map_or(at, |earlier| earlier.min(at)));
        }
        self.events.push_back(if was_established {
            PeeringEvent::Down(reason)
        } else {
            PeeringEvent::Failed(reason)
        });
    }

    fn note_state(&mut self) {
        let further = self.connections.iter().map(|c| c.phase).max();
        let to = match further {
            Some(Phase::Established) => State::Established,
            Some(Phase::OpenConfirm) => State::OpenConfirm,
            Some(Phase::OpenSent) => State::OpenSent,
            Some(Phase::Connecting) => State::Connect,
            None if !self.started || self.held_until.is_some() => State::Idle,
            None => State::Active,
        };
        if to != self.state {
            self.events.push_back(PeeringEvent::StateChanged { from: self.state, to });
            self.state = to;
        }
    }
}

const fn sent(notification: Notification, cause: Option<String>) -> DownReason {
    DownReason::NotificationSent { notification, cause }
}

const fn collision() -> DownReason {
    sent(Notification::new(NotificationCode::Cease(CeaseCode::ConnectionCollisionResolution)), None)
}

/// Whether this side ended the connection because of what the peer sent; connecting again at
/// once would only repeat it.
const fn is_peers_fault(reason: &DownReason) -> bool {
    match reason {
        DownReason::NotificationSent { notification, .. } => !matches!(
            notification.code,
            NotificationCode::Cease(_)
                | NotificationCode::HoldTimerExpired
                | NotificationCode::SendHoldTimerExpired
        ),
        _ => false,
    }
}

const fn message_name(message: &Message) -> &'static str {
    match message {
        Message::Open(_) => "OPEN",
        Message::Update(_) => "UPDATE",
        Message::Notification(_) => "NOTIFICATION",
        Message::Keepalive => "KEEPALIVE",
        Message::RouteRefresh(_) => "ROUTE-REFRESH",
    }
}
