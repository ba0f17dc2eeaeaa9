//! Next hops that are not on a link of this host: BGP peers several hops away.
//!
//! The kernel takes a gateway only if it is on a link (`fib_check_nh` in net/ipv4,
//! `ip6_route_check_nh` in net/ipv6). What leads to one that is not, is its own route: its next
//! hops stand in for it, and are looked up again when routes change. As in BIRD, routes that are
//! learned themselves do not count, so that nothing goes in circles.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::route::{RouteAttribute, RouteFlags, RouteMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::kernel::Hop;
use super::message;
use crate::rtnl::{Connection, Request, RtnlError};

/// What stands in for gateways that are on no link.
#[derive(Debug, Default)]
pub(super) struct Detours {
    hops: BTreeMap<IpAddr, Vec<Hop>>,
}

impl Detours {
    /// The hops that lead to a gateway, if it is on no link.
    pub(super) fn of(&self, gateway: IpAddr) -> Option<&[Hop]> {
        self.hops.get(&gateway).map(Vec::as_slice)
    }

    /// Gateways on no link.
    pub(super) fn gateways(&self) -> impl Iterator<Item = IpAddr> {
        self.hops.keys().copied()
    }

    /// What was found out about a gateway. Says whether that is news.
    pub(super) fn learn(&mut self, gateway: IpAddr, hops: Option<Vec<Hop>>) -> bool {
        match hops {
            Some(hops) => self.hops.insert(gateway, hops.clone()).as_ref() != Some(&hops),
            None => self.hops.remove(&gateway).is_some(),
        }
    }

    /// Forgets the gateways that are `unused`.
    pub(super) fn forget(&mut self, unused: impl Fn(IpAddr) -> bool) {
        self.hops.retain(|gateway, _| !unused(*gateway));
    }
}

/// Asks the kernel what leads to a gateway: nothing to add if it is on a link, or if nothing but
/// a route of protocol `learned` leads there.
pub(super) fn look_up(
    connection: &mut Connection,
    gateway: IpAddr,
    learned: u8,
) -> Result<Option<Vec<Hop>>, RtnlError> {
    let answer = match connection.query(Request::new(question(gateway), 0)) {
        Ok(Some(RouteNetlinkMessage::NewRoute(answer))) => answer,
        Ok(_) | Err(RtnlError::Refused(_)) => return Ok(None),
        Err(error) => return Err(error),
    };
    if u8::from(answer.header.protocol) == learned {
        return Ok(None);
    }
    let mut hops = message::hops(&answer);
    hops.sort_unstable();
    Ok((!hops.is_empty() && hops.iter().all(|hop| hop.gateway.is_some())).then_some(hops))
}

/// `ip route get fibmatch`: the route itself, with all its next hops.
fn question(gateway: IpAddr) -> RouteNetlinkMessage {
    let mut message = RouteMessage::default();
    message.header.address_family =
        if gateway.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.destination_prefix_length = IpNet::from(gateway).prefix_len();
    message.header.flags = RouteFlags::FibMatch;
    message.attributes.push(RouteAttribute::Destination(gateway.into()));
    RouteNetlinkMessage::GetRoute(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hop(gateway: &str) -> Hop {
        Hop { gateway: Some(gateway.parse().unwrap()), index: 2 }
    }

    #[test]
    fn only_what_is_new_is_news() {
        let mut detours = Detours::default();
        let far = IpAddr::from([198, 51, 100, 1]);
        assert!(!detours.learn(far, None), "on a link, as was thought");
        assert!(detours.learn(far, Some(vec![hop("10.0.0.1")])));
        assert!(!detours.learn(far, Some(vec![hop("10.0.0.1")])));
        assert!(detours.learn(far, Some(vec![hop("10.0.0.2")])));
        assert_eq!(detours.of(far), Some(&[hop("10.0.0.2")][..]));
        detours.forget(|gateway| gateway == far);
        assert_eq!(detours.gateways().count(), 0);
    }
}
