//! Attribute sets, each kept once.

use std::hash::BuildHasher;
use std::sync::Arc;

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::wire::PathAttributes;

/// Sweeping is not worth it below this many sets.
const SWEEP_MIN: usize = 1024;
/// Serial numbers have this many bits: paths keep two bits for themselves.
const SERIAL_BITS: u32 = 30;

/// A shared attribute set with its number. Equal numbers mean equal sets, as long as fewer than
/// 2^30 sets were made in between.
#[derive(Debug, Clone)]
pub(super) struct Interned {
    pub(super) set: Arc<PathAttributes>,
    pub(super) serial: u32,
}

/// Keeps one copy of each attribute set in use.
///
/// Sets that nobody uses any more are dropped when the store has grown by half since the last
/// sweep, so the cost per route stays constant.
#[derive(Debug)]
pub struct AttributeStore {
    sets: HashTable<Interned>,
    hasher: DefaultHashBuilder,
    sweep_at: usize,
    serial: u32,
}

impl Default for AttributeStore {
    fn default() -> Self {
        Self {
            sets: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            sweep_at: SWEEP_MIN,
            serial: 0,
        }
    }
}

impl AttributeStore {
    /// The shared copy of a set.
    pub fn intern(&mut self, attributes: PathAttributes) -> Arc<PathAttributes> {
        self.numbered(attributes).set
    }

    /// The shared copy of a set, with its number.
    pub(super) fn numbered(&mut self, attributes: PathAttributes) -> Interned {
        let hash = self.hasher.hash_one(&attributes);
        if let Some(known) = self.sets.find(hash, |known| *known.set == attributes) {
            return known.clone();
        }
        if self.sets.len() >= self.sweep_at {
            self.sets.retain(|known| Arc::strong_count(&known.set) > 1);
            self.sweep_at = (self.sets.len() + self.sets.len() / 2).max(SWEEP_MIN);
        }
        let new = Interned { set: Arc::new(attributes), serial: self.fresh_serial() };
        let hasher = &self.hasher;
        self.sets.insert_unique(hash, new.clone(), |known| hasher.hash_one(&*known.set));
        new
    }

    /// A number that no set has had for long.
    const fn fresh_serial(&mut self) -> u32 {
        self.serial = (self.serial + 1) % (1 << SERIAL_BITS);
        self.serial
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
        let kept = store.numbered(med(0));
        assert!(Arc::ptr_eq(&kept.set, &store.intern(med(0))));
        for i in 0..10_000 {
            store.intern(med(i));
        }
        assert!(store.len() <= 2 * SWEEP_MIN, "{} sets", store.len());
        let again = store.numbered(med(0));
        assert!(Arc::ptr_eq(&kept.set, &again.set));
        assert_eq!(kept.serial, again.serial);
        assert_ne!(kept.serial, store.numbered(med(1)).serial);
    }
}
