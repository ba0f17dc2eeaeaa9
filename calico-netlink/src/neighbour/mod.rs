//! Neighbours: which hardware address an address on a link has.

use std::net::IpAddr;

use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::link::MacAddr;
use crate::rtnl::{Connection, REPLACE, Request, RtnlError};

/// A neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Neighbour {
    /// Index of the interface it is behind.
    pub index: u32,
    /// Its address.
    pub address: IpAddr,
    /// Its hardware address, once known.
    pub mac: Option<MacAddr>,
    /// Whether it was set by hand and never expires.
    pub permanent: bool,
}

/// Sets a neighbour that never expires and is never asked for.
///
/// # Errors
///
/// See [`RtnlError`].
pub fn set_permanent(
    connection: &mut Connection,
    index: u32,
    address: IpAddr,
    mac: MacAddr,
) -> Result<(), RtnlError> {
    connection.execute(permanent_request(index, address, mac))
}

/// Removes a neighbour. False if there was none.
///
/// # Errors
///
/// See [`RtnlError`].
pub fn delete(connection: &mut Connection, index: u32, address: IpAddr) -> Result<bool, RtnlError> {
    let request = Request::new(RouteNetlinkMessage::DelNeighbour(message(index, address)), 0);
    match connection.execute(request) {
        Ok(()) => Ok(true),
        Err(error) if error.is_absent() => Ok(false),
        Err(error) => Err(error),
    }
}

/// Lists the neighbours behind one interface, or all, of both families.
///
/// # Errors
///
/// See [`RtnlError`].
pub fn list(connection: &mut Connection, index: Option<u32>) -> Result<Vec<Neighbour>, RtnlError> {
    let answers =
        connection.dump(&RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()))?;
    Ok(answers
        .iter()
        .filter_map(|answer| match answer {
            RouteNetlinkMessage::NewNeighbour(message) => from_message(message),
            _ => None,
        })
        .filter(|neighbour| index.is_none_or(|index| neighbour.index == index))
        .collect())
}

pub(crate) fn permanent_request(index: u32, address: IpAddr, mac: MacAddr) -> Request {
    let mut message = message(index, address);
    message.header.state = NeighbourState::Permanent;
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
    Request::new(RouteNetlinkMessage::NewNeighbour(message), REPLACE)
}

fn message(index: u32, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.ifindex = index;
    message.header.family = match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    message.attributes.push(NeighbourAttribute::Destination(address.into()));
    message
}

fn from_message(message: &NeighbourMessage) -> Option<Neighbour> {
    let (mut address, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(found)) => {
                address = Some(IpAddr::V4(*found));
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(found)) => {
                address = Some(IpAddr::V6(*found));
            }
            NeighbourAttribute::LinkLayerAddress(bytes) => {
                mac = bytes.as_slice().try_into().ok().map(MacAddr);
            }
            _ => {}
        }
    }
    Some(Neighbour {
        index: message.header.ifindex,
        address: address?,
        mac,
        permanent: message.header.state == NeighbourState::Permanent,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link;
    use crate::testing::TestNet;

    #[test]
    fn neighbours_come_and_go() {
        let Some(net) = TestNet::new("neighbour") else { return };
        net.run(|| {
            let mut connection = Connection::open().unwrap();
            let near = link::VethEnd { name: "a", up: true, ..link::VethEnd::default() };
            let far = link::VethEnd { name: "b", ..link::VethEnd::default() };
            link::create_veth(&mut connection, &near, &far).unwrap();
            let index = link::by_name(&mut connection, "a").unwrap().unwrap().index;
            let mac = MacAddr([2, 0, 0, 0, 0, 1]);
            for text in ["10.0.0.1", "fd00::1"] {
                let address: IpAddr = text.parse().unwrap();
                set_permanent(&mut connection, index, address, mac).unwrap();
                let all = list(&mut connection, Some(index)).unwrap();
                let wanted = Neighbour { index, address, mac: Some(mac), permanent: true };
                assert!(all.contains(&wanted), "{all:?}");
                assert!(delete(&mut connection, index, address).unwrap());
                assert!(!delete(&mut connection, index, address).unwrap());
            }
        });
    }
}
