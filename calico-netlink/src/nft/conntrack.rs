//! Connections that the kernel tracks (ctnetlink): listing, forgetting, marking.
//!
//! Layout: `linux/netfilter/nfnetlink_conntrack.h`.

use std::collections::{BTreeSet, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nix::errno::Errno;

use super::error::{Error, Refusal, Subject};
use super::socket::Socket;
use super::wire::{Attrs, Header, KernelError, Messages, Received, Writer, flags, msg};

/// `NFNL_SUBSYS_CTNETLINK` with `IPCTNL_MSG_CT_NEW`, `_GET` and `_DELETE`.
const NEW: u16 = 1 << 8;
const GET: u16 = NEW + 1;
const DELETE: u16 = NEW + 2;
/// `IPCTNL_MSG_CT_GET_STATS` and `CTA_STATS_GLOBAL_ENTRIES`.
const GET_STATS: u16 = NEW + 5;
const STATS_ENTRIES: u16 = 1;
/// Attributes of a connection (`enum ctattr_type`).
const TUPLE_ORIG: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const MARK: u16 = 8;
const TUPLE_MASTER: u16 = 14;
const ZONE: u16 = 18;
const MARK_MASK: u16 = 21;
const FILTER: u16 = 25;
/// `CTA_FILTER_F_CTA_IP_SRC` of the kernel.
const FILTER_SOURCE: u32 = 1;
/// The opener is the source of the original direction; who answered (even under another address,
/// by DNAT) the source of the reply.
const ENDS: [u16; 2] = [TUPLE_ORIG, TUPLE_REPLY];
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// To tell of so many connections takes as long as a walk through the table, some 2 ms.
const TOLD_PER_WALK: usize = 1000;

/// One direction of a connection, as its packets show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// From.
    pub source: IpAddr,
    /// To.
    pub destination: IpAddr,
    /// IANA protocol number.
    pub protocol: u8,
    /// Source and destination port, of protocols that have them.
    pub ports: Option<(u16, u16)>,
    /// Identifier, type and code, of ICMP and ICMPv6.
    pub icmp: Option<(u16, u8, u8)>,
}

/// A connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Connection {
    /// As whoever opened it sends it.
    pub original: Tuple,
    /// As it is answered: addresses that were translated differ.
    pub reply: Tuple,
    /// Its mark.
    pub mark: u32,
    /// Whether it belongs to another connection (such as data of FTP), by which it was let
    /// through.
    pub related: bool,
}

impl Connection {
    /// The first packet as a forwarding host's policy sees it: after its destination was
    /// translated, before its source is.
    #[must_use]
    pub fn as_forwarded(&self) -> Tuple {
        let ports = self.original.ports.zip(self.reply.ports);
        let ports = ports.map(|(original, reply)| (original.0, reply.0));
        Tuple { destination: self.reply.source, ports, ..self.original }
    }
}

impl Socket {
    /// Forgets every connection that one of these addresses opened or answered. The walk costs
    /// time in proportion to the table of connections of the network namespace.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn forget_connections(&mut self, addresses: &[IpAddr]) -> Result<(), Error> {
        let addresses: BTreeSet<IpAddr> = addresses.iter().copied().collect();
        if self.better_by_end(&addresses).await? {
            match self.forget_by_end(&addresses).await {
                Err(Error::Refused(refusals)) if is_unsupported(&refusals) => {}
                result => return result,
            }
        }
        self.forget_listed(&addresses).await
    }

    pub(crate) async fn forget_by_end(
        &mut self,
        addresses: &BTreeSet<IpAddr>,
    ) -> Result<(), Error> {
        for address in addresses {
            for tuple in ENDS {
                self.forget(*address, tuple).await?;
            }
        }
        Ok(())
    }

    /// Every connection of the default zone, of both families. Those that come or go meanwhile
    /// are listed or not.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub async fn connections(&mut self) -> Result<Vec<Connection>, Error> {
        let mut all = self.list(AF_INET, |_| {}).await?;
        all.extend(self.list(AF_INET6, |_| {}).await?);
        Ok(all)
    }

    /// As [`connections`](Self::connections), of those that one of these addresses opened or
    /// answered. If it is the shorter way, the kernel (from Linux 5.8 on) tells of no others.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub async fn connections_of(
        &mut self,
        addresses: &BTreeSet<IpAddr>,
    ) -> Result<Vec<Connection>, Error> {
        if self.better_by_end(addresses).await? {
            return self.connections_by_end(addresses).await;
        }
        let mut found = Vec::new();
        for family in families_of(addresses) {
            found.extend(self.list(family, |_| {}).await?);
        }
        found.retain(|connection| concerns(connection, addresses));
        Ok(found)
    }

    pub(crate) async fn connections_by_end(
        &mut self,
        addresses: &BTreeSet<IpAddr>,
    ) -> Result<Vec<Connection>, Error> {
        let mut found = HashSet::new();
        for address in addresses {
            for tuple in ENDS {
                let filter = |w: &mut Writer| filter(w, *address, tuple);
                found.extend(self.list(family_of(*address), filter).await?);
            }
        }
        // An old kernel tells of all.
        found.retain(|connection| concerns(connection, addresses));
        Ok(found.into_iter().collect())
    }

    /// Whether to ask for connections by each end of each of these addresses. Each question has the
    /// kernel walk through all of its table; that of all connections of a family does so once, but
    /// everything has to be told.
    async fn better_by_end(&mut self, addresses: &BTreeSet<IpAddr>) -> Result<bool, Error> {
        let walks = ENDS.len() * addresses.len();
        let more = walks.saturating_sub(families_of(addresses).len());
        Ok(self.number().await? > more.saturating_mul(TOLD_PER_WALK))
    }

    /// How many connections there are, of all families.
    async fn number(&mut self) -> Result<usize, Error> {
        let seq = self.next_sequence();
        let flags = flags::REQUEST | flags::ACK;
        let mut w = Writer::new();
        w.message(Header { kind: GET_STATS, flags, seq, family: 0, res_id: 0 }, |_| {});
        let answer = self.exchange(w.bytes()).await?;
        for message in Messages::new(&answer) {
            let message = message?;
            if message.header.kind == GET_STATS && message.header.seq == seq {
                let number = message.attrs().flatten().find(|attr| attr.kind == STATS_ENTRIES);
                let number = number.and_then(|attr| attr.u32().ok()).unwrap_or(u32::MAX);
                return Ok(usize::try_from(number).unwrap_or(usize::MAX));
            }
        }
        // It does not tell: as if there were many.
        Ok(usize::MAX)
    }

    /// Whether any connection has all of these bits in its mark.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub async fn any_marked(&mut self, bits: u32) -> Result<bool, Error> {
        for family in [AF_INET, AF_INET6] {
            let marked = |w: &mut Writer| {
                w.u32(MARK, bits);
                w.u32(MARK_MASK, bits);
            };
            let listed = self.list(family, marked).await?;
            if listed.iter().any(|connection| connection.mark & bits == bits) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Lists the connections of a family; the kernel leaves out what the filter is about, if it
    /// knows such filters.
    async fn list(
        &mut self,
        family: u8,
        filter: impl FnOnce(&mut Writer),
    ) -> Result<Vec<Connection>, Error> {
        let seq = self.next_sequence();
        let flags = flags::REQUEST | flags::DUMP;
        let mut w = Writer::new();
        w.message(Header { kind: GET, flags, seq, family, res_id: 0 }, filter);
        let mut connections = Vec::new();
        let mut answer = self.exchange(w.bytes()).await?;
        loop {
            for message in Messages::new(&answer) {
                let message = message?;
                match message.header.kind {
                    _ if message.header.seq != seq => {}
                    msg::DONE => return Ok(connections),
                    msg::ERROR => {
                        let error = KernelError::decode(&message)?;
                        return Err(refused("list", "connections", String::new(), error));
                    }
                    _ => connections.extend(connection(&message)),
                }
            }
            answer = self.more().await?;
        }
    }

    /// Sets or clears bits of a connection's mark. One that is gone is no error.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn mark_connection(
        &mut self,
        connection: &Connection,
        bits: u32,
        set: bool,
    ) -> Result<(), Error> {
        self.about(NEW, &connection.original, |w| {
            w.u32(MARK, if set { bits } else { 0 });
            w.u32(MARK_MASK, bits);
        })
        .await
    }

    /// Forgets one connection. One that is gone is no error.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn forget_connection(&mut self, connection: &Connection) -> Result<(), Error> {
        self.about(DELETE, &connection.original, |_| {}).await
    }

    async fn about(
        &mut self,
        kind: u16,
        tuple: &Tuple,
        body: impl FnOnce(&mut Writer),
    ) -> Result<(), Error> {
        let family = if tuple.source.is_ipv4() { 2 } else { 10 };
        let (seq, flags) = (self.next_sequence(), flags::REQUEST | flags::ACK);
        let mut w = Writer::new();
        w.message(Header { kind, flags, seq, family, res_id: 0 }, |w| {
            w.nested(TUPLE_ORIG, |w| tuple.encode(w));
            body(w);
        });
        self.answered(w.bytes(), seq, "change", tuple.source.to_string()).await
    }

    /// Sends a request that the kernel answers by an acknowledgement or an error.
    async fn answered(
        &mut self,
        datagram: &[u8],
        seq: u32,
        verb: &'static str,
        name: String,
    ) -> Result<(), Error> {
        let answer = self.exchange(datagram).await?;
        for message in Messages::new(&answer).flatten() {
            if message.header.kind != msg::ERROR || message.header.seq != seq {
                continue;
            }
            let answer = KernelError::decode(&message)?;
            // ENOENT: there are none.
            if answer.errno != 0 && answer.errno != Errno::ENOENT as i32 {
                return Err(refused(verb, "connections of", name, answer));
            }
        }
        Ok(())
    }

    /// They are listed and forgotten one by one, as is the only way before Linux 6.10, which cannot
    /// filter a deletion.
    async fn forget_listed(&mut self, addresses: &BTreeSet<IpAddr>) -> Result<(), Error> {
        let mut result = Ok(());
        for connection in self.connections_of(addresses).await? {
            // One that is busy is no reason to keep the others.
            let forgotten = self.forget_connection(&connection).await;
            result = result.and(forgotten);
        }
        result
    }

    async fn forget(&mut self, address: IpAddr, tuple: u16) -> Result<(), Error> {
        let seq = self.next_sequence();
        let flags = flags::REQUEST | flags::ACK;
        let mut w = Writer::new();
        let header = Header { kind: DELETE, flags, seq, family: family_of(address), res_id: 0 };
        w.message(header, |w| filter(w, address, tuple));
        // With version 0 the kernel ignores the family.
        let mut datagram = w.bytes().to_vec();
        datagram[17] = 1;
        self.answered(&datagram, seq, "forget", address.to_string()).await
    }
}

impl Tuple {
    fn encode(&self, w: &mut Writer) {
        let both = match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                [(1, source.octets().to_vec()), (2, destination.octets().to_vec())]
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                [(3, source.octets().to_vec()), (4, destination.octets().to_vec())]
            }
            // No connection is between families; the kernel refuses what lacks an address.
            _ => return,
        };
        w.nested(1, |w| both.iter().for_each(|(kind, bytes)| w.attr(*kind, bytes)));
        w.nested(2, |w| {
            w.attr(1, &[self.protocol]);
            if let Some((source, destination)) = self.ports {
                w.u16(2, source);
                w.u16(3, destination);
            }
            if let Some((id, kind, code)) = self.icmp {
                let first = if self.source.is_ipv4() { 4 } else { 7 };
                w.u16(first, id);
                w.attr(first + 1, &[kind]);
                w.attr(first + 2, &[code]);
            }
        });
    }

    fn decode(attrs: Attrs<'_>) -> Option<Self> {
        let (mut source, mut destination, mut protocol) = (None, None, None);
        let (mut ports, mut icmp) = ((None, None), (None, None, None));
        for attr in attrs.flatten() {
            for inner in attr.nested().flatten() {
                match (attr.kind, inner.kind) {
                    (1, 1 | 3) => source = address(inner.payload),
                    (1, 2 | 4) => destination = address(inner.payload),
                    (2, 1) => protocol = inner.u8().ok(),
                    (2, 2) => ports.0 = inner.u16().ok(),
                    (2, 3) => ports.1 = inner.u16().ok(),
                    (2, 4 | 7) => icmp.0 = inner.u16().ok(),
                    (2, 5 | 8) => icmp.1 = inner.u8().ok(),
                    (2, 6 | 9) => icmp.2 = inner.u8().ok(),
                    _ => {}
                }
            }
        }
        Some(Self {
            source: source?,
            destination: destination?,
            protocol: protocol?,
            ports: ports.0.zip(ports.1),
            icmp: icmp.0.zip(icmp.1.zip(icmp.2)).map(|(id, (kind, code))| (id, kind, code)),
        })
    }
}

/// Only connections with this address as source, in the direction of the tuple.
fn filter(w: &mut Writer, address: IpAddr, tuple: u16) {
    let (version, bytes) = match address {
        IpAddr::V4(address) => (1, address.octets().to_vec()),
        IpAddr::V6(address) => (3, address.octets().to_vec()),
    };
    w.nested(tuple, |w| w.nested(1, |w| w.attr(version, &bytes)));
    w.nested(FILTER, |w| {
        // Unlike all else in these messages, in host order.
        let flags = |of| if of == tuple { FILTER_SOURCE } else { 0 };
        w.attr(1, &flags(TUPLE_ORIG).to_ne_bytes());
        w.attr(2, &flags(TUPLE_REPLY).to_ne_bytes());
    });
}

fn concerns(connection: &Connection, addresses: &BTreeSet<IpAddr>) -> bool {
    addresses.contains(&connection.original.source) || addresses.contains(&connection.reply.source)
}

fn families_of(addresses: &BTreeSet<IpAddr>) -> BTreeSet<u8> {
    addresses.iter().copied().map(family_of).collect()
}

fn family_of(address: IpAddr) -> u8 {
    if address.is_ipv4() { AF_INET } else { AF_INET6 }
}

fn connection(message: &Received<'_>) -> Option<Connection> {
    let (mut original, mut reply, mut mark, mut related) = (None, None, 0, false);
    for attr in message.attrs().flatten() {
        match attr.kind {
            TUPLE_ORIG => original = Tuple::decode(attr.nested()),
            TUPLE_REPLY => reply = Tuple::decode(attr.nested()),
            MARK => mark = attr.u32().unwrap_or_default(),
            TUPLE_MASTER => related = true,
            // Zones belong to whoever set them up.
            ZONE if attr.u16().unwrap_or_default() != 0 => return None,
            _ => {}
        }
    }
    Some(Connection { original: original?, reply: reply?, mark, related })
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into()),
        _ => None,
    }
}

fn is_unsupported(refusals: &[Refusal]) -> bool {
    refusals.iter().any(|refusal| refusal.errno == Errno::EOPNOTSUPP)
}

fn refused(verb: &'static str, kind: &'static str, name: String, answer: KernelError) -> Error {
    Error::Refused(vec![Refusal {
        subject: Some(Subject { verb, kind, name }),
        errno: Errno::from_raw(answer.errno),
        message: answer.message,
    }])
}
