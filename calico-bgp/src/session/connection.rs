//! One TCP connection of a peering.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::{Negotiated, SessionConfig};
use crate::wire::{EncodeError, Framer, Message, UpdateContext};

/// Hold time before the peer's OPEN says another (RFC 4271, section 8.2.2: 4 minutes).
const OPEN_HOLD: Duration = Duration::from_secs(240);
/// Shortest time that unsent bytes may lie before the session ends (RFC 9687, section 5).
const SEND_HOLD_MIN: Duration = Duration::from_secs(480);

/// Which side connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Outgoing,
    Incoming,
}

/// How far the connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    Connecting,
    OpenSent,
    OpenConfirm,
    Established,
}

/// What a timer of the connection wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expired {
    Connect,
    Hold,
    SendHold,
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) serial: u32,
    pub(super) direction: Direction,
    pub(super) phase: Phase,
    pub(super) framer: Framer,
    pub(super) negotiated: Option<Box<Negotiated>>,
    /// When the session came up on it.
    pub(super) established_at: Option<Instant>,
    /// Whole messages that were handed over, before those in `out`.
    queue: VecDeque<Bytes>,
    /// Octets in `queue`.
    queued: usize,
    out: BytesMut,
    hold_at: Option<Instant>,
    keepalive_at: Option<Instant>,
    /// When a KEEPALIVE first found bytes that nobody had fetched.
    stalled_since: Option<Instant>,
}

impl Connection {
    pub(super) fn new(serial: u32, direction: Direction, deadline: Instant) -> Self {
        Self {
            serial,
            direction,
            phase: Phase::Connecting,
            framer: Framer::default(),
            negotiated: None,
            established_at: None,
            queue: VecDeque::new(),
            queued: 0,
            out: BytesMut::new(),
            hold_at: Some(deadline),
            keepalive_at: None,
            stalled_since: None,
        }
    }

    pub(super) fn send_open(&mut self, now: Instant, config: &SessionConfig) {
        let sent = self.send(&Message::Open(config.open()));
        debug_assert!(sent.is_ok(), "our own OPEN is far below the bound");
        self.phase = Phase::OpenSent;
        self.hold_at = Some(now + OPEN_HOLD);
    }

    /// The peer's OPEN was good: answer it and run by what was agreed.
    pub(super) fn confirm(&mut self, now: Instant, negotiated: Negotiated) {
        // Our OPEN said so, whatever the peer's did (RFC 8654, section 4).
        self.framer.allow_extended();
        self.negotiated = Some(Box::new(negotiated));
        self.phase = Phase::OpenConfirm;
        self.heard(now);
        self.keepalive(now);
    }

    /// Restarts the hold timer.
    pub(super) fn heard(&mut self, now: Instant) {
        if let Some(n) = &self.negotiated {
            self.hold_at = (!n.hold_time.is_zero()).then(|| now + n.hold_time);
        }
    }

    fn keepalive(&mut self, now: Instant) {
        let sent = self.send(&Message::Keepalive);
        debug_assert!(sent.is_ok(), "a KEEPALIVE always fits");
        if let Some(n) = &self.negotiated {
            self.keepalive_at = (!n.keepalive_time.is_zero()).then(|| now + n.keepalive_time);
        }
    }

    pub(super) fn context(&self) -> UpdateContext {
        self.negotiated.as_ref().map(|n| n.context.clone()).unwrap_or_default()
    }

    pub(super) fn send(&mut self, message: &Message) -> Result<(), EncodeError> {
        match &self.negotiated {
            Some(n) => message.encode(&n.context, &mut self.out),
            None => message.encode(&UpdateContext::default(), &mut self.out),
        }
    }

    /// Queues encoded messages, which may be shared with other connections.
    pub(super) fn push(&mut self, messages: Bytes) {
        if !self.out.is_empty() {
            let earlier = self.out.split().freeze();
            self.enqueue(earlier);
        }
        self.enqueue(messages);
    }

    fn enqueue(&mut self, messages: Bytes) {
        self.queued += messages.len();
        self.queue.push_back(messages);
    }

    pub(super) fn pending(&self) -> usize {
        self.queued + self.out.len()
    }

    pub(super) fn take_out(&mut self) -> Option<Bytes> {
        self.stalled_since = None;
        if let Some(messages) = self.queue.pop_front() {
            self.queued -= messages.len();
            return Some(messages);
        }
        (!self.out.is_empty()).then(|| std::mem::take(&mut self.out).freeze())
    }

    /// The last bytes: routes that are still queued do not matter any more.
    pub(super) fn take_last(&mut self) -> Bytes {
        std::mem::take(&mut self.out).freeze()
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        [self.hold_at, self.keepalive_at].into_iter().flatten().min()
    }

    /// Sends the KEEPALIVE that is due, or says which timer ended the connection.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> Option<Expired> {
        if self.hold_at.is_some_and(|at| at <= now) {
            return Some(match self.phase {
                Phase::Connecting => Expired::Connect,
                _ => Expired::Hold,
            });
        }
        if self.keepalive_at.is_some_and(|at| at <= now) {
            if self.pending() == 0 {
                self.keepalive(now);
            } else {
                // Unsent bytes tell the peer as much as a KEEPALIVE once they go out.
                let since = *self.stalled_since.get_or_insert(now);
                let Some(n) = &self.negotiated else { return None };
                if now.duration_since(since) >= SEND_HOLD_MIN.max(n.hold_time * 2) {
                    return Some(Expired::SendHold);
                }
                self.keepalive_at = Some(now + n.keepalive_time);
            }
        }
        None
    }
}
