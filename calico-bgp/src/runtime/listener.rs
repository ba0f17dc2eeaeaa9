//! Listening for peers.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;

use super::SpawnError;

/// Connections that the kernel holds before they are accepted.
const BACKLOG: u32 = 128;
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

/// Accepts until the other side of the queue is gone. The queue is short: a flood waits in the
/// kernel's backlog, which is bounded too.
pub(super) async fn accept_all(listener: TcpListener, accepted: mpsc::Sender<Accepted>) {
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
