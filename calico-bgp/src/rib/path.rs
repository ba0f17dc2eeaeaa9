//! Where a path comes from.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use crate::wire::{PathAttributes, Role};

/// Number of a peer, never used again for another in the life of a speaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(pub u32);

impl PeerId {
    /// The source of this speaker's own routes.
    pub(crate) const LOCAL: Self = Self(0);
}

/// How a peer is related to this speaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PeerKind {
    /// This speaker itself.
    Local,
    /// In the same AS, and no client of this reflector.
    Internal,
    /// In the same AS, and a client of this reflector (RFC 4456).
    Client,
    /// In another AS.
    External,
}

impl PeerKind {
    /// In the same AS.
    pub const fn is_internal(self) -> bool {
        matches!(self, Self::Internal | Self::Client)
    }
}

/// What the choice of paths and the export need to know of a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerFacts {
    /// Relation to this speaker.
    pub kind: PeerKind,
    /// AS number of the peer.
    pub asn: u32,
    /// AS number that this side uses on the session.
    pub local_as: u32,
    /// BGP identifier of the peer.
    pub router_id: Ipv4Addr,
    /// Address of the peer.
    pub address: IpAddr,
    /// Address of this side of the session: the next hop for "self".
    pub local_address: Option<IpAddr>,
    /// AS number of the speaker, which `local_as` may hide on this session.
    pub speaker_as: u32,
    /// What was agreed with the peer.
    pub traits: SessionTraits,
}

/// What a session agreed on that matters for routes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct SessionTraits {
    /// What this side is to the peer (RFC 9234), if both know.
    pub role: Option<Role>,
    /// The peer takes IPv4 routes with an IPv6 next hop (RFC 8950).
    pub extended_next_hop: bool,
    /// The peer knows long-lived graceful restart (RFC 9494), so it may be told stale routes.
    pub long_lived: bool,
    /// The interface over which the peer is reached, if it is known; for policies.
    pub interface: Option<Arc<str>>,
}

/// One path to a destination. 24 octets; attributes are shared.
#[derive(Debug, Clone)]
pub(super) struct Path {
    pub(super) source: PeerId,
    /// Left over from before the peer's restart (RFC 4724).
    pub(super) stale: bool,
    /// The import policy let it pass.
    pub(super) accepted: bool,
    /// As received: what the import policy is run on again when it changes.
    pub(super) received: Arc<PathAttributes>,
    /// As the import policy left it.
    pub(super) attributes: Arc<PathAttributes>,
}
