use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use calico_netlink::pod::{self, PodInterfaces, PodSpec};
use tokio::sync::Mutex;

use super::netlink::{NetlinkPods, blocking};
use super::traits::{NetworkError, PodNetwork};

/// [`NetlinkPods`] for a program that stays: pods that go at the same time are removed together.
/// The kernel takes as long for one as for a hundred, some 20 ms; and what else a deletion has to do
/// is done meanwhile, as a pod is cut off first.
///
/// What a crash leaves between the two is marked in the kernel, carries no packets, and is removed
/// by the next [`remove_cut_off`](PodNetwork::remove_cut_off).
#[derive(Debug, Clone, Default)]
pub struct ResidentPods {
    kernel: NetlinkPods,
    removal: Arc<Removal>,
}

#[derive(Debug, Default)]
struct Removal {
    /// Whether something was cut off since the last removal began.
    wanted: AtomicBool,
    turn: Mutex<()>,
}

impl Removal {
    /// Removes all that is cut off by now; at most one removal is under way, and one waits.
    async fn run(&self) -> Result<(), NetworkError> {
        self.wanted.store(true, Ordering::Release);
        let _turn = self.turn.lock().await;
        if !self.wanted.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let removed = blocking(|| Ok(pod::remove_cut_off().map(drop)?)).await;
        if removed.is_err() {
            // Whoever waits for the same is to try, too.
            self.wanted.store(true, Ordering::Release);
        }
        removed
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

    async fn remove_cut_off(&self) -> Result<(), NetworkError> {
        self.removal.run().await
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
