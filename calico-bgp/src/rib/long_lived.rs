//! Long-lived graceful restart (RFC 9494): stale routes as a last resort.

use super::{PeerFacts, PeerId, Rib};
use crate::wire::{Community, Family, PathAttributes};

impl Rib {
    /// The restart time of a peer that is away is over, and its stale routes of a family become a
    /// last resort: marked with LLGR_STALE, behind all others; those that carry NO_LLGR go
    /// (RFC 9494, section 4.3). [`sweep_stale`](Self::sweep_stale) ends it.
    pub fn keep_long_lived(&mut self, id: PeerId, family: Family) {
        self.drop_paths(id, |prefix, path| {
            path.stale()
                && Family::of_prefix(prefix) == family
                && path.received.has_community(Community::NO_LLGR)
        });
        for slot in self.slots_of(id) {
            let of_family = Family::of_prefix(&self.table.get(slot).prefix) == family;
            if !of_family {
                continue;
            }
            self.import_again(id, slot, |path| {
                let marks = path.stale() && !is_last_resort(&path.received);
                marks.then(|| {
                    let mut received = PathAttributes::clone(&path.received);
                    received.communities.push(Community::LLGR_STALE);
                    received
                })
            });
        }
    }

    /// Marks all routes of a peer's family stale: it begins to tell them anew (RFC 7313,
    /// section 4). What it has not told again is gone with [`sweep_stale`](Self::sweep_stale).
    pub fn mark_stale(&mut self, id: PeerId, family: Family) {
        for slot in self.slots_of(id) {
            if Family::of_prefix(&self.table.get(slot).prefix) == family {
                self.mark_stale_at(id, slot);
            }
        }
    }
}

/// Whether a route is only better than none (RFC 9494, section 4.3).
pub(super) fn is_last_resort(attributes: &PathAttributes) -> bool {
    attributes.has_community(Community::LLGR_STALE)
}

/// Whether a peer may be told a route: a last resort only if it knows what that is (RFC 9494,
/// section 4.6).
pub(super) fn may_send(to: &PeerFacts, attributes: &PathAttributes) -> bool {
    to.traits.long_lived || !is_last_resort(attributes)
}
