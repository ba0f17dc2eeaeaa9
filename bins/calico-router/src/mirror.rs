//! Turns a watch with its bracketed listings into plain puts and removals. Pure.

use std::collections::{HashMap, HashSet};

use calico_core::datastore::{Entry, Revision, WatchEvent};
use calico_core::key::Key;
use calico_core::kind::Kind;

/// A change to apply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The object is now so.
    Put(Entry),
    /// The object is gone.
    Gone(Key),
}

/// Remembers which objects exist, so that a new listing also tells what went meanwhile.
#[derive(Debug, Default)]
pub struct Mirror {
    known: HashSet<Key>,
    /// How many resources of each kind are known.
    counts: HashMap<Kind, usize>,
    /// Of the objects known before the listing now under way, those it has not shown yet.
    unseen: Option<HashSet<Key>>,
    revision: Revision,
    /// The latest object of the listing now under way.
    listed: Revision,
    in_sync: bool,
}

impl Mirror {
    /// Whether a first listing is complete.
    #[must_use]
    pub const fn in_sync(&self) -> bool {
        self.in_sync
    }

    /// Every change up to here has been seen; of stores whose collections are watched one by one
    /// (Kubernetes), the latest of any collection.
    #[must_use]
    pub const fn revision(&self) -> Revision {
        self.revision
    }

    /// How many resources of a kind there are.
    #[must_use]
    pub fn count(&self, kind: Kind) -> usize {
        self.counts.get(&kind).copied().unwrap_or_default()
    }

    /// Takes in that an object is there: in the listing now under way if `listed`, else as a change.
    pub fn see(&mut self, key: &Key, revision: Revision, listed: bool) {
        if listed {
            self.unseen.as_mut().map(|unseen| unseen.remove(key));
            self.listed = self.listed.max(revision);
        } else {
            self.revision = self.revision.max(revision);
        }
        self.learn(key);
    }

    fn learn(&mut self, key: &Key) {
        if self.known.insert(key.clone())
            && let Key::Resource { kind, .. } = key
        {
            *self.counts.entry(*kind).or_default() += 1;
        }
    }

    fn forget(&mut self, key: &Key) {
        if self.known.remove(key)
            && let Key::Resource { kind, .. } = key
            && let Some(count) = self.counts.get_mut(kind)
        {
            *count -= 1;
        }
    }

    /// Takes the next event; returns what it changes.
    pub fn handle(&mut self, event: WatchEvent) -> Vec<Change> {
        match event {
            WatchEvent::Begin => {
                self.unseen = Some(self.known.clone());
                self.listed = Revision::default();
                Vec::new()
            }
            WatchEvent::Item(entry) => {
                self.see(&entry.key, entry.revision, true);
                vec![Change::Put(entry)]
            }
            WatchEvent::Ready(revision) => {
                self.revision = revision.max(self.listed);
                self.in_sync = true;
                let gone = self.unseen.take().unwrap_or_default();
                for key in &gone {
                    self.forget(key);
                }
                gone.into_iter().map(Change::Gone).collect()
            }
            WatchEvent::Put(entry) => {
                self.see(&entry.key, entry.revision, false);
                vec![Change::Put(entry)]
            }
            WatchEvent::Gone { key, revision } => {
                self.revision = self.revision.max(revision);
                self.forget(&key);
                vec![Change::Gone(key)]
            }
            WatchEvent::Bad { path, .. } => {
                // It is there: what was known of it stays, until it is gone.
                if let Ok(key) = path.parse() {
                    self.unseen.as_mut().map(|unseen| unseen.remove(&key));
                    self.learn(&key);
                }
                Vec::new()
            }
            _ => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, revision: u64) -> Entry {
        let key = Key::resource(Kind::Tier, None, name);
        Entry { key, value: "{}".into(), revision: Revision(revision) }
    }

    #[test]
    fn a_second_listing_tells_what_went() {
        let mut mirror = Mirror::default();
        mirror.handle(WatchEvent::Begin);
        mirror.handle(WatchEvent::Item(entry("a", 1)));
        mirror.handle(WatchEvent::Item(entry("b", 2)));
        assert!(!mirror.in_sync());
        assert_eq!(mirror.handle(WatchEvent::Ready(Revision(2))), []);
        assert!(mirror.in_sync());
        assert_eq!((mirror.count(Kind::Tier), mirror.count(Kind::Node)), (2, 0));

        mirror.handle(WatchEvent::Begin);
        mirror.handle(WatchEvent::Item(entry("b", 2)));
        let gone = mirror.handle(WatchEvent::Ready(Revision(5)));
        assert_eq!(gone, [Change::Gone(entry("a", 1).key)]);
        assert_eq!(mirror.revision(), Revision(5));
        assert_eq!(mirror.count(Kind::Tier), 1);
    }

    #[test]
    fn what_cannot_be_read_is_not_gone() {
        let mut mirror = Mirror::default();
        mirror.handle(WatchEvent::Begin);
        mirror.handle(WatchEvent::Item(entry("a", 1)));
        mirror.handle(WatchEvent::Ready(Revision(1)));
        let bad = |path: String| WatchEvent::Bad { path, reason: "no text".to_owned() };
        mirror.handle(WatchEvent::Begin);
        mirror.handle(bad(entry("a", 1).key.to_string()));
        mirror.handle(bad("nonsense".to_owned()));
        assert_eq!(mirror.handle(WatchEvent::Ready(Revision(2))), []);
        mirror.handle(WatchEvent::Begin);
        let gone = mirror.handle(WatchEvent::Ready(Revision(3)));
        assert_eq!(gone, [Change::Gone(entry("a", 1).key)]);
    }

    #[test]
    fn a_listing_cut_short_by_another_removes_nothing() {
        let mut mirror = Mirror::default();
        mirror.handle(WatchEvent::Begin);
        mirror.handle(WatchEvent::Item(entry("a", 1)));
        mirror.handle(WatchEvent::Begin);
        mirror.handle(WatchEvent::Item(entry("a", 1)));
        assert_eq!(mirror.handle(WatchEvent::Ready(Revision(1))), []);
    }
}
