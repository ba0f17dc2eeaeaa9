//! Where a path comes from.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use super::intern::Interned;
use super::source::SourceId;
use crate::wire::{PathAttributes, Role, UpdateContext};

/// Number of a peer. It is not used for another before 2^32 others were.
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
    /// Cluster of the peer, if not that of the speaker (RFC 4456, section 7).
    pub cluster_id: Option<Ipv4Addr>,
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
    /// How UPDATEs for the peer are written: peers that differ here cannot share them.
    pub format: UpdateContext,
}

/// One path to a destination. 24 octets; attributes are shared.
#[derive(Debug, Clone)]
pub(super) struct Path {
    /// As received: what the import policy is run on again when it changes.
    pub(super) received: Arc<PathAttributes>,
    /// As the import policy left it.
    pub(super) attributes: Arc<PathAttributes>,
    pub(super) source: SourceId,
    /// Number of the attributes, above two flags.
    mark: u32,
}

const STALE: u32 = 1;
const ACCEPTED: u32 = 2;

impl Path {
    pub(super) fn new(
        source: SourceId,
        received: Arc<PathAttributes>,
        attributes: Interned,
        accepted: bool,
    ) -> Self {
        let mark = attributes.serial << 2 | if accepted { ACCEPTED } else { 0 };
        Self { received, attributes: attributes.set, source, mark }
    }

    /// What a path looks like: equal for two paths of one peer that need not be told apart.
    pub(super) const fn serial(&self) -> u32 {
        self.mark >> 2
    }

    /// Left over from before the peer's restart (RFC 4724).
    pub(super) const fn stale(&self) -> bool {
        self.mark & STALE != 0
    }

    pub(super) const fn mark_stale(&mut self) {
        self.mark |= STALE;
    }

    /// The import policy let it pass.
    pub(super) const fn accepted(&self) -> bool {
        self.mark & ACCEPTED != 0
    }
}

/// The paths of a destination. Nearly all have one, which then needs no allocation: 24 octets.
#[derive(Debug)]
pub(super) enum Paths {
    One(Path),
    #[expect(clippy::box_collection, reason = "the vector would make every destination larger")]
    More(Option<Box<Vec<Path>>>),
}

impl Default for Paths {
    fn default() -> Self {
        Self::More(None)
    }
}

impl Deref for Paths {
    type Target = [Path];

    fn deref(&self) -> &[Path] {
        match self {
            Self::One(path) => std::slice::from_ref(path),
            Self::More(paths) => paths.as_deref().map_or(&[], Vec::as_slice),
        }
    }
}

impl DerefMut for Paths {
    fn deref_mut(&mut self) -> &mut [Path] {
        match self {
            Self::One(path) => std::slice::from_mut(path),
            Self::More(paths) => paths.as_deref_mut().map_or(&mut [], Vec::as_mut_slice),
        }
    }
}

impl Paths {
    pub(super) fn push(&mut self, path: Path) {
        *self = match std::mem::take(self) {
            Self::One(first) => Self::More(Some(Box::new(vec![first, path]))),
            Self::More(None) => Self::One(path),
            Self::More(Some(mut paths)) => {
                paths.push(path);
                Self::More(Some(paths))
            }
        }
    }

    pub(super) fn remove(&mut self, at: usize) {
        *self = match std::mem::take(self) {
            Self::More(Some(mut paths)) => {
                paths.remove(at);
                match paths.pop() {
                    Some(last) if paths.is_empty() => Self::One(last),
                    Some(last) => {
                        paths.push(last);
                        Self::More(Some(paths))
                    }
                    None => Self::More(None),
                }
            }
            _ => Self::More(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_costs_24_octets() {
        assert_eq!(size_of::<Path>(), 24);
        assert_eq!(size_of::<Paths>(), 24);
    }

    #[test]
    fn paths_grow_and_shrink() {
        let path = |n: u32| {
            let set = Interned { set: Arc::default(), serial: n };
            Path::new(SourceId::of_path_id(n), Arc::default(), set, true)
        };
        let sources = |paths: &Paths| paths.iter().map(|p| p.source.path_id()).collect::<Vec<_>>();
        let mut paths = Paths::default();
        (1..=4).for_each(|n| paths.push(path(n)));
        assert_eq!(sources(&paths), [1, 2, 3, 4]);
        paths.remove(0);
        paths.remove(1);
        assert_eq!(sources(&paths), [2, 4]);
        paths.remove(1);
        assert!(matches!(paths, Paths::One(_)));
        paths.remove(0);
        assert!(paths.is_empty());
    }
}
