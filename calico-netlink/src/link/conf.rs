//! IPv4 settings of an interface by netlink instead of by `/proc/sys`, where each look-up takes the
//! longer the more namespaces there are.

use netlink_packet_core::DefaultNla;
use netlink_packet_route::link::LinkAttribute;
use netlink_packet_route::neighbour_table::{NeighbourTableAttribute, NeighbourTableMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{LinkMessageBuilder, LinkUnspec};

use super::set_request;
use crate::rtnl::{Request, attribute};

/// `NLA_F_NESTED`
const NESTED: u16 = 0x8000;
/// `IFLA_AF_SPEC`, `AF_INET`, `IFLA_INET_CONF`
const AF_SPEC: u16 = 26;
const INET: u16 = 2;
const INET_CONF: u16 = 1;
/// `NDTA_PARMS`, `NDTPA_IFINDEX`, `NDTPA_PROXY_DELAY`
const PARMS: u16 = 6;
const PARMS_INDEX: u16 = 1;
const PARMS_PROXY_DELAY: u16 = 13;

/// An IPv4 setting of an interface: its number in the kernel (linux/ip.h, `IPV4_DEVCONF_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum Ipv4Conf {
    Forwarding = 1,
    ProxyArp = 3,
    RouteLocalnet = 26,
}

/// Sets settings. Unlike `/proc/sys`, the kernel tells nobody and forgets no routes it has looked
/// up: for interfaces that nothing was sent over yet.
pub(crate) fn conf_request(
    which: LinkMessageBuilder<LinkUnspec>,
    settings: &[(Ipv4Conf, u32)],
) -> Request {
    let values = settings
        .iter()
        .flat_map(|(setting, value)| attribute(*setting as u16, &value.to_ne_bytes()));
    let conf = attribute(INET_CONF | NESTED, &values.collect::<Vec<u8>>());
    let inet = attribute(INET | NESTED, &conf);
    let spec = LinkAttribute::Other(DefaultNla::new(AF_SPEC | NESTED, inet));
    set_request(which.append_extra_attribute(spec))
}

/// Lets the interface answer for others without delay (`proxy_delay` of IPv4).
pub(crate) fn proxy_at_once_request(index: u32) -> Request {
    let mut message = NeighbourTableMessage::default();
    message.header.family = AddressFamily::Inet;
    let mut parms = attribute(PARMS_INDEX, &index.to_ne_bytes());
    parms.extend(attribute(PARMS_PROXY_DELAY, &0_u64.to_ne_bytes()));
    message.attributes = vec![
        NeighbourTableAttribute::Name("arp_cache".to_owned()),
        NeighbourTableAttribute::Other(DefaultNla::new(PARMS | NESTED, parms)),
    ];
    Request::new(RouteNetlinkMessage::SetNeighbourTable(message), 0)
}
