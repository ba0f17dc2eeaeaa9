//! Kinds of packets that stand for all others.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use calico_core::dataplane::{PortRange, Rule, SetMember};
use calico_core::key::Family;
use serde::Serialize;

use crate::desired::Desired;
use crate::eval::{Packet, protocol_name};

/// The source port of the flows that are compared.
pub const SOURCE_PORT: u16 = 40_000;

const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// Packets that rules treat alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum Traffic {
    /// Of a protocol with ports, to one of these.
    Ports {
        /// IANA protocol number.
        protocol: u8,
        /// Destination ports.
        ports: PortRange,
    },
    /// ICMP or ICMPv6 of one type and code.
    Icmp {
        /// IANA protocol number.
        protocol: u8,
        /// The type.
        kind: u8,
        /// The code.
        code: u8,
    },
    /// Of a protocol without ports.
    Protocol(u8),
}

impl Traffic {
    /// Whether there are such packets in this family.
    pub(super) fn exists_in(&self, family: Family) -> bool {
        match self {
            Self::Icmp { protocol: ICMP, .. } => family == Family::V4,
            Self::Icmp { .. } => family == Family::V6,
            _ => true,
        }
    }

    /// One that stands for all of them.
    pub(super) fn packet(&self, source: IpAddr, destination: IpAddr) -> Packet {
        let (protocol, ports, icmp) = match *self {
            Self::Ports { protocol, ports } => (protocol, Some((SOURCE_PORT, ports.first)), None),
            Self::Icmp { protocol, kind, code } => (protocol, None, Some((kind, code))),
            Self::Protocol(protocol) => (protocol, None, None),
        };
        Packet { source, destination, protocol, ports, icmp }
    }
}

/// Everything that rules of these states may tell apart.
pub(super) fn kinds_of_traffic(states: &[&Desired]) -> Vec<Traffic> {
    let rules = || states.iter().flat_map(|state| all_rules(state));
    // Where a range begins: at what some rule names, and right after it.
    let mut begins: BTreeSet<u16> = [1].into();
    let mut cut = |first: u16, last: u16| {
        begins.insert(first.max(1));
        begins.extend(last.checked_add(1));
    };
    for rule in rules() {
        for side in [&rule.source, &rule.destination] {
            side.ports.iter().chain(&side.not_ports).for_each(|range| cut(range.first, range.last));
        }
    }
    for set in states.iter().flat_map(|state| state.sets.values()) {
        for member in &set.members {
            if let SetMember::Port { port, .. } = member {
                cut(*port, *port);
            }
        }
    }
    for state in states {
        let port = state.host.as_ref().map_or(4789, |host| host.vxlan_port);
        cut(port, port);
        let host = state.host.iter().filter(|_| !state.host_endpoints.is_empty());
        let open =
            host.flat_map(|host| host.failsafe_inbound.iter().chain(&host.failsafe_outbound));
        open.for_each(|failsafe| cut(failsafe.port, failsafe.port));
    }
    let begins: Vec<u16> = begins.into_iter().collect();
    let ends = begins.iter().skip(1).map(|next| next - 1).chain([u16::MAX]);
    let ranges = begins.iter().zip(ends).map(|(&first, last)| PortRange { first, last });
    let ranges: Vec<PortRange> = ranges.collect();

    let mut traffic: BTreeSet<Traffic> = BTreeSet::new();
    for protocol in [TCP, UDP, SCTP] {
        traffic.extend(ranges.iter().map(|&ports| Traffic::Ports { protocol, ports }));
    }
    traffic.insert(Traffic::Icmp { protocol: ICMP, kind: 8, code: 0 });
    traffic.insert(Traffic::Icmp { protocol: ICMPV6, kind: 128, code: 0 });
    for rule in rules() {
        for protocol in [rule.protocol, rule.not_protocol].into_iter().flatten() {
            match protocol {
                TCP | UDP | SCTP | ICMP | ICMPV6 => {}
                other => drop(traffic.insert(Traffic::Protocol(other))),
            }
        }
        for icmp in [rule.icmp, rule.not_icmp].into_iter().flatten() {
            let code = icmp.code.unwrap_or(0);
            for protocol in [ICMP, ICMPV6].into_iter().filter(|p| rule.protocol.unwrap_or(*p) == *p)
            {
                traffic.insert(Traffic::Icmp { protocol, kind: icmp.kind, code });
            }
        }
    }
    traffic.into_iter().collect()
}

fn all_rules(state: &Desired) -> impl Iterator<Item = &Rule> {
    state.rules.values().flat_map(|rules| rules.ingress.iter().chain(&rules.egress))
}

/// Joins ranges of ports that touch.
pub(super) fn merge(mut traffic: Vec<Traffic>) -> Vec<Traffic> {
    traffic.sort();
    let mut merged: Vec<Traffic> = Vec::with_capacity(traffic.len());
    for next in traffic {
        if let (
            Some(Traffic::Ports { protocol, ports: open }),
            Traffic::Ports { protocol: same, ports },
        ) = (merged.last_mut(), next)
            && *protocol == same
            && open.last.checked_add(1) == Some(ports.first)
        {
            open.last = ports.last;
            continue;
        }
        merged.push(next);
    }
    merged
}

impl fmt::Display for Traffic {
    /// `TCP 80`, `UDP 1-52`, `TCP` for every port, `ICMP type 8 code 0`, `protocol 47`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ports { protocol, ports: PortRange { first: 1, last: u16::MAX } } => {
                f.write_str(&protocol_name(*protocol))
            }
            Self::Ports { protocol, ports } if ports.first == ports.last => {
                write!(f, "{} {}", protocol_name(*protocol), ports.first)
            }
            Self::Ports { protocol, ports } => {
                write!(f, "{} {}-{}", protocol_name(*protocol), ports.first, ports.last)
            }
            Self::Icmp { protocol, kind, code } => {
                write!(f, "{} type {kind} code {code}", protocol_name(*protocol))
            }
            Self::Protocol(number) => write!(f, "protocol {number}"),
        }
    }
}
