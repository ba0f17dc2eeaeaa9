use std::net::Ipv4Addr;

use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{LinkFilter, by_index, list};
use crate::rtnl::{Connection, Request, RtnlError};

/// What Ethernet has, and what the kernel gives a new veth.
const USUAL: u32 = 1500;
/// An address that is nobody's (RFC 5737); asking for the way to it sends nothing.
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// The largest packet that the interfaces carry which are up and of a name that `counts`, in bytes:
/// what the least of them does. `None` if there is none.
///
/// # Errors
///
/// See [`RtnlError`].
pub fn least_mtu(
    connection: &mut Connection,
    counts: impl Fn(&str) -> bool,
) -> Result<Option<u32>, RtnlError> {
    let links = list(connection, &LinkFilter::default())?;
    let counted = links.iter().filter(|link| link.up && counts(&link.name));
    Ok(counted.map(|link| link.mtu).min())
}

/// The largest packet the fabric carries, in bytes: that of the interface towards the rest of the
/// world; without one, the least of all interfaces that upstream's `mtuIfacePattern` selects by
/// default; without any, 1500.
///
/// # Errors
///
/// See [`RtnlError`].
pub fn fabric_mtu(connection: &mut Connection) -> Result<u32, RtnlError> {
    let mut query = RouteMessage::default();
    query.header.address_family = AddressFamily::Inet;
    query.header.destination_prefix_length = 32;
    query.attributes.push(RouteAttribute::Destination(RouteAddress::Inet(ELSEWHERE)));
    let answer = connection.query(Request::new(RouteNetlinkMessage::GetRoute(query), 0));
    match answer {
        Ok(Some(RouteNetlinkMessage::NewRoute(route))) => {
            let out = route.attributes.iter().find_map(|attribute| match attribute {
                RouteAttribute::Oif(index) => Some(*index),
                _ => None,
            });
            if let Some(index) = out
                && let Some(link) = by_index(connection, index)?
                && !link.loopback
            {
                return Ok(link.mtu);
            }
        }
        Ok(_) | Err(RtnlError::Refused(_)) => {}
        Err(error) => return Err(error),
    }
    let links = list(connection, &LinkFilter::default())?;
    let least = links.iter().filter(|link| is_fabric_name(&link.name)).map(|link| link.mtu).min();
    Ok(least.unwrap_or(USUAL))
}

/// `^((en|wl|ww|sl|ib)[Pcopsvx].*|(eth|wlan|wwan).*)`
fn is_fabric_name(name: &str) -> bool {
    let starts = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
    starts(&["eth", "wlan", "wwan"])
        || (starts(&["en", "wl", "ww", "sl", "ib"])
            && name.as_bytes().get(2).is_some_and(|byte| b"Pcopsvx".contains(byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_fabric() {
        for (name, expected) in [
            ("eth0", true),
            ("enp3s0", true),
            ("ens5", true),
            ("wlp2s0", true),
            ("en", false),
            ("cali0123", false),
            ("docker0", false),
            ("lo", false),
        ] {
            assert_eq!(is_fabric_name(name), expected, "{name}");
        }
    }
}
