//! The driver: brings desired state into the kernel, and reads the kernel back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use calico_core::dataplane::{
    Applied, Dataplane, DataplaneError, Drift, Transaction, VerdictStream,
};
use tokio::sync::{Mutex, MutexGuard};

use super::causes::Causes;
use super::check;
use super::commit::{ATTEMPTS, next};
pub(super) use super::failures::failed;
use super::failures::unsupported;
use super::flowtable_kernel::Flows;
use super::guard::{Ear, Guard};
use super::interfaces::{self, Exclusion, News};
use super::names;
use super::recheck::Rechecker;
use super::routes::RouteProgrammer;
use super::state::State;
use super::style::Marks;
use super::verdicts::Verdicts;
use crate::nft::wire::{Family, Generation};
use crate::nft::{Batch, Error, Socket, Tracker};
use crate::qos::Shaper;

/// Name of our table, in family `inet`.
pub const TABLE: &str = "calico";

/// How this backend behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Whether to repair our table at once when another program changes it. The kernel tells of
    /// every commit; this is how often to look although it told of none. Absent: only
    /// [`Dataplane::resync`] looks.
    pub guard_interval: Option<Duration>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { guard_interval: Some(Duration::from_secs(10)) }
    }
}

/// What the rules made from one source counted, all of its compiled forms together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SourceCounter {
    /// The source, such as `NetworkPolicy prod/web ingress rule 0`.
    pub identity: String,
    /// Packets that matched.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// The [`Dataplane`] of the Linux kernel: nftables and routes over netlink, in the network
/// namespace of the thread that opened it.
#[derive(Debug)]
pub struct LinuxDataplane {
    inner: Arc<Mutex<Inner>>,
    routes: Arc<dyn RouteProgrammer>,
    verdicts: Verdicts,
    _guard: Option<Guard>,
    _interfaces: interfaces::Follower,
    rechecker: Rechecker,
    shaper: Shaper,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) socket: Socket,
    pub(super) state: State,
    /// Of the ruleset as we last saw or made it.
    pub(super) generation: Generation,
    pub(super) lister: interfaces::Lister,
    /// Whether the interfaces changed since they were read. They are only read while host
    /// endpoints ask for them by address.
    interfaces_stale: bool,
    /// Whether the kernel's table and routes were compared with complete desired state since we
    /// started.
    adopted: bool,
    /// What rules counted that are gone with the chain that endpoints shared, by identity.
    pub(super) retired: BTreeMap<String, (u64, u64)>,
    /// What the guard listens with, if there is one.
    pub(super) ear: Option<Ear>,
    /// Whether the table was removed on request and nothing was applied since.
    pub(super) removed: bool,
    /// Whether that included the routes over other routers.
    swept: bool,
    pub(super) flows: Flows,
}

impl LinuxDataplane {
    /// Connects to the kernel. A table of an earlier run stays in force as it is until the first
    /// complete desired state; without one, all packets from and to workloads are dropped from
    /// now on. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`DataplaneError::Unsupported`] when the kernel lacks nf_tables or this process the right
    /// to use it.
    pub async fn open(routes: Arc<dyn RouteProgrammer>) -> Result<Self, DataplaneError> {
        Self::open_with(routes, Settings::default()).await
    }

    /// [`open`](Self::open), with other than the default settings.
    ///
    /// # Errors
    /// See [`open`](Self::open).
    pub async fn open_with(
        routes: Arc<dyn RouteProgrammer>,
        settings: Settings,
    ) -> Result<Self, DataplaneError> {
        Self::open_inner(routes, settings, false).await
    }

    /// As [`open_with`](Self::open_with), and nobody else can change our table as long as this
    /// value lives, nor remove it with all others (`nft flush ruleset`). When it is dropped the table
    /// stays in force. One that an earlier run has left for anybody to change is replaced together
    /// with the first complete desired state. Where the kernel cannot do that (before Linux 6.9) it
    /// is as without.
    ///
    /// # Errors
    /// See [`open`](Self::open); [`DataplaneError::Unavailable`] if another process owns our table,
    /// and still does after some seconds.
    pub async fn open_owning(
        routes: Arc<dyn RouteProgrammer>,
        settings: Settings,
    ) -> Result<Self, DataplaneError> {
        Self::open_inner(routes, settings, true).await
    }

    async fn open_inner(
        routes: Arc<dyn RouteProgrammer>,
        settings: Settings,
        owning: bool,
    ) -> Result<Self, DataplaneError> {
        let mut socket = Socket::open().map_err(unsupported)?;
        let (table, generation, foreign) =
            socket.read_table(Family::Inet, TABLE).await.map_err(unsupported)?;
        let causes = Causes::default();
        let state = State::new(Tracker::new(Family::Inet, TABLE), causes.clone());
        let source = interfaces::Source::open()?;
        let mut inner = Inner {
            socket,
            state,
            generation,
            lister: interfaces::Lister::open()?,
            interfaces_stale: true,
            adopted: false,
            retired: BTreeMap::new(),
            swept: false,
            removed: false,
            flows: Flows::default(),
            ear: settings.guard_interval.map(|_| Ear::open()).transpose().map_err(unsupported)?,
        };
        let present = inner.lister.devices()?;
        inner.state.replace_links(present);
        // What an earlier run has cut stays so.
        let marked = inner.socket.any_marked(Marks::default().condemned).await;
        inner.state.set_cuts(marked.unwrap_or(true));
        match &table {
            None => inner.begin(owning).await.map_err(unsupported)?,
            Some(found) => {
                if found.chains.contains_key(names::NAT_POSTROUTING) {
                    inner.state.keep_translating();
                }
                inner.state.table().observed(Some(found), foreign);
                if owning {
                    inner.take_over().await?;
                }
            }
        }
        let ear = inner.ear.clone();
        let inner = Arc::new(Mutex::new(inner));
        let interfaces = interfaces::Follower::start(Arc::clone(&inner), source);
        let rechecker = Rechecker::start(Arc::clone(&inner))?;
        let watched = ear.zip(settings.guard_interval);
        let guard = watched.map(|(ear, every)| Guard::start(Arc::clone(&inner), ear, every));
        Ok(Self {
            inner,
            routes,
            verdicts: Verdicts::start(causes),
            _guard: guard,
            _interfaces: interfaces,
            rechecker,
            shaper: Shaper::open().map_err(|error| DataplaneError::Unavailable {
                reason: format!("cannot follow interfaces: {error}"),
            })?,
        })
    }

    pub(super) async fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().await
    }

    /// What every source rule counted since it was made. A change of other rules does not disturb
    /// its count, but for packets of the instant of the change.
    ///
    /// # Errors
    /// When the kernel cannot be read.
    pub async fn rule_counters(&self) -> Result<Vec<SourceCounter>, DataplaneError> {
        let mut inner = self.inner.lock().await;
        let counters = inner.socket.rule_counters(Family::Inet, TABLE).await.map_err(failed)?;
        let mut sums = inner.retired.clone();
        for counter in counters.into_iter().filter(|counter| !counter.identity.is_empty()) {
            let sum = sums.entry(counter.identity).or_default();
            sum.0 += counter.packets;
            sum.1 += counter.bytes;
        }
        let of = |(identity, (packets, bytes))| SourceCounter { identity, packets, bytes };
        Ok(sums.into_iter().map(of).collect())
    }

    /// Whether policy of now lets a connection that begins with this packet pass between
    /// workloads: what connections that go on are held against.
    #[cfg(any(test, feature = "testing"))]
    pub async fn allows(&self, packet: &crate::nft::Tuple) -> bool {
        let inner = self.inner.lock().await;
        inner.state.allows(&inner.state.address_owners(), packet)
    }

    /// Passes over these interfaces from now on when a host endpoint is found by its addresses
    /// (upstream's `interfaceExclude`).
    ///
    /// # Errors
    /// When the kernel cannot be read, or refuses what follows.
    pub async fn exclude_interfaces(&self, excluded: Exclusion) -> Result<(), DataplaneError> {
        let mut inner = self.inner.lock().await;
        inner.lister.excluded = excluded;
        inner.interfaces_changed(News::Links(Vec::new())).await
    }

    /// Removes our table and our routes; policy is no longer enforced. Removing what is not
    /// there is no error. A later [`apply`](Dataplane::apply) builds everything again.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn remove_all(&self) -> Result<(), DataplaneError> {
        let mut inner = self.inner.lock().await;
        for _ in 0..ATTEMPTS {
            let (table, generation, _) =
                inner.socket.read_table(Family::Inet, TABLE).await.map_err(failed)?;
            inner.generation = generation;
            if table.is_none() {
                break;
            }
            let mut batch = Batch::new(Family::Inet, TABLE);
            batch.delete_table();
            match inner.socket.commit(&batch, Some(generation)).await {
                Ok(()) => inner.generation = next(generation),
                Err(error) if error.is_stale() => {}
                Err(error) => return Err(failed(error)),
            }
        }
        inner.state.table().observed(None, false);
        inner.remove_flows().await.map_err(failed)?;
        inner.removed = true;
        (inner.adopted, inner.swept) = (false, false);
        self.routes.replace_all(&[], true).await.map(|_removed| ())
    }
}

#[async_trait]
impl Dataplane for LinuxDataplane {
    async fn apply(&self, transaction: Transaction) -> Result<Applied, DataplaneError> {
        let mut inner = self.inner.lock().await;
        check::transaction(&transaction, inner.state.known_sets())?;
        let revision = transaction.revision;
        self.shaper.follow(&transaction);
        let known = inner.take(transaction).await.map_err(failed)?;
        inner.read_interfaces()?;
        if inner.state.in_sync() {
            inner.removed = false;
            // What the kernel has already as it should be is left alone.
            if !(inner.adopted || known) {
                inner.observe().await.map_err(failed)?;
            }
            // Policy first: a route leads to a workload only once its policy is in force.
            inner.commit().await.map_err(failed)?;
            inner.sync_flows().await;
            inner.forget_released().await;
            if inner.state.asks_for_recheck() {
                self.rechecker.changed.notify_one();
            }
            let learned = inner.state.learned_in_sync();
            if inner.adopted && inner.swept == learned {
                let (have, gone) = inner.state.route_changes();
                if !(have.is_empty() && gone.is_empty()) {
                    self.routes.change(&have, &gone).await?;
                }
            } else {
                self.routes.replace_all(&inner.state.routes(), learned).await?;
                (inner.adopted, inner.swept) = (true, learned);
            }
            inner.state.routes_done();
        }
        Ok(Applied { revision, failed: inner.state.failed() })
    }

    async fn resync(&self) -> Result<Drift, DataplaneError> {
        let mut inner = self.inner.lock().await;
        inner.removed = false;
        let mut repaired = inner.repair().await.map_err(failed)?;
        if !inner.state.in_sync() {
            return Ok(Drift { repaired });
        }
        // What was refused may pass by now.
        inner.state.retry_refused();
        inner.commit().await.map_err(failed)?;
        inner.repair_flows(true).await;
        let learned = inner.state.learned_in_sync();
        repaired.extend(self.routes.replace_all(&inner.state.routes(), learned).await?);
        (inner.adopted, inner.swept) = (true, learned);
        inner.state.routes_done();
        Ok(Drift { repaired })
    }

    fn verdicts(&self) -> VerdictStream {
        self.verdicts.subscribe()
    }
}

impl Inner {
    pub(super) fn state(&mut self) -> &mut State {
        &mut self.state
    }

    /// Best effort: a connection that stays is let through only between endpoints that are
    /// allowed to talk at all.
    async fn forget_released(&mut self) {
        let released = self.state.take_released();
        let mut forgotten = self.socket.forget_connections(&released).await;
        for pause in self.pauses_for_flows() {
            if forgotten.is_ok() {
                return;
            }
            tokio::time::sleep(pause).await;
            forgotten = self.socket.forget_connections(&released).await;
        }
        if let Err(error) = forgotten {
            tracing::debug!(%error, "connections of removed endpoints stay until they time out");
        }
    }

    /// Has rules ask whether a connection is marked as denied by now, or no longer. They do when this
    /// returns.
    pub(super) async fn ask_for_cuts(&mut self, cuts: bool) -> Result<(), Error> {
        self.state.set_cuts(cuts);
        if self.removed || !self.state.in_sync() {
            return Ok(());
        }
        self.commit().await
    }

    /// The kernel told of other interfaces or addresses.
    pub(super) async fn interfaces_changed(&mut self, news: News) -> Result<(), DataplaneError> {
        let mut changed = match news {
            News::Links(all) => self.state.hear_of_links(all),
            News::Lost => self.state.replace_links(self.lister.devices()?),
        };
        self.interfaces_stale = true;
        changed |= self.read_interfaces()?;
        if changed && self.state.in_sync() && self.adopted && !self.removed {
            self.commit().await.map_err(failed)?;
        }
        self.sync_flows().await;
        Ok(())
    }

    /// Reads the interfaces if host endpoints ask for them and they changed. True if that changed
    /// the desired table.
    fn read_interfaces(&mut self) -> Result<bool, DataplaneError> {
        if !(self.interfaces_stale && self.state.asks_for_interfaces()) {
            return Ok(false);
        }
        let present = self.lister.list()?;
        self.interfaces_stale = false;
        Ok(self.state.set_interfaces(present))
    }
}
