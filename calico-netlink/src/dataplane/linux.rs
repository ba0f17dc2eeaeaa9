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
use crate::nft::{Batch, Counts, Error, Socket, Tracker, parts};
use crate::qos::Shaper;

/// Name of our table, in family `inet`.
pub const TABLE: &str = "calico";

/// Attempts to commit while other programs keep changing the ruleset. The last one goes without
/// the generation check: our table is ours, and a batch that does not fit it is refused.
const ATTEMPTS: usize = 5;

/// How many refusals are dealt with one after the other; each names at least one object.
const ISOLATIONS: usize = 100;

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
    retired: BTreeMap<String, (u64, u64)>,
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

    /// Brings the desired table into force. What the kernel refuses is left out,
    /// and whoever needs it is closed and told of; everything else comes into force.
    pub(super) async fn commit(&mut self) -> Result<(), Error> {
        for _ in 0..ISOLATIONS {
            match self.commit_whole().await {
                Err(Error::Refused(refusals)) if self.state.isolate(&refusals) => {
                    let error = Error::Refused(refusals);
                    tracing::error!(%error, "left out, and closed what needs it");
                }
                Err(error) if self.does_without_owner(&error) => {}
                result => return result,
            }
        }
        self.commit_whole().await
    }

    async fn commit_whole(&mut self) -> Result<(), Error> {
        for attempt in 1..=ATTEMPTS {
            let error = match self.commit_steps(attempt < ATTEMPTS).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            // Refused because what we believe is wrong: read, and try with the truth. A batch that
            // fits what was read and is refused again is really at fault.
            if !error.is_stale() || attempt == ATTEMPTS {
                return Err(error);
            }
            let drift = self.observe().await?;
            if !matches!(error, Error::GenerationChanged) && attempt > 1 {
                return Err(error);
            }
            tracing::debug!(%error, differences = drift.len(), "committing anew");
        }
        Ok(())
    }

    /// What nothing leads to yet, then all the rest at once; `checked`: only on top of what we
    /// know.
    async fn commit_steps(&mut self, checked: bool) -> Result<(), Error> {
        let counts = self.counts().await;
        if let Some(ahead) = self.state.table().batch_ahead(&counts) {
            self.send(&ahead, checked).await?;
            self.state.table().committed_ahead();
        }
        let batch = self.state.table().batch_keeping(&counts);
        if !batch.is_empty() {
            self.send(&batch, checked).await?;
            self.retire(&counts);
            self.state.table().committed();
        }
        Ok(())
    }

    pub(super) async fn send(&mut self, batch: &Batch, checked: bool) -> Result<(), Error> {
        let deaf = self.ear.as_ref().and_then(|ear| ear.close(batch.len()));
        let generation = checked.then_some(self.generation);
        let committed = self.socket.commit(batch, generation).await;
        drop(deaf);
        committed?;
        self.generation = match generation {
            Some(generation) => next(generation),
            None => self.socket.generation().await?,
        };
        Ok(())
    }

    /// What rules counted whose chains are about to be written anew. Best effort: what cannot be
    /// read, and what is counted between here and the commit, is lost.
    async fn counts(&mut self) -> Counts {
        let table = self.state.table();
        let mut chains = table.replaced_chains();
        let kept = |chain: &&str| is_shared(chain) || parts::is_part(chain);
        chains.extend(table.removed_chains().filter(kept));
        if chains.is_empty() {
            return Counts::default();
        }
        let counts = self.socket.counts(Family::Inet, TABLE, &chains).await;
        counts.unwrap_or_else(|error| {
            tracing::debug!(%error, "rules that change count from zero");
            Counts::default()
        })
    }

    /// Endpoints share chains by content, so that a chain goes although what its rules stand for
    /// stays: the end of a tier, say.
    fn retire(&mut self, counts: &Counts) {
        for chain in self.state.table().removed_chains().filter(|chain| is_shared(chain)) {
            for (identity, packets, bytes) in counts.sums(chain) {
                let sum = self.retired.entry(identity.to_owned()).or_default();
                *sum = (sum.0 + packets, sum.1 + bytes);
            }
        }
    }

    /// Best effort: a connection that stays is let through only between endpoints that are
    /// allowed to talk at all.
    async fn forget_released(&mut self) {
        let released = self.state.take_released();
        if let Err(error) = self.socket.forget_connections(&released).await {
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

    /// Makes the table as it should be; returns how it was not.
    async fn repair(&mut self) -> Result<Vec<String>, Error> {
        let drift = self.observe().await?;
        // What an earlier run left is right until we know better; nothing at all is not.
        if self.state.in_sync() || self.state.table().is_absent() {
            self.commit().await?;
            return Ok(drift);
        }
        Ok(Vec::new())
    }

    /// Repairs the table if anybody but us committed anything since we last looked.
    pub(super) async fn repair_if_changed(&mut self) -> Result<Vec<String>, Error> {
        // Removed on purpose, or not begun.
        if self.removed || self.socket.generation().await? == self.generation {
            return Ok(Vec::new());
        }
        let drift = self.repair().await?;
        self.repair_flows(false).await;
        Ok(drift)
    }

    pub(super) async fn observe(&mut self) -> Result<Vec<String>, Error> {
        let (table, generation, foreign) = self.socket.read_table(Family::Inet, TABLE).await?;
        self.generation = generation;
        Ok(self.state.table().observed(table.as_ref(), foreign))
    }
}

fn is_shared(chain: &str) -> bool {
    chain.starts_with(names::TO_WORKLOAD_CHAIN) || chain.starts_with(names::FROM_WORKLOAD_CHAIN)
}

/// The kernel counts generations up by one and passes over 0.
pub(super) fn next(Generation(id): Generation) -> Generation {
    Generation(id.wrapping_add(1).max(1))
}

pub(super) fn failed(error: Error) -> DataplaneError {
    match error {
        Error::Refused(refusals) => match refusals.first() {
            Some(first) => {
                let more = refusals.len() - 1;
                let what = match &first.subject {
                    Some(subject) => format!("to {subject}"),
                    None => "a change".to_owned(),
                };
                let and = if more > 0 { format!(" (and {more} more)") } else { String::new() };
                DataplaneError::Refused {
                    what,
                    reason: match &first.message {
                        Some(message) => format!("{}: {message}{and}", first.errno.desc()),
                        None => format!("{}{and}", first.errno.desc()),
                    },
                }
            }
            None => DataplaneError::Refused { what: "a change".into(), reason: "no reason".into() },
        },
        other => DataplaneError::Unavailable { reason: with_source(&other) },
    }
}

/// At start a refusal means that the kernel or our rights do not suffice.
fn unsupported(error: Error) -> DataplaneError {
    match error {
        Error::Refused(_) | Error::Socket { .. } => DataplaneError::Unsupported {
            missing: format!(
                "nf_tables with family inet (kernel 5.2 or later, CAP_NET_ADMIN): {}",
                with_source(&error)
            ),
        },
        other => failed(other),
    }
}

fn with_source(error: &Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
