//! The objects as they were last seen, and who follows them.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use calico_core::datastore::{Entry, Revision, WatchEvent, WatchStream};
use calico_core::key::{Key, Scope};
use futures_util::stream::unfold;
use tokio::sync::watch;

/// Events handed to a follower per lock.
const BATCH: usize = 256;

/// Who names a revision that has not been seen here waits this long for it: it was written through
/// another connection, and is on its way.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the feed says.
#[derive(Debug)]
pub(super) enum News {
    Listed(BTreeMap<Arc<str>, Entry>, Revision),
    Put(Entry),
    Gone(Key, Revision),
    Bad { path: String, reason: String },
    Interrupted(String),
}

#[derive(Debug)]
pub(super) struct Hub {
    inner: Mutex<Inner>,
    /// Changes with every batch of news.
    bell: watch::Sender<u64>,
}

#[derive(Debug)]
struct Inner {
    entries: BTreeMap<Arc<str>, Entry>,
    /// What happened last, oldest first.
    log: VecDeque<(Revision, WatchEvent)>,
    capacity: usize,
    /// How many changes were dropped from the log.
    dropped: u64,
    /// The log holds everything after this revision.
    floor: Revision,
    /// The latest revision of all.
    revision: Revision,
    /// Whether revisions never went back: only then they say where in the log somebody is.
    ordered: bool,
    listed: bool,
    closed: bool,
    trouble: Option<String>,
}

impl Hub {
    pub(super) fn new(capacity: usize) -> Self {
        let inner = Inner {
            entries: BTreeMap::new(),
            log: VecDeque::new(),
            capacity,
            dropped: 0,
            floor: Revision(0),
            revision: Revision(0),
            ordered: true,
            listed: false,
            closed: false,
            trouble: None,
        };
        Self { inner: Mutex::new(inner), bell: watch::Sender::new(0) }
    }

    pub(super) fn is_listed(&self) -> bool {
        self.lock().listed
    }

    pub(super) fn trouble(&self) -> Option<String> {
        self.lock().trouble.clone()
    }

    pub(super) fn objects(&self) -> usize {
        self.lock().entries.len()
    }

    pub(super) fn take(&self, news: Vec<News>) {
        {
            let mut inner = self.lock();
            for one in news {
                inner.take(one);
            }
        }
        self.ring();
    }

    /// Ends every watch, once it has yielded what happened so far.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.ring();
    }

    fn ring(&self) {
        self.bell.send_modify(|count| *count = count.wrapping_add(1));
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing that holds it panics half way.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn take(&mut self, news: News) {
        match news {
            News::Interrupted(reason) => self.trouble = Some(reason),
            News::Bad { path, reason } => {
                let revision = self.revision;
                self.push(revision, WatchEvent::Bad { path, reason });
            }
            News::Put(entry) => {
                self.trouble = None;
                self.entries.insert(entry.key.to_string().into(), entry.clone());
                self.push(entry.revision, WatchEvent::Put(entry));
            }
            News::Gone(key, revision) => {
                self.trouble = None;
                self.entries.remove(key.to_string().as_str());
                self.push(revision, WatchEvent::Gone { key, revision });
            }
            News::Listed(listed, revision) => self.relisted(listed, revision),
        }
    }

    fn relisted(&mut self, listed: BTreeMap<Arc<str>, Entry>, revision: Revision) {
        self.trouble = None;
        let before = std::mem::replace(&mut self.entries, listed);
        if !std::mem::replace(&mut self.listed, true) {
            (self.floor, self.revision) = (revision, revision);
            return;
        }
        // Who follows is told the difference; who comes back after a while with a revision of
        // before cannot be told what happened when.
        let mut changes = Vec::new();
        for (path, old) in &before {
            if !self.entries.contains_key(path) {
                changes.push(WatchEvent::Gone { key: old.key.clone(), revision });
            }
        }
        let written = self.entries.iter().filter(|(path, new)| before.get(*path) != Some(new));
        let mut written: Vec<&Entry> = written.map(|(_, new)| new).collect();
        written.sort_by_key(|entry| entry.revision);
        changes.extend(written.into_iter().cloned().map(WatchEvent::Put));
        self.ordered = false;
        for change in changes {
            self.push(revision, change);
        }
        self.revision = revision;
    }

    fn push(&mut self, revision: Revision, event: WatchEvent) {
        self.ordered &= revision >= self.revision;
        self.revision = self.revision.max(revision);
        self.log.push_back((revision, event));
        while self.log.len() > self.capacity {
            if let Some((oldest, _)) = self.log.pop_front() {
                self.dropped += 1;
                self.floor = oldest;
            }
        }
    }

    /// The position of the next change.
    fn end(&self) -> u64 {
        self.dropped + self.log.len() as u64
    }

    /// Where somebody goes on who has seen everything up to `from`; several changes at
    /// `from` are repeated: not all of them may have been.
    fn position(&self, from: Revision) -> Option<u64> {
        let known = self.ordered && from >= self.floor && from <= self.revision;
        // At the floor itself, changes of that revision may be gone from the log.
        if !known || (from == self.floor && self.dropped > 0) {
            return None;
        }
        let start = self.log.partition_point(|(revision, _)| *revision < from);
        let together = self.log.iter().skip(start).take_while(|(at, _)| *at == from).count();
        let seen = if together == 1 { start + 1 } else { start };
        Some(self.dropped + seen as u64)
    }

    fn listing(&self, scope: &Scope) -> VecDeque<WatchEvent> {
        let mut events = VecDeque::from([WatchEvent::Begin]);
        for prefix in scope.prefixes() {
            let from = (Bound::Included(prefix.as_str()), Bound::Unbounded);
            let entries = self.entries.range::<str, _>(from);
            let within = entries.take_while(|(path, _)| path.starts_with(&prefix));
            let wanted = within.filter(|(_, entry)| scope.contains(&entry.key));
            events.extend(wanted.map(|(_, entry)| WatchEvent::Item(entry.clone())));
        }
        events.push_back(WatchEvent::Ready(self.revision));
        events
    }
}

struct Follower {
    hub: Arc<Hub>,
    bell: watch::Receiver<u64>,
    scope: Scope,
    place: Place,
    ready: VecDeque<WatchEvent>,
}

/// How far a follower is.
#[derive(Clone, Copy)]
enum Place {
    /// It needs a listing, of which this is known to be a part.
    Before(Revision),
    /// It needs a listing.
    Nowhere,
    /// It has seen everything up to here, elsewhere.
    After(Revision),
    /// It has seen everything before this position.
    At(u64),
}

/// Follows `scope`; see [`calico_core::Datastore::watch`]. A listing has what was `written`.
pub(super) fn follow(
    hub: Arc<Hub>,
    scope: Scope,
    from: Option<Revision>,
    written: Revision,
) -> WatchStream {
    let bell = hub.bell.subscribe();
    let place = from.map_or(Place::Before(written), Place::After);
    let follower = Follower { hub, bell, scope, place, ready: VecDeque::new() };
    Box::pin(unfold(follower, async |mut follower| {
        let event = follower.next().await?;
        Some((event, follower))
    }))
}

impl Follower {
    async fn next(&mut self) -> Option<WatchEvent> {
        match self.place {
            Place::Before(written) => {
                self.wait_for(written).await;
                self.place = Place::Nowhere;
            }
            Place::After(from) => {
                self.wait_for(from).await;
                let position = self.hub.lock().position(from);
                self.place = position.map_or(Place::Nowhere, Place::At);
            }
            Place::Nowhere | Place::At(_) => {}
        }
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            // What is read below is newer than this mark, so that no ring is missed.
            self.bell.mark_unchanged();
            if self.fill() {
                return None;
            }
            if self.ready.is_empty() && self.bell.changed().await.is_err() {
                return None;
            }
        }
    }

    /// Waits until a revision was seen here, too. What never comes, or is another store's, is
    /// given up after a while.
    async fn wait_for(&mut self, revision: Revision) {
        let hub = Arc::clone(&self.hub);
        let seen = self.bell.wait_for(|_| {
            let inner = hub.lock();
            inner.closed || inner.listed && inner.revision >= revision
        });
        let _ = tokio::time::timeout(PATIENCE, seen).await;
    }

    /// Takes what there is; whether that is the end.
    fn fill(&mut self) -> bool {
        let inner = self.hub.lock();
        if !inner.listed {
            return inner.closed;
        }
        let at = match self.place {
            Place::At(at) if at >= inner.dropped => at,
            _ => {
                self.ready = inner.listing(&self.scope);
                self.place = Place::At(inner.end());
                return false;
            }
        };
        let skip = usize::try_from(at - inner.dropped).unwrap_or(usize::MAX);
        let mut next = at;
        for (_, event) in inner.log.iter().skip(skip) {
            next += 1;
            if concerns(&self.scope, event) {
                self.ready.push_back(event.clone());
                if self.ready.len() >= BATCH {
                    break;
                }
            }
        }
        self.place = Place::At(next);
        self.ready.is_empty() && inner.closed
    }
}

fn concerns(scope: &Scope, event: &WatchEvent) -> bool {
    match event {
        WatchEvent::Put(entry) => scope.contains(&entry.key),
        WatchEvent::Gone { key, .. } => scope.contains(key),
        WatchEvent::Bad { path, .. } => {
            scope.prefixes().iter().any(|prefix| path.starts_with(prefix.as_str()))
        }
        _ => true,
    }
}
