//! Following the best routes.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use futures_core::Stream;
use ipnet::IpNet;

use crate::rib::BestRoute;

/// One step of a [`RouteSubscription`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteUpdate {
    /// A listing starts; a prefix that it lacks has no route.
    Begin,
    /// A route of the listing.
    Item(BestRoute),
    /// The listing is complete.
    Ready,
    /// A route is new or changed.
    Put(BestRoute),
    /// There is no route to this prefix any more.
    Gone(IpNet),
}

/// Follows the best routes: a listing in brackets, then changes.
///
/// A slow reader loses nothing and costs at most one entry per prefix: several changes of one
/// route that were not read yet become one. After a restart with
/// [`Config::restarting`](crate::speaker::Config::restarting), the listing starts when the peers
/// have told their routes, so that a reader that deletes what is not listed deletes nothing too
/// early. Dropping the subscription ends it. Reading is cancel safe.
pub struct RouteSubscription {
    shared: Arc<Shared>,
}

impl RouteSubscription {
    /// The next step; `None` once the speaker is shut down.
    pub async fn next(&mut self) -> Option<RouteUpdate> {
        std::future::poll_fn(|cx| self.shared.poll_next(cx)).await
    }
}

impl Stream for RouteSubscription {
    type Item = RouteUpdate;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<RouteUpdate>> {
        self.shared.poll_next(cx)
    }
}

impl fmt::Debug for RouteSubscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RouteSubscription").finish_non_exhaustive()
    }
}

/// Where a subscription is.
enum Phase {
    /// The listing has not started.
    Waiting,
    /// `Begin` is next.
    Opening { items: usize },
    /// So many items of the queue belong to the listing.
    Listing { items: usize },
    /// Changes.
    Live,
}

struct State {
    phase: Phase,
    queue: VecDeque<IpNet>,
    pending: HashMap<IpNet, Option<BestRoute>>,
    closed: bool,
    waker: Option<Waker>,
}

/// The queue between the speaker and one subscriber.
pub(super) struct Shared {
    state: Mutex<State>,
}

impl Shared {
    pub(super) fn new() -> (Arc<Self>, RouteSubscription) {
        let shared = Arc::new(Self {
            state: Mutex::new(State {
                phase: Phase::Waiting,
                queue: VecDeque::new(),
                pending: HashMap::new(),
                closed: false,
                waker: None,
            }),
        });
        (Arc::clone(&shared), RouteSubscription { shared })
    }

    /// The lock is only held for moves between collections, so a poisoned one is still in order.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the listing, if it has not started.
    pub(super) fn open(&self, routes: impl Iterator<Item = BestRoute>) {
        let mut state = self.state();
        if !matches!(state.phase, Phase::Waiting) {
            return;
        }
        for route in routes {
            state.queue.push_back(route.prefix);
            state.pending.insert(route.prefix, Some(route));
        }
        state.phase = Phase::Opening { items: state.queue.len() };
        wake(state);
    }

    /// Notes a change; before the listing has started there is nothing to note.
    pub(super) fn change(&self, prefix: IpNet, route: Option<&BestRoute>) {
        let mut state = self.state();
        if matches!(state.phase, Phase::Waiting) {
            return;
        }
        if state.pending.insert(prefix, route.cloned()).is_none() {
            state.queue.push_back(prefix);
        }
        wake(state);
    }

    pub(super) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        wake(state);
    }

    fn poll_next(&self, cx: &Context<'_>) -> Poll<Option<RouteUpdate>> {
        let mut state = self.state();
        if let Some(update) = state.next() {
            return Poll::Ready(Some(update));
        }
        if state.closed {
            return Poll::Ready(None);
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl State {
    fn next(&mut self) -> Option<RouteUpdate> {
        loop {
            match self.phase {
                Phase::Waiting => return None,
                Phase::Opening { items } => {
                    self.phase = Phase::Listing { items };
                    return Some(RouteUpdate::Begin);
                }
                Phase::Listing { items: 0 } => {
                    self.phase = Phase::Live;
                    return Some(RouteUpdate::Ready);
                }
                Phase::Listing { items } => {
                    self.phase = Phase::Listing { items: items - 1 };
                    // A route that went before it was read was never there.
                    if let Some((_, Some(route))) = self.pop() {
                        return Some(RouteUpdate::Item(route));
                    }
                }
                Phase::Live => {
                    let (prefix, route) = self.pop()?;
                    return Some(route.map_or(RouteUpdate::Gone(prefix), RouteUpdate::Put));
                }
            }
        }
    }

    fn pop(&mut self) -> Option<(IpNet, Option<BestRoute>)> {
        let prefix = self.queue.pop_front()?;
        let route = self.pending.remove(&prefix).flatten();
        Some((prefix, route))
    }
}

fn wake(mut state: MutexGuard<'_, State>) {
    let waker = state.waker.take();
    drop(state);
    if let Some(waker) = waker {
        waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rib::RouteSource;

    fn route(prefix: &str) -> BestRoute {
        BestRoute {
            prefix: prefix.parse().unwrap(),
            next_hops: Vec::new(),
            source: RouteSource::Local,
            attributes: Arc::default(),
        }
    }

    fn drain(shared: &Shared) -> Vec<RouteUpdate> {
        std::iter::from_fn(|| shared.state().next()).collect()
    }

    #[test]
    fn a_listing_then_changes_each_once() {
        let (shared, _subscription) = Shared::new();
        let (a, b) = (route("10.0.0.0/24"), route("10.0.1.0/24"));
        shared.change(a.prefix, Some(&a));
        assert!(drain(&shared).is_empty(), "nothing before the listing");
        shared.open([a.clone(), b.clone()].into_iter());
        shared.change(b.prefix, None);
        use RouteUpdate::*;
        assert_eq!(drain(&shared), [Begin, Item(a.clone()), Ready]);
        for _ in 0..1000 {
            shared.change(a.prefix, None);
            shared.change(b.prefix, Some(&b));
        }
        assert_eq!(drain(&shared), [Gone(a.prefix), Put(b)]);
    }
}
