//! The destinations of the table, in numbered slots, and the log of their changes.
//!
//! Whoever follows the table (an update group, a listener) is a position in the log. A change
//! costs one entry, however many follow it, and a follower that is slow or stands still costs
//! nothing of its own: an entry is passed over if the destination has changed again since, and
//! the log is cleared of such entries when it becomes longer than the table. A destination
//! without paths keeps its slot until all followers have seen it go.

use std::collections::VecDeque;
use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};
use ipnet::IpNet;

use super::path::Paths;

/// Number of a destination. It stays while any follower may ask for it.
pub(super) type Slot = u32;

/// Position in the log of changes; compared by distance from its end, so it may wrap around.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position(u32);

impl Position {
    /// Of a destination that no follower has still to look at.
    const SETTLED: Self = Self(0);
}

/// The log is not cleared of superseded entries below this length.
const COMPACT_MIN: usize = 1024;

/// All paths to one prefix, the best first. 48 octets.
#[derive(Debug)]
pub(super) struct Destination {
    pub(super) prefix: IpNet,
    /// How many of the first paths share the traffic, and whether that is news.
    active: u16,
    /// Its latest entry in the log.
    changed: Position,
    pub(super) paths: Paths,
}

/// Set in `active`: the best route is not what it was when the listener looked last.
const NEWS: u16 = 1 << 15;

impl Destination {
    /// How many of the first paths share the traffic; 0 if none is eligible.
    pub(super) fn active(&self) -> usize {
        usize::from(self.active & !NEWS)
    }

    pub(super) fn set_active(&mut self, active: usize) {
        let active = u16::try_from(active).unwrap_or(u16::MAX).min(NEWS - 1);
        self.active = self.active & NEWS | active;
    }

    /// The best route, or those it shares traffic with, changed. Other changes are news only for
    /// those who are told of several paths.
    pub(super) const fn note_news(&mut self) {
        self.active |= NEWS;
    }

    /// Whether there was news since this was asked last.
    pub(super) const fn take_news(&mut self) -> bool {
        let news = self.active & NEWS != 0;
        self.active &= !NEWS;
        news
    }
}

#[derive(Debug)]
pub(super) struct Destinations {
    slots: Vec<Destination>,
    index: HashTable<Slot>,
    hasher: DefaultHashBuilder,
    free: Vec<Slot>,
    /// Destinations with paths.
    occupied: usize,
    log: VecDeque<(Position, Slot)>,
    end: Position,
}

impl Default for Destinations {
    fn default() -> Self {
        Self {
            slots: Vec::new(),
            index: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            free: Vec::new(),
            occupied: 0,
            log: VecDeque::new(),
            end: Position(1),
        }
    }
}

impl Destinations {
    pub(super) const fn len(&self) -> usize {
        self.occupied
    }

    /// Slots, used or not.
    pub(super) fn slots(&self) -> Slot {
        // One of 2^32 destinations would not fit the memory of any machine of today.
        self.slots.len() as Slot
    }

    pub(super) fn get(&self, slot: Slot) -> &Destination {
        &self.slots[slot as usize]
    }

    pub(super) fn get_mut(&mut self, slot: Slot) -> &mut Destination {
        &mut self.slots[slot as usize]
    }

    /// The slot of a prefix, which may be without paths by now.
    pub(super) fn find(&self, prefix: &IpNet) -> Option<Slot> {
        let hash = self.hasher.hash_one(prefix);
        self.index.find(hash, |slot| self.slots[*slot as usize].prefix == *prefix).copied()
    }

    pub(super) fn find_or_add(&mut self, prefix: IpNet) -> Slot {
        if let Some(slot) = self.find(&prefix) {
            return slot;
        }
        let changed = Position::SETTLED;
        let new = Destination { prefix, active: 0, changed, paths: Paths::default() };
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = new;
                slot
            }
            None => {
                self.slots.push(new);
                self.slots() - 1
            }
        };
        let Self { index, slots, hasher, .. } = self;
        let hash = hasher.hash_one(prefix);
        index.insert_unique(hash, slot, |s| hasher.hash_one(slots[*s as usize].prefix));
        slot
    }

    /// Slots of all destinations with paths, in no order.
    pub(super) fn occupied(&self) -> impl Iterator<Item = Slot> {
        let all = self.slots.iter().enumerate().filter(|(_, d)| !d.paths.is_empty());
        all.map(|(at, _)| at as Slot)
    }

    /// Notes that the first path of a destination has come, or the last one gone.
    pub(super) fn note_occupied(&mut self, slot: Slot, occupied: bool) {
        if occupied {
            self.occupied += 1;
            return;
        }
        self.occupied -= 1;
        if self.get(slot).changed == Position::SETTLED {
            self.release(slot);
        }
    }

    /// Frees a slot that was taken for a path that did not come.
    pub(super) fn release_unused(&mut self, slot: Slot) {
        if self.get(slot).paths.is_empty() && self.get(slot).changed == Position::SETTLED {
            self.release(slot);
        }
    }

    fn release(&mut self, slot: Slot) {
        let hash = self.hasher.hash_one(self.get(slot).prefix);
        if let Ok(entry) = self.index.find_entry(hash, |s| *s == slot) {
            entry.remove();
            self.free.push(slot);
        }
    }
}

/// The log.
impl Destinations {
    /// Where a follower stands that has seen everything.
    pub(super) const fn end(&self) -> Position {
        self.end
    }

    /// A destination changed: all followers have to look at it.
    pub(super) fn note_change(&mut self, slot: Slot) {
        let at = self.end;
        self.get_mut(slot).changed = at;
        self.log.push_back((at, slot));
        self.end = Position(self.end.0.wrapping_add(1).max(1));
    }

    /// Whether the log has become too long; see [`compact`](Self::compact).
    pub(super) fn is_long(&self) -> bool {
        self.log.len() > COMPACT_MIN + 2 * self.index.len()
    }

    /// Clears the log of entries that later ones replace.
    pub(super) fn compact(&mut self) {
        let slots = &self.slots;
        self.log.retain(|(at, slot)| slots[*slot as usize].changed == *at);
    }

    /// Whether a follower has still to look at a destination.
    pub(super) fn is_pending(&self, slot: Slot, follower: Position) -> bool {
        let changed = self.get(slot).changed;
        changed != Position::SETTLED && self.age(changed) <= self.age(follower)
    }

    /// The next destination that a follower has to look at; `None` at the end.
    pub(super) fn follow(&self, follower: &mut Position) -> Option<Slot> {
        let first = self.first_entry(*follower);
        for (at, slot) in self.log.range(first..) {
            if self.get(*slot).changed == *at {
                *follower = Position(at.0.wrapping_add(1).max(1));
                return Some(*slot);
            }
        }
        *follower = self.end;
        None
    }

    /// Index of the first entry that a follower has not seen.
    fn first_entry(&self, follower: Position) -> usize {
        // Without gaps the distance tells.
        let guess = self.log.len().checked_sub(self.age(follower) as usize);
        match guess.and_then(|at| self.log.get(at)) {
            Some((at, _)) if *at == follower => guess.unwrap_or(0),
            _ => self.log.partition_point(|(at, _)| self.age(*at) > self.age(follower)),
        }
    }

    /// Forgets what all followers have seen.
    pub(super) fn trim(&mut self, followers: impl Iterator<Item = Position>) {
        let oldest = followers.map(|f| self.age(f)).max().unwrap_or(0);
        while let Some((at, slot)) = self.log.front().copied() {
            if self.age(at) <= oldest {
                break;
            }
            self.log.pop_front();
            let destination = self.get_mut(slot);
            if destination.changed == at {
                destination.changed = Position::SETTLED;
                if destination.paths.is_empty() {
                    self.release(slot);
                }
            }
        }
        if self.log.is_empty() && self.log.capacity() > 4 * COMPACT_MIN {
            self.log = VecDeque::new();
        }
    }

    /// Distance from the end of the log.
    const fn age(&self, at: Position) -> u32 {
        self.end.0.wrapping_sub(at.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_costs_48_octets() {
        assert_eq!(size_of::<Destination>(), 48);
    }

    fn prefix(n: u8) -> IpNet {
        format!("10.{n}.0.0/16").parse().unwrap()
    }

    #[test]
    fn each_follower_sees_the_last_change_once() {
        let mut table = Destinations::default();
        let slots: Vec<Slot> = (0..3).map(|n| table.find_or_add(prefix(n))).collect();
        let (mut a, mut b) = (table.end(), table.end());
        for slot in [0, 1, 0, 2, 0] {
            table.note_change(slots[slot]);
        }
        assert!(table.is_pending(slots[1], a));
        let seen: Vec<Slot> = std::iter::from_fn(|| table.follow(&mut a)).collect();
        assert_eq!(seen, [1, 2, 0]);
        assert!(!table.is_pending(slots[1], a));
        table.trim([a, b].into_iter());
        assert_eq!(table.follow(&mut b), Some(1));
        table.compact();
        assert_eq!(table.follow(&mut b), Some(2));
        assert_eq!(table.follow(&mut b), Some(0));
        assert_eq!(table.follow(&mut b), None);
        table.trim([a, b].into_iter());
        // They have no paths, so nothing holds their slots any more.
        assert_eq!((table.index.len(), table.free.len(), table.log.len()), (0, 3, 0));
    }

    #[test]
    fn positions_wrap_around() {
        let mut table = Destinations { end: Position(u32::MAX - 1), ..Default::default() };
        let slot = table.find_or_add(prefix(0));
        let mut follower = table.end();
        for _ in 0..10 {
            table.note_change(slot);
            assert_eq!(table.follow(&mut follower), Some(slot));
            assert_eq!(table.follow(&mut follower), None);
            table.note_change(slot);
            table.note_change(slot);
            assert_eq!(table.follow(&mut follower), Some(slot));
            table.trim(std::iter::once(follower));
        }
    }
}
