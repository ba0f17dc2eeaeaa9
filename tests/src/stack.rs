//! The host's own IP stack: packets it sends, and those that reach it.

use std::io::{ErrorKind, Read as _};
use std::net::SocketAddr;
use std::process::Command;

use calico_policy::eval::Packet;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{Mark, RcvBufForce};
use socket2::{Domain, Protocol, Socket, Type};

use crate::wire;

/// Marks what the test sends. It has no bit that policy uses.
const MARK: u32 = 0x7e57;

/// Protocols that are received, of both families, and the two ICMP.
const PROTOCOLS: [u8; 7] = [4, 6, 17, 47, 103, 132, 136];

/// `IPPROTO_RAW`.
const RAW: u8 = 255;

/// Room for what a burst leaves in one socket.
const QUEUE: usize = 1 << 20;

/// Raw sockets of the namespace in which it was made.
#[derive(Debug)]
pub(crate) struct Stack {
    v4: Socket,
    v6: Socket,
    receivers: Vec<Socket>,
}

impl Stack {
    /// From here on the host says nothing by itself: no answers, no neighbour discovery.
    pub(crate) fn new() -> Self {
        silence();
        let sender = |domain| {
            let sender = raw(domain, RAW);
            setsockopt(&sender, Mark, &MARK).unwrap();
            sender
        };
        let (v4, v6) = (sender(Domain::IPV4), sender(Domain::IPV6));
        let of = |domain, icmp| {
            let protocols = PROTOCOLS.into_iter().chain([icmp]);
            protocols.map(move |protocol| {
                let receiver = raw(domain, protocol);
                setsockopt(&receiver, RcvBufForce, &QUEUE).unwrap();
                receiver.set_nonblocking(true).unwrap();
                receiver
            })
        };
        let receivers = of(Domain::IPV4, 1).chain(of(Domain::IPV6, 58)).collect();
        Self { v4, v6, receivers }
    }

    /// Sends a packet as it is, over whichever interface routes say.
    pub(crate) fn send(&self, packet: &Packet, number: u32, length: u16) {
        let frame = wire::frame(packet, number, length, [0; 6], [0; 6]);
        let bytes = &frame[wire::ETHERNET..];
        let socket = if packet.destination.is_ipv4() { &self.v4 } else { &self.v6 };
        // Raw sockets of IPv6 want no port.
        let to = SocketAddr::new(packet.destination, 0);
        match socket.send_to(bytes, &to.into()) {
            Ok(sent) => assert_eq!(sent, bytes.len(), "sending {packet} from the host"),
            // What policy drops on its way out is an error for who sends it.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {}
            Err(error) => panic!("sending {packet} from the host: {error}"),
        }
    }

    /// The numbers of packets that reached the host since the last call.
    pub(crate) fn received(&self) -> Vec<u32> {
        let mut numbers = Vec::new();
        let mut buffer = [0; 2048];
        for mut receiver in &self.receivers {
            for _ in 0..QUEUE / 64 {
                match receiver.read(&mut buffer) {
                    Ok(len) => numbers.extend(wire::number_at_end(&buffer[..len])),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => panic!("receiving at the host: {error}"),
                }
            }
        }
        numbers
    }
}

/// A raw socket of a protocol; with [`RAW`] it sends packets with their headers.
fn raw(domain: Domain, protocol: u8) -> Socket {
    let kind = Type::from(nix::libc::SOCK_RAW);
    Socket::new(domain, kind, Some(Protocol::from(i32::from(protocol)))).unwrap()
}

/// Drops, before connection tracking and all policy, what the test did not send.
fn silence() {
    let rules = format!(
        "table inet lab {{ chain out {{ type filter hook output priority -400; \
         meta mark != {MARK} drop; }}; }}"
    );
    let status = Command::new("nft").arg(&rules).status();
    let status = status.expect("nft is needed: apt-get install nftables");
    assert!(status.success(), "nft refused {rules}");
}
