//! Where watches of several collections go on.
//!
//! Each collection has versions of its own, and what several connections tell arrives in no
//! certain order: that a caller was shown version 100 of one collection does not say that it was
//! shown 95 of another. So each watch leaves a trail: for what it showed last, how far it was in
//! every collection then. Who comes back names what it was shown, and goes on from there.
//!
//! A version may be on the trails of several watches, which were told things in different order,
//! and nobody knows whose caller comes back. Then it goes on from the least that any of them, or
//! the version itself, allows: nothing is missed, and what happened about that time may be
//! repeated. Of trails that were forgotten, the highest version is remembered: who names no higher
//! one might have been on one of them, and is given a new listing.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use calico_core::datastore::Revision;
use calico_core::key::Scope;

/// Steps that a trail has. A server that serves this store to others may be some 500 events ahead
/// of what its client has taken.
const STEPS: usize = 4096;

/// Trails of watches that ended, which are kept.
const ENDED: usize = 64;

/// How far somebody is in each collection of a scope; `None` in one that the server lacks.
pub(super) type Places = Vec<Option<Revision>>;

/// The trails of a store.
#[derive(Debug, Default)]
pub(super) struct Trails {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    last: u64,
    trails: HashMap<u64, Trail>,
    /// Trails of watches that ended, oldest first.
    ended: VecDeque<u64>,
    /// The highest version that was shown on steps which are forgotten.
    floors: HashMap<Scope, Revision>,
}

#[derive(Debug)]
struct Trail {
    scope: Scope,
    /// The places before the first step.
    start: Places,
    steps: VecDeque<Step>,
}

/// What happened to a watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Step {
    /// The collection that went on, and how far.
    moved: Option<(usize, Revision)>,
    /// What the caller was shown then, by which it may name this place.
    shown: Option<Revision>,
}

impl Trails {
    /// Starts a trail: its caller is at `places`, and was shown `shown`.
    pub(super) fn start(&self, scope: &Scope, places: Places, shown: Revision) -> Walk {
        let mut inner = self.lock();
        inner.last += 1;
        let id = inner.last;
        let step = Step { moved: None, shown: Some(shown) };
        let trail = Trail { scope: scope.clone(), start: places, steps: [step].into() };
        inner.trails.insert(id, trail);
        Walk { id, inner: Arc::clone(&self.inner) }
    }

    /// Where somebody goes on who was last shown `from`; `None` if nobody knows.
    pub(super) fn places(&self, scope: &Scope, from: Revision) -> Option<Places> {
        let inner = self.lock();
        if inner.floors.get(scope).is_some_and(|floor| from <= *floor) {
            return None;
        }
        let trails = inner.trails.values().filter(|trail| trail.scope == *scope);
        let mut least =
            trails.filter_map(|trail| trail.places(from)).reduce(|mut least, other| {
                for (place, other) in least.iter_mut().zip(other) {
                    // Of a collection that one of them did not find, nothing is known.
                    *place = place.zip(other).map(|(a, b)| a.min(b));
                }
                least
            })?;
        least.iter_mut().flatten().for_each(|place| *place = (*place).min(from));
        Some(least)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }
}

impl Trail {
    fn places(&self, shown: Revision) -> Option<Places> {
        let end = self.steps.iter().position(|step| step.shown == Some(shown))?;
        let mut places = self.start.clone();
        self.steps.range(..=end).for_each(|step| step.take(&mut places));
        // Bookmarks: nothing was shown since, so the caller is there, too.
        let quiet = self.steps.range(end + 1..).take_while(|step| step.shown.is_none());
        quiet.for_each(|step| step.take(&mut places));
        Some(places)
    }
}

impl Step {
    fn take(self, places: &mut Places) {
        if let Some((at, revision)) = self.moved
            && let Some(place) = places.get_mut(at)
        {
            *place = Some(revision);
        }
    }
}

/// A watch that leaves a trail.
#[derive(Debug)]
pub(super) struct Walk {
    id: u64,
    inner: Arc<Mutex<Inner>>,
}

impl Walk {
    /// Notes that the collection went on to `revision`, and the caller was shown that, or nothing.
    pub(super) fn step(&self, collection: usize, revision: Revision, is_shown: bool) {
        let mut inner = lock(&self.inner);
        let Inner { trails, floors, .. } = &mut *inner;
        let Some(trail) = trails.get_mut(&self.id) else { return };
        let step =
            Step { moved: Some((collection, revision)), shown: is_shown.then_some(revision) };
        // Without anything to show in between, the last word of each collection is enough.
        let of_same = |old: &Step| old.moved.is_some_and(|(at, _)| at == collection);
        let mut quiet = trail.steps.iter_mut().rev().take_while(|old| old.shown.is_none());
        match quiet.find(|old| of_same(old)) {
            Some(old) if !is_shown => *old = step,
            _ => trail.steps.push_back(step),
        }
        while trail.steps.len() > STEPS {
            let Some(oldest) = trail.steps.pop_front() else { break };
            oldest.take(&mut trail.start);
            if let Some(shown) = oldest.shown {
                raise(floors, &trail.scope, shown);
            }
        }
    }
}

impl Drop for Walk {
    fn drop(&mut self) {
        let mut inner = lock(&self.inner);
        inner.ended.push_back(self.id);
        while inner.ended.len() > ENDED {
            let Some(id) = inner.ended.pop_front() else { break };
            let Some(trail) = inner.trails.remove(&id) else { continue };
            for shown in trail.steps.iter().filter_map(|step| step.shown) {
                raise(&mut inner.floors, &trail.scope, shown);
            }
        }
    }
}

fn raise(floors: &mut HashMap<Scope, Revision>, scope: &Scope, shown: Revision) {
    match floors.get_mut(scope) {
        Some(floor) => *floor = shown.max(*floor),
        None => drop(floors.insert(scope.clone(), shown)),
    }
}

fn lock(inner: &Mutex<Inner>) -> MutexGuard<'_, Inner> {
    // Nothing that holds it panics half way.
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(trails: &Trails, start: [u64; 2], shown: u64, steps: &[(usize, u64, bool)]) -> Walk {
        let places = start.map(|at| Some(Revision(at))).to_vec();
        let walk = trails.start(&Scope::All, places, Revision(shown));
        steps
            .iter()
            .for_each(|(at, revision, is_shown)| walk.step(*at, Revision(*revision), *is_shown));
        walk
    }

    fn check(trails: &Trails, from: u64, expected: Option<[u64; 2]>) {
        let expected = expected.map(|places| places.map(|at| Some(Revision(at))).to_vec());
        assert_eq!(trails.places(&Scope::All, Revision(from)), expected, "from {from}");
    }

    #[test]
    fn each_version_that_was_shown_is_a_place() {
        let trails = Trails::default();
        let steps = [(0, 20, true), (1, 21, false), (1, 15, true), (0, 30, false), (0, 31, false)];
        let _walk = walk(&trails, [10, 12], 10, &steps[..1]);
        check(&trails, 10, Some([10, 10]));
        check(&trails, 20, Some([20, 12]));
        for unknown in [9, 11, 12, 21] {
            check(&trails, unknown, None);
        }
        let trails = Trails::default();
        let _walk = walk(&trails, [10, 12], 10, &[(0, 20, true), (1, 15, true), (1, 40, true)]);
        // Shown after 20: in the first collection no more than 15 is certain.
        check(&trails, 15, Some([15, 15]));
        check(&trails, 40, Some([20, 40]));
        assert_eq!(trails.places(&Scope::Blocks, Revision(40)), None);
        let trails = Trails::default();
        let _walk = walk(&trails, [10, 12], 40, &steps[3..]);
        check(&trails, 40, Some([31, 12]));
    }

    #[test]
    fn of_several_trails_the_least_place_counts() {
        let trails = Trails::default();
        let _one = walk(&trails, [10, 10], 10, &[(0, 20, true), (1, 15, true), (0, 25, true)]);
        let _two = walk(&trails, [10, 10], 10, &[(1, 15, true), (0, 25, true), (1, 30, true)]);
        check(&trails, 25, Some([25, 15]));
        check(&trails, 20, Some([20, 10]));
        check(&trails, 15, Some([10, 15]));
        check(&trails, 30, Some([25, 30]));
    }

    #[test]
    fn what_was_forgotten_is_nobodys_place() {
        let trails = Trails::default();
        let long: Vec<_> = (0..STEPS as u64 + 10).map(|n| (0, 100 + n, true)).collect();
        let one = walk(&trails, [10, 10], 10, &long);
        check(&trails, 10, None);
        check(&trails, 109, None);
        check(&trails, 110, Some([110, 10]));
        drop(one);
        check(&trails, 110, Some([110, 10]));
        // Another trail has it, too, but the one of before is gone.
        for _ in 0..ENDED {
            drop(walk(&trails, [10, 10], 10, &[(1, 4000, true), (1, 9000, true)]));
        }
        check(&trails, 4000, None);
        check(&trails, 9000, Some([10, 9000]));
    }

    #[test]
    fn a_collection_that_was_not_there_stays_unknown() {
        let trails = Trails::default();
        let places = vec![Some(Revision(5)), None];
        let _walk = trails.start(&Scope::All, places.clone(), Revision(7));
        assert_eq!(trails.places(&Scope::All, Revision(7)), Some(places));
    }
}
