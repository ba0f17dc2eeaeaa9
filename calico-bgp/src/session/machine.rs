//! What a peering does with a message, an end of a connection, a collision: RFC 4271, section 8,
//! behind the methods of [`Peering`].

use std::time::{Duration, Instant};

use super::connection::{Connection, Direction, Phase};
use super::{Action, DownReason, Peering, PeeringEvent, State};
use crate::wire::{
    CeaseCode, FsmErrorCode, Message, Notification, NotificationCode, Open, WireError,
};

/// Longest time a TCP connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// First pause before connecting again; it doubles up to the configured one. Two neighbours that
/// start together meet at once, and one that is away is not asked more often than configured.
pub(super) const FIRST_RETRY: Duration = Duration::from_secs(1);
/// A peer that connects within this time of the session's beginning has not restarted: both sides
/// connected at once, and this side hears of the second connection late.
const YOUNG: Duration = Duration::from_secs(10);
/// Bounds of the pause after a protocol error; it doubles in between.
pub(super) const ERROR_WAIT: (Duration, Duration) =
    (Duration::from_secs(5), Duration::from_secs(30));

impl Peering {
    pub(super) fn send(&mut self, message: &Message) {
        if let Some(c) = self.connections.iter_mut().find(|c| c.phase == Phase::Established) {
            let sent = c.send(message);
            debug_assert!(sent.is_ok(), "only messages of bounded size are sent this way");
        }
    }

    pub(super) fn established(&self) -> Option<&Connection> {
        self.connections.iter().find(|c| c.phase == Phase::Established)
    }

    pub(super) fn connection(&mut self, serial: u32) -> Option<&mut Connection> {
        self.connections.iter_mut().find(|c| c.serial == serial)
    }

    pub(super) fn add(&mut self, direction: Direction, now: Instant) -> u32 {
        let serial = self.next_serial;
        self.next_serial = self.next_serial.wrapping_add(1);
        self.connections.push(Connection::new(serial, direction, now + CONNECT_TIMEOUT));
        serial
    }

    /// Whether an outgoing connection would be of use.
    pub(super) fn wants_connection(&self) -> bool {
        self.started
            && !self.config.passive
            && self.held_until.is_none()
            && !self
                .connections
                .iter()
                .any(|c| c.direction == Direction::Outgoing || c.phase >= Phase::OpenConfirm)
    }

    pub(super) fn connect_if_due(&mut self, now: Instant) {
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

    /// Takes what it needs out of the message.
    pub(super) fn handle_message(&mut self, now: Instant, serial: u32, message: &mut Message) {
        let Some(c) = self.connection(serial) else { return };
        c.heard(now);
        match (c.phase, message) {
            (_, Message::Notification(n)) => {
                // The peer should close now, but it is not waited for.
                self.close(now, serial, DownReason::NotificationReceived(n.clone()));
            }
            (Phase::OpenSent, Message::Open(open)) => self.handle_open(now, serial, open),
            // Beside a session; see `handle_accepted`.
            (Phase::Connecting, Message::Open(open)) if c.direction == Direction::Incoming => {
                self.handle_open(now, serial, open);
            }
            (Phase::OpenConfirm, Message::Keepalive) => self.establish(now, serial),
            (Phase::Established, Message::Keepalive) => {}
            (Phase::Established, Message::Update(update)) => {
                self.events.push_back(PeeringEvent::Update(std::mem::take(update)));
            }
            (Phase::Established, Message::RouteRefresh(refresh)) => {
                let families = c.negotiated.as_ref().map(|n| n.families.as_slice());
                let known = families.unwrap_or_default().contains(&refresh.family);
                let enhanced = c.negotiated.as_ref().is_some_and(|n| n.enhanced_refresh);
                let event = match refresh.subtype {
                    0 => PeeringEvent::RouteRefresh(refresh.family),
                    1 if enhanced => PeeringEvent::RefreshBegins(refresh.family),
                    2 if enhanced => PeeringEvent::RefreshEnds(refresh.family),
                    // RFC 7313, section 5: other subtypes are ignored.
                    _ => return,
                };
                if known {
                    self.events.push_back(event);
                }
            }
            (phase, message) => {
                let code = match phase {
                    Phase::Connecting | Phase::OpenSent => FsmErrorCode::InOpenSent,
                    Phase::OpenConfirm => FsmErrorCode::InOpenConfirm,
                    Phase::Established => FsmErrorCode::InEstablished,
                };
                let cause = format!("unexpected {}", message_name(message));
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
        if !self.resolve_collision(now, serial, open) {
            return;
        }
        let config = &self.config;
        if let Some(c) = self.connections.iter_mut().find(|c| c.serial == serial) {
            if c.phase == Phase::Connecting {
                c.send_open(now, config);
            }
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
                let graceful = c.negotiated.as_ref().is_some_and(|n| n.graceful_restart.is_some());
                let old = c.established_at.is_some_and(|at| now.duration_since(at) >= YOUNG);
                (c.serial, c.phase, graceful && old)
            })
            .collect();
        for (other, phase, replaceable) in others {
            match phase {
                Phase::Established if replaceable => {
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
        self.retry_wait = FIRST_RETRY;
        self.retry_at = None;
        self.config.forwarding_preserved = true;
        let Some(c) = self.connection(serial) else { return };
        c.phase = Phase::Established;
        c.established_at = Some(now);
        if let Some(negotiated) = c.negotiated.clone() {
            self.events.push_back(PeeringEvent::Established(negotiated));
        }
    }

    pub(super) fn fail(&mut self, now: Instant, serial: u32, error: &WireError) {
        self.close(now, serial, sent(error.notification(), Some(error.to_string())));
    }

    /// Closes a connection from this side.
    pub(super) fn close(&mut self, now: Instant, serial: u32, mut reason: DownReason) {
        let Some(c) = self.connection(serial) else { return };
        if let DownReason::NotificationSent { notification, .. } = &mut reason
            && c.phase == Phase::Established
            && c.negotiated.as_ref().is_some_and(|n| n.restarts_over_notification())
            && is_for_good(notification.code)
        {
            *notification = notification.hard_reset();
        }
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
        let last = c.take_last();
        self.actions.push_back(Action::Close { serial, last });
        self.forget(now, serial, reason);
    }

    /// Drops a connection and decides when to try again.
    pub(super) fn forget(&mut self, now: Instant, serial: u32, reason: DownReason) {
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
            let wait = self.retry_wait.min(self.config.connect_retry);
            if !was_established && gone.direction == Direction::Outgoing {
                self.retry_wait = wait * 2;
            }
            let at = now + self.jittered(wait);
            self.retry_at = Some(self.retry_at.map_or(at, |earlier| earlier.min(at)));
        }
        self.events.push_back(if was_established {
            PeeringEvent::Down(reason)
        } else {
            PeeringEvent::Failed(reason)
        });
    }

    pub(super) fn note_state(&mut self) {
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

pub(super) const fn sent(notification: Notification, cause: Option<String>) -> DownReason {
    DownReason::NotificationSent { notification, cause }
}

pub(super) const fn collision() -> DownReason {
    sent(Notification::new(NotificationCode::Cease(CeaseCode::ConnectionCollisionResolution)), None)
}

/// Whether the peer is to drop the routes at once (RFC 8538, section 3.1). An administrative reset
/// is not for good: the session comes back at once, and the routes stay meanwhile.
const fn is_for_good(code: NotificationCode) -> bool {
    matches!(
        code,
        NotificationCode::Cease(
            CeaseCode::AdministrativeShutdown
                | CeaseCode::PeerDeconfigured
                | CeaseCode::MaximumPrefixes
        )
    )
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
