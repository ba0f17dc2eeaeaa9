//! Follows objects of a Kubernetes cluster, and says how many there are and what they cost.
//!
//! `KUBECONFIG=... cargo run -p calico-datastore --features kubernetes --example kubernetes_watch
//! [KIND]`; the kind is `WorkloadEndpoint` if none is named.

use std::time::Instant;

use calico_core::Datastore as _;
use calico_core::datastore::WatchEvent;
use calico_core::key::Scope;
use calico_core::kind::Kind;
use calico_datastore::config::KubernetesConfig;
use calico_datastore::kubernetes::KubernetesStore;
use futures_util::StreamExt as _;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let kind: Kind = std::env::args().nth(1).as_deref().unwrap_or("WorkloadEndpoint").parse()?;
    let config =
        KubernetesConfig { kubeconfig: std::env::var("KUBECONFIG").ok(), ..Default::default() };
    let store = KubernetesStore::connect(&config)?;
    let mut watch = store.watch(Scope::Kind(kind), None);
    let start = Instant::now();
    let (mut objects, mut bytes) = (0, 0);
    while let Some(event) = watch.next().await {
        match event {
            WatchEvent::Item(entry) => {
                objects += 1;
                bytes += entry.value.len();
            }
            WatchEvent::Ready(revision) => {
                let elapsed = start.elapsed().as_millis();
                println!("{objects} objects, {bytes} bytes, at {revision}, after {elapsed} ms");
                println!("most memory: {}", most_memory()?);
            }
            WatchEvent::Begin => (objects, bytes) = (0, 0),
            WatchEvent::Put(entry) => println!("written: {} at {}", entry.key, entry.revision),
            WatchEvent::Gone { key, revision } => println!("deleted: {key} at {revision}"),
            WatchEvent::Bad { path, reason } => println!("malformed: {path}: {reason}"),
            WatchEvent::Interrupted { reason } => println!("interrupted: {reason}"),
            other => println!("{other:?}"),
        }
    }
    Ok(())
}

/// What the kernel says of the largest size that the program had.
fn most_memory() -> std::io::Result<String> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    Ok(line.unwrap_or("unknown").trim().to_owned())
}
