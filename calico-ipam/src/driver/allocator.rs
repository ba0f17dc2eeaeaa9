//! IPAM with a memory, for a program that stays.

use std::fmt;
use std::net::IpAddr;

use calico_core::datastore::{Entry, Revision, WatchEvent, WatchStream, Write};
use calico_core::key::{Key, Scope};
use calico_core::kind::Kind;
use futures_util::lock::Mutex;
use futures_util::{FutureExt, StreamExt};
use tracing::warn;

use super::together::Ending;
use super::view::{Cluster, View, claims, read_claim, read_labels};
use super::{Ipam, Session};
use crate::error::IpamError;
use crate::plan::owner::Owner;
use crate::request::{Address, AssignIp, AssignRequest, Assigned, Outcome};

/// IPAM of one node with a memory of its blocks: an assignment is one write and no read.
///
/// Pools, reservations, settings, the node's labels and its claims are watched; blocks and handles
/// are remembered as written, and every write is a compare-and-swap, so that a memory that is out
/// of date costs a second attempt and nothing else. Watches are looked at when a call comes in:
/// there is no background task, and no async runtime is needed.
pub struct Allocator {
    ipam: Ipam,
    owner: Owner,
    state: Mutex<State>,
}

struct State {
    view: View,
    /// Watches of the cluster's pools and settings, and of our claims.
    watches: Vec<WatchStream>,
    /// Whether pools or settings must be read before the next call.
    stale: bool,
}

impl fmt::Debug for Allocator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Allocator").field("owner", &self.owner).finish_non_exhaustive()
    }
}

impl Allocator {
    /// The allocator of `node`.
    #[must_use]
    pub fn new(ipam: Ipam, node: impl Into<String>) -> Self {
        let state = State { view: View::default(), watches: Vec::new(), stale: true };
        Self { ipam, owner: Owner::host(node), state: Mutex::new(state) }
    }

    /// The driver without memory.
    #[must_use]
    pub const fn ipam(&self) -> &Ipam {
        &self.ipam
    }

    /// As [`Ipam::auto_assign`]; the request's node must be this allocator's.
    ///
    /// # Errors
    ///
    /// As [`Ipam::auto_assign`].
    pub async fn auto_assign(&self, request: AssignRequest) -> Result<Assigned, IpamError> {
        let mut answers = self.assign_many(&[request]).await;
        answers.pop().unwrap_or_else(|| Err(IpamError::invalid("no request")))
    }

    /// Serves several requests with one write, or few. Answers are in the order of requests.
    pub async fn assign_many(
        &self,
        requests: &[AssignRequest],
    ) -> Vec<Result<Assigned, IpamError>> {
        let outcomes = self.assign_along(requests, |_, _| Vec::new()).await;
        outcomes.into_iter().map(|outcome| outcome.assigned).collect()
    }

    /// As [`assign_many`](Self::assign_many), and writes more of the caller's in the same round
    /// trip: `also` says what, given the place of a request and the addresses it gets. Those
    /// writes come after the addresses', and only for requests that get all they ask for.
    pub async fn assign_along(
        &self,
        requests: &[AssignRequest],
        also: impl Fn(usize, &Assigned) -> Vec<Write> + Send + Sync,
    ) -> Vec<Outcome> {
        let foreign = requests.iter().any(|r| r.node != self.owner.name || r.owner.is_some());
        let refuse = |error: &IpamError| {
            let outcome = || Outcome { assigned: Err(error.clone()), also: None };
            requests.iter().map(|_| outcome()).collect()
        };
        if foreign {
            let reason = format!("this allocator serves {} only", self.owner);
            return refuse(&IpamError::invalid(reason));
        }
        let mut state = self.state.lock().await;
        match self.refresh(&mut state).await {
            Ok(()) => self.session(&mut state.view).assign(requests, &also).await,
            Err(error) => refuse(&error),
        }
    }

    /// As [`Ipam::assign_ip`].
    ///
    /// # Errors
    ///
    /// As [`Ipam::assign_ip`].
    pub async fn assign_ip(&self, request: &AssignIp) -> Result<Address, IpamError> {
        let mut state = self.state.lock().await;
        self.refresh(&mut state).await?;
        self.session(&mut state.view).assign_ip(request).await
    }

    /// As [`Ipam::release_by_handle`]; one write and no read for addresses that this allocator
    /// assigned from the node's own blocks.
    ///
    /// # Errors
    ///
    /// As [`Ipam::release_by_handle`].
    pub async fn release_by_handle(&self, handle: &str) -> Result<Vec<IpAddr>, IpamError> {
        let mut state = self.state.lock().await;
        self.refresh(&mut state).await?;
        let released = self.ipam.release_handle(&mut state.view, handle).await;
        state.view.forget_foreign();
        released
    }

    /// Releases handles, and writes more of the caller's before, all in one write. Answers with
    /// the addresses that are free now, in the order of `endings`.
    ///
    /// # Errors
    ///
    /// If anything is in the way, such as somebody else's write. Some of `endings` may be carried
    /// out then; carry out each on its own, with
    /// [`release_by_handle`](Self::release_by_handle), which may be repeated.
    pub async fn release_along(&self, endings: &[Ending]) -> Result<Vec<Vec<IpAddr>>, IpamError> {
        let mut state = self.state.lock().await;
        self.refresh(&mut state).await?;
        let released = self.ipam.release_together(&mut state.view, endings).await;
        state.view.forget_foreign();
        released
    }

    /// As [`Ipam::ensure_block`], for this node.
    ///
    /// # Errors
    ///
    /// As [`Ipam::ensure_block`].
    pub async fn ensure_block(&self) -> Result<Vec<ipnet::IpNet>, IpamError> {
        let mut state = self.state.lock().await;
        let blocks = self.ipam.ensure_block(&self.owner.name).await?;
        state.stale = true;
        Ok(blocks)
    }

    fn session<'a>(&'a self, view: &'a mut View) -> Session<'a> {
        Session { ipam: &self.ipam, view, owner: self.owner.clone() }
    }

    /// Takes in what the watches have seen, without waiting for more.
    async fn refresh(&self, state: &mut State) -> Result<(), IpamError> {
        let store = &self.ipam.store;
        if state.watches.is_empty() {
            // Watches first, then the listing: nothing can fall between.
            let node = Key::resource(Kind::Node, None, &self.owner.name);
            let settings = Key::resource(Kind::IpamConfiguration, None, "default");
            state.watches = [
                Scope::Kind(Kind::IpPool),
                Scope::Kind(Kind::IpReservation),
                Scope::One(Key::IpamConfig),
                Scope::One(settings),
                Scope::One(node),
                Scope::AffinitiesOf(self.owner.name.clone()),
            ]
            .into_iter()
            .map(|scope| store.watch(scope, None))
            .collect();
            state.stale = true;
        }
        let mut ended = false;
        let State { view, watches, stale } = &mut *state;
        for watch in watches {
            while let Some(event) = watch.next().now_or_never() {
                match event {
                    Some(event) => *stale |= self.observe(view, event),
                    None => {
                        ended = true;
                        break;
                    }
                }
            }
        }
        if ended {
            // The store was closed; a new watch next time says whether it is back.
            state.watches.clear();
            state.stale = true;
        }
        if state.stale {
            let own = claims(&**store, &self.owner).await?;
            let cluster = Cluster::load(&**store, &self.owner.name).await?;
            state.view.cluster = cluster;
            let State { view, .. } = &mut *state;
            view.blocks.retain(|cidr, _| own.contains_key(cidr));
            view.own = own;
            state.stale = false;
        }
        Ok(())
    }

    /// Takes in one event; says whether pools or settings must be read again.
    fn observe(&self, view: &mut View, event: WatchEvent) -> bool {
        match event {
            WatchEvent::Item(entry) | WatchEvent::Put(entry) => {
                match entry.key {
                    Key::Affinity { .. } => self.observe_claim(view, &entry),
                    // Nodes are written often; only their labels matter here.
                    Key::Resource { kind: Kind::Node, .. } => {
                        view.cluster.node = read_labels(&entry)
                    }
                    _ => return true,
                }
                false
            }
            WatchEvent::Gone { key: Key::Affinity { block, .. }, revision } => {
                if known_before(view, &block, revision) {
                    view.own.remove(&block);
                    view.blocks.remove(&block);
                }
                false
            }
            WatchEvent::Gone { .. } => true,
            WatchEvent::Bad { path, reason } => {
                warn!(path, reason, "ignoring an object that cannot be read");
                true
            }
            // After an interruption the listing that follows brings what was missed.
            _ => false,
        }
    }

    fn observe_claim(&self, view: &mut View, entry: &Entry) {
        if let Some((block, claim)) = read_claim(&self.owner, entry)
            && (known_before(view, &block, entry.revision) || !view.own.contains_key(&block))
        {
            view.own.insert(block, claim);
        }
    }
}

/// Whether a claim is known as of an earlier revision: our own writes come back as events.
fn known_before(view: &View, block: &ipnet::IpNet, revision: Revision) -> bool {
    view.own.get(block).is_some_and(|(_, known)| *known < revision)
}
