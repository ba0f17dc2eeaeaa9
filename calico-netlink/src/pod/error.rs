use std::net::IpAddr;
use std::path::PathBuf;

use crate::netns::NetnsError;
use crate::rtnl::{Refusal, RtnlError};
use crate::sysctl::SysctlError;

/// Why a pod's network could not be made, checked or removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PodError {
    /// The caller's: no interface can have this name.
    #[error("{name:?} cannot name an interface: 1 to 15 bytes without spaces, '/' and ':'")]
    InterfaceName {
        /// The name.
        name: String,
    },
    /// The caller's: a pod without an address.
    #[error("a pod needs at least one address")]
    NoAddress,
    /// The caller's: no pod can have this address.
    #[error("{address} cannot be a pod's address")]
    Address {
        /// The address.
        address: IpAddr,
    },
    /// The caller's: the namespace of the pod is the host's own, whose interfaces are not a pod's.
    #[error("{} is the host's own network namespace, not a pod's", netns.display())]
    HostNamespace {
        /// The path that led there.
        netns: PathBuf,
    },
    /// The pod's namespace is gone or no namespace.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// The pod has an interface of this name that is not ours to replace.
    #[error("network namespace {} has an interface {ifname} already", netns.display())]
    InterfaceTaken {
        /// The name inside.
        ifname: String,
        /// The namespace.
        netns: PathBuf,
    },
    /// The host has an interface of this name that is not a pod's.
    #[error("the host's interface {name} is not a veth and will not be replaced; remove it first")]
    HostInterfaceTaken {
        /// The name.
        name: String,
    },
    /// A check found something missing or different.
    #[error("the network of the pod is not as it was made: {what}")]
    Incomplete {
        /// What is missing or different.
        what: String,
    },
    /// The kernel refused a step. What was made before it has been removed again.
    #[error("cannot {step}")]
    Kernel {
        /// The step.
        step: String,
        /// The kernel's reason.
        #[source]
        source: RtnlError,
    },
    /// A kernel setting could not be written. What was made before has been removed again.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    /// No thread could be started.
    #[error("cannot start a thread")]
    Thread(#[source] std::io::Error),
}

impl PodError {
    /// Whether the namespace has vanished; the pod with it.
    #[must_use]
    pub fn is_netns_gone(&self) -> bool {
        matches!(self, Self::Netns(NetnsError::Gone { .. }))
    }
}

/// Says which step it was.
pub(super) trait Step<T> {
    fn step(self, step: impl FnOnce() -> String) -> Result<T, PodError>;
}

impl<T> Step<T> for Result<T, RtnlError> {
    fn step(self, step: impl FnOnce() -> String) -> Result<T, PodError> {
        self.map_err(|source| PodError::Kernel { step: step(), source })
    }
}

impl<T> Step<T> for Result<T, Refusal> {
    fn step(self, step: impl FnOnce() -> String) -> Result<T, PodError> {
        self.map_err(|refusal| PodError::Kernel { step: step(), source: refusal.into() })
    }
}
