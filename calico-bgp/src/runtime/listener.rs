//! Listening for peers.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;

use super::{SpawnError, sys};
use crate::speaker::Password;

/// Connections that the kernel holds before they are accepted.
const BACKLOG: u32 = 1024;
/// Pause after a failed accept: out of file descriptors does not pass by trying again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Someone who connected.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) stream: TcpStream,
    pub(super) remote: SocketAddr,
}

/// Binds all addresses, or none.
pub(super) fn bind(addresses: &[SocketAddr]) -> Result<Vec<TcpListener>, SpawnError> {
    let bind = |address: SocketAddr| {
        let listen = |address: SocketAddr| {
            let socket =
                if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            socket.set_reuseaddr(true)?;
            if address.is_ipv6() {
                // One address alone may serve both families; beside others each serves its own.
                setsockopt(&socket, sockopt::Ipv6V6Only, &(addresses.len() > 1))?;
            }
            // Only peers secured by RFC 5082 suffer if it cannot be.
            if let Err(error) = sys::answer_from_anywhere(&socket, address.is_ipv6()) {
                tracing::debug!(%error, "cannot set the TTL of the listening socket");
            }
            socket.bind(address)?;
            socket.listen(BACKLOG)
        };
        match listen(address) {
            // A host without IPv6: its wildcard means IPv4 there.
            Err(e) if address.ip() == Ipv6Addr::UNSPECIFIED && is_family_missing(&e) => {
                listen(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port()))
            }
            result => result,
        }
        .map_err(|source| SpawnError::Listen { address, source })
    };
    addresses.iter().copied().map(bind).collect()
}

fn is_family_missing(error: &std::io::Error) -> bool {
    error.raw_os_error() == Some(Errno::EAFNOSUPPORT as i32)
}

/// The passwords set on listening sockets (RFC 2385).
#[derive(Debug)]
pub(super) struct Passwords {
    sockets: Vec<Arc<TcpListener>>,
    set: BTreeMap<IpNet, Password>,
}

impl Passwords {
    pub(super) const fn new(sockets: Vec<Arc<TcpListener>>) -> Self {
        Self { sockets, set: BTreeMap::new() }
    }

    /// Makes these the passwords. One that cannot be set is reported and tried again next time;
    /// its peer's connections are refused one by one, because the same fails for each of them.
    pub(super) fn apply(&mut self, wanted: &BTreeMap<IpNet, Password>) {
        let gone: Vec<IpNet> =
            self.set.keys().filter(|net| !wanted.contains_key(net)).copied().collect();
        for net in gone {
            self.set.remove(&net);
            self.each(net, None);
        }
        for (net, password) in wanted {
            if self.set.get(net) != Some(password) && self.each(*net, Some(password)) {
                self.set.insert(*net, password.clone());
            }
        }
    }

    fn each(&self, net: IpNet, password: Option<&Password>) -> bool {
        let mut done = true;
        for socket in &self.sockets {
            let Ok(local) = socket.local_addr() else { continue };
            // A socket for IPv4, or one for IPv6 alone, never hears of the other family.
            if local.is_ipv4() && net.addr().is_ipv6() {
                continue;
            }
            if let Err(error) = sys::set_password(&**socket, local.is_ipv6(), net, password) {
                tracing::warn!(%net, %error, "cannot set a BGP password (TCP MD5)");
                done = false;
            }
        }
        done
    }
}

/// Accepts until the other side of the queue is gone. The queue is short: a flood waits in the
/// kernel's backlog, which is bounded too.
pub(super) async fn accept_all(listener: Arc<TcpListener>, accepted: mpsc::Sender<Accepted>) {
    loop {
        tokio::select! {
            () = accepted.closed() => return,
            result = listener.accept() => match result {
                Ok((stream, remote)) => {
                    if accepted.send(Accepted { stream, remote }).await.is_err() {
                        return;
                    }
                }
                Err(e) => {
                    tracing::warn!(error = %e, "cannot accept a BGP connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}
