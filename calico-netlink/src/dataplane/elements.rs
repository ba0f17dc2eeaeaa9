//! Members of sets as the kernel keeps them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use calico_core::dataplane::SetMember;
use calico_core::key::Family;
use ipnet::IpNet;

use super::lower::address_key;
use super::matches;
use crate::nft::wire::{Element, KeyType};

/// The kernel compares whole names, padded with NUL to `IFNAMSIZ`.
pub(super) fn interface_key(interface: &str) -> Vec<u8> {
    let mut key = interface.as_bytes().to_vec();
    key.resize(KeyType::IfName.size(), 0);
    key
}

/// The prefix, of a member that is one.
pub(super) fn net(member: &SetMember) -> Option<IpNet> {
    match member {
        SetMember::Net(net) => Some(net.trunc()),
        SetMember::Port { .. } => None,
    }
}

/// The prefixes of one family, merged to ranges that do not overlap.
pub(super) fn net_elements<'a>(
    family: Family,
    nets: impl IntoIterator<Item = &'a IpNet>,
) -> BTreeSet<Element> {
    let len = address_key(family).size();
    let bytes = |value: u128| value.to_be_bytes()[16 - len..].to_vec();
    let ranges = matches::net_ranges(family, nets);
    let element = |(first, last): (u128, u128)| Element {
        key_end: Some(bytes(last)),
        ..Element::key(bytes(first))
    };
    ranges.into_iter().map(element).collect()
}

/// The member as an element of its family's set, if it is of that family.
pub(super) fn element(family: Family, member: &SetMember) -> Option<Element> {
    match member {
        SetMember::Net(net) => {
            (Family::of_net(net) == family).then(|| Element::key(address_bytes(net.addr())))
        }
        SetMember::Port { address, protocol, port } => {
            (Family::of(*address) == family).then(|| {
                // Each field is padded to four bytes.
                let [high, low] = port.to_be_bytes();
                let mut key = address_bytes(*address);
                key.extend_from_slice(&[*protocol, 0, 0, 0, high, low, 0, 0]);
                Element::key(key)
            })
        }
    }
}

/// An address as the kernel keeps it.
pub(super) fn address_bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}
