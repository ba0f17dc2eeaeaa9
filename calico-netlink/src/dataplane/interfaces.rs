//! Follows the names and addresses of the host's interfaces, by which host endpoints are found.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use calico_core::dataplane::DataplaneError;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{AsyncSocket as _, SocketAddr, TokioSocket};
use nix::errno::Errno;
use rtnetlink::MulticastGroup;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use super::flowtable::Devices;
use super::hosts::Interfaces;
use super::linux::Inner;
use crate::address;
use crate::link::{self, LinkFilter};
use crate::rtnl::{Connection, RtnlError};

/// Events come in bursts; one look serves all of them.
const GATHER: Duration = Duration::from_millis(20);
/// After a failure.
const PAUSE: Duration = Duration::from_secs(1);
/// Larger than any notification.
const DATAGRAM: usize = 64 * 1024;

/// Where news come from, in the network namespace of the thread that opened it.
pub(super) struct Source(TokioSocket);

/// Which interfaces are passed over, by their names.
#[derive(Clone)]
pub struct Exclusion(Arc<dyn Fn(&str) -> bool + Send + Sync>);

impl Exclusion {
    /// Those of which this says so.
    pub fn new(excluded: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(excluded))
    }
}

impl Default for Exclusion {
    /// The interface of kube-proxy, which has an address for every service, as upstream.
    fn default() -> Self {
        Self::new(|name| name == "kube-ipvs0")
    }
}

impl fmt::Debug for Exclusion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Exclusion")
    }
}

/// Reads what is there, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(super) struct Lister {
    connection: Connection,
    pub(super) excluded: Exclusion,
}

/// A task that tells the dataplane what changes. Ends with this value.
#[derive(Debug)]
pub(super) struct Follower(JoinHandle<()>);

impl Drop for Follower {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Lister {
    pub(super) fn open() -> Result<Self, DataplaneError> {
        let connection = Connection::open().map_err(|error| unavailable(&error))?;
        Ok(Self { connection, excluded: Exclusion::default() })
    }

    pub(super) fn list(&mut self) -> Result<Interfaces, DataplaneError> {
        self.read().map_err(|error| unavailable(&error))
    }

    /// Every interface, those that are passed over as well.
    pub(super) fn devices(&mut self) -> Result<Devices, DataplaneError> {
        let links = link::list(&mut self.connection, &LinkFilter::default());
        let links = links.map_err(|error| unavailable(&error))?;
        Ok(links.into_iter().map(|link| (link.name.into(), link.index)).collect())
    }

    fn read(&mut self) -> Result<Interfaces, RtnlError> {
        let links = link::list(&mut self.connection, &LinkFilter::default())?;
        let counted = links.iter().filter(|link| !(self.excluded.0)(&link.name));
        let names: BTreeMap<u32, Arc<str>> =
            counted.map(|link| (link.index, link.name.as_str().into())).collect();
        let mut interfaces: Interfaces =
            names.values().map(|name| (Arc::clone(name), Default::default())).collect();
        for address in address::list(&mut self.connection, None)? {
            if let Some(name) = names.get(&address.index) {
                let addresses = interfaces.entry(Arc::clone(name)).or_default();
                addresses.insert(address.address.addr());
            }
        }
        Ok(interfaces)
    }
}

fn unavailable(error: &dyn std::error::Error) -> DataplaneError {
    DataplaneError::Unavailable { reason: format!("cannot follow interfaces: {error}") }
}

impl Source {
    pub(super) fn open() -> Result<Self, DataplaneError> {
        subscribe().map(Self).map_err(|error| unavailable(&error))
    }

    /// Waits for news. That some were lost (`ENOBUFS`) is news as well.
    async fn changed(&mut self) -> io::Result<()> {
        let mut buffer = Vec::with_capacity(DATAGRAM);
        let received = std::future::poll_fn(|context| self.0.poll_recv(context, &mut buffer)).await;
        match received {
            Err(error) if error.raw_os_error() != Some(Errno::ENOBUFS as i32) => return Err(error),
            _ => {}
        }
        tokio::time::sleep(GATHER).await;
        // What gathered meanwhile is seen by the same look.
        loop {
            buffer.clear();
            match self.0.socket_mut().recv(&mut buffer, 0) {
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}

impl Follower {
    pub(super) fn start(inner: Arc<Mutex<Inner>>, source: Source) -> Self {
        Self(tokio::spawn(follow(inner, source)))
    }
}

async fn follow(inner: Arc<Mutex<Inner>>, mut source: Source) {
    loop {
        if let Err(error) = source.changed().await {
            tracing::warn!(%error, "changes of interfaces are noticed late");
            tokio::time::sleep(PAUSE).await;
        }
        if let Err(error) = inner.lock().await.interfaces_changed().await {
            tracing::warn!(%error, "host endpoints do not follow the host's interfaces");
        }
    }
}

fn subscribe() -> io::Result<TokioSocket> {
    let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
    let inner = socket.socket_mut();
    inner.bind(&SocketAddr::new(0, 0))?;
    for group in [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr] {
        inner.add_membership(group as u32)?;
    }
    Ok(socket)
}
