//! One watch on a hub.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_core::Stream;

use super::hub::{Inner, Snapshot, WatchHub};
use crate::datastore::{Revision, SharedEvent, WatchEvent};
use crate::key::Scope;

/// Events handed to a watcher per lock of the table.
const BATCH: usize = 256;

/// Follows a hub.
pub(super) struct Follow {
    id: u64,
    hub: Arc<WatchHub>,
    scope: Scope,
    /// Everything logged before was yielded, or is in `listing` or `ready`; without it, a listing
    /// is due.
    at: Option<u64>,
    /// Which listings made for others will do; `None`: its listings are its own.
    least: Option<Revision>,
    /// A shared listing, and how much of it was yielded.
    listing: Option<(Arc<Snapshot>, usize)>,
    ready: VecDeque<SharedEvent>,
}

impl Follow {
    pub(super) const fn new(
        id: u64,
        hub: Arc<WatchHub>,
        scope: Scope,
        at: Option<u64>,
        least: Option<Revision>,
    ) -> Self {
        Self { id, hub, scope, at, least, listing: None, ready: VecDeque::new() }
    }

    fn next(&mut self) -> Option<SharedEvent> {
        if let Some((snapshot, yielded)) = &mut self.listing {
            if let Some(event) = snapshot.events.get(*yielded) {
                *yielded += 1;
                return Some(event.clone());
            }
            self.listing = None;
        }
        self.ready.pop_front()
    }

    /// Takes what there is.
    fn fill(&mut self, inner: &mut Inner) {
        let Some(from) = self.at else { return self.relist(inner) };
        let Some(events) = inner.table.history().since(from) else {
            inner.figures.fell_behind += 1;
            return self.relist(inner);
        };
        let mut next = from;
        for event in events {
            next += 1;
            if concerns(&self.scope, event.event()) {
                self.ready.push_back(event.clone());
                if self.ready.len() >= BATCH {
                    break;
                }
            }
        }
        self.at = Some(next);
    }

    fn relist(&mut self, inner: &mut Inner) {
        if let Some(least) = self.least {
            let snapshot = inner.snapshot(&self.scope, least);
            self.at = Some(snapshot.position);
            self.listing = Some((snapshot, 0));
        } else {
            self.at = Some(inner.table.history().end());
            self.ready.extend(inner.listing(&self.scope).map(SharedEvent::new));
        }
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

impl Drop for Follow {
    fn drop(&mut self) {
        let waker = self.hub.lock().leave(self.id);
        drop(waker);
    }
}

impl Stream for Follow {
    type Item = SharedEvent;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<SharedEvent>> {
        let this = self.get_mut();
        if let Some(event) = this.next() {
            return Poll::Ready(Some(event));
        }
        let hub = Arc::clone(&this.hub);
        let mut inner = hub.lock();
        this.fill(&mut inner);
        if let Some(event) = this.next() {
            return Poll::Ready(Some(event));
        }
        if inner.closed {
            return Poll::Ready(None);
        }
        let old = inner.wait(this.id, context.waker().clone());
        // A waker may own a task, and a task another watch: none is dropped under the lock.
        drop(inner);
        drop(old);
        Poll::Pending
    }
}

/// The events themselves, where nobody shares them.
pub(super) struct Owned(pub(super) Follow);

impl Stream for Owned {
    type Item = WatchEvent;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<WatchEvent>> {
        Pin::new(&mut self.0).poll_next(context).map(|event| event.map(SharedEvent::into_event))
    }
}
