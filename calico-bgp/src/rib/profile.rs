//! What an update group has in common.

use super::{NextHopMode, PeerFacts, PeerRouting, Policy, PrivateAs};
use crate::wire::Family;

/// What decides what a peer is told.
#[derive(Debug, Clone)]
pub(super) struct Profile {
    pub(super) facts: PeerFacts,
    pub(super) routing: PeerRouting,
    pub(super) families: Vec<Family>,
}

impl Profile {
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
            && a.traits.format == b.traits.format
            && (x.next_hop, x.as_rules) == (y.next_hop, y.as_rules)
            && x.export == y.export
            && (!personal || a == b)
            && (!by_asn || a.asn == b.asn)
    }
}
