//! Gives back what nobody needs: empty blocks of this node, and what nodes that are gone have left.
//!
//! Nothing of the latter is asked of the datastore as long as no node is missing: the agent's watch
//! says so ([`Absence`]). Then one agent after the other, each later than the one before and only if
//! there is still something, looks at the cluster as [`calico_ipam::plan::collect`] says.
//! `KubeControllersConfiguration` has the grace time (`node.leakGracePeriod`; 0 turns all this off).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use calico_core::Datastore;
use calico_core::datastore::StoreError;
use calico_core::key::Key;
use calico_core::kind::Kind;
use calico_core::resource::{ClusterInformation, KubeControllersConfiguration};
use calico_ipam::plan::collect::{Collector, Decision, Settings, SpareBlocks, Verdict};
use calico_ipam::plan::geometry::host_seed;
use calico_ipam::{Collected, Deed, Ipam, IpamError};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, info, warn};

use crate::config::Reconcile;
use crate::overlay::absence::Absence;
use crate::overlay::addresses::Wanted;

/// Longest time between two passes.
const PASS: Duration = Duration::from_secs(300);

/// Shortest time between two passes, however short the grace time is.
const SHORTEST: Duration = Duration::from_secs(1);

/// Looks until something is freed, at least.
const LOOKS: u32 = 3;

/// Runs until nobody says any more who is gone.
pub async fn run(
    node: String,
    store: Arc<dyn Datastore>,
    wanted: watch::Receiver<Wanted>,
    what: Reconcile,
) {
    if what == Reconcile::Off {
        return;
    }
    let ipam = Ipam::new(Arc::clone(&store), calico_ipam::Options::default());
    let mut task = Task {
        collector: Collector::new(Settings::default(), Some(&node)),
        spare: SpareBlocks::default(),
        started: Instant::now(),
        missing_since: None,
        said: BTreeMap::new(),
        dry_run: what == Reconcile::Log,
        node,
        store,
        ipam,
        wanted,
    };
    // Agents that were started together do not all ask at the same time.
    let share = host_seed(&task.node) % 1000;
    sleep(SHORTEST.max(PASS.mul_f64(share as f64 / 30_000.0))).await;
    while let Ok(next) = task.pass().await {
        let changed = task.wanted.changed();
        tokio::select! {
            open = changed => if open.is_err() { return },
            () = sleep_until(next) => {}
        }
        // Nodes come and go in swarms.
        sleep(SHORTEST).await;
    }
}

struct Task {
    node: String,
    store: Arc<dyn Datastore>,
    ipam: Ipam,
    wanted: watch::Receiver<Wanted>,
    collector: Collector,
    spare: SpareBlocks,
    started: Instant,
    missing_since: Option<Instant>,
    /// What was logged last of each thing.
    said: BTreeMap<String, &'static str>,
    dry_run: bool,
}

/// Nobody says any more who is gone.
struct Over;

impl Task {
    /// One pass; says when the next one is due.
    async fn pass(&mut self) -> Result<Instant, Over> {
        if self.wanted.has_changed().is_err() {
            return Err(Over);
        }
        let absence = self.wanted.borrow_and_update().absence.clone();
        let grace = match self.grace().await {
            Ok(grace) => grace,
            Err(error) => {
                debug!(%error, "cannot look for what nobody needs yet");
                return Ok(Instant::now() + PASS);
            }
        };
        let Some(grace) = grace.filter(|grace| !grace.is_zero()) else {
            self.forget();
            return Ok(Instant::now() + PASS);
        };
        let interval = (grace / LOOKS).clamp(SHORTEST, PASS);
        let gap = (interval * 2).max(Duration::from_secs(30));
        let settings = Settings { grace, looks: LOOKS, gap, ..Settings::default() };
        if let Err(error) = self.tidy(&settings).await {
            debug!(%error, "cannot give back blocks yet");
        }
        if self.is_my_turn(&absence, grace)
            && let Err(error) = self.look(settings).await
        {
            debug!(%error, "cannot look for what nodes have left yet");
        }
        Ok(Instant::now() + interval)
    }

    /// How long something must have been unused; none while the datastore is locked.
    async fn grace(&self) -> Result<Option<Duration>, StoreError> {
        let find = async |kind| self.store.find(&Key::resource(kind, None, "default")).await;
        if let Some(entry) = find(Kind::ClusterInformation).await?
            && entry.decode::<ClusterInformation>()?.spec.datastore_ready == Some(false)
        {
            return Ok(None);
        }
        let usual = Settings::default().grace;
        let Some(entry) = find(Kind::KubeControllersConfiguration).await? else {
            return Ok(Some(usual));
        };
        let controllers = entry.decode::<KubeControllersConfiguration>()?.spec.controllers;
        let configured = controllers.node.and_then(|node| node.leak_grace_period);
        Ok(Some(configured.map_or(usual, |grace| grace.0)))
    }

    /// Whether those before this node had the time to clean up, and did not. The first begins at
    /// once; then it takes twice the grace time for the next, and again for the next two, four, ...
    fn is_my_turn(&mut self, absence: &Absence, grace: Duration) -> bool {
        if absence.nodes.is_empty() {
            self.forget();
            return false;
        }
        let since = *self.missing_since.get_or_insert_with(Instant::now);
        let turns = usize::BITS - absence.rank.leading_zeros();
        since.elapsed() >= grace * 2 * turns
    }

    fn forget(&mut self) {
        if self.missing_since.take().is_some() {
            self.collector = Collector::new(Settings::default(), Some(&self.node));
            self.said.clear();
        }
    }

    async fn look(&mut self, settings: Settings) -> Result<(), IpamError> {
        self.collector.set(settings);
        let now = self.started.elapsed();
        match self.ipam.collect(&mut self.collector, now, self.dry_run).await? {
            Collected::Doubtful(doubt) => {
                if self.said.insert(String::new(), "doubt").is_none() {
                    warn!(%doubt, "not cleaning up after nodes that are gone");
                }
            }
            Collected::Decided(decided) => {
                let before = std::mem::take(&mut self.said);
                for (decision, deed) in decided {
                    let subject = decision.subject.to_string();
                    let word = word(&decision, &deed);
                    if before.get(&subject) != Some(&word) {
                        report(&decision, &deed, word);
                    }
                    self.said.insert(subject, word);
                }
            }
        }
        Ok(())
    }

    async fn tidy(&mut self, settings: &Settings) -> Result<(), IpamError> {
        let blocks = self.ipam.tidy_blocks(&self.node).await?;
        let mut spare = self.spare.look(&blocks, settings, self.started.elapsed());
        if self.dry_run {
            for block in spare.drain(..) {
                info!(%block, "to be given back: empty, and not the only block");
            }
        }
        for block in self.ipam.give_back(&self.node, &spare).await? {
            info!(%block, "gave back a block: empty, and not the only one");
        }
        if !self.dry_run {
            for block in self.ipam.release_unselected(&self.node).await? {
                info!(%block, "gave back a block: its IP pool no longer selects this node");
            }
        }
        Ok(())
    }
}

const fn word(decision: &Decision, deed: &Deed) -> &'static str {
    match (deed, &decision.verdict) {
        (Deed::Freed, _) => "freed",
        (Deed::Would, _) => "to be freed",
        (Deed::Changed, _) => "changed meanwhile, to be looked at again",
        (Deed::Failed(_), _) => "cannot be freed yet",
        (_, Verdict::Later) => "to be freed with the next look",
        (_, Verdict::Keep(_)) => "kept",
        (_, _) => "suspect",
    }
}

fn report(decision: &Decision, deed: &Deed, word: &str) {
    let (subject, evidence) = (&decision.subject, decision.evidence());
    match deed {
        Deed::Failed(error) => warn!(%subject, evidence, %error, "{word}"),
        _ => info!(%subject, evidence, "{word}"),
    }
}
