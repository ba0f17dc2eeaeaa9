//! Packets that `log group N` rules report (NFLOG), read from the kernel.
//!
//! Layout: `linux/netfilter/nfnetlink_log.h`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use calico_core::dataplane::Flow;
use nix::errno::Errno;

use super::error::{Error, Refusal, Subject};
use super::socket::Netlink;
use super::wire::{Attrs, Header, KernelError, Messages, Received, Writer, flags, msg};

/// `NFNL_SUBSYS_ULOG` with `NFULNL_MSG_PACKET` and `NFULNL_MSG_CONFIG`.
const PACKET: u16 = 4 << 8;
const CONFIG: u16 = PACKET + 1;
/// Network and transport headers, with room for IPv6 extension headers.
const COPY_BYTES: u32 = 128;
/// Packets the kernel gathers before it wakes us ...
const GATHER_PACKETS: u32 = 32;
/// ... or hundredths of a second, whichever comes first.
const GATHER_TIME: u32 = 1;
/// Room for a burst; what does not fit is lost, as the kernel reports by `ENOBUFS`.
const RECEIVE_QUEUE: usize = 2 * 1024 * 1024;

/// A packet that a rule reported.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Packet {
    /// Group of the rule.
    pub group: u16,
    /// Prefix of the rule.
    pub prefix: String,
    /// Its mark; 0 when it has none.
    pub mark: u32,
    /// Index of the interface it came in by.
    pub input: Option<u32>,
    /// Index of the interface it was to leave by.
    pub output: Option<u32>,
    /// Its addresses and ports; absent when it is no IP packet or was cut too short.
    pub flow: Option<Flow>,
}

/// Receives what rules report to some groups. One listener per group and network namespace: the
/// kernel refuses a second.
#[derive(Debug)]
pub struct Listener {
    io: Netlink,
}

impl Listener {
    /// Listens to these groups in the network namespace of the calling thread. Must be called
    /// within a tokio runtime with IO enabled.
    ///
    /// # Errors
    /// [`Error::Refused`] with `EBUSY` when another program listens to one of the groups.
    pub fn open(groups: &[u16]) -> Result<Self, Error> {
        let io = Netlink::open(RECEIVE_QUEUE)
            .map_err(|source| Error::Socket { what: "open for NFLOG", source })?;
        for group in groups {
            configure(&io, *group)?;
        }
        Ok(Self { io })
    }

    /// Waits for packets; returns at least one. Safe to cancel.
    ///
    /// # Errors
    /// When the socket fails. Packets lost for want of room are no error.
    pub async fn receive(&mut self) -> Result<Vec<Packet>, Error> {
        loop {
            match self.io.receive().await {
                Ok(datagram) => {
                    let packets = packets(&datagram);
                    if !packets.is_empty() {
                        return Ok(packets);
                    }
                }
                Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => {}
                Err(source) => return Err(Error::Socket { what: "receive NFLOG", source }),
            }
        }
    }
}

/// Binds a group and sets what is copied and when. The kernel answers within the call.
fn configure(io: &Netlink, group: u16) -> Result<(), Error> {
    let failed = |source| Error::Socket { what: "configure NFLOG", source };
    let request = |body: &dyn Fn(&mut Writer)| -> Result<(), Error> {
        let header = Header {
            kind: CONFIG,
            flags: flags::REQUEST | flags::ACK,
            seq: 1,
            family: 0,
            res_id: group,
        };
        let mut w = Writer::new();
        w.message(header, body);
        io.raw().send(w.bytes(), 0).map_err(failed)?;
        // Packets of groups bound before may stand before the answer.
        while let Some(answer) = io.receive_now().map_err(failed)? {
            for message in Messages::new(&answer).flatten() {
                if message.header.kind != msg::ERROR {
                    continue;
                }
                let answer = KernelError::decode(&message)?;
                if answer.errno == 0 {
                    return Ok(());
                }
                let name = group.to_string();
                return Err(Error::Refused(vec![Refusal {
                    subject: Some(Subject { verb: "bind", kind: "NFLOG group", name }),
                    errno: Errno::from_raw(answer.errno),
                    message: answer.message,
                }]));
            }
        }
        Ok(())
    };
    request(&|w| w.attr(1, &[1]))?;
    let mut mode = COPY_BYTES.to_be_bytes().to_vec();
    mode.extend_from_slice(&[2, 0]);
    request(&|w| {
        w.attr(2, &mode);
        w.u32(4, GATHER_TIME);
        w.u32(5, GATHER_PACKETS);
    })
}

/// The packets in a datagram; what cannot be read is passed over.
fn packets(datagram: &[u8]) -> Vec<Packet> {
    Messages::new(datagram)
        .flatten()
        .filter(|message| message.header.kind == PACKET)
        .map(|message| packet(&message))
        .collect()
}

fn packet(message: &Received<'_>) -> Packet {
    let mut packet = Packet { group: message.header.res_id, ..Packet::default() };
    for attr in Attrs::new(message.payload).flatten() {
        match attr.kind {
            2 => packet.mark = attr.u32().unwrap_or_default(),
            4 => packet.input = attr.u32().ok(),
            5 => packet.output = attr.u32().ok(),
            9 => packet.flow = flow(attr.payload),
            10 => packet.prefix = attr.string(),
            _ => {}
        }
    }
    packet
}

/// Addresses and ports of a packet that starts with its IP header (RFC 791, RFC 8200).
pub fn flow(packet: &[u8]) -> Option<Flow> {
    match packet.first()? >> 4 {
        4 => {
            let header = usize::from(packet[0] & 0xf) * 4;
            let address = |at: usize| -> Option<IpAddr> {
                let bytes: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
                Some(Ipv4Addr::from(bytes).into())
            };
            let fragment = u16::from_be_bytes([*packet.get(6)?, *packet.get(7)?]) & 0x1fff;
            let transport = if fragment == 0 { packet.get(header..) } else { None };
            Some(with_ports(address(12)?, address(16)?, *packet.get(9)?, transport))
        }
        6 => {
            let address = |at: usize| -> Option<IpAddr> {
                let bytes: [u8; 16] = packet.get(at..at + 16)?.try_into().ok()?;
                Some(Ipv6Addr::from(bytes).into())
            };
            let (protocol, transport) = skip_extensions(*packet.get(6)?, packet.get(40..));
            Some(with_ports(address(8)?, address(24)?, protocol, transport))
        }
        _ => None,
    }
}

/// Follows IPv6 extension headers (RFC 8200 section 4) to the transport header.
fn skip_extensions(mut next: u8, mut rest: Option<&[u8]>) -> (u8, Option<&[u8]>) {
    // Every header is at least eight bytes, so the input bounds this loop.
    while let Some(header @ [following, len, ..]) = rest {
        let bytes = match next {
            0 | 43 | 60 => (usize::from(*len) + 1) * 8,
            44 if header.get(2..4).is_some_and(|f| u16::from_be_bytes([f[0], f[1]]) >> 3 != 0) => {
                return (*following, None);
            }
            44 => 8,
            _ => break,
        };
        next = *following;
        rest = header.get(bytes..);
    }
    (next, rest)
}

fn with_ports(source: IpAddr, destination: IpAddr, protocol: u8, transport: Option<&[u8]>) -> Flow {
    let has_ports = matches!(protocol, 6 | 17 | 132 | 136);
    let port = |at: usize| -> Option<u16> {
        let bytes = transport.filter(|_| has_ports)?.get(at..at + 2)?;
        Some(u16::from_be_bytes([bytes[0], bytes[1]]))
    };
    Flow { source, destination, protocol, source_port: port(0), destination_port: port(2) }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_addresses_and_ports() {
        let mut v4 = vec![0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        v4.extend_from_slice(&[0x9c, 0x40, 0, 80]);
        let flow4 = flow(&v4).unwrap();
        assert_eq!((flow4.source_port, flow4.destination_port), (Some(40000), Some(80)));
        assert_eq!(flow4.destination, "10.0.0.2".parse::<IpAddr>().unwrap());
        // A later fragment has no ports.
        v4[7] = 1;
        assert_eq!(flow(&v4).unwrap().destination_port, None);

        let mut v6 = vec![0x60, 0, 0, 0, 0, 12, 0, 64];
        v6.extend_from_slice(&[0; 32]);
        v6.extend_from_slice(&[17, 0, 0, 0, 0, 0, 0, 0]);
        v6.extend_from_slice(&[0, 53, 0, 54]);
        let flow6 = flow(&v6).unwrap();
        assert_eq!((flow6.protocol, flow6.source_port), (17, Some(53)));
    }

    proptest! {
        #[test]
        fn random_packets_never_panic(bytes in vec(any::<u8>(), 0..200)) {
            let _ = flow(&bytes);
            let _ = packets(&bytes);
        }
    }
}
