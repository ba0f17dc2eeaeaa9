//! The codec alone: full tables from bytes to values and back, against a memory copy of the same
//! bytes.
//!
//! `cargo bench -p calico-bgp --bench codec` prints, for each table, megabytes per second on one
//! core, nanoseconds per message, and how many times longer than the copy it takes. Reading is all
//! of it: cutting the stream, checking attributes, and decoding every prefix. Writing starts with
//! attributes and prefixes as the table holds them. The arguments `read` and `write` after `--`
//! loop over one of them for half a minute, for a profiler.

#![expect(clippy::unwrap_used, reason = "a bench that cannot go on must stop")]
#![expect(dead_code, reason = "what is shared with the other bench is not all used here")]

#[path = "peers/routes.rs"]
mod routes;

use std::hint::black_box;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use calico_bgp::wire::{
    Family, Framer, Message, NextHop, PathAttributes, Update, UpdateContext, UpdatePacker,
};
use ipnet::{IpNet, Ipv6Net};
use routes::Sharing;

/// Prefixes of a table.
const TABLE: usize = 500_000;
/// Octets that are handed to the framer at once, as a socket would.
const CHUNK: usize = 64 * 1024;
/// A measurement is repeated for so long, and the best run counts.
const TIME: Duration = Duration::from_secs(2);

/// Attributes with their prefixes, and the stream that carries them.
struct Table {
    name: &'static str,
    family: Family,
    sets: Vec<(PathAttributes, Vec<IpNet>)>,
    stream: Vec<u8>,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if !arguments.iter().any(|a| a == "--bench") {
        println!("measures only under `cargo bench`");
        return;
    }
    let tables = [
        Table::new("full table, IPv4", Sharing::Internet, false),
        Table::new("full table, IPv6", Sharing::Internet, true),
        Table::new("one set for all, IPv4", Sharing::One, false),
        Table::new("withdrawals, IPv4", Sharing::One, false).withdrawn(),
    ];
    for way in ["read", "write"] {
        if arguments.iter().any(|a| a == way) {
            let until = Instant::now() + Duration::from_secs(30);
            while Instant::now() < until {
                if way == "read" {
                    tables[0].read()
                } else {
                    tables[0].write()
                };
            }
            return;
        }
    }
    println!(
        "| {TABLE} prefixes | octets a message | read MB/s | ns a message | copies | write MB/s | ns a message | copies |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for table in &tables {
        table.report();
    }
}

impl Table {
    fn new(name: &'static str, sharing: Sharing, v6: bool) -> Self {
        let family = if v6 { Family::IPV6_UNICAST } else { Family::IPV4_UNICAST };
        let bytes = routes::announcements(0..TABLE, [10, 0, 0, 1].into(), sharing);
        let mut sets: Vec<(PathAttributes, Vec<IpNet>)> = Vec::new();
        read(&bytes, |update| {
            let prefixes = prefixes(update);
            let mut attributes = update.attributes.clone().unwrap_or_default();
            if v6 {
                attributes.next_hop = Some(NextHop::V6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into()));
            }
            let prefixes = prefixes.map(|p| if v6 { as_v6(p) } else { p });
            sets.push((attributes, prefixes.collect()));
        });
        let mut table = Self { name, family, sets, stream: Vec::new() };
        table.stream = table.written().to_vec();
        table
    }

    fn withdrawn(self) -> Self {
        Self { stream: routes::withdrawals(0..TABLE), sets: Vec::new(), ..self }
    }

    fn written(&self) -> BytesMut {
        let mut out = BytesMut::with_capacity(self.stream.len());
        self.write_to(&mut out);
        out
    }

    fn write_to(&self, out: &mut BytesMut) {
        let context = UpdateContext::default();
        let packer = UpdatePacker::new(&context, self.family);
        for (attributes, prefixes) in &self.sets {
            packer.announce(attributes, prefixes, out).unwrap();
        }
    }

    fn write(&self) -> usize {
        self.written().len()
    }

    fn read(&self) -> usize {
        let mut sum = 0;
        read(&self.stream, |update| {
            prefixes(update).for_each(|p| sum += usize::from(p.prefix_len()));
        });
        sum
    }

    fn report(&self) {
        let octets = self.stream.len();
        let mut messages = 0;
        read(&self.stream, |_| messages += 1);
        let mut to = vec![0; octets];
        let copy = best(|| {
            to.copy_from_slice(black_box(&self.stream));
            black_box(&to).len()
        });
        let reading = best(|| self.read());
        let show = |time: Duration| {
            let seconds = time.as_secs_f64();
            format!(
                "{:.0} | {:.0} | {:.1}",
                octets as f64 / seconds / 1e6,
                seconds * 1e9 / f64::from(messages),
                seconds / copy.as_secs_f64()
            )
        };
        let writing = if self.sets.is_empty() {
            "- | - | -".to_owned()
        } else {
            let mut out = BytesMut::with_capacity(octets);
            show(best(|| {
                out.clear();
                self.write_to(&mut out);
                black_box(&out).len()
            }))
        };
        let per_message = octets / messages as usize;
        println!("| {} | {per_message} | {} | {writing} |", self.name, show(reading));
    }
}

/// Reads a stream as a session does.
fn read(stream: &[u8], mut each: impl FnMut(&Update)) {
    let context = UpdateContext::default();
    let mut framer = Framer::default();
    let mut message = Message::Keepalive;
    for chunk in stream.chunks(CHUNK) {
        framer.push(chunk);
        while let Some(frame) = framer.poll_frame().unwrap() {
            message.read(frame, &context).unwrap();
            let Message::Update(update) = &message else { panic!("only UPDATEs are in it") };
            assert!(update.errors.is_empty());
            each(update);
        }
    }
}

/// All prefixes of an UPDATE.
fn prefixes(update: &Update) -> impl Iterator<Item = IpNet> {
    let multiprotocol = update.mp_reach.as_ref().map(|r| &r.nlri);
    let lists = [Some(&update.announced), Some(&update.withdrawn), multiprotocol];
    lists.into_iter().flatten().flat_map(|l| l.iter()).map(|(_, p)| p)
}

/// A /48 to /46 for a /24 to /22.
fn as_v6(prefix: IpNet) -> IpNet {
    let IpAddr::V4(address) = prefix.addr() else { return prefix };
    let bits = u128::from(0x2001_u16) << 112 | u128::from(address.to_bits()) << 72;
    Ipv6Net::new(Ipv6Addr::from(bits), prefix.prefix_len() + 24).unwrap().trunc().into()
}

/// The shortest of many runs.
fn best(mut run: impl FnMut() -> usize) -> Duration {
    let end = Instant::now() + TIME;
    let mut shortest = Duration::MAX;
    while Instant::now() < end {
        let start = Instant::now();
        black_box(run());
        shortest = shortest.min(start.elapsed());
    }
    shortest
}
