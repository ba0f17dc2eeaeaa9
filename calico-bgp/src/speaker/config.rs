//! What a speaker and its peers are configured with.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::{ConfigError, Distance, Password, PrefixLimit, Transport};
use crate::rib::{
    AddPathFamily, AsRules, NextHopMode, PeerKind, PeerRouting, Policy, PrivateAs, RibConfig,
    SendPaths,
};
use crate::session::{AddPath, SessionConfig};
use crate::wire::{Family, Role};

/// The port that BGP has (RFC 4271).
pub(crate) const BGP_PORT: u16 = 179;

/// Configuration of a speaker.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// AS number.
    pub local_as: u32,
    /// BGP identifier, unique among all speakers that hear each other's routes.
    pub router_id: Ipv4Addr,
    /// Addresses to listen on; empty to only connect. Used by the runtime.
    pub listen: Vec<SocketAddr>,
    /// Cluster of a route reflector; the BGP identifier if `None` (RFC 4456).
    pub cluster_id: Option<Ipv4Addr>,
    /// Most next hops of one route.
    pub max_paths: usize,
    /// AS paths of equal length but other content may share traffic.
    pub multipath_relax: bool,
    /// Next hop of own IPv4 routes on sessions over IPv6.
    pub next_hop_v4: Option<Ipv4Addr>,
    /// Next hop of own IPv6 routes on sessions over IPv4.
    pub next_hop_v6: Option<Ipv6Addr>,
    /// This process replaces one that ended a moment ago, and the kernel still has its routes.
    /// Peers are told so, and hear routes only once all of them have told theirs (RFC 4724,
    /// section 4.1).
    pub restarting: bool,
    /// With `restarting`: packets were forwarded all the time, by a kernel that kept its routes,
    /// or by others, as those to which a route reflector tells routes. Peers drop the routes of
    /// a speaker that says otherwise (RFC 4724, section 3, F bit).
    pub forwarding_preserved: bool,
    /// Longest time that `restarting` holds routes back.
    pub selection_deferral: Duration,
}

impl Config {
    /// A speaker that listens on port 179 of all addresses.
    pub fn new(local_as: u32, router_id: Ipv4Addr) -> Self {
        Self {
            local_as,
            router_id,
            listen: vec![SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), BGP_PORT)],
            cluster_id: None,
            max_paths: 16,
            multipath_relax: true,
            next_hop_v4: None,
            next_hop_v6: None,
            restarting: false,
            forwarding_preserved: true,
            selection_deferral: Duration::from_secs(60),
        }
    }

    pub(super) fn rib(&self) -> RibConfig {
        RibConfig {
            router_id: self.router_id,
            cluster_id: self.cluster_id,
            max_paths: self.max_paths.max(1),
            multipath_relax: self.multipath_relax,
            next_hop_v4: self.next_hop_v4,
            next_hop_v6: self.next_hop_v6,
        }
    }

    /// Checks what the types do not.
    ///
    /// # Errors
    /// [`ConfigError`] for an AS number or BGP identifier of zero.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.local_as == 0 {
            return Err(ConfigError::AsNumber);
        }
        if self.router_id.is_unspecified() {
            return Err(ConfigError::RouterId);
        }
        Ok(())
    }
}

/// What a peer with a local AS of its own sees of the speaker's AS number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum LocalAsMode {
    /// Nothing: the local AS stands for it.
    #[default]
    Replace,
    /// It stands behind the local AS in the paths that the peer is sent.
    Show,
}

/// Configuration of one peer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerConfig {
    /// Address of the peer. With the port it tells peers apart.
    pub address: IpAddr,
    /// Port that the peer listens on.
    pub port: u16,
    /// AS number of the peer.
    pub remote_as: u32,
    /// AS number of this side, if not that of the speaker.
    pub local_as: Option<u32>,
    /// Source address of connections to the peer, and next hop for "self".
    pub local_address: Option<IpAddr>,
    /// Wait for the peer to connect.
    pub passive: bool,
    /// The peer is a client of this route reflector; only for peers in the same AS.
    pub rr_client: bool,
    /// Cluster that a client is in, if not that of the speaker (RFC 4456, section 7). What is
    /// reflected carries the clusters of both sides, and none of them is taken in again.
    pub cluster_id: Option<Ipv4Addr>,
    /// Families to exchange; that of the address if empty.
    pub families: Vec<Family>,
    /// Which next hop the peer is told.
    pub next_hop: NextHopMode,
    /// Graceful restart with this restart time in seconds (RFC 4724); `None` turns it off.
    pub graceful_restart: Option<u16>,
    /// Proposed hold time in seconds: 0, or 3 and more.
    pub hold_time: u16,
    /// Seconds between KEEPALIVEs; a third of the hold time if `None`.
    pub keepalive_time: Option<u16>,
    /// Longest pause between attempts to connect; the first is one second, if this is not shorter.
    pub connect_retry: Duration,
    /// Long-lived graceful restart with this stale time in seconds (RFC 9494); needs
    /// `graceful_restart`.
    pub long_lived: Option<u32>,
    /// Longest time that routes of the peer are kept as a last resort, whatever it asks for.
    pub long_lived_max: Duration,
    /// Password of the TCP signatures (RFC 2385).
    pub password: Option<Password>,
    /// How far away the peer may be.
    pub distance: Distance,
    /// With `local_as`: whether the speaker's own AS number shows behind it.
    pub local_as_mode: LocalAsMode,
    /// With `local_as`: paths that the peer sends show it in front, for the other peers to see.
    pub local_as_prepend: bool,
    /// How often this side's AS number may be in a path that the peer sends.
    pub allow_own_as: u8,
    /// Paths of an external peer must begin with its AS number. A route server's do not, so it is
    /// off.
    pub enforce_first_as: bool,
    /// Replaces the peer's AS number by this side's in paths sent to it.
    pub override_as: bool,
    /// What is done with private AS numbers in paths sent to it.
    pub private_as: PrivateAs,
    /// How many prefixes it may tell.
    pub prefix_limit: Option<PrefixLimit>,
    /// What this side is to the peer (RFC 9234); only for external peers.
    pub role: Option<Role>,
    /// With a role: refuse the peer if it does not tell its own.
    pub strict_role: bool,
    /// Offer to take IPv4 routes with IPv6 next hops (RFC 8950).
    pub extended_next_hop: bool,
    /// Families with several paths to a destination (RFC 7911): how many are taken in and told.
    pub add_path: Vec<AddPathFamily>,
    /// Asks the peer to look for other ways: what it is sent carries GRACEFUL_SHUTDOWN, and to
    /// internal peers the lowest preference (RFC 8326). To be set a while before a session is
    /// taken down.
    pub graceful_shutdown: bool,
    /// Gives routes with GRACEFUL_SHUTDOWN from an external peer the lowest preference (RFC 8326).
    pub honor_graceful_shutdown: bool,
    /// Interface over which the peer is reached, for policies that ask for it.
    pub interface: Option<Arc<str>>,
    /// Which routes of the peer are used.
    pub import: Policy,
    /// Which routes the peer hears of.
    pub export: Policy,
}

impl PeerConfig {
    /// A peer on port 179 with the family of its address, graceful restart of 120 s, hold time
    /// 90 s, and all routes both ways.
    pub fn new(address: IpAddr, remote_as: u32) -> Self {
        Self {
            address,
            port: BGP_PORT,
            remote_as,
            local_as: None,
            local_address: None,
            passive: false,
            rr_client: false,
            cluster_id: None,
            families: Vec::new(),
            next_hop: NextHopMode::Auto,
            graceful_restart: Some(120),
            hold_time: 90,
            keepalive_time: None,
            connect_retry: Duration::from_secs(5),
            long_lived: None,
            long_lived_max: Duration::from_secs(24 * 3600),
            password: None,
            distance: Distance::Anywhere,
            local_as_mode: LocalAsMode::Replace,
            local_as_prepend: false,
            allow_own_as: 0,
            enforce_first_as: false,
            override_as: false,
            private_as: PrivateAs::Keep,
            prefix_limit: None,
            role: None,
            strict_role: false,
            extended_next_hop: address.is_ipv6(),
            add_path: Vec::new(),
            graceful_shutdown: false,
            honor_graceful_shutdown: true,
            interface: None,
            import: Policy::AcceptAll,
            export: Policy::AcceptAll,
        }
    }

    /// Address and port: what tells peers apart.
    pub const fn key(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.port)
    }

    /// The families to offer.
    pub fn effective_families(&self) -> Vec<Family> {
        if self.families.is_empty() {
            return vec![Family::of_address(self.address)];
        }
        let mut families = self.families.clone();
        families.dedup();
        families
    }

    pub(super) fn kind(&self, config: &Config) -> PeerKind {
        match (self.remote_as == self.local_as.unwrap_or(config.local_as), self.rr_client) {
            (false, _) => PeerKind::External,
            (true, true) => PeerKind::Client,
            (true, false) => PeerKind::Internal,
        }
    }

    pub(super) fn routing(&self, config: &Config) -> PeerRouting {
        PeerRouting {
            import: self.import.clone(),
            export: self.export.clone(),
            next_hop: self.next_hop,
            cluster_id: self.cluster_id,
            graceful_shutdown: self.graceful_shutdown,
            honor_graceful_shutdown: self.honor_graceful_shutdown,
            add_path: self.add_path.clone(),
            as_rules: AsRules {
                allow_own: self.allow_own_as,
                prepend_received: self.local_as_prepend && self.local_as.is_some(),
                enforce_first: self.enforce_first_as,
                override_peer: self.override_as,
                private: self.private_as,
                behind: match self.local_as_mode {
                    LocalAsMode::Replace => None,
                    LocalAsMode::Show => self.local_as.map(|_| config.local_as),
                },
            },
        }
    }

    pub(super) fn transport(&self) -> Transport {
        Transport { password: self.password.clone(), distance: self.distance }
    }

    pub(super) fn session(&self, config: &Config, restarting: bool) -> SessionConfig {
        SessionConfig {
            local_as: self.local_as.unwrap_or(config.local_as),
            router_id: config.router_id,
            remote_as: self.remote_as,
            families: self.effective_families(),
            passive: self.passive,
            hold_time: self.hold_time,
            keepalive_time: self.keepalive_time,
            connect_retry: self.connect_retry,
            graceful_restart: self.graceful_restart,
            restarting,
            long_lived: self.long_lived,
            forwarding_preserved: restarting && config.forwarding_preserved,
            role: self.role,
            strict_role: self.strict_role,
            extended_next_hop: self.extended_next_hop,
            add_path: self
                .add_path
                .iter()
                .map(|f| {
                    let send = f.send != SendPaths::Best;
                    (f.family, AddPath { receive: f.receive > 0, send })
                })
                .collect(),
        }
    }

    /// Whether a change from `self` to `other` can be had without a new session.
    pub(super) fn same_session(&self, other: &Self) -> bool {
        let plain = |c: &Self| Self {
            rr_client: false,
            cluster_id: None,
            graceful_shutdown: false,
            next_hop: NextHopMode::Auto,
            import: Policy::AcceptAll,
            export: Policy::AcceptAll,
            override_as: false,
            private_as: PrivateAs::Keep,
            local_as_mode: LocalAsMode::Replace,
            prefix_limit: None,
            long_lived_max: Duration::ZERO,
            families: c.effective_families(),
            // Whether, not how many.
            add_path: c.add_path.iter().map(AddPathFamily::offer).collect(),
            ..c.clone()
        };
        plain(self) == plain(other)
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let peer = self.key();
        if self.remote_as == 0 || self.local_as == Some(0) {
            return Err(ConfigError::PeerAsNumber { peer });
        }
        if matches!(self.hold_time, 1 | 2) {
            return Err(ConfigError::HoldTime { peer, hold_time: self.hold_time });
        }
        if self.local_address.is_some_and(|a| a.is_ipv4() != self.address.is_ipv4()) {
            return Err(ConfigError::LocalAddress { peer });
        }
        if !self.distance.is_valid() {
            return Err(ConfigError::Distance { peer });
        }
        if self.address.is_unspecified() || self.address.is_multicast() {
            return Err(ConfigError::Address { peer });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwarding_is_claimed_after_a_restart_unless_told_otherwise() {
        let peer = PeerConfig::new([192, 0, 2, 2].into(), 1);
        let check = |restarting, preserved, expected| {
            let mut config = Config::new(1, [192, 0, 2, 1].into());
            config.forwarding_preserved = preserved;
            let session = peer.session(&config, restarting);
            assert_eq!((session.restarting, session.forwarding_preserved), (restarting, expected));
        };
        check(true, true, true);
        check(true, false, false);
        check(false, true, false);
    }
}
