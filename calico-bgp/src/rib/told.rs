//! What the members of an update group were told.

use hashbrown::HashMap;

use super::PeerId;
use super::destinations::Slot;
use super::source::SourceId;

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
    /// A path from a peer, with attributes of a number.
    pub(super) const fn new(source: PeerId, serial: u32) -> Self {
        Self { source, serial }
    }
}

/// One of several paths of a destination that a group was told (RFC 7911).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ToldPath {
    pub(super) id: SourceId,
    pub(super) told: Told,
}

/// Adj-RIB-Out of a group: what was told of each destination.
#[derive(Debug, Clone, Default)]
pub(super) struct AllTold {
    by_slot: Vec<Told>,
    /// Of families with several paths, by identifier; no list is empty.
    paths: HashMap<Slot, Box<[ToldPath]>>,
    count: usize,
    /// How many of them are from a source, which was not told them.
    from: HashMap<PeerId, usize>,
}

impl AllTold {
    pub(super) fn get(&self, slot: Slot) -> Option<Told> {
        self.by_slot.get(slot as usize).copied().filter(|told| *told != NONE)
    }

    /// The paths of a destination that were told, sorted by identifier.
    pub(super) fn paths(&self, slot: Slot) -> &[ToldPath] {
        self.paths.get(&slot).map_or(&[], |paths| paths)
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
        if told.map(|t| t.source) != before.map(|t| t.source) {
            told.into_iter().for_each(|t| self.count_in(t));
            before.into_iter().for_each(|t| self.count_out(t));
        }
        before
    }

    /// Notes which paths were told; returns those before.
    pub(super) fn set_paths(&mut self, slot: Slot, mut told: Vec<ToldPath>) -> Box<[ToldPath]> {
        told.sort_unstable_by_key(|t| t.id);
        told.iter().for_each(|t| self.count_in(t.told));
        let before = if told.is_empty() {
            self.paths.remove(&slot)
        } else {
            self.paths.insert(slot, told.into())
        };
        let before = before.unwrap_or_default();
        before.iter().for_each(|t| self.count_out(t.told));
        before
    }

    fn count_in(&mut self, told: Told) {
        self.count += 1;
        *self.from.entry(told.source).or_default() += 1;
    }

    fn count_out(&mut self, told: Told) {
        self.count -= 1;
        if let Some(count) = self.from.get_mut(&told.source) {
            *count -= 1;
        }
    }

    /// The members still know of a route, but have to be told again even if it is the same.
    pub(super) fn outdate(&mut self, slot: Slot) {
        if let Some(told) = self.by_slot.get_mut(slot as usize).filter(|t| **t != NONE) {
            told.serial = OUTDATED;
        }
        if let Some(paths) = self.paths.get_mut(&slot) {
            paths.iter_mut().for_each(|p| p.told.serial = OUTDATED);
        }
    }

    /// The same for all routes from a source.
    pub(super) fn outdate_from(&mut self, source: PeerId) {
        if self.from.get(&source).is_some_and(|count| *count > 0) {
            let several = self.paths.values_mut().flatten().map(|p| &mut p.told);
            let theirs = self.by_slot.iter_mut().chain(several).filter(|t| t.source == source);
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

    /// The destinations that a member knows a route to, but for those with several paths.
    pub(super) fn slots_for(&self, member: PeerId) -> impl Iterator<Item = Slot> {
        let known = move |told: &Told| *told != NONE && told.source != member;
        let all = self.by_slot.iter().enumerate().filter(move |(_, told)| known(told));
        all.map(|(at, _)| at as Slot)
    }

    /// The paths that a member knows, where there may be several.
    pub(super) fn paths_for(&self, member: PeerId) -> impl Iterator<Item = (Slot, SourceId)> {
        let all = self.paths.iter().flat_map(|(slot, paths)| paths.iter().map(|p| (*slot, p)));
        all.filter(move |(_, p)| p.told.source != member).map(|(slot, p)| (slot, p.id))
    }

    /// Whether two groups know the same of a destination.
    pub(super) fn agrees(&self, other: &Self, slot: Slot) -> bool {
        self.get(slot) == other.get(slot) && self.paths(slot) == other.paths(slot)
    }

    /// Whether two groups were told the same.
    #[cfg(debug_assertions)]
    pub(super) fn same(&self, other: &Self) -> bool {
        let most = self.by_slot.len().max(other.by_slot.len()) as Slot;
        self.paths == other.paths && (0..most).all(|slot| self.agrees(other, slot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_leave_out_what_a_member_said_itself() {
        let told = |source| Some(Told::new(PeerId(source), 1));
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

    #[test]
    fn several_paths_are_counted_each() {
        let path = |id, source| ToldPath {
            id: SourceId::of_path_id(id),
            told: Told::new(PeerId(source), 1),
        };
        let mut all = AllTold::default();
        assert!(all.set_paths(9, vec![path(3, 1), path(2, 1), path(5, 2)]).is_empty());
        assert_eq!([1, 2, 3].map(|n| all.count_for(PeerId(n))), [1, 2, 3]);
        assert_eq!(all.paths(9).iter().map(|p| p.id.path_id()).collect::<Vec<_>>(), [2, 3, 5]);
        all.outdate_from(PeerId(1));
        assert_ne!(all.paths(9)[0], path(2, 1));
        assert_eq!(all.paths(9)[2], path(5, 2));
        assert_eq!(all.set_paths(9, vec![path(5, 2)]).len(), 3);
        assert_eq!([1, 2].map(|n| all.count_for(PeerId(n))), [1, 0]);
        all.set_paths(9, Vec::new());
        assert!(all.is_empty() && all.paths.is_empty());
    }
}
