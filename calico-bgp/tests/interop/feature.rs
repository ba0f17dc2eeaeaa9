//! What is tried with every daemon.

/// One row of the matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Feature {
    Session,
    Ipv4,
    Ipv6,
    Withdrawal,
    FourOctetAs,
    Communities,
    ExtendedCommunities,
    LargeCommunities,
    RefreshFromPeer,
    RefreshToPeer,
    EnhancedRefresh,
    PeerRestarts,
    WeRestart,
    LongLived,
    WordsToPeer,
    WordsFromPeer,
    Md5,
    Gtsm,
    WeReflect,
    PeerReflects,
    PathsFromPeer,
    PathsToPeer,
    Ipv4OverIpv6,
    ExtendedMessages,
    Roles,
}

impl Feature {
    pub(crate) const ALL: [Self; 25] = [
        Self::Session,
        Self::Ipv4,
        Self::Ipv6,
        Self::Withdrawal,
        Self::FourOctetAs,
        Self::Communities,
        Self::ExtendedCommunities,
        Self::LargeCommunities,
        Self::RefreshFromPeer,
        Self::RefreshToPeer,
        Self::EnhancedRefresh,
        Self::PeerRestarts,
        Self::WeRestart,
        Self::LongLived,
        Self::WordsToPeer,
        Self::WordsFromPeer,
        Self::Md5,
        Self::Gtsm,
        Self::WeReflect,
        Self::PeerReflects,
        Self::PathsFromPeer,
        Self::PathsToPeer,
        Self::Ipv4OverIpv6,
        Self::ExtendedMessages,
        Self::Roles,
    ];

    /// Its name in the matrix.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Session => "Session (RFC 4271)",
            Self::Ipv4 => "IPv4 routes, both ways",
            Self::Ipv6 => "IPv6 routes, both ways (RFC 4760)",
            Self::Withdrawal => "Withdrawal, both ways",
            Self::FourOctetAs => "4-octet AS numbers (RFC 6793)",
            Self::Communities => "Communities, both ways (RFC 1997)",
            Self::ExtendedCommunities => "Extended communities, both ways (RFC 4360)",
            Self::LargeCommunities => "Large communities, both ways (RFC 8092)",
            Self::RefreshFromPeer => "Route refresh: we ask (RFC 2918)",
            Self::RefreshToPeer => "Route refresh: the peer asks (RFC 2918)",
            Self::EnhancedRefresh => "Enhanced route refresh (RFC 7313)",
            Self::PeerRestarts => "Graceful restart: the peer restarts (RFC 4724)",
            Self::WeRestart => "Graceful restart: we restart (RFC 4724)",
            Self::LongLived => "Long-lived graceful restart (RFC 9494)",
            Self::WordsToPeer => "Shutdown communication: we say why (RFC 9003)",
            Self::WordsFromPeer => "Shutdown communication: the peer says why (RFC 9003)",
            Self::Md5 => "TCP MD5 (RFC 2385)",
            Self::Gtsm => "TTL security (RFC 5082)",
            Self::WeReflect => "Reflection: we reflect (RFC 4456)",
            Self::PeerReflects => "Reflection: the peer reflects (RFC 4456)",
            Self::PathsFromPeer => "ADD-PATH: the peer sends (RFC 7911)",
            Self::PathsToPeer => "ADD-PATH: we send (RFC 7911)",
            Self::Ipv4OverIpv6 => "IPv4 over IPv6 next hops (RFC 8950)",
            Self::ExtendedMessages => "Extended messages, both ways (RFC 8654)",
            Self::Roles => "Roles (RFC 9234)",
        }
    }
}

/// Whether a daemon and we can do something together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Support {
    /// It is tried, and has to work.
    Yes,
    /// The same, within limits of the daemon; which.
    Within(&'static str),
    /// The daemon does not have it; why this is known.
    Lacks(&'static str),
    /// The daemon says that it has it, but has not; what it does instead.
    Broken(&'static str),
    /// Both have it, and yet it does not work; why.
    #[expect(dead_code, reason = "there is no gap at present; the next one needs a place")]
    Gap(&'static str),
}

impl Support {
    /// Whether it is tried.
    pub(crate) fn is_there(self) -> bool {
        matches!(self, Self::Yes | Self::Within(_))
    }
}
