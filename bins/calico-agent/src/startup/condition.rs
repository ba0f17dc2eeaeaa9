//! The condition NetworkUnavailable of this node in Kubernetes: nobody's pods are put on a node
//! whose network is said to be unavailable.

use std::time::Duration;

use calico_datastore::KubernetesStore;
use tracing::{info, warn};

use crate::progress::{Progress, Watcher};

/// After this time the condition is cleared also without an agent that is ready (upstream's limit).
const PATIENCE: Duration = Duration::from_secs(300);
/// Between two looks, and after a failure to tell.
const INTERVAL: Duration = Duration::from_secs(10);
/// Looks that find the agent not ready before Kubernetes is told.
const FAILURES: u32 = 3;
/// Time to tell at the end.
const FAREWELL: Duration = Duration::from_secs(2);

/// Keeps the condition until the agent ends.
pub async fn run(node: String, kubernetes: KubernetesStore, progress: Watcher) {
    let ready = progress.until(is_ready);
    if tokio::time::timeout(PATIENCE, ready).await.is_err() {
        warn!("the agent is not ready after five minutes; pods are let onto the node all the same");
    }
    let (mut told, mut failures) = (None, 0);
    loop {
        failures = if is_ready(&progress.now()) { 0 } else { failures + 1 };
        let unavailable = failures >= FAILURES;
        if told != Some(unavailable) {
            match kubernetes.set_network_unavailable(&node, unavailable).await {
                Ok(()) => {
                    info!(node, unavailable, "told Kubernetes how the node's network is");
                    told = Some(unavailable);
                }
                Err(error) => warn!(%error, "cannot tell Kubernetes how the node's network is"),
            }
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Tells that the agent ends.
pub async fn farewell(node: &str, kubernetes: &KubernetesStore) {
    let told = kubernetes.set_network_unavailable(node, true);
    match tokio::time::timeout(FAREWELL, told).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => warn!(%error, "cannot tell Kubernetes that the agent ends"),
        Err(_elapsed) => warn!("cannot tell Kubernetes that the agent ends: no answer in time"),
    }
}

/// A datastore that does not answer is no reason: what is in force stays in force.
const fn is_ready(progress: &Progress) -> bool {
    progress.programmed && progress.dataplane_error.is_none()
}
