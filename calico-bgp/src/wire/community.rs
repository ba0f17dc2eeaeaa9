//! Communities of all three sizes (RFC 1997, RFC 4360, RFC 8092).

use std::fmt;

/// A community (RFC 1997), written `65001:100`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Community(pub u32);

impl Community {
    /// Not to be advertised to external peers.
    pub const NO_EXPORT: Self = Self(0xFFFF_FF01);
    /// Not to be advertised to any peer.
    pub const NO_ADVERTISE: Self = Self(0xFFFF_FF02);
    /// Not to be advertised to external peers, confederation members included.
    pub const NO_EXPORT_SUBCONFED: Self = Self(0xFFFF_FF03);

    /// The route is about to go: better ones are to be looked for (RFC 8326).
    pub const GRACEFUL_SHUTDOWN: Self = Self(0xFFFF_0000);

    /// The route is kept over a long-lived graceful restart (RFC 9494).
    pub const LLGR_STALE: Self = Self(0xFFFF_0006);
    /// The route must not be kept over a long-lived graceful restart (RFC 9494).
    pub const NO_LLGR: Self = Self(0xFFFF_0007);

    /// The community `high:low`.
    pub const fn new(high: u16, low: u16) -> Self {
        Self((high as u32) << 16 | low as u32)
    }
}

impl fmt::Display for Community {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NO_EXPORT => f.write_str("no-export"),
            Self::NO_ADVERTISE => f.write_str("no-advertise"),
            Self::NO_EXPORT_SUBCONFED => f.write_str("no-export-subconfed"),
            Self::GRACEFUL_SHUTDOWN => f.write_str("graceful-shutdown"),
            Self::LLGR_STALE => f.write_str("llgr-stale"),
            Self::NO_LLGR => f.write_str("no-llgr"),
            Self(value) => write!(f, "{}:{}", value >> 16, value & 0xFFFF),
        }
    }
}

impl fmt::Debug for Community {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An extended community (RFC 4360): type, subtype and value in eight octets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExtendedCommunity(pub [u8; 8]);

impl ExtendedCommunity {
    /// Whether it stays when the route leaves the AS (bit 0x40 of the type clear).
    pub const fn is_transitive(self) -> bool {
        self.0[0] & 0x40 == 0
    }
}

/// A large community (RFC 8092), written `65551:1:2`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LargeCommunity {
    /// The AS that gives the other two their meaning.
    pub global: u32,
    /// First local part.
    pub local1: u32,
    /// Second local part.
    pub local2: u32,
}

impl fmt::Display for LargeCommunity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.global, self.local1, self.local2)
    }
}
