//! The loop of the agent: events in, [`Brain`] in the middle, kernel and peers out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use calico_control::EndpointStatus;
use calico_core::dataplane::{Applied, Dataplane, EndpointId, Transaction};
use calico_core::datastore::{Datastore, Revision, WatchEvent};
use calico_core::key::Scope;
use calico_core::resource::FelixConfigurationSpec;
use futures_util::FutureExt;
use tokio::sync::watch;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until};
use tracing::{debug, info, warn};

use crate::brain::{Brain, Work};
use crate::metrics::Metrics;
use crate::overlay::addresses::Wanted;
use crate::overlay::devices::Devices;
use crate::progress::Progress;
use crate::router::Router;
use crate::settings::{self, kernel::Kernel};
use crate::source::{News, Source, Stored};
use crate::workload_addresses::WorkloadAddresses;
use calico_router::secrets::{self, SecretFiles};

/// Events taken in before the kernel is asked again, so that a flood of them cannot starve it.
const BATCH: usize = 4096;

/// Nothing is looked at before so much time has passed, which is longer than any agent runs.
const NEVER: Duration = Duration::from_secs(10 * 365 * 86_400);

/// Time after which a failed transaction is tried again: doubles up to the second one.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// What the loop joins.
#[derive(Debug)]
pub struct Node {
    /// What to do.
    pub brain: Brain,
    /// Where it is known from.
    pub store: Arc<dyn Datastore>,
    /// Where it is enforced.
    pub dataplane: Arc<dyn Dataplane>,
    /// What obeys settings there; absent where it is somebody else's business.
    pub kernel: Option<Kernel>,
    /// Where routes are told and learned.
    pub router: Router,
    /// Where passwords are read from.
    pub secrets: SecretFiles,
    /// Addresses towards workloads that routes are exchanged with.
    pub workload_addresses: WorkloadAddresses,
    /// Tunnels between nodes; absent where they are somebody else's business.
    pub devices: Option<Devices>,
    /// For who gets the tunnels their addresses.
    pub tunnel_addresses: watch::Sender<Wanted>,
    /// For those who do what the settings say.
    pub settings: watch::Sender<FelixConfigurationSpec>,
    /// For Prometheus.
    pub metrics: Metrics,
    /// For those who wait.
    pub progress: watch::Sender<Progress>,
}

/// What the kernel has not acknowledged yet.
#[derive(Debug)]
struct Pending {
    /// When the loop began.
    begun: Instant,
    store: Revision,
    endpoints: Vec<EndpointId>,
    gone: Vec<EndpointId>,
    heard: Vec<(EndpointId, Revision)>,
    /// Endpoints that arrived from another node, and until when that matters.
    arrived: Vec<(Instant, EndpointId)>,
    revision: u64,
    /// When to try again, and how long after that.
    retry: Option<(Instant, Duration)>,
}

/// Ticks this far apart; none without.
fn ticks(every: Option<Duration>) -> Interval {
    let every = every.unwrap_or(NEVER);
    let mut ticks = interval_at(Instant::now() + every, every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

impl Node {
    /// Runs until `shutdown` completes. The kernel is left as it is: traffic goes on.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) {
        let mut shutdown = std::pin::pin!(shutdown);
        let mut source = Source::new(self.brain.node(), self.store.watch(Scope::All, None));
        let mut every = settings::refresh(&FelixConfigurationSpec::default());
        let mut resync = ticks(every);
        let mut housekeeping = interval_at(Instant::now(), secrets::INTERVAL);
        housekeeping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut pending = Pending {
            begun: Instant::now(),
            store: Revision::default(),
            endpoints: Vec::new(),
            gone: Vec::new(),
            heard: Vec::new(),
            arrived: Vec::new(),
            revision: 0,
            retry: None,
        };
        loop {
            self.set_busy(None);
            let retry = pending.retry.map(|(at, _)| at);
            let (mut look, mut keep_house) = (false, false);
            tokio::select! {
                biased;
                () = &mut shutdown => break,
                news = source.next() => match news {
                    Some(news) => self.handle_store(news),
                    None => break warn!("the datastore was closed"),
                },
                event = self.router.next() => self.brain.handle_route(event),
                () = sleep_until(retry.unwrap_or_else(Instant::now)), if retry.is_some() => {}
                _ = housekeeping.tick() => keep_house = true,
                _ = resync.tick() => look = true,
            }
            self.set_busy(Some(Instant::now()));
            if look {
                self.resync().await;
            }
            if keep_house {
                self.keep_house().await;
                let now = Instant::now();
                for (_, id) in pending.arrived.extract_if(.., |(until, _)| *until <= now) {
                    self.brain.settle(&id);
                }
            }
            self.drain(&mut source);
            if let Some(mistakes) = self.brain.new_mistakes() {
                self.progress.send_modify(|progress| progress.mistakes = mistakes);
            }
            for (reference, secret) in self.secrets.read_new(self.brain.wanted_secrets()) {
                self.brain.set_secret(reference, secret);
            }
            let before = Instant::now();
            if let Some(work) = self.brain.flush() {
                self.metrics.planned(&self.brain, &work, before.elapsed());
                if let Some(settings) = &work.settings
                    && settings::refresh(settings) != every
                {
                    every = settings::refresh(settings);
                    resync = ticks(every);
                }
                self.carry_out(work, &mut pending).await;
            }
        }
        self.router.shutdown().await;
    }

    /// For the watchdog, who asks; nobody is woken.
    fn set_busy(&self, since: Option<Instant>) {
        self.progress.send_if_modified(|progress| {
            progress.busy_since = since;
            false
        });
    }

    /// Takes in what is there already, so that it becomes one transaction.
    fn drain(&mut self, source: &mut Source) {
        for _ in 0..BATCH {
            let Some(Some(news)) = source.next().now_or_never() else { break };
            self.handle_store(news);
        }
        for _ in 0..BATCH {
            let Some(event) = self.router.next().now_or_never() else { break };
            self.brain.handle_route(event);
        }
    }

    fn handle_store(&mut self, news: News) {
        match &news {
            News::Event(WatchEvent::Begin) => self.metrics.listing(),
            News::Event(WatchEvent::Interrupted { reason }) => {
                warn!(reason, "the datastore does not answer; what it said last stays in force");
                self.progress.send_modify(|progress| progress.store_error = Some(reason.clone()));
            }
            News::Event(WatchEvent::Ready(revision)) => {
                info!(%revision, "listed the datastore");
                self.progress.send_modify(|progress| {
                    progress.listed = true;
                    progress.store_error = None;
                });
            }
            News::Object(Stored { listed: false, .. }) | News::Event(WatchEvent::Gone { .. }) => {
                self.progress.send_if_modified(|progress| progress.store_error.take().is_some());
            }
            _ => {}
        }
        self.brain.handle_news(news);
    }

    async fn carry_out(&mut self, mut work: Work, pending: &mut Pending) {
        if let Some(settings) = work.settings {
            if let Some(kernel) = &self.kernel {
                kernel.configure(&settings).await;
            }
            self.settings.send_replace((*settings).clone());
        }
        if let Some(overlay) = work.overlay.take() {
            if let Some(devices) = &mut self.devices {
                devices.set_fabric(overlay.fabric.as_deref());
                devices.want(overlay.tunnels, overlay.sizes);
                devices.sync();
            }
            self.tunnel_addresses.send_replace(overlay.addresses);
        }
        pending.store = work.store;
        pending.endpoints.retain(|id| !work.gone.contains(id));
        pending.endpoints.extend(work.endpoints);
        pending.gone.extend(work.gone);
        pending.heard.retain(|(id, _)| !pending.gone.contains(id));
        pending.heard.extend(work.heard);
        if !work.transaction.updates.is_empty() || pending.retry.is_some() {
            self.apply(work.transaction, pending).await;
        }
        if pending.retry.is_none() {
            self.acknowledge(pending);
        }
        let settled = Instant::now() + settings::kernel::convergence(&self.settings.borrow());
        pending.arrived.extend(work.arrived.into_iter().map(|id| (settled, id)));
        self.router.prefer(work.preferred);
        // Peers learn of a prefix after the kernel has it: nobody is sent where nothing is. They
        // are told by the new rules at once, and a speaker that starts knows everything before
        // its first session.
        if !self.router.is_running() {
            self.router.announce(std::mem::take(&mut work.announce), Vec::new()).await;
        }
        if let Some(plan) = work.speaker {
            let addresses = plan.as_ref().map(|plan| plan.workload_addresses.clone());
            self.workload_addresses.want(&addresses.unwrap_or_default());
            self.workload_addresses.sync();
            self.router.configure(plan).await;
        }
        self.router.announce(work.announce, work.withdraw).await;
    }

    /// What nobody tells us of when it changes.
    async fn keep_house(&mut self) {
        for (reference, secret) in self.secrets.read_all() {
            self.brain.set_secret(reference, secret);
        }
        self.workload_addresses.sync();
        if let Some(kernel) = &mut self.kernel
            && self.router.is_enabled()
            && let Some(routes) = kernel.host_routes().await
        {
            self.brain.set_host_routes(routes);
        }
        if let Some(devices) = &mut self.devices {
            devices.sync();
        }
        if self.router.retry_at().is_some_and(|at| at <= Instant::now()) {
            self.router.retry().await;
        }
    }

    async fn apply(&self, transaction: Transaction, pending: &mut Pending) {
        let (revision, updates) = (transaction.revision, transaction.updates.len());
        let started = Instant::now();
        match self.dataplane.apply(transaction).await {
            Ok(Applied { failed, .. }) => {
                let took = started.elapsed();
                debug!(revision, updates, ?took, "programmed the kernel");
                self.metrics.applied(took, pending.begun.elapsed());
                if let Some(kernel) = &self.kernel {
                    self.metrics.offloads(kernel.flow_devices().await);
                }
                pending.retry = None;
                pending.revision = revision;
                let failed: BTreeMap<EndpointId, String> = failed.into_iter().collect();
                pending.endpoints.retain(|id| !failed.contains_key(id));
                self.progress.send_modify(|progress| {
                    for (endpoint, reason) in failed {
                        warn!(%endpoint, reason, "an endpoint is blocked: it cannot be served");
                        let status = EndpointStatus { programmed: false, error: Some(reason) };
                        progress.endpoints.insert(endpoint, status);
                    }
                });
            }
            Err(error) => {
                self.metrics.failed();
                let wait = pending.retry.map_or(RETRY.0, |(_, wait)| (wait * 2).min(RETRY.1));
                pending.retry = Some((Instant::now() + wait, wait));
                warn!(revision, %error, again_in = ?wait, "cannot program the kernel");
                let reason = error.to_string();
                self.progress.send_modify(|progress| progress.dataplane_error = Some(reason));
            }
        }
    }

    fn acknowledge(&self, pending: &mut Pending) {
        self.progress.send_if_modified(|progress| {
            let first = !progress.programmed;
            let moved = progress.store != pending.store
                || progress.dataplane != pending.revision
                || !pending.heard.is_empty();
            progress.programmed = true;
            progress.dataplane_error = None;
            progress.store = pending.store;
            progress.dataplane = pending.revision;
            for id in pending.gone.drain(..) {
                progress.endpoints.remove(&id);
                progress.heard.remove(&id);
            }
            progress.heard.extend(pending.heard.drain(..));
            for id in pending.endpoints.drain(..) {
                let status = EndpointStatus { programmed: true, error: None };
                progress.endpoints.insert(id, status);
            }
            first || moved
        });
    }

    async fn resync(&mut self) {
        if let Some(devices) = &mut self.devices {
            devices.look_again();
            devices.sync();
        }
        match self.dataplane.resync().await {
            Ok(drift) => {
                for repaired in drift.repaired {
                    warn!(repaired, "somebody changed our state in the kernel; it is repaired");
                }
            }
            Err(error) => warn!(%error, "cannot compare the kernel with the desired state"),
        }
    }
}
