//! `endpoint wait`: until this node's kernel enforces the policy of endpoints.

use std::path::PathBuf;
use std::time::Duration;

use calico_control::{AskError, Client};
use calico_core::Datastore;
use calico_core::dataplane::EndpointId;
use calico_core::key::Scope;
use calico_core::kind::Kind;
use calico_core::resource::WorkloadEndpoint;
use calico_policy::Object;
use tokio::time::{Instant, sleep, timeout_at};

use crate::failure::Failure;
use crate::run::Open;

/// Between looks at what nobody tells of when it changes.
const AGAIN: Duration = Duration::from_millis(250);

/// What is waited for.
#[derive(Debug)]
pub(crate) struct Wait {
    /// `NAMESPACE/NAME` of pods or WorkloadEndpoints; none: every endpoint of this node.
    pub(crate) names: Vec<String>,
    /// Of names without one.
    pub(crate) namespace: String,
    pub(crate) patience: Duration,
    pub(crate) socket: PathBuf,
}

/// Waits; tells `say` what for, as often as that changes.
pub(crate) async fn wait(
    store: Open<'_>,
    request: &Wait,
    say: &mut dyn FnMut(&str),
) -> Result<String, Failure> {
    let end = Instant::now() + request.patience;
    let mut latest = String::new();
    let mut tell = |text: &str| {
        if latest != text {
            text.clone_into(&mut latest);
            say(&format!("waiting: {text}"));
        }
    };
    let done = timeout_at(end, request.all(store, &mut tell)).await;
    done.unwrap_or_else(|_elapsed| {
        let patience = request.patience;
        Err(Failure::NotInTime(format!("not in force within {patience:?}: {latest}")))
    })
}

impl Wait {
    async fn all(&self, store: Open<'_>, tell: &mut impl FnMut(&str)) -> Result<String, Failure> {
        let node = self.node(tell).await?;
        let store = loop {
            match store() {
                Ok(store) => break store,
                Err(Failure::Store(error)) => tell(&error.to_string()),
                Err(other) => return Err(other),
            }
            sleep(AGAIN).await;
        };
        let endpoints = self.endpoints(&*store, &node, tell).await?;
        let written = loop {
            match latest_change(&*store).await {
                Ok(written) => break written,
                Err(error) => tell(&error.to_string()),
            }
            sleep(AGAIN).await;
        };
        let mut said = String::new();
        for endpoint in &endpoints {
            self.one(endpoint, written, tell).await?;
            said.push_str(&format!("{endpoint}: its policy is in force\n"));
        }
        if endpoints.is_empty() {
            said = format!("node {node} has no endpoints\n");
        }
        Ok(said)
    }

    /// The name of the agent's node.
    async fn node(&self, tell: &mut impl FnMut(&str)) -> Result<String, Failure> {
        loop {
            let status = async { Client::connect(&self.socket).await?.status().await };
            match status.await {
                Ok(status) => return Ok(status.node),
                Err(error) => tell(&temporary(error)?),
            }
            sleep(AGAIN).await;
        }
    }

    async fn endpoints(
        &self,
        store: &dyn Datastore,
        node: &str,
        tell: &mut impl FnMut(&str),
    ) -> Result<Vec<EndpointId>, Failure> {
        loop {
            match store.list(&Scope::Kind(Kind::WorkloadEndpoint)).await {
                Ok(listing) => {
                    let all = listing.entries.iter().filter_map(|entry| entry.decode().ok());
                    match self.choose(&all.collect::<Vec<_>>(), node)? {
                        Ok(chosen) => return Ok(chosen),
                        Err(missing) => tell(&missing),
                    }
                }
                Err(error) => tell(&error.to_string()),
            }
            sleep(AGAIN).await;
        }
    }

    /// The endpoints that are meant; or which is not there yet.
    fn choose(
        &self,
        all: &[WorkloadEndpoint],
        node: &str,
    ) -> Result<Result<Vec<EndpointId>, String>, Failure> {
        let id = |endpoint: &WorkloadEndpoint| EndpointId {
            namespace: endpoint.namespace().into(),
            name: endpoint.name().into(),
        };
        if self.names.is_empty() {
            return Ok(Ok(all.iter().filter(|it| it.spec.node == node).map(id).collect()));
        }
        let mut chosen = Vec::new();
        for text in &self.names {
            let (namespace, name) = text.split_once('/').unwrap_or((&self.namespace, text));
            let meant: Vec<&WorkloadEndpoint> = all
                .iter()
                .filter(|it| it.namespace() == namespace)
                .filter(|it| it.name() == name || it.spec.pod == name)
                .collect();
            if meant.is_empty() {
                return Ok(Err(format!(
                    "the datastore has no pod and no WorkloadEndpoint {namespace}/{name}"
                )));
            }
            if let Some(other) = meant.iter().find(|it| it.spec.node != node) {
                let theirs = &other.spec.node;
                return Err(Failure::Usage(format!(
                    "{namespace}/{name} is on node {theirs}, and this is {node}: ask there"
                )));
            }
            chosen.extend(meant.into_iter().map(id));
        }
        Ok(Ok(chosen))
    }

    async fn one(
        &self,
        endpoint: &EndpointId,
        written: u64,
        tell: &mut impl FnMut(&str),
    ) -> Result<(), Failure> {
        loop {
            let mut missing = |reason: &str| tell(&format!("{endpoint}: {reason}"));
            let waited = async {
                let mut client = Client::connect(&self.socket).await?;
                client.wait_programmed(endpoint, written, &mut missing).await
            };
            match waited.await {
                Ok(()) => return Ok(()),
                Err(error) => missing(&temporary(error)?),
            }
            sleep(AGAIN).await;
        }
    }
}

/// What goes away when the agent starts, in words.
fn temporary(error: AskError) -> Result<String, Failure> {
    match &error {
        AskError::Connect { source, .. }
            if source.kind() == std::io::ErrorKind::PermissionDenied =>
        {
            Err(error.into())
        }
        AskError::Strange { .. } => Err(error.into()),
        _ => Ok(error.to_string()),
    }
}

/// The revision of the latest change of anything that has a say in policy and still exists.
async fn latest_change(store: &dyn Datastore) -> Result<u64, Failure> {
    let mut latest = 0;
    for kind in Kind::ALL.iter().copied().filter(|kind| Object::has_kind(*kind)) {
        let listing = store.list(&Scope::Kind(kind)).await?;
        latest = listing.entries.iter().map(|entry| entry.revision.0).fold(latest, u64::max);
    }
    Ok(latest)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn endpoint(name: &str, pod: &str, node: &str) -> WorkloadEndpoint {
        serde_json::from_value(json!({
            "apiVersion": "projectcalico.org/v3", "kind": "WorkloadEndpoint",
            "metadata": {"namespace": "prod", "name": name},
            "spec": {"node": node, "pod": pod, "orchestrator": "k8s", "endpoint": "eth0"}}))
        .unwrap()
    }

    fn chosen(names: &[&str]) -> Result<Result<Vec<String>, String>, String> {
        let all = [
            endpoint("n1-k8s-web-eth0", "web", "n1"),
            endpoint("n1-k8s-web-net1", "web", "n1"),
            endpoint("n2-k8s-db-eth0", "db", "n2"),
        ];
        let wait = Wait {
            names: names.iter().map(|&name| name.to_owned()).collect(),
            namespace: "default".to_owned(),
            patience: Duration::ZERO,
            socket: PathBuf::new(),
        };
        let ids = |ids: Vec<EndpointId>| ids.iter().map(ToString::to_string).collect();
        wait.choose(&all, "n1").map(|found| found.map(ids)).map_err(|error| error.to_string())
    }

    #[test]
    fn a_pod_stands_for_all_of_its_endpoints() {
        let both = ["prod/n1-k8s-web-eth0", "prod/n1-k8s-web-net1"].map(str::to_owned).to_vec();
        assert_eq!(chosen(&["prod/web"]), Ok(Ok(both.clone())));
        assert_eq!(chosen(&["prod/n1-k8s-web-eth0"]), Ok(Ok(both[..1].to_vec())));
        assert_eq!(chosen(&[]), Ok(Ok(both)));
        assert!(chosen(&["web"]).unwrap().unwrap_err().contains("default/web"));
        assert!(chosen(&["prod/db"]).unwrap_err().contains("on node n2"));
    }
}
