//! What the members of an update group were told.

use hashbrown::HashMap;

use super::PeerId;
use super::destinations::Slot;
use super::path::Path;

/// Which path of a destination a group was told. The source of the path was not: nobody hears
/// back what it said. 8 octets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) source: PeerId,
    serial: u32,
}

/// No peer has this number: there would have to be four thousand millions of them.
const NONE: Told = Told { source: PeerId(u32::MAX), serial: 0 };
/// No set of attributes has this number; they are shorter.
const OUTDATED: u32 = u32::MAX;

impl Told {
    pub(super) const fn of(path: &Path) -> Self {
        Self { source: path.source, serial: path.serial() }
    }
}

/// Adj-RIB-Out of a group: what was told of each destination.
#[derive(Debug, Clone, Default)]
pub(super) struct AllTold {
    by_slot: Vec<Told>,
    count: usize,
    /// How many of them are from a source, which was not told them.
    from: HashMap<PeerId, usize>,
}

impl AllTold {
    pub(super) fn get(&self, slot: Slot) -> Option<Told> {
        self.by_slot.get(slot as usize).copied().filter(|told| *told != NONE)
    }

    /// Notes what was told; returns what was before.
    pub(super) fn set(&mut self, slot: Slot, told: Option<Told>) -> Option<Told> {
        let at = slot as usize;
        if at >= self.by_slot.len() {
            told?;
            self.by_slot.resize(at + 1, NONE);
        }
        let before = std::mem::replace(&mut self.by_slot[at], told.unwrap_or(NONE));
        let before = (before != NONE).then_some(before);
        self.count = self.count + usize::from(told.is_some()) - usize::from(before.is_some());
        if told.map(|t| t.source) != before.map(|t| t.source) {
            if let Some(told) = told {
                *self.from.entry(told.source).or_default() += 1;
            }
            if let Some(count) = before.and_then(|t| self.from.get_mut(&t.source)) {
                *count -= 1;
            }
        }
        before
    }

    /// The members still know of a route, but have to be told again even if it is the same.
    pub(super) fn outdate(&mut self, slot: Slot) {
        if let Some(told) = self.by_slot.get_mut(slot as usize).filter(|t| **t != NONE) {
            told.serial = OUTDATED;
        }
    }

    /// The same for all routes from a source.
    pub(super) fn outdate_from(&mut self, source: PeerId) {
        if self.from.get(&source).is_some_and(|count| *count > 0) {
            let theirs = self.by_slot.iter_mut().filter(|t| t.source == source);
            theirs.for_each(|t| t.serial = OUTDATED);
        }
    }

    /// Nothing was told, to nobody.
    pub(super) const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How many routes a member knows.
    pub(super) fn count_for(&self, member: PeerId) -> usize {
        self.count - self.from.get(&member).copied().unwrap_or(0)
    }

    /// The destinations that a member knows a route to.
    pub(super) fn slots_for(&self, member: PeerId) -> impl Iterator<Item = Slot> {
        let known = move |told: &Told| *told != NONE && told.source != member;
        let all = self.by_slot.iter().enumerate().filter(move |(_, told)| known(told));
        all.map(|(at, _)| at as Slot)
    }

    /// Whether two groups were told the same.
    #[cfg(debug_assertions)]
    pub(super) fn same(&self, other: &Self) -> bool {
        let most = self.by_slot.len().max(other.by_slot.len()) as Slot;
        (0..most).all(|slot| self.get(slot) == other.get(slot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_leave_out_what_a_member_said_itself() {
        let told = |source| Some(Told { source: PeerId(source), serial: 1 });
        let mut all = AllTold::default();
        assert_eq!(all.set(5, None), None);
        all.set(3, told(1));
        all.set(4, told(1));
        all.set(5, told(2));
        assert_eq!([1, 2, 3].map(|n| all.count_for(PeerId(n))), [1, 2, 3]);
        assert_eq!(all.set(4, told(2)), told(1));
        assert_eq!(all.set(3, None), told(1));
        assert_eq!([1, 2].map(|n| all.count_for(PeerId(n))), [2, 0]);
        assert_eq!(all.slots_for(PeerId(1)).collect::<Vec<_>>(), [4, 5]);
        all.outdate(4);
        assert_ne!(all.get(4), told(2));
        assert_eq!(all.count_for(PeerId(1)), 2);
    }
}
