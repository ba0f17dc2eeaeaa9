use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use crate::datastore::{Entry, Listing, Revision, StoreError, Write, WriteFailed};
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
    entries: BTreeMap<Arc<str>, Entry>,
    revision: Revision,
    log: VecDeque<Change>,
    capacity: usize,
    /// The log holds every change after this revision.
    floor: Revision,
}

impl Table {
    /// An empty table that remembers its latest `capacity` changes for watchers.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            entries: BTreeMap::new(),
            revision: Revision(0),
            log: VecDeque::new(),
            capacity,
            floor: Revision(0),
        }
    }

    /// The revision of the latest change.
    #[must_use]
    pub const fn revision(&self) -> Revision {
        self.revision
    }

    /// Number of objects.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no objects.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// One object.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<&Entry> {
        self.entries.get(key.to_string().as_str())
    }

    /// Every object, in the order of paths.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// The objects of `scope`.
    #[must_use]
    pub fn list(&self, scope: &Scope) -> Listing {
        let mut entries = Vec::new();
        for prefix in scope.prefixes() {
            let from = (Bound::Included(prefix.as_str()), Bound::Unbounded);
            entries.extend(
                self.entries
                    .range::<str, _>(from)
                    .take_while(|(path, _)| path.starts_with(&prefix))
                    .filter(|(_, entry)| scope.contains(&entry.key))
                    .map(|(_, entry)| entry.clone()),
            );
        }
        Listing { entries, revision: self.revision }
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
                None => self.get(&write.key).map(|entry| entry.revision),
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

    /// Makes one change that was recorded earlier, such as when a file is read back.
    pub fn apply(&mut self, change: Change) {
        let path: Arc<str> = change.key.to_string().into();
        match &change.value {
            Some(value) => {
                let entry = Entry {
                    key: change.key.clone(),
                    value: Arc::clone(value),
                    revision: change.revision,
                };
                self.entries.insert(path, entry);
            }
            None => {
                self.entries.remove(&path);
            }
        }
        self.revision = change.revision;
        self.log.push_back(change);
        while self.log.len() > self.capacity {
            if let Some(oldest) = self.log.pop_front() {
                self.floor = oldest.revision;
            }
        }
    }

    /// Says that no history is known: the table is exactly what it holds, as of `revision`.
    pub fn forget_history(&mut self, revision: Revision) {
        self.revision = revision.max(self.revision);
        self.floor = self.revision;
        self.log.clear();
    }

    /// The changes after `from`, oldest first; `None` if some of them are forgotten, or if `from`
    /// lies in a future that this table has not seen.
    #[must_use]
    pub fn changes_after(&self, from: Revision) -> Option<impl Iterator<Item = &Change>> {
        if from < self.floor || from > self.revision {
            return None;
        }
        let start = self.log.partition_point(|change| change.revision <= from);
        Some(self.log.iter().skip(start))
    }
}

impl From<StoreError> for WriteFailed {
    fn from(error: StoreError) -> Self {
        Self { done: Vec::new(), error }
    }
}
