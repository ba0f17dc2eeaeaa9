//! Matches and actions as expressions.

use std::collections::BTreeSet;

use calico_core::dataplane::HostSettings;
use calico_core::key::Family;
use ipnet::IpNet;

use super::names;
use crate::nft::wire::{CmpOp, CtKey, Element, Expr, KeyType, MetaKey, PayloadBase, Reg, Verdict};
use crate::nft::{SetDef, SetSpec};

/// Bits of `ct state`.
pub(super) const CT_INVALID: u32 = 1;
const CT_ESTABLISHED: u32 = 2;
pub(super) const CT_ESTABLISHED_RELATED: u32 = 2 | 4;

/// IANA protocol numbers.
pub(super) const ICMP: u8 = 1;
pub(super) const IPIP: u8 = 4;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const ICMPV6: u8 = 58;

/// Which end of the packet a match is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Source,
    Destination,
}

/// A set that a rule needs and that is named by its content.
pub(super) type Constant = (String, SetDef);

pub(super) fn meta(key: MetaKey) -> Expr {
    Expr::Meta { key, dreg: Reg::R0 }
}

pub(super) fn compare(op: CmpOp, value: impl Into<Vec<u8>>) -> Expr {
    Expr::Cmp { sreg: Reg::R0, op, value: value.into() }
}

pub(super) fn family(family: Family) -> [Expr; 2] {
    // NFPROTO_IPV4, NFPROTO_IPV6
    let number = match family {
        Family::V4 => 2,
        Family::V6 => 10,
    };
    [meta(MetaKey::NfProto), compare(CmpOp::Eq, [number])]
}

pub(super) fn protocol(op: CmpOp, protocol: u8) -> [Expr; 2] {
    [meta(MetaKey::L4Proto), compare(op, [protocol])]
}

/// The interface's name starts so.
pub(super) fn interface(key: MetaKey, prefix: &str) -> [Expr; 2] {
    [meta(key), compare(CmpOp::Eq, prefix)]
}

/// The interface's name does not start so.
pub(super) fn other_interface(key: MetaKey, prefix: &str) -> [Expr; 2] {
    [meta(key), compare(CmpOp::Neq, prefix)]
}

/// Loads an address into word 0 and following.
pub(super) fn address(family: Family, end: End) -> Expr {
    let (offset, len) = match (family, end) {
        (Family::V4, End::Source) => (12, 4),
        (Family::V4, End::Destination) => (16, 4),
        (Family::V6, End::Source) => (8, 16),
        (Family::V6, End::Destination) => (24, 16),
    };
    Expr::Payload { base: PayloadBase::Network, offset, len, dreg: Reg::R0 }
}

/// Loads a port.
pub(super) fn port(end: End, word: u8) -> Expr {
    let offset = match end {
        End::Source => 0,
        End::Destination => 2,
    };
    Expr::Payload { base: PayloadBase::Transport, offset, len: 2, dreg: Reg::Word(word) }
}

pub(super) fn lookup(set: String, inverted: bool) -> Expr {
    Expr::Lookup { set, sreg: Reg::R0, dreg: None, inverted }
}

/// Acts on what the verdict map says about this interface.
pub(super) fn dispatch(key: MetaKey, map: &str) -> Vec<Expr> {
    let dreg = Some(Reg::Verdict);
    vec![meta(key), Expr::Lookup { set: map.to_owned(), sreg: Reg::R0, dreg, inverted: false }]
}

/// Address, protocol and port together are in the set (or not).
pub(super) fn address_port(family: Family, end: End, set: String, inverted: bool) -> Vec<Expr> {
    let after = match family {
        Family::V4 => 1,
        Family::V6 => 4,
    };
    let protocol = Expr::Meta { key: MetaKey::L4Proto, dreg: Reg::Word(after) };
    vec![address(family, end), protocol, port(end, after + 1), lookup(set, inverted)]
}

/// Acts on what the verdict map says about incoming interface and source address together.
pub(super) fn dispatch_source(family: Family, map: String) -> Vec<Expr> {
    let dreg = Some(Reg::Verdict);
    let act = Expr::Lookup { set: map, sreg: Reg::R0, dreg, inverted: false };
    // Behind the 16 bytes of the name.
    vec![meta(MetaKey::IifName), source_at(family, 4), act]
}

/// Number of the incoming interface and source address together are in the set.
pub(super) fn source_among(family: Family, set: String) -> Vec<Expr> {
    vec![meta(MetaKey::Iif), source_at(family, 1), lookup(set, false)]
}

/// Loads the source into this word and following.
fn source_at(family: Family, word: u8) -> Expr {
    let mut source = address(family, End::Source);
    if let Expr::Payload { dreg, .. } = &mut source {
        *dreg = Reg::Word(word);
    }
    source
}

/// The source is a link-local address of IPv6 (RFC 4291: fe80::/10).
pub(super) fn source_on_link() -> Vec<Expr> {
    let mut mask = vec![0; 16];
    (mask[0], mask[1]) = (0xff, 0xc0);
    let mut link_local = vec![0; 16];
    (link_local[0], link_local[1]) = (0xfe, 0x80);
    vec![
        address(Family::V6, End::Source),
        Expr::Bitwise { sreg: Reg::R0, dreg: Reg::R0, mask, xor: vec![0; 16] },
        compare(CmpOp::Eq, link_local),
    ]
}

/// The loaded value lies in one of the ranges (or in none). Ranges are merged and sorted; `None`
/// when nothing can match. Several ranges need a set, which is returned.
pub(super) fn in_ranges(
    load: Expr,
    key: KeyType,
    ranges: &[(u128, u128)],
    negated: bool,
) -> Option<(Vec<Expr>, Option<Constant>)> {
    let bytes = |value: u128| value.to_be_bytes()[16 - key.size()..].to_vec();
    let highest = u128::MAX >> (128 - 8 * key.size());
    match ranges {
        [] if negated => Some((Vec::new(), None)),
        [] => None,
        [(0, last)] if *last == highest => (!negated).then(|| (Vec::new(), None)),
        [(first, last)] if first == last => {
            let op = if negated { CmpOp::Neq } else { CmpOp::Eq };
            Some((vec![load, compare(op, bytes(*first))], None))
        }
        [(first, last)] => {
            let (from, to) = (bytes(*first), bytes(*last));
            Some((vec![load, Expr::Range { sreg: Reg::R0, negated, from, to }], None))
        }
        _ => {
            let elements: BTreeSet<_> = ranges
                .iter()
                .map(|(first, last)| Element {
                    key_end: Some(bytes(*last)),
                    ..Element::key(bytes(*first))
                })
                .collect();
            let constant = constant(SetSpec::intervals(key), elements);
            Some((vec![load, lookup(constant.0.clone(), negated)], Some(constant)))
        }
    }
}

/// The packet's end is in this range (or not). A prefix is compared as far as it goes.
pub(super) fn in_range(
    family: Family,
    end: End,
    (first, last): (u128, u128),
    negated: bool,
) -> Vec<Expr> {
    let size = super::lower::address_key(family).size();
    let bytes = |value: u128, len: usize| value.to_be_bytes()[16 - size..][..len].to_vec();
    let op = if negated { CmpOp::Neq } else { CmpOp::Eq };
    let mut load = address(family, end);
    // Of a prefix, all bits behind it differ between its first and its last address.
    let differing = first ^ last;
    let is_prefix = differing & differing.wrapping_add(1) == 0 && first & differing == 0;
    let same =
        size - usize::try_from(u128::BITS - differing.leading_zeros()).unwrap_or(0).div_ceil(8);
    if !is_prefix || same == 0 {
        let (from, to) = (bytes(first, size), bytes(last, size));
        return vec![load, Expr::Range { sreg: Reg::R0, negated, from, to }];
    }
    if differing.trailing_ones() % 8 == 0 {
        if let Expr::Payload { len, .. } = &mut load {
            *len = u32::try_from(same).unwrap_or(u32::MAX);
        }
        return vec![load, compare(op, bytes(first, same))];
    }
    let mask = Expr::Bitwise {
        sreg: Reg::R0,
        dreg: Reg::R0,
        mask: bytes(!differing, size),
        xor: vec![0; size],
    };
    vec![load, mask, compare(op, bytes(first, size))]
}

/// Protocol and destination (or source) port together are one of these.
pub(super) fn protocol_port(
    end: End,
    ports: impl IntoIterator<Item = (u8, u16)>,
) -> (Vec<Expr>, Constant) {
    let key = |(protocol, port): (u8, u16)| {
        let [high, low] = port.to_be_bytes();
        Element::key([protocol, 0, 0, 0, high, low, 0, 0])
    };
    let elements = ports.into_iter().map(key).collect();
    let constant = constant(SetSpec::set([KeyType::Proto, KeyType::Service]), elements);
    let match_ = vec![meta(MetaKey::L4Proto), port(end, 1), lookup(constant.0.clone(), false)];
    (match_, constant)
}

/// The connection's destination was translated.
pub(super) fn ct_translated(translated: bool) -> Vec<Expr> {
    // `IPS_DST_NAT` of linux/netfilter/nf_conntrack_common.h.
    let mut match_ = vec![Expr::Ct { key: CtKey::Status, dreg: Reg::R0 }];
    match_.extend(masked(1 << 5));
    match_.push(compare(if translated { CmpOp::Neq } else { CmpOp::Eq }, [0; 4]));
    match_
}

/// A set of single values.
pub(super) fn constant_of(key: KeyType, values: &[u8]) -> Constant {
    constant(SetSpec::set([key]), values.iter().map(|value| Element::key([*value])).collect())
}

fn constant(spec: SetSpec, elements: BTreeSet<Element>) -> Constant {
    let mut content = format!("{spec:?}").into_bytes();
    for element in &elements {
        content.extend_from_slice(&element.key);
        content.extend_from_slice(element.key_end.as_deref().unwrap_or_default());
    }
    (names::constant(&content), SetDef { spec, elements })
}

/// The packet's end is at no node of the cluster (or at one).
pub(super) fn at_node(family: Family, end: End, host: &HostSettings, at: bool) -> Vec<Vec<Expr>> {
    let sets = [names::ALL_NODES, names::EXTERNAL_NODES];
    let has_some = |name: &&str| {
        *name == names::ALL_NODES
            || host.external_nodes.iter().any(|net| Family::of_net(net) == family)
    };
    let lookups = sets
        .into_iter()
        .filter(has_some)
        .map(|name| vec![address(family, end), lookup(names::set(name, family), !at)]);
    // In one of the sets: a rule for each. In none of them: one rule for all.
    if at { lookups.collect() } else { vec![lookups.flatten().collect()] }
}

/// The packet goes to outside of all pools and nodes.
pub(super) fn leaves_cluster(family: Family, host: &HostSettings) -> Vec<Expr> {
    let pools = names::set(names::ALL_POOLS, family);
    let mut match_ = vec![address(family, End::Destination), lookup(pools, true)];
    match_.extend(at_node(family, End::Destination, host, false).concat());
    match_
}

/// The ranges of the prefixes of one family, merged.
pub(super) fn net_ranges<'a>(
    family: Family,
    nets: impl IntoIterator<Item = &'a IpNet>,
) -> Vec<(u128, u128)> {
    merge(nets.into_iter().filter(|net| Family::of_net(net) == family).map(|net| match net {
        IpNet::V4(net) => (u32::from(net.network()).into(), u32::from(net.broadcast()).into()),
        IpNet::V6(net) => (net.network().into(), net.broadcast().into()),
    }))
}

/// Sorts ranges and merges those that overlap or touch: the kernel's interval sets take only
/// disjoint ones.
pub(super) fn merge(ranges: impl Iterator<Item = (u128, u128)>) -> Vec<(u128, u128)> {
    let mut sorted: Vec<_> = ranges.collect();
    sorted.sort_unstable();
    let mut merged: Vec<(u128, u128)> = Vec::with_capacity(sorted.len());
    for (first, last) in sorted {
        match merged.last_mut() {
            Some(open) if first <= open.1.saturating_add(1) => open.1 = open.1.max(last),
            _ => merged.push((first, last)),
        }
    }
    merged
}

/// The connection is in one of these states.
pub(super) fn ct_state(bits: u32) -> Vec<Expr> {
    let mut match_ = vec![Expr::Ct { key: CtKey::State, dreg: Reg::R0 }];
    match_.extend(masked(bits));
    match_.push(compare(CmpOp::Neq, [0; 4]));
    match_
}

/// The packet is of no established connection. The state is one bit, so that one comparison
/// tells.
pub(super) fn not_established() -> [Expr; 2] {
    let state = Expr::Ct { key: CtKey::State, dreg: Reg::R0 };
    [state, compare(CmpOp::Neq, CT_ESTABLISHED.to_ne_bytes())]
}

/// The connection's mark has this bit, or lacks it.
pub(super) fn ct_mark(bit: u32, set: bool) -> Vec<Expr> {
    let mut match_ = vec![Expr::Ct { key: CtKey::Mark, dreg: Reg::R0 }];
    match_.extend(masked(bit));
    match_.push(compare(if set { CmpOp::Neq } else { CmpOp::Eq }, [0; 4]));
    match_
}

/// All of these mark bits are clear, or the one bit is set.
pub(super) fn mark(bits: u32, set: bool) -> Vec<Expr> {
    let mut match_ = vec![meta(MetaKey::Mark)];
    match_.extend(masked(bits));
    match_.push(compare(if set { CmpOp::Neq } else { CmpOp::Eq }, [0; 4]));
    match_
}

/// Sets or clears mark bits, leaving the others alone.
pub(super) fn change_mark(bits: u32, set: bool) -> Vec<Expr> {
    if set { change_marks(0, bits) } else { change_marks(bits, 0) }
}

/// Clears some mark bits and sets others, leaving the rest alone.
pub(super) fn change_marks(clear: u32, set: u32) -> Vec<Expr> {
    vec![
        meta(MetaKey::Mark),
        Expr::Bitwise {
            sreg: Reg::R0,
            dreg: Reg::R0,
            mask: (!(clear | set)).to_ne_bytes().to_vec(),
            xor: set.to_ne_bytes().to_vec(),
        },
        Expr::MetaSet { key: MetaKey::Mark, sreg: Reg::R0 },
    ]
}

/// Counts, reports and drops.
pub(super) fn drop_logged(group: u16, prefix: String) -> Vec<Expr> {
    vec![Expr::COUNTER, Expr::NfLog { group, prefix, snaplen: None }, Expr::Verdict(Verdict::Drop)]
}

fn masked(bits: u32) -> [Expr; 1] {
    [Expr::Bitwise {
        sreg: Reg::R0,
        dreg: Reg::R0,
        mask: bits.to_ne_bytes().to_vec(),
        xor: vec![0; 4],
    }]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_merge() {
        let nets: Vec<IpNet> =
            ["10.1.0.0/16", "10.0.0.0/16", "10.1.2.0/24", "fd00::/8", "1.1.1.1/32"]
                .map(|net| net.parse().unwrap())
                .into();
        assert_eq!(
            net_ranges(Family::V4, &nets),
            [(0x0101_0101, 0x0101_0101), (0x0a00_0000, 0x0a01_ffff)]
        );
        assert_eq!(merge([(5, u128::MAX), (0, 4)].into_iter()), [(0, u128::MAX)]);
    }

    #[test]
    fn prefixes_are_compared_as_far_as_they_go() {
        let of = |family, net: &str, negated| {
            let net: IpNet = net.parse().unwrap();
            in_range(family, End::Source, net_ranges(family, [&net])[0], negated)
        };
        let load =
            |offset, len| Expr::Payload { base: PayloadBase::Network, offset, len, dreg: Reg::R0 };
        let v4 = Family::V4;
        assert_eq!(of(v4, "10.65.0.0/16", false), [load(12, 2), compare(CmpOp::Eq, [10, 65])]);
        assert_eq!(of(v4, "1.2.3.4/32", true), [load(12, 4), compare(CmpOp::Neq, [1, 2, 3, 4])]);
        let mask = vec![255, 192, 0, 0];
        let masked = Expr::Bitwise { sreg: Reg::R0, dreg: Reg::R0, mask, xor: vec![0; 4] };
        assert_eq!(
            of(v4, "10.64.0.0/10", false),
            [load(12, 4), masked, compare(CmpOp::Eq, [10, 64, 0, 0])]
        );
        assert_eq!(of(Family::V6, "fd00::/8", false), [load(8, 1), compare(CmpOp::Eq, [0xfd])]);
        let range = |from, to| Expr::Range { sreg: Reg::R0, negated: false, from, to };
        for (first, last) in [(5, 8), (0, u128::from(u32::MAX)), (1, 2)] {
            let bytes = |value: u128| value.to_be_bytes()[12..].to_vec();
            assert_eq!(
                in_range(v4, End::Source, (first, last), false),
                [load(12, 4), range(bytes(first), bytes(last))]
            );
        }
    }

    #[test]
    fn one_range_needs_no_set_and_none_never_matches() {
        let load = || port(End::Destination, 0);
        let of =
            |ranges: &[(u128, u128)], negated| in_ranges(load(), KeyType::Service, ranges, negated);
        assert_eq!(of(&[], false), None);
        assert_eq!(of(&[], true), Some((vec![], None)));
        assert_eq!(of(&[(0, 65535)], false), Some((vec![], None)));
        assert_eq!(of(&[(0, 65535)], true), None);
        let (match_, set) = of(&[(80, 80)], false).unwrap();
        assert_eq!((match_.len(), set), (2, None));
        let (_, set) = of(&[(80, 80), (90, 99)], false).unwrap();
        assert_eq!(set.unwrap().1.elements.len(), 2);
    }
}
