//! A dataplane of one's own, which prints what the kernel's would carry out. What feeds it is the
//! way of a node's agent: watch a datastore, calculate, apply, wait for the revision.

use std::error::Error;

use async_trait::async_trait;
use calico_core::dataplane::{
    Applied, Dataplane, DataplaneError, Drift, Transaction, Update, VerdictStream,
};
use calico_core::datastore::{Datastore, WatchEvent};
use calico_core::key::Scope;
use calico_core::memory::MemoryStore;
use calico_core::resource::{
    Mode, ObjectMeta, WorkloadEndpoint, WorkloadEndpointSpec, read_manifest,
};
use calico_core::stream::Silent;
use calico_policy::{Graph, desired::Desired};
use futures_util::{FutureExt, StreamExt};
use tokio::sync::Mutex;

/// `Desired` is the sum of updates so far. A backend that remembers more than its kernel does
/// (to read back and repair) keeps something like it.
#[derive(Debug, Default)]
struct Printer(Mutex<Desired>);

#[async_trait]
impl Dataplane for Printer {
    async fn apply(&self, transaction: Transaction) -> Result<Applied, DataplaneError> {
        let mut desired = self.0.lock().await;
        for update in &transaction.updates {
            // In order: what an update refers to came before it.
            let invalid = |misfit| DataplaneError::Invalid { reason: format!("{misfit}") };
            desired.apply(update).map_err(invalid)?;
            match update {
                Update::EndpointRemoved(_) => println!("  CLOSE {update}"),
                Update::InSync => println!("  FORGET what an earlier run left, if not told above"),
                _ => println!("  {update}"),
            }
        }
        let (pods, policies) = (desired.endpoints.len(), desired.rules.len());
        println!("  = {pods} endpoints, {policies} lists of rules");
        Ok(Applied { revision: transaction.revision, failed: Vec::new() })
    }

    async fn resync(&self) -> Result<Drift, DataplaneError> {
        Ok(Drift::default()) // nobody else writes to our terminal
    }

    fn verdicts(&self) -> VerdictStream {
        Box::pin(Silent::default())
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let store = MemoryStore::new();
    let manifest = read_manifest(include_str!("policy.yaml"), Mode::Strict);
    for policy in manifest.map_err(|mistakes| format!("{mistakes:?}"))? {
        store.create(policy.key(), policy.to_json()).await?;
    }
    let metadata = ObjectMeta::namespaced("shop", "db-0").with_label("app", "db");
    let spec = WorkloadEndpointSpec {
        node: "node1".to_owned(),
        interface_name: "cali-db".to_owned(),
        ip_networks: vec!["10.65.0.2".parse()?],
        ..WorkloadEndpointSpec::default()
    };
    let pod = WorkloadEndpoint::with_metadata(metadata, spec);
    store.create(pod.key(), pod.to_json()).await?;

    let (dataplane, mut graph) = (Printer::default(), Graph::for_node("node1"));
    let mut watch = store.watch(Scope::All, None);
    for revision in 1..=2 {
        println!("revision {revision}:");
        let mut complete = false;
        // Whatever has happened by now goes into one transaction.
        while let Some(Some(event)) = watch.next().now_or_never() {
            match event {
                WatchEvent::Item(entry) | WatchEvent::Put(entry) => graph.handle_entry(&entry)?,
                WatchEvent::Gone { key, .. } => graph.handle_gone(&key),
                WatchEvent::Ready(_) => complete = true,
                _ => {} // an agent also forgets what a second listing lacks
            }
        }
        let mut updates = graph.flush();
        updates.extend(complete.then_some(Update::InSync));
        let applied = dataplane.apply(Transaction { revision, updates }).await?;
        println!("in force: {}\n", applied.revision);
        // The pod goes; gone already the second time.
        drop(store.delete(pod.key(), None).await);
    }
    Ok(())
}
