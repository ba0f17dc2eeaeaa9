//! Chains that translate addresses: floating ones, and outgoing traffic of pools; and the one
//! against packets to services that nothing translated.

use std::net::Ipv4Addr;

use calico_core::dataplane::{
    HostSettings, OutgoingNat, Pool, PortRange, ServiceLoop, Translation,
};
use calico_core::key::Family;

use super::elements::{address_bytes, interface_key};
use super::matches::{self, End};
use super::names;
use crate::nft::wire::{CmpOp, Expr, MetaKey, NatKind, Reg, RejectKind, Verdict, nat};
use crate::nft::{ChainDef, RuleDef};

/// `NFT_REJECT_ICMPX_HOST_UNREACH`.
const HOST_UNREACHABLE: u8 = 2;

/// More ranges than these are looked up in their set: the kernel searches a tree for that, which costs
/// it as much as some comparisons.
const FEW: usize = 3;

/// Outgoing traffic of pools gets the address of the interface by which it leaves, or what the
/// settings say. Every first packet of a connection meets this, whether it is of a workload or not.
pub(super) fn nat_outgoing(host: &HostSettings, pools: &[Pool]) -> ChainDef {
    let OutgoingNat { address, ports, interface } = &host.outgoing_nat;
    let of_family = |family| {
        let all = matches::net_ranges(family, pools.iter().map(|pool| &pool.cidr));
        let masqueraded = pools.iter().filter(|pool| pool.nat_outgoing);
        let sources = matches::net_ranges(family, masqueraded.map(|pool| &pool.cidr));
        if sources.is_empty() {
            return Vec::new();
        }
        let mut expressions = matches::family(family).to_vec();
        if let Some(name) = interface {
            expressions.extend(leaves_by(name));
        }
        let look_up = |end, set, inverted| {
            vec![matches::address(family, end), matches::lookup(names::set(set, family), inverted)]
        };
        expressions.extend(match &sources[..] {
            [range] => matches::in_range(family, End::Source, *range, false),
            _ => look_up(End::Source, names::MASQUERADED_POOLS, false),
        });
        if all.len() <= FEW {
            let outside = |range| matches::in_range(family, End::Destination, range, true);
            expressions.extend(all.into_iter().flat_map(outside));
        } else {
            expressions.extend(look_up(End::Destination, names::ALL_POOLS, true));
        }
        if host.masquerade_spares_nodes {
            expressions.extend(matches::at_node(family, End::Destination, host, false).concat());
        }
        let address = address.filter(|_| family == Family::V4);
        let with_ports = ports.iter().flat_map(|ports| {
            [matches::TCP, matches::UDP].map(|protocol| (Some(protocol), Some(*ports)))
        });
        let ways = with_ports.chain([(None, None)]);
        ways.map(move |(protocol, ports)| {
            let mut expressions = expressions.clone();
            if let Some(protocol) = protocol {
                expressions.extend(matches::protocol(CmpOp::Eq, protocol));
            }
            expressions.push(Expr::COUNTER);
            expressions.extend(translate_outgoing(address, ports));
            rule("masquerade outgoing", expressions)
        })
        .collect::<Vec<_>>()
    };
    ChainDef { base: None, rules: Family::BOTH.into_iter().flat_map(of_family).collect() }
}

/// Gets the address of the interface by which it leaves, and any port.
pub(super) fn masquerade() -> Vec<Expr> {
    translate_outgoing(None, None)
}

fn translate_outgoing(address: Option<Ipv4Addr>, ports: Option<PortRange>) -> Vec<Expr> {
    let mut expressions = Vec::new();
    // Behind the word of the address.
    let registers = ports.map(|ports| {
        [(1, ports.first), (2, ports.last)].map(|(word, port)| {
            let value = port.to_be_bytes().to_vec();
            expressions.push(Expr::Immediate { dreg: Reg::Word(word), value });
            Reg::Word(word)
        })
    });
    let ports = registers.map(|[lowest, highest]| (lowest, highest));
    let flags = nat::FULLY_RANDOM;
    match address {
        None => expressions.push(Expr::Masquerade { flags, ports }),
        Some(address) => {
            let (value, addr) = (address.octets().to_vec(), Reg::R0);
            expressions.push(Expr::Immediate { dreg: addr, value });
            expressions.push(Expr::Nat { kind: NatKind::Snat, family: 2, addr, ports, flags });
        }
    }
    expressions
}

/// As in iptables, `+` at the end stands for anything.
fn leaves_by(name: &str) -> Vec<Expr> {
    match name.strip_suffix('+') {
        Some("") => Vec::new(),
        Some(prefix) => matches::interface(MetaKey::OifName, prefix).to_vec(),
        None => {
            vec![matches::meta(MetaKey::OifName), matches::compare(CmpOp::Eq, interface_key(name))]
        }
    }
}

/// Packets to a floating address go to the workload.
pub(super) fn floating_in(all: &[Translation]) -> ChainDef {
    let rule_of = |one: &Translation| {
        let family = Family::of(one.external);
        let mut expressions = to(family, End::Destination, address_bytes(one.external));
        expressions.extend(translate(NatKind::Dnat, family, address_bytes(one.internal)));
        rule(&format!("floating address {}", one.external), expressions)
    };
    ChainDef { base: None, rules: all.iter().map(rule_of).collect() }
}

/// A workload that reaches itself by its floating address hears from that, not from itself.
pub(super) fn floating_out(all: &[Translation]) -> ChainDef {
    let rule_of = |one: &Translation| {
        let family = Family::of(one.external);
        let internal = address_bytes(one.internal);
        let mut expressions = to(family, End::Source, internal.clone());
        expressions.push(matches::address(family, End::Destination));
        expressions.push(matches::compare(CmpOp::Eq, internal));
        expressions.extend(translate(NatKind::Snat, family, address_bytes(one.external)));
        rule(&format!("floating address {} to itself", one.external), expressions)
    };
    ChainDef { base: None, rules: all.iter().map(rule_of).collect() }
}

/// Packets to addresses of services that are forwarded all the same.
pub(super) fn cidr_block(host: &HostSettings) -> Option<ChainDef> {
    let verdict = match host.service_loop {
        ServiceLoop::Allowed => return None,
        _ if host.service_cidrs.is_empty() => return None,
        ServiceLoop::Drop => Expr::Verdict(Verdict::Drop),
        ServiceLoop::Reject => Expr::Reject { kind: RejectKind::Icmpx, code: HOST_UNREACHABLE },
    };
    let rules = Family::BOTH.map(|family| {
        let mut expressions = matches::family(family).to_vec();
        expressions.push(matches::address(family, End::Destination));
        expressions.push(matches::lookup(names::set(names::SERVICES, family), false));
        expressions.extend([Expr::COUNTER, verdict.clone()]);
        rule("service loop prevention", expressions)
    });
    Some(ChainDef { base: None, rules: rules.into() })
}

fn to(family: Family, end: End, address: Vec<u8>) -> Vec<Expr> {
    let mut match_ = matches::family(family).to_vec();
    match_.push(matches::address(family, end));
    match_.push(matches::compare(CmpOp::Eq, address));
    match_
}

fn translate(kind: NatKind, family: Family, address: Vec<u8>) -> [Expr; 3] {
    // NFPROTO_IPV4, NFPROTO_IPV6
    let family = match family {
        Family::V4 => 2,
        Family::V6 => 10,
    };
    [
        Expr::COUNTER,
        Expr::Immediate { dreg: Reg::R0, value: address },
        Expr::Nat { kind, family, addr: Reg::R0, ports: None, flags: 0 },
    ]
}

fn rule(identity: &str, expressions: Vec<Expr>) -> RuleDef {
    RuleDef { identity: identity.to_owned(), expressions }
}
