//! Routes to and from netlink messages.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteNextHop,
    RouteNextHopFlags, RouteProtocol, RouteScope, RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::config::RouteConfig;
use super::kernel::{Hop, KernelRoute, KernelTarget};
use super::table::Op;
use crate::rtnl::{CREATE, REPLACE, Request};

/// Asks for the routes of one family in one table.
pub(super) fn query(family: AddressFamily, config: &RouteConfig) -> RouteNetlinkMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family;
    set_table(&mut message, config.table);
    RouteNetlinkMessage::GetRoute(message)
}

pub(super) fn request(op: &Op, config: &RouteConfig) -> Request {
    match op {
        Op::Add(route) => {
            Request::new(RouteNetlinkMessage::NewRoute(encode(route, config)), CREATE)
        }
        Op::Replace(route) => {
            Request::new(RouteNetlinkMessage::NewRoute(encode(route, config)), REPLACE)
        }
        Op::Remove(route) => Request::new(RouteNetlinkMessage::DelRoute(removal(route)), 0),
    }
}

/// Reads a route of the kernel. `None` for what is no route of a prefix: cached and multicast
/// routes, other families.
pub(super) fn decode(message: &RouteMessage) -> Option<KernelRoute> {
    let header = &message.header;
    if header.flags.contains(RouteFlags::Cloned) {
        return None;
    }
    let unspecified = match header.address_family {
        AddressFamily::Inet => IpAddr::from([0; 4]),
        AddressFamily::Inet6 => IpAddr::from([0; 16]),
        _ => return None,
    };
    let mut route = KernelRoute {
        destination: IpNet::new(unspecified, header.destination_prefix_length).ok()?,
        protocol: header.protocol.into(),
        metric: 0,
        table: header.table.into(),
        target: KernelTarget::Other,
        source: None,
    };
    let mut hops = hops(message);
    let mut plain = header.tos == 0 && header.source_prefix_length == 0;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => {
                route.destination =
                    IpNet::new(ip(address)?, header.destination_prefix_length).ok()?;
            }
            RouteAttribute::Priority(metric) => route.metric = *metric,
            RouteAttribute::Table(table) => route.table = *table,
            RouteAttribute::PrefSource(address) => route.source = ip(address),
            RouteAttribute::MultiPath(parts) => {
                plain &= parts.iter().all(|part| part.hops == 0 && !is_encapsulated(part));
            }
            RouteAttribute::EncapType(_) | RouteAttribute::Encap(_) | RouteAttribute::NhId(_) => {
                plain = false;
            }
            _ => {}
        }
    }
    hops.sort_unstable();
    route.target = match header.kind {
        RouteType::Unicast if plain => KernelTarget::Hops(hops),
        RouteType::BlackHole if plain => KernelTarget::Blackhole,
        RouteType::Multicast | RouteType::Broadcast | RouteType::Anycast | RouteType::Local => {
            return None;
        }
        _ => KernelTarget::Other,
    };
    Some(route)
}

/// The next hops of a route, in its order; one at least.
pub(super) fn hops(message: &RouteMessage) -> Vec<Hop> {
    let mut only = Hop { gateway: None, index: 0 };
    let mut hops = Vec::new();
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => only.index = *index,
            RouteAttribute::MultiPath(parts) => {
                hops.extend(parts.iter().map(|part| Hop {
                    gateway: part.attributes.iter().find_map(gateway_of),
                    index: part.interface_index,
                }));
            }
            other => only.gateway = gateway_of(other).or(only.gateway),
        }
    }
    if hops.is_empty() {
        hops.push(only);
    }
    hops
}

fn gateway_of(attribute: &RouteAttribute) -> Option<IpAddr> {
    match attribute {
        RouteAttribute::Gateway(address) => ip(address),
        RouteAttribute::Via(via) => via_address(via),
        _ => None,
    }
}

fn is_encapsulated(part: &RouteNextHop) -> bool {
    let encapsulates = |attribute: &RouteAttribute| {
        matches!(attribute, RouteAttribute::EncapType(_) | RouteAttribute::Encap(_))
    };
    part.attributes.iter().any(encapsulates)
}

fn encode(route: &KernelRoute, config: &RouteConfig) -> RouteMessage {
    let mut message = place(route);
    message.header.protocol = RouteProtocol::from(route.protocol);
    let is_v4 = route.destination.addr().is_ipv4();
    match &route.target {
        KernelTarget::Blackhole | KernelTarget::Other => {
            message.header.kind = RouteType::BlackHole;
        }
        KernelTarget::Hops(hops) => {
            message.header.kind = RouteType::Unicast;
            message
                .attributes
                .extend(route.source.map(|address| RouteAttribute::PrefSource(address.into())));
            if let [hop] = hops.as_slice() {
                if hop.gateway.is_none() && is_v4 {
                    message.header.scope = RouteScope::Link;
                }
                if is_onlink(*hop, config) {
                    message.header.flags |= RouteFlags::Onlink;
                }
                message.attributes.extend(hop.gateway.map(|address| gateway(address, is_v4)));
                if hop.index != 0 {
                    message.attributes.push(RouteAttribute::Oif(hop.index));
                }
            } else {
                let parts = hops.iter().map(|hop| encode_hop(*hop, is_v4, config)).collect();
                message.attributes.push(RouteAttribute::MultiPath(parts));
            }
        }
    }
    message
}

fn encode_hop(hop: Hop, is_v4: bool, config: &RouteConfig) -> RouteNextHop {
    let mut part = RouteNextHop::default();
    part.interface_index = hop.index;
    if is_onlink(hop, config) {
        part.flags = RouteNextHopFlags::Onlink;
    }
    part.attributes.extend(hop.gateway.map(|address| gateway(address, is_v4)));
    part
}

fn is_onlink(hop: Hop, config: &RouteConfig) -> bool {
    config.onlink && hop.gateway.is_some() && hop.index != 0
}

/// IPv4 by way of an IPv6 router (RFC 8950) has an attribute of its own.
fn gateway(address: IpAddr, is_v4: bool) -> RouteAttribute {
    match address {
        IpAddr::V6(address) if is_v4 => RouteAttribute::Via(RouteVia::Inet6(address)),
        address => RouteAttribute::Gateway(address.into()),
    }
}

/// Names exactly one route: of this protocol, at this place.
fn removal(route: &KernelRoute) -> RouteMessage {
    let mut message = place(route);
    message.header.protocol = RouteProtocol::from(route.protocol);
    // IPv4 compares the scope unless it is this one.
    message.header.scope = RouteScope::NoWhere;
    message
}

fn place(route: &KernelRoute) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = match route.destination {
        IpNet::V4(_) => AddressFamily::Inet,
        IpNet::V6(_) => AddressFamily::Inet6,
    };
    message.header.destination_prefix_length = route.destination.prefix_len();
    message.header.scope = RouteScope::Universe;
    set_table(&mut message, route.table);
    message.attributes.push(RouteAttribute::Destination(route.destination.network().into()));
    if route.metric != 0 {
        message.attributes.push(RouteAttribute::Priority(route.metric));
    }
    message
}

fn set_table(message: &mut RouteMessage, table: u32) {
    match u8::try_from(table) {
        Ok(table) => message.header.table = table,
        Err(_too_large) => {
            message.header.table = RouteHeader::RT_TABLE_UNSPEC;
            message.attributes.push(RouteAttribute::Table(table));
        }
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

fn via_address(via: &RouteVia) -> Option<IpAddr> {
    match via {
        RouteVia::Inet(address) => Some(IpAddr::V4(*address)),
        RouteVia::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}
