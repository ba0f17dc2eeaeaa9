//! What two speakers agree on.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::wire::{AddPathMode, Family, GracefulRestart, LongLivedFamily, Role, UpdateContext};

/// What both OPENs agree on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Negotiated {
    /// The peer's AS number.
    pub remote_as: u32,
    /// The peer's BGP identifier.
    pub remote_router_id: Ipv4Addr,
    /// Hold time; zero is off.
    pub hold_time: Duration,
    /// Time between KEEPALIVEs; zero is never.
    pub keepalive_time: Duration,
    /// Families that both sides speak.
    pub families: Vec<Family>,
    /// The peer understands ROUTE-REFRESH.
    pub route_refresh: bool,
    /// The peer marks beginning and end of what it tells again, and understands our marks
    /// (RFC 7313).
    pub enhanced_refresh: bool,
    /// The peer's graceful restart capability, if both sides have it.
    pub graceful_restart: Option<GracefulRestart>,
    /// The peer's families with long-lived graceful restart (RFC 9494); `Some` without any if it
    /// only knows what stale routes are.
    pub long_lived: Option<Vec<LongLivedFamily>>,
    /// What this side is to the peer (RFC 9234).
    pub role: Option<Role>,
    /// IPv4 routes may have IPv6 next hops (RFC 8950), both ways.
    pub extended_next_hop: bool,
    /// Families with several paths per prefix (RFC 7911), and which way.
    pub add_path: Vec<(Family, AddPath)>,
    /// How UPDATEs are read and written.
    pub context: UpdateContext,
}

impl Negotiated {
    /// Whether graceful restart also covers the ends of sessions by NOTIFICATION (RFC 8538).
    pub fn restarts_over_notification(&self) -> bool {
        self.graceful_restart.as_ref().is_some_and(|gr| gr.notification)
    }

    /// Seconds for which the peer wants the routes of a family kept after its restart time
    /// (RFC 9494).
    pub fn long_lived_stale_time(&self, family: Family) -> u32 {
        let mut families = self.long_lived.iter().flatten();
        families.find(|f| f.family == family).map_or(0, |f| f.stale_time)
    }

    /// Which way several paths per prefix of a family go (RFC 7911).
    pub fn add_path(&self, family: Family) -> AddPath {
        let mut families = self.add_path.iter();
        families.find(|(f, _)| *f == family).map(|(_, agreed)| *agreed).unwrap_or_default()
    }

    /// The families that a restart of the peer leaves in place (RFC 4724, section 4.2; RFC 9494,
    /// section 4.2), with the restart time and the stale time in seconds.
    pub fn restartable_families(&self) -> Vec<(Family, u16, u32)> {
        let Some(gr) = &self.graceful_restart else { return Vec::new() };
        let times = |family: &Family| {
            let restarts = gr.families.iter().any(|(f, _)| f == family);
            let restart_time = if restarts { gr.restart_time } else { 0 };
            let stale_time = self.long_lived_stale_time(*family);
            (restarts || stale_time > 0).then_some((*family, restart_time, stale_time))
        };
        self.families.iter().filter_map(times).collect()
    }
}

/// Several paths per prefix (RFC 7911): which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct AddPath {
    /// This side takes them.
    pub receive: bool,
    /// This side sends them.
    pub send: bool,
}

impl AddPath {
    pub(super) const fn mode(self) -> Option<AddPathMode> {
        match (self.receive, self.send) {
            (true, true) => Some(AddPathMode::Both),
            (true, false) => Some(AddPathMode::Receive),
            (false, true) => Some(AddPathMode::Send),
            (false, false) => None,
        }
    }

    /// What is left of it with a peer that offers `theirs`.
    pub(super) fn with(self, theirs: AddPathMode) -> Self {
        Self {
            receive: self.receive && theirs != AddPathMode::Receive,
            send: self.send && theirs != AddPathMode::Send,
        }
    }
}
