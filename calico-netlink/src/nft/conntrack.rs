//! Forgetting connections of an address, so that whoever gets it next inherits none.
//!
//! Layout: `linux/netfilter/nfnetlink_conntrack.h`.

use std::net::IpAddr;

use nix::errno::Errno;

use super::error::{Error, Refusal, Subject};
use super::socket::Socket;
use super::wire::{Header, KernelError, Messages, Writer, flags, msg};

/// `NFNL_SUBSYS_CTNETLINK` with `IPCTNL_MSG_CT_DELETE`.
const DELETE: u16 = 1 << 8 | 2;
const TUPLE_ORIG: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const FILTER: u16 = 25;
/// `CTA_FILTER_F_CTA_IP_SRC` of the kernel.
const FILTER_SOURCE: u32 = 1;

impl Socket {
    /// Forgets every connection that one of these addresses opened or answered. The walk costs
    /// time in proportion to the connections of the network namespace.
    ///
    /// # Errors
    /// [`Error::Refused`] with `EOPNOTSUPP` before Linux 6.10, which cannot filter a deletion.
    pub async fn forget_connections(&mut self, addresses: &[IpAddr]) -> Result<(), Error> {
        for address in addresses {
            // The opener is the source of the original direction; who answered (even under
            // another address, by DNAT) the source of the reply.
            for tuple in [TUPLE_ORIG, TUPLE_REPLY] {
                self.forget(*address, tuple).await?;
            }
        }
        Ok(())
    }

    async fn forget(&mut self, address: IpAddr, tuple: u16) -> Result<(), Error> {
        let (family, version, bytes) = match address {
            IpAddr::V4(address) => (2, 1, address.octets().to_vec()),
            IpAddr::V6(address) => (10, 3, address.octets().to_vec()),
        };
        let seq = self.next_sequence();
        let flags = flags::REQUEST | flags::ACK;
        let mut w = Writer::new();
        w.message(Header { kind: DELETE, flags, seq, family, res_id: 0 }, |w| {
            w.nested(tuple, |w| w.nested(1, |w| w.attr(version, &bytes)));
            w.nested(FILTER, |w| {
                // Unlike all else in these messages, in host order.
                let flags = |of| if of == tuple { FILTER_SOURCE } else { 0 };
                w.attr(1, &flags(TUPLE_ORIG).to_ne_bytes());
                w.attr(2, &flags(TUPLE_REPLY).to_ne_bytes());
            });
        });
        // With version 0 the kernel ignores the family.
        let mut datagram = w.bytes().to_vec();
        datagram[17] = 1;
        let answer = self.exchange(&datagram).await?;
        for message in Messages::new(&answer).flatten() {
            if message.header.kind != msg::ERROR || message.header.seq != seq {
                continue;
            }
            let answer = KernelError::decode(&message)?;
            // ENOENT: there were none.
            if answer.errno != 0 && answer.errno != Errno::ENOENT as i32 {
                let name = address.to_string();
                return Err(Error::Refused(vec![Refusal {
                    subject: Some(Subject { verb: "forget", kind: "connections of", name }),
                    errno: Errno::from_raw(answer.errno),
                    message: answer.message,
                }]));
            }
        }
        Ok(())
    }
}
