//! The other ends of a VXLAN: neighbours, and the forwarding table.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::Remote;
use crate::link::MacAddr;
use crate::neighbour;
use crate::rtnl::{Connection, REPLACE, Request, RtnlError};

/// Makes both tables of the device hold these and no others. What comes, comes before what goes.
pub(super) fn sync(
    connection: &mut Connection,
    index: u32,
    remotes: &BTreeSet<Remote>,
) -> Result<usize, RtnlError> {
    let wanted: BTreeMap<IpAddr, MacAddr> =
        remotes.iter().map(|remote| (remote.address, remote.mac)).collect();
    let behind: BTreeMap<MacAddr, IpAddr> =
        remotes.iter().map(|remote| (remote.mac, remote.node)).collect();

    let permanent = |it: &neighbour::Neighbour| it.permanent && !is_of_link(it.address);
    let neighbours: BTreeMap<IpAddr, Option<MacAddr>> = neighbour::list(connection, Some(index))?
        .into_iter()
        .filter(permanent)
        .map(|it| (it.address, it.mac))
        .collect();
    let forwarding = forwarding(connection, index)?;

    let mut requests = Vec::new();
    for (mac, node) in &behind {
        if forwarding.get(mac) != Some(node) {
            let message = entry(index, *mac, *node);
            requests.push(Request::new(RouteNetlinkMessage::NewNeighbour(message), REPLACE));
        }
    }
    for (address, mac) in &wanted {
        if neighbours.get(address) != Some(&Some(*mac)) {
            requests.push(neighbour::permanent_request(index, *address, *mac));
        }
    }
    let mut changes = requests.len();
    for outcome in connection.exchange(&requests)? {
        outcome?;
    }
    for address in neighbours.keys().filter(|address| !wanted.contains_key(address)) {
        neighbour::delete(connection, index, *address)?;
        changes += 1;
    }
    for (mac, node) in forwarding.iter().filter(|(mac, _)| !behind.contains_key(mac)) {
        let message = entry(index, *mac, *node);
        match connection.execute(Request::new(RouteNetlinkMessage::DelNeighbour(message), 0)) {
            Err(error) if !error.is_absent() => return Err(error),
            _ => changes += 1,
        }
    }
    Ok(changes)
}

/// Reads the forwarding table of the device.
fn forwarding(
    connection: &mut Connection,
    index: u32,
) -> Result<BTreeMap<MacAddr, IpAddr>, RtnlError> {
    let mut query = NeighbourMessage::default();
    query.header.family = AddressFamily::Bridge;
    query.header.ifindex = index;
    let answers = connection.dump(&RouteNetlinkMessage::GetNeighbour(query))?;
    let entries = answers.iter().filter_map(|answer| match answer {
        RouteNetlinkMessage::NewNeighbour(message) if message.header.ifindex == index => {
            read(message)
        }
        _ => None,
    });
    Ok(entries.collect())
}

fn entry(index: u32, mac: MacAddr, node: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    message.header.flags = NeighbourFlags::Own;
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
    message.attributes.push(NeighbourAttribute::Destination(node.into()));
    message
}

fn read(message: &NeighbourMessage) -> Option<(MacAddr, IpAddr)> {
    let (mut mac, mut node) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::LinkLayerAddress(bytes) => {
                mac = bytes.as_slice().try_into().ok().map(MacAddr);
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet(found)) => {
                node = Some(IpAddr::V4(*found));
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(found)) => {
                node = Some(IpAddr::V6(*found));
            }
            // The family of the message is that of bridges; the length tells that of the address.
            NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => {
                let v4 = <[u8; 4]>::try_from(bytes.as_slice()).map(IpAddr::from);
                let v6 = <[u8; 16]>::try_from(bytes.as_slice()).map(IpAddr::from);
                node = v4.or(v6).ok();
            }
            _ => {}
        }
    }
    mac.zip(node)
}

/// Those of multicast groups and routers, which the kernel makes itself.
fn is_of_link(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_multicast() || address.is_link_local(),
        IpAddr::V6(address) => address.is_multicast() || address.is_unicast_link_local(),
    }
}
