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
    pub async fn changed(&self) -> Result<(), Error> {
        let mut received = self.0.receive().await.map(Some);
        while happened(received)? {
            received = self.0.receive_now();
        }
        Ok(())
    }

    /// Hears nothing until the returned value is dropped. For each rule and element of a commit the
    /// kernel writes a message as long as anybody listens: of a large batch these cost about as much
    /// as the batch itself. What others commit meanwhile is not told of, so ask for the
    /// [generation](super::Socket::generation) afterwards.
    pub fn quiet(&self) -> Quiet<'_> {
        if let Err(error) = self.0.raw().drop_membership(GROUP) {
            tracing::debug!(%error, "nf_tables tells of a batch of our own");
        }
        Quiet(self)
    }
}

/// See [`Monitor::quiet`].
#[derive(Debug)]
pub struct Quiet<'a>(&'a Monitor);

impl Drop for Quiet<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.0.0.raw().add_membership(GROUP) {
            tracing::warn!(%error, "changes of nf_tables are no longer told");
        }
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::test_support::in_new_netns;
    use super::super::wire::{Element, Family, KeyType};
    use super::super::{SetDef, SetSpec, Socket, Tracker};
    use super::*;

    #[test]
    fn a_queue_that_ran_over_is_news_and_later_news_arrive() {
        in_new_netns(async || {
            let monitor = Monitor::open().unwrap();
            let mut socket = Socket::open().unwrap();
            let mut tracker = Tracker::new(Family::Inet, "flood");
            // Each member is told of: far more than the queue holds.
            let elements = (0..20_000u32).map(|i| Element::key(i.to_be_bytes())).collect();
            let spec = SetSpec::set([KeyType::Ipv4]);
            tracker.put_set("s", SetDef { spec, elements });
            socket.commit(&tracker.batch(), None).await.unwrap();
            tracker.committed();
            let lost = loop {
                match monitor.0.receive_now() {
                    Ok(Some(_)) => {}
                    Ok(None) => break false,
                    Err(error) => {
                        break error.raw_os_error() == Some(Errno::ENOBUFS as i32);
                    }
                }
            };
            assert!(lost, "the queue held everything: this test shows nothing");

            // Over again, as the guard sees it: an overrun is no failure, and it ends.
            let news = async |monitor: &Monitor| {
                let news = tokio::time::timeout(Duration::from_secs(20), monitor.changed());
                news.await.expect("news within twenty seconds").unwrap();
            };
            tracker.remove_set("s");
            socket.commit(&tracker.batch(), None).await.unwrap();
            tracker.committed();
            news(&monitor).await;
            tracker.put_chain("c", Default::default());
            socket.commit(&tracker.batch(), None).await.unwrap();
            tracker.committed();
            news(&monitor).await;

            let quiet = monitor.quiet();
            tracker.put_chain("d", Default::default());
            socket.commit(&tracker.batch(), None).await.unwrap();
            tracker.committed();
            // What is told is there when the commit returns.
            assert!(monitor.0.receive_now().unwrap().is_none(), "told of a commit all the same");
            drop(quiet);
            tracker.put_chain("e", Default::default());
            socket.commit(&tracker.batch(), None).await.unwrap();
            news(&monitor).await;
        });
    }
}
