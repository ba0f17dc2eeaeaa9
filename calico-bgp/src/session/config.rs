//! What a session is told, and what two speakers agree on.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use crate::wire::{
    Capability, Family, GracefulRestart, MAX_EXTENDED_LEN, MAX_LEN, Notification, NotificationCode,
    Open, OpenErrorCode, UpdateContext,
};

/// Everything that a change of must restart the session for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionConfig {
    /// AS number that this side says it is in.
    pub local_as: u32,
    /// BGP identifier of this side.
    pub router_id: Ipv4Addr,
    /// AS number that the peer must be in.
    pub remote_as: u32,
    /// Families offered to the peer.
    pub families: Vec<Family>,
    /// Wait for the peer to connect instead of connecting to it.
    pub passive: bool,
    /// Proposed hold time in seconds: 0 (off), or 3 and more.
    pub hold_time: u16,
    /// Seconds between KEEPALIVEs; a third of the agreed hold time if `None`.
    pub keepalive_time: Option<u16>,
    /// Pause between attempts to connect; shortened at random by up to a quarter (RFC 4271,
    /// section 10).
    pub connect_retry: Duration,
    /// Advertise graceful restart with this restart time in seconds (RFC 4724).
    pub graceful_restart: Option<u16>,
    /// This process has just restarted: set the R bit.
    pub restarting: bool,
    /// The kernel kept forwarding over the last end of the session: set the F bits. True from
    /// the second session on, because the kernel does not notice the end of a session.
    pub forwarding_preserved: bool,
}

impl SessionConfig {
    /// A session with the defaults of the Calico node: hold time 90 s, connect retry 5 s, active,
    /// no graceful restart.
    pub fn new(local_as: u32, router_id: Ipv4Addr, remote_as: u32, families: Vec<Family>) -> Self {
        Self {
            local_as,
            router_id,
            remote_as,
            families,
            passive: false,
            hold_time: 90,
            keepalive_time: None,
            connect_retry: Duration::from_secs(5),
            graceful_restart: None,
            restarting: false,
            forwarding_preserved: false,
        }
    }

    /// Whether the peer is in another AS.
    pub const fn is_external(&self) -> bool {
        self.local_as != self.remote_as
    }

    pub(super) fn open(&self) -> Open {
        let mut capabilities: Vec<_> =
            self.families.iter().map(|f| Capability::MultiProtocol(*f)).collect();
        capabilities.push(Capability::RouteRefresh);
        capabilities.push(Capability::ExtendedMessage);
        if let Some(restart_time) = self.graceful_restart {
            capabilities.push(Capability::GracefulRestart(GracefulRestart {
                restarting: self.restarting,
                notification: false,
                restart_time: restart_time.min(0x0FFF),
                families: self.families.iter().map(|f| (*f, self.forwarding_preserved)).collect(),
            }));
        }
        Open::new(self.local_as, self.hold_time, self.router_id, capabilities)
    }

    /// Compares the peer's OPEN with this side (RFC 4271, section 6.2).
    pub(super) fn negotiate(&self, open: &Open) -> Result<Negotiated, Notification> {
        let refuse = |code| Err(Notification::new(NotificationCode::Open(code)));
        if open.asn() != self.remote_as {
            return refuse(OpenErrorCode::BadPeerAs);
        }
        // RFC 6286, section 2.2: identifiers need to differ only inside one AS.
        if open.router_id == self.router_id && !self.is_external() {
            return refuse(OpenErrorCode::BadBgpIdentifier);
        }
        let families = self.common_families(open);
        if families.is_empty() {
            return refuse(OpenErrorCode::UnsupportedCapability);
        }
        let has = |wanted: &Capability| open.capabilities.contains(wanted);
        let four_octet_as =
            open.capabilities.iter().any(|c| matches!(c, Capability::FourOctetAs(_)));
        let max_len = if has(&Capability::ExtendedMessage) { MAX_EXTENDED_LEN } else { MAX_LEN };
        let hold_time = self.hold_time.min(open.hold_time);
        let keepalive = match (hold_time, self.keepalive_time) {
            (0, _) => 0,
            (hold, Some(wanted)) => wanted.clamp(1, (hold / 3).max(1)),
            (hold, None) => hold / 3,
        };
        let graceful_restart = open.capabilities.iter().find_map(|c| match c {
            Capability::GracefulRestart(gr) if self.graceful_restart.is_some() => Some(gr.clone()),
            _ => None,
        });
        Ok(Negotiated {
            remote_as: self.remote_as,
            remote_router_id: open.router_id,
            hold_time: Duration::from_secs(hold_time.into()),
            keepalive_time: Duration::from_secs(keepalive.into()),
            families,
            route_refresh: has(&Capability::RouteRefresh),
            graceful_restart,
            context: UpdateContext {
                four_octet_as,
                external: self.is_external(),
                add_path: Vec::new(),
                max_len,
            },
        })
    }

    fn common_families(&self, open: &Open) -> Vec<Family> {
        let mut theirs: Vec<Family> = open
            .capabilities
            .iter()
            .filter_map(|c| match c {
                Capability::MultiProtocol(family) => Some(*family),
                _ => None,
            })
            .collect();
        if theirs.is_empty() {
            // A speaker without RFC 4760 speaks IPv4 unicast.
            theirs.push(Family::IPV4_UNICAST);
        }
        self.families.iter().copied().filter(|f| theirs.contains(f)).collect()
    }
}

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
    /// The peer's graceful restart capability, if both sides have it.
    pub graceful_restart: Option<GracefulRestart>,
    /// How UPDATEs are read and written.
    pub context: UpdateContext,
}

impl Negotiated {
    /// The families that a restart of the peer leaves in place (RFC 4724, section 4.2).
    pub fn restartable_families(&self) -> Vec<Family> {
        let Some(gr) = &self.graceful_restart else { return Vec::new() };
        gr.families.iter().map(|(f, _)| *f).filter(|f| self.families.contains(f)).collect()
    }
}

/// Calico's rule for the passive end of a session between two of its nodes: the side whose
/// peer's address is greater *as text* waits. Both sides come to opposite answers.
pub fn passive_by_address_text(local: IpAddr, peer: IpAddr) -> bool {
    peer.to_string() > local.to_string()
}
