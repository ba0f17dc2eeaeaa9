//! What a session is told, and how it deals with the peer's OPEN.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::{AddPath, Negotiated};
use crate::wire::{
    Capability, Family, GracefulRestart, LongLivedFamily, MAX_EXTENDED_LEN, MAX_LEN, Notification,
    NotificationCode, Open, OpenErrorCode, Role, UpdateContext,
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
    /// Longest pause between attempts to connect (RFC 4271, section 8.1.3, ConnectRetryTime): the
    /// first is one second, each further one twice as long. All are shortened at random by up to
    /// a quarter (section 10).
    pub connect_retry: Duration,
    /// Advertise graceful restart with this restart time in seconds (RFC 4724).
    pub graceful_restart: Option<u16>,
    /// This process has just restarted: set the R bit.
    pub restarting: bool,
    /// Advertise long-lived graceful restart with this stale time in seconds (RFC 9494); needs
    /// `graceful_restart`.
    pub long_lived: Option<u32>,
    /// The kernel kept forwarding over the last end of the session: set the F bits. True from
    /// the second session on, because the kernel does not notice the end of a session.
    pub forwarding_preserved: bool,
    /// What this side is to an external peer (RFC 9234).
    pub role: Option<Role>,
    /// With a role: refuse a peer that does not tell its own.
    pub strict_role: bool,
    /// Offer to take IPv4 routes with IPv6 next hops (RFC 8950).
    pub extended_next_hop: bool,
    /// Offer to exchange several paths per prefix of these families (RFC 7911).
    pub add_path: Vec<(Family, AddPath)>,
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
            long_lived: None,
            forwarding_preserved: false,
            role: None,
            strict_role: false,
            extended_next_hop: false,
            add_path: Vec::new(),
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
        capabilities.push(Capability::EnhancedRouteRefresh);
        capabilities.push(Capability::ExtendedMessage);
        if self.offers_extended_next_hop() {
            let v6 = Family::IPV6_UNICAST.afi;
            capabilities.push(Capability::ExtendedNextHop(vec![(Family::IPV4_UNICAST, v6)]));
        }
        if let Some(role) = self.role.filter(|_| self.is_external()) {
            capabilities.push(Capability::Role(role));
        }
        let several = self.add_path.iter().filter(|(f, _)| self.families.contains(f));
        let several: Vec<_> = several.filter_map(|(f, way)| Some((*f, way.mode()?))).collect();
        if !several.is_empty() {
            capabilities.push(Capability::AddPath(several));
        }
        if let Some(restart_time) = self.graceful_restart {
            capabilities.push(Capability::GracefulRestart(GracefulRestart {
                restarting: self.restarting,
                notification: true,
                restart_time: restart_time.min(0x0FFF),
                families: self.families.iter().map(|f| (*f, self.forwarding_preserved)).collect(),
            }));
            // Without a stale time of its own it says at least that it knows what stale means.
            let long_lived = self.long_lived.map(|stale_time| {
                let forwarding = self.forwarding_preserved;
                let family = |family: &Family| LongLivedFamily {
                    family: *family,
                    forwarding,
                    stale_time: stale_time.min(0x00FF_FFFF),
                };
                self.families.iter().map(family).collect()
            });
            let long_lived = long_lived.unwrap_or_default();
            capabilities.push(Capability::LongLivedGracefulRestart(long_lived));
        }
        Open::new(self.local_as, self.hold_time, self.router_id, capabilities)
    }

    fn offers_extended_next_hop(&self) -> bool {
        self.extended_next_hop && self.families.contains(&Family::IPV4_UNICAST)
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
            let code = NotificationCode::Open(OpenErrorCode::UnsupportedCapability);
            let missing: Vec<_> =
                self.families.iter().map(|f| Capability::MultiProtocol(*f)).collect();
            return Err(Notification { code, data: Capability::list(&missing) });
        }
        let role = self.role.filter(|_| self.is_external());
        if !role.is_none_or(|role| self.is_role_accepted(role, open)) {
            return refuse(OpenErrorCode::RoleMismatch);
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
        let long_lived = open.capabilities.iter().find_map(|c| match c {
            Capability::LongLivedGracefulRestart(families) if graceful_restart.is_some() => {
                Some(families.clone())
            }
            _ => None,
        });
        let v4_over_v6 = (Family::IPV4_UNICAST, Family::IPV6_UNICAST.afi);
        let takes_v4_over_v6 =
            |c: &Capability| matches!(c, Capability::ExtendedNextHop(f) if f.contains(&v4_over_v6));
        let add_path = self.common_add_path(open, &families);
        let families_with = |way: fn(&AddPath) -> bool| {
            add_path.iter().filter(|(_, a)| way(a)).map(|(f, _)| *f).collect()
        };
        let (received, sent) = (families_with(|a| a.receive), families_with(|a| a.send));
        let extended_next_hop =
            self.offers_extended_next_hop() && open.capabilities.iter().any(takes_v4_over_v6);
        let route_refresh = has(&Capability::RouteRefresh);
        Ok(Negotiated {
            remote_as: self.remote_as,
            remote_router_id: open.router_id,
            hold_time: Duration::from_secs(hold_time.into()),
            keepalive_time: Duration::from_secs(keepalive.into()),
            families,
            route_refresh,
            enhanced_refresh: route_refresh && has(&Capability::EnhancedRouteRefresh),
            graceful_restart,
            long_lived,
            role,
            extended_next_hop,
            add_path,
            context: UpdateContext {
                four_octet_as,
                external: self.is_external(),
                add_path: received,
                add_path_send: sent,
                extended_next_hop,
                max_len,
            },
        })
    }

    /// RFC 9234, section 4.2. A peer that tells several roles must mean one.
    fn is_role_accepted(&self, role: Role, open: &Open) -> bool {
        let mut told = false;
        open.capabilities.iter().all(|c| match c {
            Capability::Role(theirs) => {
                told = true;
                *theirs == role.opposite()
            }
            _ => true,
        }) && (told || !self.strict_role)
    }

    fn common_add_path(&self, open: &Open, families: &[Family]) -> Vec<(Family, AddPath)> {
        let theirs = open.capabilities.iter().filter_map(|c| match c {
            Capability::AddPath(offers) => Some(offers),
            _ => None,
        });
        let mut seen = Vec::new();
        let mut agreed = Vec::new();
        for (family, mode) in theirs.flatten() {
            // RFC 7911, section 4: of several for one family the first counts.
            if seen.contains(family) || !families.contains(family) {
                continue;
            }
            seen.push(*family);
            let ours = self.add_path.iter().find(|(f, _)| f == family);
            let way = ours.map(|(_, ours)| ours.with(*mode)).unwrap_or_default();
            if way != AddPath::default() {
                agreed.push((*family, way));
            }
        }
        agreed
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

/// Calico's rule for the passive end of a session between two of its nodes: the side whose
/// peer's address is greater *as text* waits. Both sides come to opposite answers.
pub fn passive_by_address_text(local: IpAddr, peer: IpAddr) -> bool {
    peer.to_string() > local.to_string()
}
