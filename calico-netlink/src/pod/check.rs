use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::error::Step as _;
use super::spec::{HOST_MAC, PodInterface, PodInterfaces, PodSpec};
use super::{PodError, inside, outside};
use crate::address;
use crate::link::{self, Link};
use crate::netns::Netns;
use crate::qos;
use crate::rtnl::{Connection, Request};

/// Checks that the network of a pod is as [`setup`](super::setup) makes it: both ends up and
/// connected to each other, addresses and routes in place, bandwidth limited. Changes nothing.
///
/// # Errors
///
/// [`PodError::Incomplete`] names the first thing that is missing; others as in [`PodError`].
pub fn check(spec: &PodSpec) -> Result<PodInterfaces, PodError> {
    spec.validate()?;
    let netns = Netns::open(&spec.netns)?;
    let mut host = Connection::open().step(|| "reach the kernel".into())?;
    let mut pod = netns.run(Connection::open)?.step(|| "reach the kernel".into())?;

    let near = existing(&mut host, &spec.host_ifname)?;
    let far = existing(&mut pod, &spec.ifname)?;
    if !connected(&mut host, &netns, &near, &far)? {
        return Err(incomplete(format!("{} does not lead to {}", near.name, far.name)));
    }
    if near.mac != Some(HOST_MAC) {
        return Err(incomplete(format!("{} has not the address {HOST_MAC}", near.name)));
    }
    let addresses = address::list(&mut pod, Some(far.index)).step(|| "list addresses".into())?;
    for wanted in &spec.addresses {
        if !addresses.iter().any(|found| found.address == IpNet::from(*wanted)) {
            return Err(incomplete(format!("{} lacks the address {wanted}", far.name)));
        }
    }
    require_routes(&mut pod, far.index, &inside::routes(spec, far.index), &far.name)?;
    let routes: Vec<_> = spec.routed().map(|address| outside::route(address, near.index)).collect();
    require_routes(&mut host, near.index, &routes, &near.name)?;
    let limits = qos::check(&mut host, &near.name, &spec.limits);
    if let Some(different) = limits.step(|| "look at the limits of bandwidth".into())? {
        return Err(incomplete(different));
    }
    Ok(PodInterfaces { host: describe(&near)?, container: describe(&far)? })
}

fn existing(connection: &mut Connection, name: &str) -> Result<Link, PodError> {
    match link::by_name(connection, name).step(|| format!("look at {name}"))? {
        None => Err(incomplete(format!("there is no interface {name}"))),
        Some(link) if !link.up => Err(incomplete(format!("{name} is down"))),
        Some(link) => Ok(link),
    }
}

/// Whether both are ends of one veth. Indexes alone do not tell, for they repeat in every
/// namespace; the kernel's number for the pod's namespace does.
fn connected(
    host: &mut Connection,
    netns: &Netns,
    near: &Link,
    far: &Link,
) -> Result<bool, PodError> {
    let (Some(to_far), Some(to_near)) = (near.peer, far.peer) else { return Ok(false) };
    if to_far.index != far.index || to_near.index != near.index {
        return Ok(false);
    }
    let mut message = NsidMessage::default();
    let fd = u32::try_from(netns.raw_fd()).unwrap_or(u32::MAX);
    message.attributes.push(NsidAttribute::Fd(fd));
    let answer = host
        .query(Request::new(RouteNetlinkMessage::GetNsId(message), 0))
        .step(|| format!("identify {}", netns.path().display()))?;
    let Some(RouteNetlinkMessage::NewNsId(answer)) = answer else { return Ok(false) };
    // -1: the host has no number for it, thus no veth into it.
    let id = answer.attributes.iter().find_map(|attribute| match attribute {
        NsidAttribute::Id(id) if *id >= 0 => Some(*id),
        _ => None,
    });
    Ok(to_far.nsid == id)
}

fn require_routes(
    connection: &mut Connection,
    index: u32,
    wanted: &[RouteMessage],
    name: &str,
) -> Result<(), PodError> {
    let mut found = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        if wanted.iter().any(|route| route.header.address_family == family) {
            let mut query = RouteMessage::default();
            query.header.address_family = family;
            query.attributes.push(RouteAttribute::Oif(index));
            found.extend(
                connection
                    .dump(&RouteNetlinkMessage::GetRoute(query))
                    .step(|| format!("list the routes of {name}"))?,
            );
        }
    }
    for route in wanted {
        let is_there = found.iter().any(|answer| match answer {
            RouteNetlinkMessage::NewRoute(other) => same_way(route, other),
            _ => false,
        });
        if !is_there {
            let (address, length) = destination(route);
            return Err(incomplete(format!("{name} lacks the route to {address}/{length}")));
        }
    }
    Ok(())
}

fn same_way(a: &RouteMessage, b: &RouteMessage) -> bool {
    let gateway = |route: &RouteMessage| {
        route.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Gateway(gateway) => Some(gateway.clone()),
            _ => None,
        })
    };
    a.header.address_family == b.header.address_family
        && a.header.table == b.header.table
        && destination(a) == destination(b)
        && gateway(a) == gateway(b)
}

fn destination(route: &RouteMessage) -> (IpAddr, u8) {
    let address = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(IpAddr::V4(*address)),
        RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    });
    let unspecified = match route.header.address_family {
        AddressFamily::Inet6 => IpAddr::from([0; 16]),
        _ => IpAddr::from([0; 4]),
    };
    (address.unwrap_or(unspecified), route.header.destination_prefix_length)
}

pub(super) fn describe(link: &Link) -> Result<PodInterface, PodError> {
    let mac =
        link.mac.ok_or_else(|| incomplete(format!("{} has no hardware address", link.name)))?;
    Ok(PodInterface { name: link.name.clone(), index: link.index, mac, mtu: link.mtu })
}

fn incomplete(what: String) -> PodError {
    PodError::Incomplete { what }
}
