//! Notices that anybody changed nf_tables, without asking.

use std::io;

use nix::errno::Errno;

use super::error::Error;
use super::socket::Netlink;

/// `NFNLGRP_NFTABLES` (linux/netfilter/nfnetlink.h): every commit is told to this group.
const GROUP: u32 = 7;
/// Of a commit only that it happened matters, so little of it needs room.
const RECEIVE_QUEUE: usize = 64 * 1024;

/// Follows the commits of the network namespace of the thread that opened it, our own included.
#[derive(Debug)]
pub struct Monitor(Netlink);

impl Monitor {
    /// Subscribes. Must be called within a tokio runtime with IO enabled.
    ///
    /// # Errors
    /// When the system has no nf_tables or the process may not follow it.
    pub fn open() -> Result<Self, Error> {
        let open = || -> io::Result<Netlink> {
            let mut netlink = Netlink::open(RECEIVE_QUEUE)?;
            netlink.join(GROUP)?;
            Ok(netlink)
        };
        open().map(Self).map_err(|source| Error::Socket { what: "follow nf_tables", source })
    }

    /// Waits for the next commits; those that are there already are taken together. Nothing is
    /// lost when the future is dropped.
    ///
    /// # Errors
    /// When the socket is broken.
    pub async fn changed(&mut self) -> Result<(), Error> {
        let mut received = self.0.receive().await.map(Some);
        while happened(received)? {
            received = self.0.receive_now();
        }
        Ok(())
    }
}

/// A queue that ran over says as much as a datagram does: something happened.
fn happened(received: io::Result<Option<Vec<u8>>>) -> Result<bool, Error> {
    match received {
        Ok(datagram) => Ok(datagram.is_some()),
        Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => Ok(true),
        Err(source) => Err(Error::Socket { what: "follow nf_tables", source }),
    }
}
