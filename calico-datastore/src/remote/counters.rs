//! What a server did, for its metrics.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// Counts what a [`Server`](super::Server) does. May be read at any time.
#[derive(Debug, Default)]
pub struct Counters {
    accepted: AtomicU64,
    connected: AtomicI64,
    slow: AtomicU64,
    sent: AtomicU64,
    events: AtomicU64,
    written: AtomicU64,
}

/// [`Counters`] at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerFigures {
    /// Connections that were accepted.
    pub accepted: u64,
    /// Clients that are connected.
    pub connected: i64,
    /// Clients that were dropped because they took nothing for too long.
    pub slow: u64,
    /// Bytes handed to connections, before TLS.
    pub sent: u64,
    /// Events of watches handed to connections.
    pub events: u64,
    /// Events whose JSON was written for that; the others had it from another client's.
    pub written: u64,
}

impl Counters {
    /// What was counted so far.
    #[must_use]
    pub fn figures(&self) -> ServerFigures {
        ServerFigures {
            accepted: self.accepted.load(Ordering::Relaxed),
            connected: self.connected.load(Ordering::Relaxed),
            slow: self.slow.load(Ordering::Relaxed),
            sent: self.sent.load(Ordering::Relaxed),
            events: self.events.load(Ordering::Relaxed),
            written: self.written.load(Ordering::Relaxed),
        }
    }

    pub(super) fn client(&self) -> Connected<'_> {
        self.accepted.fetch_add(1, Ordering::Relaxed);
        self.connected.fetch_add(1, Ordering::Relaxed);
        Connected(self)
    }

    pub(super) fn was_slow(&self) {
        self.slow.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn events(&self, events: usize, written: usize) {
        self.events.fetch_add(events as u64, Ordering::Relaxed);
        self.written.fetch_add(written as u64, Ordering::Relaxed);
    }
}

/// A client, while it is connected.
pub(super) struct Connected<'a>(&'a Counters);

impl Drop for Connected<'_> {
    fn drop(&mut self) {
        self.0.connected.fetch_sub(1, Ordering::Relaxed);
    }
}
