use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use calico_netlink::link::{self, LinkFilter};
use calico_netlink::netns::{Netns, NetnsError};
use calico_netlink::pod::{self, PodError, PodInterfaces, PodSpec};
use calico_netlink::rtnl::{Connection, RtnlError};

use super::traits::{NetworkError, PodNetwork};

/// The kernel, over netlink, in the network namespace of this process.
#[derive(Debug, Clone, Copy, Default)]
pub struct NetlinkPods;

#[async_trait]
impl PodNetwork for NetlinkPods {
    async fn setup(&self, spec: PodSpec) -> Result<PodInterfaces, NetworkError> {
        // Blocks for about a millisecond, and must not stop half-way if this future is dropped.
        blocking(move || Ok(pod::setup(&spec)?)).await
    }

    async fn teardown(
        &self,
        host_interface: Option<&str>,
        netns: Option<&Path>,
        ifname: &str,
    ) -> Result<(), NetworkError> {
        let host_interface = host_interface.map(str::to_owned);
        let (netns, ifname) = (netns.map(PathBuf::from), ifname.to_owned());
        blocking(move || teardown(host_interface.as_deref(), netns.as_deref(), &ifname)).await
    }

    async fn check(&self, spec: PodSpec) -> Result<(), NetworkError> {
        blocking(move || Ok(pod::check(&spec).map(drop)?)).await
    }

    async fn interfaces(&self) -> Result<Option<BTreeSet<String>>, NetworkError> {
        blocking(|| {
            let failed = |error: RtnlError| {
                NetworkError::Failed(format!("cannot list interfaces: {}", chain(&error)))
            };
            let mut host = Connection::open().map_err(failed)?;
            let links = link::list(&mut host, &LinkFilter::default()).map_err(failed)?;
            Ok(Some(links.into_iter().map(|link| link.name).collect()))
        })
        .await
    }

    fn has_namespace(&self, netns: &Path) -> Option<bool> {
        match Netns::open(netns) {
            Ok(netns) => Some(netns.is_netns()),
            Err(NetnsError::Gone { .. } | NetnsError::NotANamespace { .. }) => Some(false),
            Err(_) => None,
        }
    }
}

/// [`PodNetwork::teardown`] without an async runtime.
///
/// # Errors
///
/// If an interface is there and cannot be removed.
pub fn teardown(
    host_interface: Option<&str>,
    netns: Option<&Path>,
    ifname: &str,
) -> Result<(), NetworkError> {
    // A container that shares the host's network must not take the host's interfaces along.
    match (host_interface, netns.filter(|path| !is_own(path))) {
        (Some(host), netns) => Ok(pod::teardown(host, netns, ifname)?),
        (None, Some(netns)) => remove_inside(netns, ifname),
        (None, None) => Ok(()),
    }
}

/// Whether `path` leads to the namespace of this process.
fn is_own(path: &Path) -> bool {
    let same = || Netns::open(path)?.is_same(&Netns::current()?);
    same().unwrap_or(false)
}

/// Removing one end of a veth removes the other, wherever it is.
fn remove_inside(path: &Path, ifname: &str) -> Result<(), NetworkError> {
    let failed = |reason: String| {
        NetworkError::Failed(format!("cannot remove {ifname} in {}: {reason}", path.display()))
    };
    let opened = Netns::open(path).and_then(|netns| netns.run(Connection::open));
    let mut inside = match opened {
        Ok(connection) => connection.map_err(|error| failed(chain(&error)))?,
        Err(NetnsError::Gone { .. } | NetnsError::NotANamespace { .. }) => return Ok(()),
        Err(error) => return Err(failed(chain(&error))),
    };
    link::delete(&mut inside, ifname).map(drop).map_err(|error| failed(chain(&error)))
}

impl From<PodError> for NetworkError {
    fn from(error: PodError) -> Self {
        match error {
            PodError::Netns(NetnsError::Gone { .. } | NetnsError::NotANamespace { .. }) => {
                Self::NetnsGone(chain(&error))
            }
            PodError::InterfaceName { .. }
            | PodError::NoAddress
            | PodError::Address { .. }
            | PodError::HostNamespace { .. } => Self::Invalid(chain(&error)),
            other => Self::Failed(chain(&other)),
        }
    }
}

/// An error and what caused it, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, NetworkError> + Send + 'static,
) -> Result<T, NetworkError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(broke_off(&error)))
}

pub(super) fn broke_off(error: &tokio::task::JoinError) -> NetworkError {
    NetworkError::Failed(format!("the work broke off: {error}"))
}
