//! What happened last, for who follows.

use std::collections::VecDeque;

use crate::datastore::{Revision, SharedEvent, WatchEvent};

/// Bytes of values that the log keeps, however few changes they make up.
const BYTES: usize = 64 << 20;

/// A bounded log. A position is the number of events logged before; it never goes back.
#[derive(Debug)]
pub(super) struct History {
    log: VecDeque<SharedEvent>,
    bytes: usize,
    capacity: usize,
    /// How many events were dropped.
    dropped: u64,
    /// The revision last shown before the log begins.
    floor: Revision,
    /// Whether several events were shown at the floor, so that who names it may lack some.
    floor_is_shared: bool,
    /// The revision last shown.
    latest: Revision,
    /// Whether revisions never went back: only then one that is not in the log says where in it
    /// somebody is.
    ordered: bool,
    /// Stretches of the log that stand for more than they tell.
    gaps: Vec<Gap>,
}

/// Some events were missed; what they came to in the end was logged in their place. Who was told
/// of some of them elsewhere may know objects that came and went meanwhile.
#[derive(Debug, Clone, Copy)]
struct Gap {
    /// Everything up to here was logged...
    before: Revision,
    /// ... and from here on.
    after: Revision,
    /// The positions of what was logged in their place.
    start: u64,
    end: u64,
}

impl History {
    pub(super) const fn new(capacity: usize) -> Self {
        Self {
            log: VecDeque::new(),
            bytes: 0,
            capacity,
            dropped: 0,
            floor: Revision(0),
            floor_is_shared: false,
            latest: Revision(0),
            ordered: true,
            gaps: Vec::new(),
        }
    }

    /// The revision last shown: who names it goes on at the end.
    pub(super) const fn latest(&self) -> Revision {
        self.latest
    }

    pub(super) fn len(&self) -> usize {
        self.log.len()
    }

    /// The position of the next event.
    pub(super) fn end(&self) -> u64 {
        self.dropped + self.log.len() as u64
    }

    pub(super) fn push(&mut self, event: WatchEvent) {
        if let Some(revision) = shown(&event) {
            self.ordered &= revision >= self.latest;
            self.latest = revision;
        }
        self.bytes += weight(&event);
        self.log.push_back(SharedEvent::new(event));
        while self.log.len() > self.capacity || self.bytes > BYTES {
            let Some(oldest) = self.log.pop_front() else { break };
            self.bytes -= weight(oldest.event());
            self.dropped += 1;
            if let Some(revision) = shown(oldest.event()) {
                self.floor_is_shared = revision == self.floor;
                self.floor = revision;
            }
        }
    }

    /// Logs what a gap that ends at `revision` came to.
    pub(super) fn bridge(&mut self, events: impl Iterator<Item = WatchEvent>, revision: Revision) {
        let (before, start) = (self.latest, self.end());
        events.for_each(|event| self.push(event));
        if self.ordered {
            self.latest = self.latest.max(revision);
        }
        let dropped = self.dropped;
        self.gaps.retain(|gap| gap.end >= dropped);
        self.gaps.push(Gap { before, after: revision, start, end: self.end() });
    }

    /// Says that nothing is known of what came before `revision`, or at it.
    pub(super) fn forget(&mut self, revision: Revision) {
        self.dropped = self.end();
        self.log.clear();
        self.bytes = 0;
        (self.floor, self.latest) = (revision, revision);
        self.floor_is_shared = false;
        self.ordered = true;
        self.gaps.clear();
    }

    /// Where somebody goes on who was last shown `from`; `None` if nobody knows. Several events
    /// shown at `from` are repeated: not all of them may have been seen.
    pub(super) fn position(&self, from: Revision) -> Option<u64> {
        let at = |event: &SharedEvent| shown(event.event());
        let first = match self.ordered {
            true => {
                // Events that show no revision stand with the one before them.
                let mut last = self.floor;
                let place = self.log.iter().position(|event| {
                    last = at(event).unwrap_or(last);
                    last >= from
                });
                match place {
                    Some(place) => place,
                    None if from <= self.latest => self.log.len(),
                    None => return None,
                }
            }
            false => match self.log.iter().position(|event| at(event) == Some(from)) {
                Some(place) => place,
                None if from == self.floor => 0,
                None => return None,
            },
        };
        let together = self.log.iter().skip(first).filter(|event| at(event) == Some(from)).count();
        if from < self.floor && self.ordered
            || from == self.floor && (self.floor_is_shared || together > 0 && self.dropped > 0)
        {
            return None;
        }
        let position = self.dropped + first as u64;
        let in_gap = |gap: &Gap| match self.ordered {
            true => gap.before < from && from < gap.after,
            false => gap.start <= position && position < gap.end,
        };
        if self.gaps.iter().any(in_gap) {
            return None;
        }
        let seen = if together == 1 { first + 1 } else { first };
        Some(self.dropped + seen as u64)
    }

    /// The events from a position on; `None` if some of them were dropped.
    pub(super) fn since(&self, position: u64) -> Option<impl Iterator<Item = &SharedEvent>> {
        let skip = position.checked_sub(self.dropped)?;
        Some(self.log.iter().skip(usize::try_from(skip).unwrap_or(usize::MAX)))
    }
}

/// The revision by which a caller remembers an event.
pub(super) const fn shown(event: &WatchEvent) -> Option<Revision> {
    match event {
        WatchEvent::Put(entry) => Some(entry.revision),
        WatchEvent::Gone { revision, .. } | WatchEvent::Ready(revision) => Some(*revision),
        _ => None,
    }
}

fn weight(event: &WatchEvent) -> usize {
    match event {
        WatchEvent::Put(entry) => entry.value.len(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datastore::Entry;
    use crate::key::Key;

    fn put(revision: u64) -> WatchEvent {
        let (key, value) = (Key::IpamConfig, "{}".into());
        WatchEvent::Put(Entry { key, value, revision: Revision(revision) })
    }

    fn history(capacity: usize, revisions: &[u64]) -> History {
        let mut history = History::new(capacity);
        history.forget(Revision(10));
        revisions.iter().for_each(|revision| history.push(put(*revision)));
        history
    }

    /// What is told to who names a revision.
    fn check(history: &History, from: u64, expected: Option<&[u64]>) {
        let position = history.position(Revision(from));
        let told = position.map(|at| {
            let events = history.since(at).expect("a position in the log");
            events.map(|event| shown(event.event()).unwrap_or_default().0).collect::<Vec<_>>()
        });
        assert_eq!(told.as_deref(), expected, "from {from}");
    }

    #[test]
    fn in_order_a_revision_is_a_position() {
        let history = history(9, &[11, 13, 13, 15]);
        check(&history, 9, None);
        check(&history, 10, Some(&[11, 13, 13, 15]));
        check(&history, 11, Some(&[13, 13, 15]));
        check(&history, 12, Some(&[13, 13, 15]));
        // Not all of those written together may have been seen.
        check(&history, 13, Some(&[13, 13, 15]));
        check(&history, 14, Some(&[15]));
        check(&history, 15, Some(&[]));
        check(&history, 16, None);
    }

    #[test]
    fn out_of_order_a_revision_is_a_position_if_it_was_shown() {
        let history = history(9, &[20, 11, 30, 12]);
        check(&history, 10, Some(&[20, 11, 30, 12]));
        check(&history, 20, Some(&[11, 30, 12]));
        check(&history, 11, Some(&[30, 12]));
        check(&history, 12, Some(&[]));
        for unknown in [9, 13, 25, 31] {
            check(&history, unknown, None);
        }
    }

    #[test]
    fn nobody_goes_on_inside_a_gap() {
        let mut history = history(9, &[11]);
        // Something came at 12 and went at 13, and nobody was told.
        history.bridge([put(15), put(17)].into_iter(), Revision(20));
        history.push(put(21));
        check(&history, 11, Some(&[15, 17, 21]));
        for inside in 12..20 {
            check(&history, inside, None);
        }
        check(&history, 20, Some(&[21]));
        check(&history, 21, Some(&[]));
        history.push(put(9));
        check(&history, 11, Some(&[15, 17, 21, 9]));
        check(&history, 15, None);
        check(&history, 17, None);
        check(&history, 21, Some(&[9]));
    }

    #[test]
    fn what_was_dropped_is_not_told() {
        check(&history(2, &[11, 12, 13]), 11, Some(&[12, 13]));
        check(&history(2, &[11, 12, 13]), 10, None);
        // The others at 11 are gone.
        check(&history(2, &[11, 11, 12, 13]), 11, None);
        check(&history(2, &[11, 11, 12]), 11, None);
        check(&history(2, &[20, 11, 12, 13]), 11, Some(&[12, 13]));
        check(&history(2, &[20, 11, 12, 13]), 20, None);
        let history = history(2, &[11, 12, 13]);
        assert!(history.since(0).is_none() && history.since(1).is_some());
        assert_eq!((history.len(), history.end()), (2, 3));
    }

    #[test]
    fn large_values_make_a_short_history() {
        let mut history = History::new(100);
        for revision in 1..=10 {
            let (key, value) = (Key::IpamConfig, "x".repeat(BYTES / 4).into());
            history.push(WatchEvent::Put(Entry { key, value, revision: Revision(revision) }));
        }
        assert_eq!(history.len(), 4);
    }
}
