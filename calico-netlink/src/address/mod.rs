//! Addresses of interfaces.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::rtnl::{Connection, REPLACE, Request, RtnlError};

/// An address of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Address {
    /// Index of the interface.
    pub index: u32,
    /// The address and the prefix it is part of.
    pub address: IpNet,
    /// IPv6: whether its uniqueness is still being probed; it cannot be used until then.
    pub tentative: bool,
}

/// Adds an address; done if it is there already.
///
/// An IPv6 address is usable at once: its uniqueness is not probed (`IFA_F_NODAD`).
///
/// # Errors
///
/// See [`RtnlError`].
pub fn add(connection: &mut Connection, index: u32, address: IpNet) -> Result<(), RtnlError> {
    connection.execute(add_request(index, address))
}

/// Removes an address. False if there was none.
///
/// # Errors
///
/// See [`RtnlError`].
pub fn delete(connection: &mut Connection, index: u32, address: IpNet) -> Result<bool, RtnlError> {
    let request = Request::new(RouteNetlinkMessage::DelAddress(message(index, address)), 0);
    match connection.execute(request) {
        Ok(()) => Ok(true),
        Err(error) if error.is_absent() => Ok(false),
        Err(error) => Err(error),
    }
}

/// Lists the addresses of one interface, or of all.
///
/// # Errors
///
/// See [`RtnlError`].
pub fn list(connection: &mut Connection, index: Option<u32>) -> Result<Vec<Address>, RtnlError> {
    let mut query = AddressMessage::default();
    query.header.index = index.unwrap_or(0);
    let answers = connection.dump(&RouteNetlinkMessage::GetAddress(query))?;
    Ok(answers
        .iter()
        .filter_map(|answer| match answer {
            RouteNetlinkMessage::NewAddress(message) => from_message(message),
            _ => None,
        })
        .filter(|address| index.is_none_or(|index| address.index == index))
        .collect())
}

pub(crate) fn add_request(index: u32, address: IpNet) -> Request {
    Request::new(RouteNetlinkMessage::NewAddress(message(index, address)), REPLACE)
}

fn message(index: u32, address: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = index;
    message.header.prefix_len = address.prefix_len();
    message.header.scope = AddressScope::Universe;
    message.attributes.push(AddressAttribute::Local(address.addr()));
    message.attributes.push(AddressAttribute::Address(address.addr()));
    match address {
        IpNet::V4(_) => message.header.family = AddressFamily::Inet,
        IpNet::V6(address) => {
            message.header.family = AddressFamily::Inet6;
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
            if address.addr().is_unicast_link_local() {
                message.header.scope = AddressScope::Link;
            }
        }
    }
    message
}

fn from_message(message: &AddressMessage) -> Option<Address> {
    let (mut local, mut any, mut tentative) = (None::<IpAddr>, None::<IpAddr>, false);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => local = Some(*address),
            AddressAttribute::Address(address) => any = Some(*address),
            AddressAttribute::Flags(flags) => tentative = flags.contains(AddressFlags::Tentative),
            _ => {}
        }
    }
    // On point-to-point interfaces the second one is the other side's.
    let address = IpNet::new(local.or(any)?, message.header.prefix_len).ok()?;
    Some(Address { index: message.header.index, address, tentative })
}
