//! Attribute sets, each kept once.

use std::collections::HashSet;
use std::sync::Arc;

use crate::wire::PathAttributes;

/// Sweeping is not worth it below this many sets.
const SWEEP_MIN: usize = 1024;

/// Keeps one copy of each attribute set in use.
///
/// Sets that nobody uses any more are dropped when the store has doubled since the last sweep,
/// so the cost per route stays constant.
#[derive(Debug)]
pub struct AttributeStore {
    sets: HashSet<Arc<PathAttributes>>,
    sweep_at: usize,
}

impl Default for AttributeStore {
    fn default() -> Self {
        Self { sets: HashSet::new(), sweep_at: SWEEP_MIN }
    }
}

impl AttributeStore {
    /// The shared copy of a set.
    pub fn intern(&mut self, attributes: PathAttributes) -> Arc<PathAttributes> {
        if let Some(shared) = self.sets.get(&attributes) {
            return Arc::clone(shared);
        }
        if self.sets.len() >= self.sweep_at {
            self.sets.retain(|set| Arc::strong_count(set) > 1);
            self.sweep_at = (self.sets.len() * 2).max(SWEEP_MIN);
        }
        let shared = Arc::new(attributes);
        self.sets.insert(Arc::clone(&shared));
        shared
    }

    /// Number of sets held, unused ones included.
    pub fn len(&self) -> usize {
        self.sets.len()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.sets.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_sets_are_shared_and_unused_ones_go() {
        let mut store = AttributeStore::default();
        let med = |med| PathAttributes { med: Some(med), ..Default::default() };
        let kept = store.intern(med(0));
        assert!(Arc::ptr_eq(&kept, &store.intern(med(0))));
        for i in 0..10_000 {
            store.intern(med(i));
        }
        assert!(store.len() <= 2 * SWEEP_MIN, "{} sets", store.len());
        assert!(Arc::ptr_eq(&kept, &store.intern(med(0))));
    }
}
