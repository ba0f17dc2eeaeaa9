use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use calico_core::dataplane::{EndpointId, Limits};
use calico_core::datastore::Revision;
use calico_netlink::pod::{PodInterfaces, PodSpec};

/// Why a pod's network could not be made, checked or removed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// The container is gone, or never was.
    #[error("network namespace {0} is gone")]
    NetnsGone(String),
    /// The call makes no sense: a name or an address that no pod can have.
    #[error("{0}")]
    Invalid(String),
    /// Something else is in the way, is missing, or the kernel refused.
    #[error("{0}")]
    Failed(String),
}

/// Makes and removes the interfaces of pods.
#[async_trait]
pub trait PodNetwork: fmt::Debug + Send + Sync {
    /// Makes the interfaces of a pod, or finds them as they should be.
    ///
    /// # Errors
    ///
    /// See [`NetworkError`]; nothing half made stays.
    async fn setup(&self, spec: PodSpec) -> Result<PodInterfaces, NetworkError>;

    /// Removes them; no error if there is nothing. Without `host_interface`, only what is found
    /// inside of `netns`.
    ///
    /// # Errors
    ///
    /// If an interface is there and cannot be removed.
    async fn teardown(
        &self,
        host_interface: Option<&str>,
        netns: Option<&Path>,
        ifname: &str,
    ) -> Result<(), NetworkError>;

    /// The first half of [`teardown`](Self::teardown): once this returns, nothing is sent or
    /// received over the interfaces, and [`remove_cut_off`](Self::remove_cut_off) removes them.
    ///
    /// # Errors
    ///
    /// As [`teardown`](Self::teardown).
    async fn cut_off(
        &self,
        host_interface: &str,
        netns: Option<&Path>,
        ifname: &str,
    ) -> Result<(), NetworkError> {
        self.teardown(Some(host_interface), netns, ifname).await
    }

    /// The second half of [`teardown`](Self::teardown): removes what was cut off.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    async fn remove_cut_off(&self, host_interface: &str) -> Result<(), NetworkError> {
        let _ = host_interface;
        Ok(())
    }

    /// Removes whatever was cut off and is still there, such as after a crash.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    async fn remove_all_cut_off(&self) -> Result<(), NetworkError> {
        Ok(())
    }

    /// Sees whether they are as they were made.
    ///
    /// # Errors
    ///
    /// What is missing or different.
    async fn check(&self, spec: PodSpec) -> Result<(), NetworkError>;

    /// Names of the host's interfaces; `None` if that cannot be told, which is no evidence of
    /// anything.
    ///
    /// # Errors
    ///
    /// If the kernel does not answer.
    async fn interfaces(&self) -> Result<Option<BTreeSet<String>>, NetworkError> {
        Ok(None)
    }

    /// Whether there is a network namespace at `netns`; `None` if that cannot be told.
    fn has_namespace(&self, netns: &Path) -> Option<bool> {
        let _ = netns;
        None
    }
}

/// Knows when policy is in force.
#[async_trait]
pub trait PolicyGate: fmt::Debug + Send + Sync {
    /// Waits until the policy of `endpoint`, as of the datastore's revision `written`, is in force
    /// in the kernel.
    ///
    /// # Errors
    ///
    /// Why it is not, in words: after `patience`, or earlier if it never will be.
    async fn wait_programmed(
        &self,
        endpoint: &EndpointId,
        written: Revision,
        patience: Duration,
    ) -> Result<(), String>;

    /// Sees whether the limits of packets and connections of a workload are in force in the kernel.
    ///
    /// # Errors
    ///
    /// What is not, in words.
    async fn check_limits(&self, host_interface: &str, limits: &Limits) -> Result<(), String> {
        let _ = (host_interface, limits);
        Ok(())
    }
}

/// Waits for nothing: for nodes whose policy somebody else enforces, or nobody.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoPolicy;

#[async_trait]
impl PolicyGate for NoPolicy {
    async fn wait_programmed(
        &self,
        _endpoint: &EndpointId,
        _written: Revision,
        _patience: Duration,
    ) -> Result<(), String> {
        Ok(())
    }
}
