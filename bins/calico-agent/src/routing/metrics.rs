//! Metrics of routes, as upstream's.

use ipnet::IpNet;

/// LOCAL_PREF and metric of a route add up to this, as upstream.
pub(super) const METRIC_BASE: u32 = i32::MAX as u32;

/// LOCAL_PREF of a route that came without (BIRD's default, as upstream's).
pub(super) const USUAL_LOCAL_PREF: u32 = 100;

/// Metrics of routes to endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metrics {
    /// In IPv4.
    pub v4: u32,
    /// In IPv6.
    pub v6: u32,
    /// Of endpoints that have just arrived from another node, in IPv4.
    pub elevated_v4: u32,
    /// Likewise in IPv6.
    pub elevated_v6: u32,
}

impl Default for Metrics {
    /// Upstream's.
    fn default() -> Self {
        Self { v4: 1024, v6: 1024, elevated_v4: 512, elevated_v6: 512 }
    }
}

impl Metrics {
    pub(super) const fn of(self, destination: &IpNet) -> u32 {
        match destination {
            IpNet::V4(_) => self.v4,
            IpNet::V6(_) => self.v6,
        }
    }

    pub(super) const fn elevated(self, destination: &IpNet) -> u32 {
        match destination {
            IpNet::V4(_) => self.elevated_v4,
            IpNet::V6(_) => self.elevated_v6,
        }
    }
}
