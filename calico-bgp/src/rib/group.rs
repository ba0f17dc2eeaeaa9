//! What an update group is to be told, and how a member sees it.

use std::sync::Arc;

use ipnet::IpNet;

use super::PeerId;
use crate::wire::{Family, PathAttributes, PathNlri};

/// Which members of an update group something is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Audience {
    /// All.
    All,
    /// All but the one that told the route itself.
    AllBut(PeerId),
    /// One that told the route itself now, and has heard another until now.
    Only(PeerId),
}

impl Audience {
    /// Whether a member is meant.
    pub fn includes(self, member: PeerId) -> bool {
        match self {
            Self::All => true,
            Self::AllBut(other) => member != other,
            Self::Only(one) => member == one,
        }
    }
}

/// Updates for an update group: peers that are to hear the same. No prefix is in it twice for
/// one member, so the order does not matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GroupBatch {
    /// The members.
    pub members: Vec<PeerId>,
    /// Prefixes to withdraw.
    pub withdraw: Vec<(Audience, Vec<IpNet>)>,
    /// Prefixes to announce, by shared attributes.
    pub announce: Vec<(Arc<PathAttributes>, Audience, Vec<IpNet>)>,
    /// Paths to withdraw, by identifier, in families with several (RFC 7911).
    pub withdraw_paths: Vec<(Audience, Vec<PathNlri>)>,
    /// Paths to announce, with their identifiers, in families with several (RFC 7911).
    pub announce_paths: Vec<(Arc<PathAttributes>, Audience, Vec<PathNlri>)>,
    /// Members for which families are complete after this batch.
    pub end_of_rib: Vec<(PeerId, Vec<Family>)>,
}

impl GroupBatch {
    /// Whether there is nothing to send.
    pub const fn is_empty(&self) -> bool {
        self.withdraw.is_empty()
            && self.announce.is_empty()
            && self.withdraw_paths.is_empty()
            && self.announce_paths.is_empty()
            && self.end_of_rib.is_empty()
    }

    /// What one of the members is to hear.
    pub fn for_member(&self, member: PeerId) -> ExportBatch {
        let withdraw = self.withdraw.iter().filter(|(to, _)| to.includes(member));
        let announce = self.announce.iter().filter(|(_, to, _)| to.includes(member));
        let withdraw_paths = self.withdraw_paths.iter().filter(|(to, _)| to.includes(member));
        let announce_paths = self.announce_paths.iter().filter(|(_, to, _)| to.includes(member));
        let end_of_rib = self.end_of_rib.iter().filter(|(to, _)| *to == member);
        ExportBatch {
            withdraw: withdraw.flat_map(|(_, prefixes)| prefixes).copied().collect(),
            announce: announce.map(|(a, _, p)| (Arc::clone(a), p.clone())).collect(),
            withdraw_paths: withdraw_paths.flat_map(|(_, paths)| paths).copied().collect(),
            announce_paths: announce_paths.map(|(a, _, p)| (Arc::clone(a), p.clone())).collect(),
            end_of_rib: end_of_rib.flat_map(|(_, families)| families).copied().collect(),
        }
    }
}

/// Updates for one peer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExportBatch {
    /// Prefixes to withdraw.
    pub withdraw: Vec<IpNet>,
    /// Prefixes to announce, by shared attributes.
    pub announce: Vec<(Arc<PathAttributes>, Vec<IpNet>)>,
    /// Paths to withdraw, by identifier, in families with several (RFC 7911).
    pub withdraw_paths: Vec<PathNlri>,
    /// Paths to announce, with their identifiers, in families with several (RFC 7911).
    pub announce_paths: Vec<(Arc<PathAttributes>, Vec<PathNlri>)>,
    /// Families that are complete after this batch.
    pub end_of_rib: Vec<Family>,
}

impl ExportBatch {
    /// Whether there is nothing to send.
    pub const fn is_empty(&self) -> bool {
        self.withdraw.is_empty()
            && self.announce.is_empty()
            && self.withdraw_paths.is_empty()
            && self.announce_paths.is_empty()
            && self.end_of_rib.is_empty()
    }
}
