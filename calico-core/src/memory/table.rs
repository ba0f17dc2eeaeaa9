use std::collections::HashMap;
use std::sync::Arc;

use super::history::History;
use super::objects::Objects;
use crate::datastore::{Entry, Listing, Revision, StoreError, WatchEvent, Write, WriteFailed};
use crate::key::{Key, Scope};

/// One change to a [`Table`], as its log keeps it and a durable backend records it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The object.
    pub key: Key,
    /// Its new value; `None` means deleted.
    pub value: Option<Arc<str>>,
    /// The revision of the change.
    pub revision: Revision,
}

/// Changes that were checked against a [`Table`] and not yet made.
///
/// A durable backend writes [`changes`](Self::changes) to disk between
/// [`Table::prepare`] and [`Table::commit`].
#[derive(Debug, Default)]
pub struct Prepared {
    changes: Vec<Change>,
    staged: HashMap<Key, Option<Revision>>,
}

impl Prepared {
    /// The changes in order.
    #[must_use]
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }
}

/// A versioned map with a bounded log of its latest changes. Pure: no locks, no IO.
#[derive(Debug)]
pub struct Table {
    objects: Objects,
    revision: Revision,
    history: History,
}

impl Table {
    /// An empty table that remembers its latest `capacity` changes for watchers; fewer if their
    /// values are large.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { objects: Objects::default(), revision: Revision(0), history: History::new(capacity) }
    }

    /// The highest revision of a change.
    #[must_use]
    pub const fn revision(&self) -> Revision {
        self.revision
    }

    /// Number of objects.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.objects.len()
    }

    /// Whether there are no objects.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.objects.len() == 0
    }

    /// Bytes of the objects' paths and values.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.objects.bytes()
    }

    /// One object.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<Entry> {
        self.objects.get(key)
    }

    /// Every object, in the order of paths.
    pub fn entries(&self) -> impl Iterator<Item = Entry> {
        self.objects.entries()
    }

    /// The objects of `scope`.
    #[must_use]
    pub fn list(&self, scope: &Scope) -> Listing {
        Listing { entries: self.objects.list(scope), revision: self.revision }
    }

    /// Checks `writes` and adds what they change to `prepared`, which may already hold other
    /// callers' changes; each write gets the next revision.
    ///
    /// # Errors
    ///
    /// The first write that may not happen. Those before it stay in `prepared`.
    pub fn prepare(
        &self,
        writes: Vec<Write>,
        prepared: &mut Prepared,
    ) -> Result<Vec<Revision>, WriteFailed> {
        let mut done = Vec::with_capacity(writes.len());
        for write in writes {
            let current = match prepared.staged.get(&write.key) {
                Some(staged) => *staged,
                None => self.objects.revision(&write.key),
            };
            let checked = match write.key.is_storable() {
                true => write.check(current),
                false => Err(StoreError::bad_object(&write.key, &"its name cannot be stored")),
            };
            if let Err(error) = checked {
                return Err(WriteFailed { done, error });
            }
            let last = prepared.changes.last().map_or(self.revision, |change| change.revision);
            let revision = Revision(last.0 + 1);
            prepared.staged.insert(write.key.clone(), write.value.is_some().then_some(revision));
            prepared.changes.push(Change { key: write.key, value: write.value, revision });
            done.push(revision);
        }
        Ok(done)
    }

    /// Makes prepared changes. They must have been prepared on the table's present state.
    pub fn commit(&mut self, prepared: Prepared) {
        for change in prepared.changes {
            self.apply(change);
        }
    }

    /// Makes one change that was recorded earlier, such as when a file is read back, or that
    /// another store tells of. Its revision need not be the highest. An object whose key is not
    /// [storable](Key::is_storable) is not kept.
    pub fn apply(&mut self, change: Change) {
        let Change { key, value, revision } = change;
        self.revision = self.revision.max(revision);
        self.history.push(match value {
            Some(value) => {
                let entry = Entry { key, value, revision };
                self.objects.insert(entry.clone());
                WatchEvent::Put(entry)
            }
            None => {
                self.objects.remove(&key);
                WatchEvent::Gone { key, revision }
            }
        });
    }

    /// Takes over the listing of another store. Watchers are told the difference.
    pub fn replace(&mut self, listing: Listing) {
        let Listing { entries, revision } = listing;
        let mut objects = Objects::default();
        entries.into_iter().for_each(|entry| objects.insert(entry));
        let (gone, mut written) = self.objects.difference(&objects);
        self.objects = objects;
        written.sort_by_key(|entry| entry.revision);
        let latest = written.last().map_or(revision, |entry| entry.revision.max(revision));
        self.revision = self.revision.max(latest);
        let written = written.into_iter().map(WatchEvent::Put);
        let gone = gone.into_iter().map(|key| WatchEvent::Gone { key, revision });
        self.history.bridge(written.chain(gone), revision);
    }

    /// Tells watchers of something that cannot be understood.
    pub fn report(&mut self, path: String, reason: String) {
        self.history.push(WatchEvent::Bad { path, reason });
    }

    /// Says that no history is known: the table is exactly what it holds, as of `revision`.
    pub fn forget_history(&mut self, revision: Revision) {
        self.revision = revision.max(self.revision);
        self.history.forget(self.revision);
    }

    /// What happened last.
    pub(super) const fn history(&self) -> &History {
        &self.history
    }
}

impl From<StoreError> for WriteFailed {
    fn from(error: StoreError) -> Self {
        Self { done: Vec::new(), error }
    }
}
