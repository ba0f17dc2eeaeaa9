//! Prefixes that policy tells apart, and addresses that stand for all of one.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use calico_core::dataplane::SetMember;
use ipnet::IpNet;

use crate::desired::Desired;

/// Every prefix that a rule, a set or, if there are host endpoints, a list of failsafe ports names.
/// Single addresses are among them.
pub(crate) fn named(state: &Desired) -> BTreeSet<IpNet> {
    let mut nets = BTreeSet::new();
    let rules = state.rules.values().flat_map(|rules| rules.ingress.iter().chain(&rules.egress));
    for side in rules.flat_map(|rule| [&rule.source, &rule.destination]) {
        nets.extend(side.nets.iter().chain(&side.not_nets).map(IpNet::trunc));
    }
    let members = state.sets.values().flat_map(|set| &set.members);
    nets.extend(members.map(|member| match member {
        SetMember::Net(net) => net.trunc(),
        SetMember::Port { address, .. } => (*address).into(),
    }));
    let host = state.host.iter().filter(|_| !state.host_endpoints.is_empty());
    let failsafe =
        host.flat_map(|host| host.failsafe_inbound.iter().chain(&host.failsafe_outbound));
    nets.extend(failsafe.filter_map(|failsafe| failsafe.net).map(|net| net.trunc()));
    nets
}

/// An address of `net` that is in none of the `inner` prefixes; the first one of a network stands
/// for others only if there is no other.
pub(crate) fn free<'a>(net: &IpNet, inner: impl IntoIterator<Item = &'a IpNet>) -> Option<IpAddr> {
    let mut taken: Vec<(u128, u128)> = inner
        .into_iter()
        .filter(|other| is_v6(other) == is_v6(net) && net.contains(&other.network()))
        .map(|other| (number(other.network()), number(other.broadcast())))
        .collect();
    taken.sort_unstable();
    let (first, last) = (number(net.network()), number(net.broadcast()));
    let from = |start: u128| {
        let mut at = start;
        for (begin, end) in &taken {
            if *begin > at {
                break;
            }
            if *end >= at {
                at = end.checked_add(1)?;
            }
        }
        (at <= last).then_some(at)
    };
    let second = first.checked_add(1).and_then(from);
    second.or_else(|| from(first)).map(|found| address(found, is_v6(net)))
}

const fn is_v6(net: &IpNet) -> bool {
    matches!(net, IpNet::V6(_))
}

const fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits() as u128,
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn address(number: u128, is_v6: bool) -> IpAddr {
    match u32::try_from(number) {
        Ok(number) if !is_v6 => Ipv4Addr::from_bits(number).into(),
        _ => Ipv6Addr::from_bits(number).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_gap_is_found_however_small() {
        for (net, inner, expected) in [
            ("10.0.0.0/24", "", Some("10.0.0.1")),
            ("10.0.0.7/32", "", Some("10.0.0.7")),
            ("10.0.0.0/31", "10.0.0.1/32", Some("10.0.0.0")),
            ("10.0.0.0/30", "10.0.0.0/31 10.0.0.2/31", None),
            ("10.0.0.0/30", "10.0.0.0/31 10.0.0.3/32 10.0.0.1/32", Some("10.0.0.2")),
            ("0.0.0.0/0", "0.0.0.0/1 128.0.0.0/2", Some("192.0.0.0")),
            ("0.0.0.0/0", "0.0.0.0/1 128.0.0.0/1", None),
            ("::/0", "::/1 8000::/1", None),
            ("::/0", "::/1 10.0.0.0/8", Some("8000::")),
            ("2001:db8::/32", "2001:db8::/48 fd00::/8", Some("2001:db8:1::")),
            ("255.255.255.254/31", "255.255.255.255/32", Some("255.255.255.254")),
        ] {
            let inner: Vec<IpNet> = inner.split(' ').filter_map(|net| net.parse().ok()).collect();
            let found = free(&net.parse().unwrap(), &inner);
            assert_eq!(
                found,
                expected.map(|text| text.parse().unwrap()),
                "{net} without {inner:?}"
            );
        }
    }
}
