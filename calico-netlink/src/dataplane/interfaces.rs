//! Follows the host's interfaces: their names and addresses, by which host endpoints are found, and
//! their numbers.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use calico_core::dataplane::DataplaneError;
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{AsyncSocket as _, SocketAddr, TokioSocket};
use nix::errno::Errno;
use rtnetlink::MulticastGroup;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use super::flowtable::Devices;
use super::hosts::Interfaces;
use super::links::Told;
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

/// What there is to tell.
#[derive(Debug)]
pub(super) enum News {
    /// Of these interfaces, and perhaps of addresses.
    Links(Vec<Told>),
    /// Some news were lost.
    Lost,
}

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

    /// Waits for news.
    async fn changed(&mut self) -> io::Result<News> {
        let mut buffer = Vec::with_capacity(DATAGRAM);
        let mut news = News::Links(Vec::new());
        let received = std::future::poll_fn(|context| self.0.poll_recv(context, &mut buffer)).await;
        news.take(received.map(|_| &buffer[..]))?;
        tokio::time::sleep(GATHER).await;
        // What gathered meanwhile is seen by the same look.
        loop {
            buffer.clear();
            match self.0.socket_mut().recv(&mut buffer, 0) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(news),
                received => news.take(received.map(|_| &buffer[..]))?,
            }
        }
    }
}

impl News {
    /// That some were lost (`ENOBUFS`) is news as well, and so is what cannot be read.
    fn take(&mut self, datagram: io::Result<&[u8]>) -> io::Result<()> {
        let told = match datagram {
            Ok(bytes) => told(bytes),
            Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => None,
            Err(error) => return Err(error),
        };
        match (&mut *self, told) {
            (Self::Links(all), Some(told)) => all.extend(told),
            _ => *self = Self::Lost,
        }
        Ok(())
    }
}

/// The interfaces that a datagram tells of; `None` if it cannot be read.
fn told(mut bytes: &[u8]) -> Option<Vec<Told>> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes).ok()?;
        let length = usize::try_from(message.header.length).ok()?.next_multiple_of(4);
        bytes = bytes.get(length.max(4)..).unwrap_or_default();
        let NetlinkPayload::InnerMessage(message) = message.payload else { continue };
        // What is told in the words of bridges is about ports of bridges.
        let (link, gone) = match &message {
            RouteNetlinkMessage::NewLink(link) => (link, false),
            RouteNetlinkMessage::DelLink(link) => (link, true),
            _ => continue,
        };
        if link.header.interface_family == AddressFamily::Unspec {
            let link = link::link_of(&message)?;
            all.push(Told { index: link.index, name: (!gone).then(|| link.name.into()) });
        }
    }
    Some(all)
}

impl Follower {
    pub(super) fn start(inner: Arc<Mutex<Inner>>, source: Source) -> Self {
        Self(tokio::spawn(follow(inner, source)))
    }
}

async fn follow(inner: Arc<Mutex<Inner>>, mut source: Source) {
    loop {
        let news = match source.changed().await {
            Ok(news) => news,
            Err(error) => {
                tracing::warn!(%error, "changes of interfaces are noticed late");
                tokio::time::sleep(PAUSE).await;
                News::Lost
            }
        };
        if let Err(error) = inner.lock().await.interfaces_changed(news).await {
            tracing::warn!(%error, "rules do not follow the host's interfaces");
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
