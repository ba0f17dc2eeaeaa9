use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use calico_netlink::pod::{self, PodInterfaces, PodSpec};
use tokio::sync::Mutex;

use super::netlink::{NetlinkPods, blocking, joined};
use super::traits::{NetworkError, PodNetwork};

/// [`NetlinkPods`] for a program that stays: pods that go at the same time are removed together,
/// and nobody waits until the kernel has freed their memory, which takes ten times as long as
/// everything else. What else a deletion has to do is done meanwhile, as a pod is cut off first.
///
/// What a crash leaves of a removal is marked in the kernel, carries no packets, and is removed by
/// the next [`remove_all_cut_off`](PodNetwork::remove_all_cut_off).
#[derive(Debug, Clone, Default)]
pub struct ResidentPods {
    kernel: NetlinkPods,
    /// Held by who removes, or sees whether another's removal has removed his own.
    turn: Arc<Mutex<()>>,
}

impl ResidentPods {
    async fn remove(&self, name: &str) -> Result<(), NetworkError> {
        let _turn = self.turn.lock().await;
        let names = [name.to_owned()];
        let look = names.clone();
        if blocking(move || Ok(pod::wait_removed(&look, || true)?)).await? {
            // By the removal before, which took all that were cut off by then.
            return Ok(());
        }
        let removal = tokio::task::spawn_blocking(pod::remove_cut_off);
        let end = removal.abort_handle();
        if blocking(move || Ok(pod::wait_removed(&names, || end.is_finished())?)).await? {
            return Ok(());
        }
        joined(removal).await?;
        Err(NetworkError::Failed(format!("{name} is still there after its removal")))
    }
}

#[async_trait]
impl PodNetwork for ResidentPods {
    async fn setup(&self, spec: PodSpec) -> Result<PodInterfaces, NetworkError> {
        self.kernel.setup(spec).await
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
        let name = host_interface.to_owned();
        if !blocking(move || Ok(pod::cut_off(&name)?)).await? {
            // An unfinished ADD, or another's work: look inside, too.
            return self.kernel.teardown(Some(host_interface), netns, ifname).await;
        }
        Ok(())
    }

    async fn remove_cut_off(&self, host_interface: &str) -> Result<(), NetworkError> {
        self.remove(host_interface).await
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
