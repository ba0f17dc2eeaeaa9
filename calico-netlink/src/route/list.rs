//! Reading a whole routing table.

use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::config::RouteConfig;
use super::kernel::KernelRoute;
use super::message;
use crate::rtnl::{Connection, RtnlError};

/// Lists the routes of a table (254 is the main one), of IPv4 and IPv6, whoever made them.
///
/// # Errors
///
/// See [`RtnlError`].
pub fn list(connection: &mut Connection, table: u32) -> Result<Vec<KernelRoute>, RtnlError> {
    let config = RouteConfig { table, ..RouteConfig::default() };
    let mut routes = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        for object in connection.dump(&message::query(family, &config))? {
            if let RouteNetlinkMessage::NewRoute(message) = object {
                routes.extend(message::decode(&message).filter(|route| route.table == table));
            }
        }
    }
    Ok(routes)
}
