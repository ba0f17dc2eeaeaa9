//! How far the agent is, for those who wait for it: the CNI service and the control service.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use calico_control::EndpointStatus;
use calico_core::Datastore;
use calico_core::dataplane::EndpointId;
use calico_core::datastore::Revision;
use calico_core::key::Key;
use calico_core::kind::Kind;
use tokio::sync::watch;
use tokio::time::Instant;

/// Between two looks whether the datastore answers again.
const PROBE: Duration = Duration::from_secs(2);

/// A snapshot of how far the agent is.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// Whether the datastore was listed once.
    pub listed: bool,
    /// Whether the kernel once was as the datastore said.
    pub programmed: bool,
    /// Everything that the datastore said up to here is in force.
    pub store: Revision,
    /// The dataplane's latest revision in force.
    pub dataplane: u64,
    /// Endpoints of this node.
    pub endpoints: BTreeMap<EndpointId, EndpointStatus>,
    /// Endpoints of this node as the datastore told of them, each with its own revision, up to
    /// which it is in force.
    pub heard: BTreeMap<EndpointId, Revision>,
    /// Objects of the datastore that have mistakes: by path, with what is wrong.
    pub mistakes: BTreeMap<String, String>,
    /// Why the dataplane does not follow now, if so.
    pub dataplane_error: Option<String>,
    /// Why the datastore does not answer now, if so.
    pub store_error: Option<String>,
    /// Since when the main loop is at work; `None` while it waits for something to do.
    pub busy_since: Option<Instant>,
}

impl Progress {
    /// What is missing for the node to be ready, in words; nothing once it is.
    #[must_use]
    pub fn waiting_for(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if !self.listed {
            reasons.push("the datastore to be listed".to_owned());
        } else if !self.programmed {
            reasons.push("the kernel to be programmed".to_owned());
        }
        if let Some(error) = &self.store_error {
            reasons.push(format!("the datastore to answer ({error})"));
        }
        if let Some(error) = &self.dataplane_error {
            reasons.push(format!("the dataplane to follow ({error})"));
        }
        reasons
    }

    /// What is missing for the policy of an endpoint to be in force as the datastore said at
    /// revision `written`, in words; `None` if it is in force.
    #[must_use]
    pub fn missing(&self, endpoint: &EndpointId, written: Revision) -> Option<String> {
        let status = self.endpoints.get(endpoint);
        let behind = !self.programmed || self.store < written;
        let reasons = self.waiting_for();
        if behind && !reasons.is_empty() {
            return Some(format!("the agent waits for {}", reasons.join(", and for ")));
        }
        if behind {
            let at = self.store;
            return Some(format!("the agent is at revision {at} of the datastore, not {written}"));
        }
        match status {
            None => Some(format!("the agent knows no endpoint {endpoint} on this node")),
            Some(EndpointStatus { error: Some(reason), .. }) => {
                Some(format!("the dataplane cannot serve it: {reason}"))
            }
            Some(_) => None,
        }
    }
}

/// Why an endpoint's policy is not in force.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WaitError {
    /// Time is up.
    #[error("the policy of {endpoint} was not in force after {waited:?}{}", hint(.error.as_deref()))]
    TimedOut {
        /// The endpoint.
        endpoint: EndpointId,
        /// How long it was waited for.
        waited: Duration,
        /// What is wrong with the dataplane, if known.
        error: Option<String>,
    },
    /// The dataplane cannot serve the endpoint.
    #[error("the dataplane cannot serve {endpoint}: {reason}")]
    Failed {
        /// The endpoint.
        endpoint: EndpointId,
        /// Why not.
        reason: String,
    },
    /// The agent is shutting down.
    #[error("the agent is shutting down")]
    Stopped,
}

fn hint(error: Option<&str>) -> String {
    error.map(|error| format!(": {error}")).unwrap_or_default()
}

/// Read side of the agent's [`Progress`]; cheap to clone.
#[derive(Debug, Clone)]
pub struct Watcher(watch::Receiver<Progress>);

impl Watcher {
    /// Follows `progress`.
    #[must_use]
    pub const fn new(progress: watch::Receiver<Progress>) -> Self {
        Self(progress)
    }

    /// How far the agent is now.
    #[must_use]
    pub fn now(&self) -> Progress {
        self.0.borrow().clone()
    }

    /// What is true of how far the agent is.
    pub fn look<T>(&mut self, at: impl FnOnce(&Progress) -> T) -> T {
        at(&self.0.borrow_and_update())
    }

    /// Waits until the agent is further than at the last [`look`](Self::look). False if it ends.
    pub async fn changed(&mut self) -> bool {
        self.0.changed().await.is_ok()
    }

    /// Waits until something holds, or for ever if the agent ends before.
    pub async fn until(&self, holds: impl FnMut(&Progress) -> bool) {
        let mut progress = self.0.clone();
        if progress.wait_for(holds).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits until the datastore has failed to answer, and answers again.
    pub async fn recovered(&self) {
        self.until(|progress| progress.store_error.is_some()).await;
        self.until(|progress| progress.store_error.is_none()).await;
    }

    /// Waits until `endpoint` as it was written with revision `written` is in force. The revision
    /// of the datastore as a whole would not do: where its collections are watched one by one, as
    /// on Kubernetes, another may be further, and a pod be taken for one of the same name before it.
    ///
    /// # Errors
    ///
    /// See [`WaitError`].
    pub async fn wait_programmed(
        &self,
        endpoint: &EndpointId,
        written: Revision,
        timeout: Duration,
    ) -> Result<(), WaitError> {
        let mut progress = self.0.clone();
        let reached = progress.wait_for(|progress| {
            progress.programmed
                && progress.heard.get(endpoint).is_some_and(|heard| *heard >= written)
                && progress.endpoints.contains_key(endpoint)
        });
        match tokio::time::timeout(timeout, reached).await {
            Ok(Ok(progress)) => match progress.endpoints.get(endpoint) {
                Some(EndpointStatus { error: Some(reason), .. }) => {
                    Err(WaitError::Failed { endpoint: endpoint.clone(), reason: reason.clone() })
                }
                _ => Ok(()),
            },
            Ok(Err(_)) => Err(WaitError::Stopped),
            Err(_) => {
                let error = self.0.borrow().dataplane_error.clone();
                Err(WaitError::TimedOut { endpoint: endpoint.clone(), waited: timeout, error })
            }
        }
    }
}

/// Looks whether the datastore answers again while it is said not to: a watch that goes on where it
/// was has nothing to tell until something changes, and a quiet cluster would never be ready.
pub async fn follow_recovery(store: Arc<dyn Datastore>, progress: watch::Sender<Progress>) {
    let watcher = Watcher::new(progress.subscribe());
    let key = Key::resource(Kind::ClusterInformation, None, "default");
    loop {
        watcher.until(|progress| progress.store_error.is_some()).await;
        tokio::time::sleep(PROBE).await;
        if store.find(&key).await.is_ok() {
            progress.send_if_modified(|progress| progress.store_error.take().is_some());
        }
    }
}

#[cfg(test)]
mod tests {
    use calico_core::memory::MemoryStore;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_quiet_datastore_that_answers_again_is_noticed() {
        let (progress, watcher) = watch::channel(Progress::default());
        let watcher = Watcher::new(watcher);
        tokio::spawn(follow_recovery(Arc::new(MemoryStore::new()), progress.clone()));
        progress.send_modify(|progress| progress.store_error = Some("it is away".to_owned()));
        let again = watcher.until(|progress| progress.store_error.is_none());
        tokio::time::timeout(Duration::from_secs(10), again).await.unwrap();
    }

    fn endpoint() -> EndpointId {
        EndpointId { namespace: "default".into(), name: "web".into() }
    }

    #[tokio::test(start_paused = true)]
    async fn waits_for_the_revision_that_was_written() {
        let (sender, receiver) = watch::channel(Progress::default());
        let waiter = Watcher::new(receiver);
        let (written, id, timeout) = (Revision(5), endpoint(), Duration::from_secs(1));

        sender.send_modify(|progress| {
            progress.programmed = true;
            progress.store = Revision(7);
            progress.heard.insert(endpoint(), Revision(4));
            progress.endpoints.insert(endpoint(), EndpointStatus::default());
        });
        let early = waiter.wait_programmed(&id, written, timeout).await;
        assert!(matches!(early, Err(WaitError::TimedOut { .. })), "an older state is not enough");

        sender.send_modify(|progress| progress.heard.extend([(endpoint(), Revision(5))]));
        assert_eq!(waiter.wait_programmed(&id, written, timeout).await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn tells_what_the_dataplane_says() {
        let (sender, receiver) = watch::channel(Progress::default());
        sender.send_modify(|progress| {
            progress.programmed = true;
            let status = EndpointStatus { programmed: false, error: Some("no such thing".into()) };
            progress.endpoints.insert(endpoint(), status);
            progress.heard.insert(endpoint(), Revision(0));
        });
        let result = Watcher::new(receiver)
            .wait_programmed(&endpoint(), Revision(0), Duration::from_secs(1))
            .await;
        assert!(
            matches!(result, Err(WaitError::Failed { reason, .. }) if reason == "no such thing")
        );
    }
}
