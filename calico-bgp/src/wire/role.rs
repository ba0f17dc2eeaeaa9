//! Roles of external peers and what they say about leaks of routes (RFC 9234).

use std::fmt;

/// What one side of an external session is to the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Sells transit to the other (0).
    Provider,
    /// Passes routes between its clients without being on their paths (1).
    RouteServer,
    /// A client of a route server (2).
    RouteServerClient,
    /// Buys transit from the other (3).
    Customer,
    /// Exchanges its own and its customers' routes for the other's (4).
    Peer,
}

impl Role {
    /// The number on the wire.
    pub const fn value(self) -> u8 {
        match self {
            Self::Provider => 0,
            Self::RouteServer => 1,
            Self::RouteServerClient => 2,
            Self::Customer => 3,
            Self::Peer => 4,
        }
    }

    pub(super) const fn from_value(value: u8) -> Option<Self> {
        match value {
            0 => Some(Self::Provider),
            1 => Some(Self::RouteServer),
            2 => Some(Self::RouteServerClient),
            3 => Some(Self::Customer),
            4 => Some(Self::Peer),
            _ => None,
        }
    }

    /// The role that the other side must have (RFC 9234, section 4.2).
    pub const fn opposite(self) -> Self {
        match self {
            Self::Provider => Self::Customer,
            Self::Customer => Self::Provider,
            Self::RouteServer => Self::RouteServerClient,
            Self::RouteServerClient => Self::RouteServer,
            Self::Peer => Self::Peer,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Provider => "provider",
            Self::RouteServer => "route server",
            Self::RouteServerClient => "route server client",
            Self::Customer => "customer",
            Self::Peer => "peer",
        })
    }
}
