use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;

use calico_core::dataplane::{IcmpMatch, PortRange, Rule, SetId, Side};
use calico_core::key::Family;
use ipnet::IpNet;
use serde::Serialize;

use super::{Packet, SetLookup};
use crate::rules::{SERVICE_ADDRESSES_SET, SERVICE_SET};

/// The first clause of a rule that a packet does not meet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mismatch {
    /// The clause's name in a policy, such as `destination.ports`.
    pub clause: &'static str,
    /// What the clause asks for.
    pub wanted: String,
    /// What the packet has.
    pub found: String,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} wants {}, the packet has {}", self.clause, self.wanted, self.found)
    }
}

/// Why a rule does not match a packet; `None` if it does.
#[must_use]
pub fn mismatch(rule: &Rule, packet: &Packet, sets: &dyn SetLookup) -> Option<Mismatch> {
    header(rule, packet)
        .or_else(|| side(&SOURCE, &rule.source, packet, sets))
        .or_else(|| side(&DESTINATION, &rule.destination, packet, sets))
}

fn header(rule: &Rule, packet: &Packet) -> Option<Mismatch> {
    let family = Family::of(packet.source);
    if let Some(wanted) = rule.family
        && wanted != family
    {
        return no("ipVersion", wanted, family);
    }
    if let Some(wanted) = rule.protocol
        && wanted != packet.protocol
    {
        return no("protocol", protocol_name(wanted), protocol_name(packet.protocol));
    }
    if let Some(unwanted) = rule.not_protocol
        && unwanted == packet.protocol
    {
        return no("notProtocol", Not(protocol_name(unwanted)), protocol_name(packet.protocol));
    }
    let icmp = |wanted: IcmpMatch| {
        packet.icmp.is_some_and(|(kind, code)| {
            kind == wanted.kind && wanted.code.is_none_or(|wanted| code == wanted)
        })
    };
    let found = || match packet.icmp {
        Some((kind, code)) => format!("type {kind} code {code}"),
        None => "no ICMP type".to_owned(),
    };
    if let Some(wanted) = rule.icmp
        && !icmp(wanted)
    {
        return no("icmp", icmp_text(wanted), found());
    }
    if let Some(unwanted) = rule.not_icmp
        && icmp(unwanted)
    {
        return no("notICMP", Not(icmp_text(unwanted)), found());
    }
    None
}

/// The names of one side's clauses, and how to read that side of a packet.
struct End {
    nets: &'static str,
    not_nets: &'static str,
    selector: &'static str,
    not_selector: &'static str,
    services: &'static str,
    ports: &'static str,
    not_ports: &'static str,
    address: fn(&Packet) -> IpAddr,
    port: fn((u16, u16)) -> u16,
}

const SOURCE: End = End {
    nets: "source.nets",
    not_nets: "source.notNets",
    selector: "source.selector",
    not_selector: "source.notSelector",
    services: "source.services",
    ports: "source.ports",
    not_ports: "source.notPorts",
    address: |packet| packet.source,
    port: |ports| ports.0,
};

const DESTINATION: End = End {
    nets: "destination.nets",
    not_nets: "destination.notNets",
    selector: "destination.selector",
    not_selector: "destination.notSelector",
    services: "destination.services",
    ports: "destination.ports",
    not_ports: "destination.notPorts",
    address: |packet| packet.destination,
    port: |ports| ports.1,
};

fn side(end: &End, side: &Side, packet: &Packet, sets: &dyn SetLookup) -> Option<Mismatch> {
    let address = (end.address)(packet);
    let port = packet.ports.map(end.port);
    if !side.nets.is_empty() && !side.nets.iter().any(|net| net.contains(&address)) {
        return no(end.nets, list(&side.nets), address);
    }
    if let Some(net) = side.not_nets.iter().find(|net: &&IpNet| net.contains(&address)) {
        return no(end.not_nets, Not(net), address);
    }
    if let Some(set) = side.sets.iter().find(|set| !sets.has_address(set, address)) {
        let clause = if is_of_service(set) { end.services } else { end.selector };
        return no(clause, Member(set, sets), address);
    }
    if let Some(set) = side.not_sets.iter().find(|set| sets.has_address(set, address)) {
        return no(end.not_selector, Not(Member(set, sets)), address);
    }
    let in_set =
        |set: &SetId| port.is_some_and(|port| sets.has_port(set, address, packet.protocol, port));
    let in_range =
        |range: &PortRange| port.is_some_and(|port| (range.first..=range.last).contains(&port));
    let found = || port.map_or_else(|| "no port".to_owned(), |port| port.to_string());
    let any_port = side.ports.is_empty() && side.port_sets.is_empty();
    if !any_port && !side.ports.iter().any(in_range) && !side.port_sets.iter().any(in_set) {
        let ranges = side.ports.iter().map(range_text);
        let named = side.port_sets.iter().map(|set| Member(set, sets).to_string());
        let wanted: Vec<String> = ranges.chain(named).collect();
        if side.ports.is_empty() && side.port_sets.iter().all(is_of_service) {
            let port = port.map_or_else(String::new, |port| format!(" port {port}"));
            let found = format!("{address} {}{port}", protocol_name(packet.protocol));
            return no(end.services, wanted.join(", "), found);
        }
        return no(end.ports, wanted.join(", "), found());
    }
    if let Some(range) = side.not_ports.iter().find(|range| in_range(range)) {
        return no(end.not_ports, Not(range_text(range)), found());
    }
    if let Some(set) = side.not_port_sets.iter().find(|set| in_set(set)) {
        return no(end.not_ports, Not(Member(set, sets)), found());
    }
    None
}

/// Upstream's names of sets tell what they are of.
fn is_of_service(set: &SetId) -> bool {
    let sort = set.0.split_once(':').map(|(sort, _)| sort);
    matches!(sort, Some(SERVICE_SET | SERVICE_ADDRESSES_SET))
}

struct Not<T>(T);

impl<T: fmt::Display> fmt::Display for Not<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "anything but {}", self.0)
    }
}

struct Member<'a>(&'a SetId, &'a dyn SetLookup);

impl fmt::Display for Member<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.1.describe(self.0) {
            Some(description) => f.write_str(description),
            None => write!(f, "a member of {}", self.0),
        }
    }
}

#[expect(clippy::unnecessary_wraps, reason = "every caller returns it as it is")]
fn no(clause: &'static str, wanted: impl ToString, found: impl ToString) -> Option<Mismatch> {
    Some(Mismatch { clause, wanted: wanted.to_string(), found: found.to_string() })
}

fn list(nets: &[IpNet]) -> String {
    let texts: Vec<String> = nets.iter().map(ToString::to_string).collect();
    texts.join(", ")
}

fn range_text(range: &PortRange) -> String {
    if range.first == range.last {
        range.first.to_string()
    } else {
        format!("{}:{}", range.first, range.last)
    }
}

fn icmp_text(icmp: IcmpMatch) -> String {
    match icmp.code {
        Some(code) => format!("type {} code {code}", icmp.kind),
        None => format!("type {}", icmp.kind),
    }
}

/// A protocol's usual name, or its number.
pub(crate) fn protocol_name(number: u8) -> Cow<'static, str> {
    match number {
        1 => "ICMP".into(),
        6 => "TCP".into(),
        17 => "UDP".into(),
        58 => "ICMPv6".into(),
        132 => "SCTP".into(),
        136 => "UDPLite".into(),
        other => other.to_string().into(),
    }
}
