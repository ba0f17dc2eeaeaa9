use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use calico_netlink::pod::{self, PodInterfaces, PodSpec, Workers};
use tokio::task::spawn_blocking;

use super::netlink::{NetlinkPods, blocking, broke_off};
use super::traits::{NetworkError, PodNetwork};
use super::turns::{Item, Turns};

/// [`NetlinkPods`] for a program that stays: it has threads for pods, those that go at the same
/// time are removed together, and nobody waits until the kernel has freed their memory, which takes
/// ten times as long as everything else. What else a deletion has to do is done meanwhile, as a pod
/// is cut off first.
///
/// What a crash leaves of a removal is marked in the kernel, carries no packets, and is removed by
/// the next [`remove_all_cut_off`](PodNetwork::remove_all_cut_off).
#[derive(Debug, Clone, Default)]
pub struct ResidentPods {
    kernel: NetlinkPods,
    workers: Arc<Workers>,
    removals: Arc<Turns<Removal>>,
}

/// A host's interface that is cut off.
struct Removal(String);

impl Item for Removal {
    type Answer = Result<(), NetworkError>;
    type With = ();

    async fn serve(batch: Vec<Self>, (): &()) -> Vec<Self::Answer> {
        let names: Vec<String> = batch.into_iter().map(|removal| removal.0).collect();
        let count = names.len();
        vec![remove(names).await; count]
    }
}

/// Removes all that is cut off, and waits until these are out of sight.
async fn remove(names: Vec<String>) -> Result<(), NetworkError> {
    let removal = spawn_blocking(pod::remove_cut_off);
    let end = removal.abort_handle();
    let text = names.join(", ");
    if blocking(move || Ok(pod::wait_removed(&names, || end.is_finished())?)).await? {
        return Ok(());
    }
    match removal.await {
        Ok(removed) => drop(removed?),
        Err(error) => return Err(broke_off(&error)),
    }
    Err(NetworkError::Failed(format!("{text} is still there after its removal")))
}

#[async_trait]
impl PodNetwork for ResidentPods {
    async fn setup(&self, spec: PodSpec) -> Result<PodInterfaces, NetworkError> {
        Ok(self.workers.setup(spec).await?)
    }

    async fn teardown(
        &self,
        host_interface: Option<&str>,
        netns: Option<&Path>,
        ifname: &str,
    ) -> Result<(), NetworkError> {
        self.kernel.teardown(host_interface, netns, ifname).await
    }

    async fn cut_off(
        &self,
        host_interface: &str,
        netns: Option<&Path>,
        ifname: &str,
    ) -> Result<(), NetworkError> {
        if !self.workers.cut_off(host_interface.to_owned()).await? {
            // An unfinished ADD, or another's work: look inside, too.
            return self.kernel.teardown(Some(host_interface), netns, ifname).await;
        }
        Ok(())
    }

    async fn remove_cut_off(&self, host_interface: &str) -> Result<(), NetworkError> {
        let removed = self.removals.take(Removal(host_interface.to_owned()), &()).await;
        let broken = || NetworkError::Failed("a removal together with others broke off".to_owned());
        removed.unwrap_or_else(|| Err(broken()))
    }

    async fn remove_all_cut_off(&self) -> Result<(), NetworkError> {
        blocking(|| Ok(pod::remove_cut_off().map(drop)?)).await
    }

    async fn check(&self, spec: PodSpec) -> Result<(), NetworkError> {
        self.kernel.check(spec).await
    }

    async fn interfaces(&self) -> Result<Option<BTreeSet<String>>, NetworkError> {
        self.kernel.interfaces().await
    }

    fn has_namespace(&self, netns: &Path) -> Option<bool> {
        self.kernel.has_namespace(netns)
    }
}
