//! What an update group has in common.

use super::{NextHopMode, PeerFacts, PeerRouting, Policy, PrivateAs, SendPaths};
use crate::wire::Family;

/// What decides what a peer is told.
#[derive(Debug, Clone)]
pub(super) struct Profile {
    pub(super) facts: PeerFacts,
    pub(super) routing: PeerRouting,
    pub(super) families: Vec<Family>,
}

impl Profile {
    /// Most paths to a destination of a family, if they are told with identifiers.
    pub(super) fn several(&self, family: Family) -> Option<usize> {
        if !self.facts.traits.format.add_path_send.contains(&family) {
            return None;
        }
        let rule = self.routing.add_path.iter().find(|f| f.family == family);
        Some(match rule.map(|f| f.send).unwrap_or_default() {
            SendPaths::Best => 1,
            SendPaths::UpTo(most) => most.into(),
            SendPaths::All => usize::MAX,
        })
    }

    /// Whether any family is told with identifiers.
    pub(super) fn tells_several(&self) -> bool {
        self.families.iter().any(|f| self.several(*f).is_some())
    }

    /// Whether two peers are told the same, in the same words.
    ///
    /// Whatever comes to depend on something else of the peer has to be named here: prefix lists
    /// and filters see its kind and the AS numbers of this side, rules of one's own all of it.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        let (a, b) = (&self.facts, &other.facts);
        let (x, y) = (&self.routing, &other.routing);
        let personal = matches!(x.export, Policy::Custom(_))
            || matches!(x.next_hop, NextHopMode::AutoOnSubnet(_));
        let by_asn = x.as_rules.override_peer || x.as_rules.private != PrivateAs::Keep;
        self.families == other.families
            && a.kind == b.kind
            && (a.local_as, a.speaker_as, a.local_address)
                == (b.local_as, b.speaker_as, b.local_address)
            && a.traits.role == b.traits.role
            && a.traits.extended_next_hop == b.traits.extended_next_hop
            && a.traits.long_lived == b.traits.long_lived
            && a.traits.format.writes_like(&b.traits.format)
            && self.families.iter().all(|f| self.several(*f) == other.several(*f))
            && (x.next_hop, x.as_rules) == (y.next_hop, y.as_rules)
            && x.export == y.export
            && x.graceful_shutdown == y.graceful_shutdown
            && a.cluster_id == b.cluster_id
            && (!personal || a == b)
            && (!by_asn || a.asn == b.asn)
    }
}
