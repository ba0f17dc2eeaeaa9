//! The CNI service of this node.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use calico_cni::engine::{Engine, Journal, Options, Parts, PolicyGate, ResidentPods, Verdict};
use calico_cni::facts::PodSource;
use calico_core::Datastore;
use calico_core::dataplane::{EndpointId, Limits};
use calico_core::datastore::Revision;
use calico_ipam::Ipam;
use calico_netlink::dataplane::check_limits;
use tracing::{debug, info, warn};

use crate::config::Reconcile;
use crate::progress::Watcher;

/// How often deletions that could not be carried out are tried again.
const REPLAY: Duration = Duration::from_secs(15);

/// How often addresses are compared with what runs on this node.
const RECONCILE: Duration = Duration::from_secs(300);

/// When that is tried again, if ADDs were under way or the datastore did not answer.
const RECONCILE_AGAIN: Duration = Duration::from_secs(10);

#[async_trait]
impl PolicyGate for Watcher {
    async fn wait_programmed(
        &self,
        endpoint: &EndpointId,
        written: Revision,
        patience: Duration,
    ) -> Result<(), String> {
        Self::wait_programmed(self, endpoint, written, patience)
            .await
            .map_err(|error| error.to_string())
    }

    async fn check_limits(&self, host_interface: &str, limits: &Limits) -> Result<(), String> {
        match check_limits(host_interface, limits).await {
            Ok(None) => Ok(()),
            Ok(Some(different)) => Err(different),
            Err(error) => Err(format!("cannot look at the limits of traffic: {error}")),
        }
    }
}

/// What serves the container runtime's calls.
#[must_use]
pub fn engine(
    node: &str,
    store: Arc<dyn Datastore>,
    progress: Watcher,
    journal: &Path,
    mtu_file: PathBuf,
    pods: Arc<dyn PodSource>,
) -> Arc<Engine> {
    let options = calico_ipam::Options::default();
    Arc::new(Engine::new(Parts {
        node: node.to_owned(),
        ipam: Ipam::new(Arc::clone(&store), options),
        store,
        network: Arc::new(ResidentPods::default()),
        policy: Arc::new(progress),
        journal: Journal::new(journal),
        options: Options { clock: Arc::new(SystemTime::now), mtu_file, pods, ..Options::default() },
    }))
}

/// Carries out what the journal holds, at once and from time to time.
pub async fn replay(engine: Arc<Engine>) {
    let mut ticks = tokio::time::interval(REPLAY);
    loop {
        ticks.tick().await;
        replay_once(&engine).await;
    }
}

/// Carries out what the journal holds whenever the datastore answers again.
pub async fn replay_after_failures(engine: Arc<Engine>, progress: Watcher) {
    loop {
        progress.recovered().await;
        replay_once(&engine).await;
    }
}

async fn replay_once(engine: &Engine) {
    match engine.replay().await {
        Ok(replayed) => {
            if replayed.done > 0 {
                info!(done = replayed.done, "carried out deletions from the journal");
            }
            if replayed.left > 0 {
                warn!(left = replayed.left, "deletions wait in the journal");
            }
            for file in replayed.unreadable {
                warn!(file = %file.display(), "a journal entry cannot be read; remove it");
            }
        }
        Err(error) => warn!(%error, "cannot carry out deletions from the journal"),
    }
}

/// Compares addresses with what runs on this node, after the start and from time to time.
pub async fn reconcile(engine: Arc<Engine>, what: Reconcile) {
    if what == Reconcile::Off {
        return;
    }
    loop {
        let wait = match engine.reconcile(what == Reconcile::Log).await {
            Ok(found) if found.busy => RECONCILE_AGAIN,
            Ok(found) => {
                let freed = found.suspects.iter().filter(|s| s.verdict == Verdict::Freed).count();
                let (handles, machines) = (found.empty_handles.len(), found.machines.len());
                if freed + handles + machines > 0 {
                    info!(
                        freed,
                        handles, machines, "cleaned up after containers that nobody deleted"
                    );
                }
                RECONCILE
            }
            Err(error) => {
                debug!(%error, "cannot compare addresses with what runs here yet");
                RECONCILE_AGAIN
            }
        };
        tokio::time::sleep(wait).await;
    }
}
