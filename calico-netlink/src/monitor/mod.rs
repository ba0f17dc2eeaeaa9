//! What happens in the kernel: interfaces that come, go, and change; routes.
//!
//! [`Monitor`] starts with the interfaces that are there, each as [`LinkChange::New`], so that a
//! listener needs no other source. The kernel drops notifications under load (`ENOBUFS`). A
//! monitor then reads the interfaces again and tells the difference, followed by
//! [`Event::Resync`]: whoever also keeps routes must read those again too.

mod links;
mod slim;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;

use futures_util::stream::{self, Stream};
use netlink_packet_core::NetlinkMessage;
use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::route::RouteMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{AsyncSocket as _, SocketAddr, TokioSocket};
use nix::errno::Errno;
use rtnetlink::MulticastGroup;

pub use links::{LinkChange, LinkEvent};

use crate::link::{self, Link, LinkFilter};
use crate::rtnl::{Connection, RtnlError};
use links::Links;

/// Room for bursts, in bytes; the kernel grants no more than `net.core.rmem_max`.
const RECEIVE_BUFFER: usize = 4 << 20;
/// Larger than any notification.
const DATAGRAM: usize = 64 * 1024;

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// To an interface.
    Link(LinkEvent),
    /// A route is there, new or in the place of another.
    Route(Box<RouteMessage>),
    /// A route is gone. The kernel does not tell this of IPv4 routes that go with their interface.
    RouteGone(Box<RouteMessage>),
    /// Notifications were lost. Interfaces have been read again, routes have not.
    Resync,
}

/// What to follow besides interfaces.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Follow {
    /// Routes of both families.
    pub routes: bool,
}

/// Follows the network namespace in which it was opened. See the [module](self).
pub struct Monitor {
    socket: TokioSocket,
    connection: Connection,
    links: Links,
    pending: VecDeque<Event>,
    buffer: Vec<u8>,
}

impl std::fmt::Debug for Monitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Monitor").field("pending", &self.pending.len()).finish_non_exhaustive()
    }
}

impl Monitor {
    /// Starts to follow the namespace of the calling thread.
    ///
    /// # Errors
    ///
    /// See [`RtnlError`].
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn open(follow: Follow) -> Result<Self, RtnlError> {
        let mut groups = vec![MulticastGroup::Link];
        if follow.routes {
            groups.extend([MulticastGroup::Ipv4Route, MulticastGroup::Ipv6Route]);
        }
        let socket = subscribe(&groups).map_err(RtnlError::Open)?;
        let mut monitor = Self {
            socket,
            // Subscribed first, listed then: nothing falls between.
            connection: Connection::open()?,
            links: Links::default(),
            pending: VecDeque::new(),
            buffer: Vec::with_capacity(DATAGRAM),
        };
        monitor.list_links()?;
        Ok(monitor)
    }

    /// The next event. Waits for one; safe to drop and call again.
    ///
    /// # Errors
    ///
    /// If the socket breaks, or interfaces cannot be read again after a loss.
    pub async fn next(&mut self) -> Result<Event, RtnlError> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Ok(event);
            }
            match self.receive().await {
                Ok(()) => self.digest(),
                Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => {
                    self.list_links()?;
                    self.pending.push_back(Event::Resync);
                }
                Err(source) => return Err(RtnlError::Io { doing: "follow events", source }),
            }
        }
    }

    /// The events as a stream, which ends after the first error.
    pub fn into_stream(self) -> impl Stream<Item = Result<Event, RtnlError>> + Send {
        stream::unfold(Some(self), async |monitor| {
            let mut monitor = monitor?;
            match monitor.next().await {
                Ok(event) => Some((Ok(event), Some(monitor))),
                Err(error) => Some((Err(error), None)),
            }
        })
    }

    async fn receive(&mut self) -> io::Result<()> {
        self.buffer.clear();
        poll_fn(|context| self.socket.poll_recv(context, &mut self.buffer)).await
    }

    fn digest(&mut self) {
        let mut rest = self.buffer.as_slice();
        while rest.len() >= 16 {
            let length = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
            if length < 16 || length > rest.len() {
                break;
            }
            let message = slim::slim(&rest[..length]);
            match NetlinkMessage::<RouteNetlinkMessage>::deserialize(&message) {
                Ok(message) => {
                    if let NetlinkPayload::InnerMessage(message) = message.payload {
                        digest_message(message, &mut self.links, &mut self.pending);
                    }
                }
                Err(error) => tracing::debug!(%error, "skipped a notification"),
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }

    fn list_links(&mut self) -> Result<(), RtnlError> {
        let all = link::list(&mut self.connection, &LinkFilter::default())?;
        self.pending.extend(self.links.replace(all).into_iter().map(Event::Link));
        Ok(())
    }
}

fn digest_message(message: RouteNetlinkMessage, links: &mut Links, pending: &mut VecDeque<Event>) {
    match message {
        // Bridges tell of their ports with the same messages in another family.
        RouteNetlinkMessage::NewLink(message) | RouteNetlinkMessage::DelLink(message)
            if message.header.interface_family != AddressFamily::Unspec => {}
        RouteNetlinkMessage::NewLink(message) => {
            if let Some(link) = Link::from_message(&message) {
                pending.extend(links.seen(link).into_iter().map(Event::Link));
            }
        }
        RouteNetlinkMessage::DelLink(message) => {
            pending.extend(links.gone(message.header.index).map(Event::Link));
        }
        RouteNetlinkMessage::NewRoute(message) => {
            pending.push_back(Event::Route(Box::new(message)));
        }
        RouteNetlinkMessage::DelRoute(message) => {
            pending.push_back(Event::RouteGone(Box::new(message)));
        }
        _ => {}
    }
}

fn subscribe(groups: &[MulticastGroup]) -> io::Result<TokioSocket> {
    let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
    let inner = socket.socket_mut();
    inner.bind(&SocketAddr::new(0, 0))?;
    for group in groups {
        inner.add_membership(*group as u32)?;
    }
    // Less room means more resyncs, not wrong results.
    if let Err(error) = inner.set_rx_buf_sz(RECEIVE_BUFFER) {
        tracing::debug!(%error, "the receive buffer keeps its size");
    }
    Ok(socket)
}

#[cfg(test)]
mod tests;
