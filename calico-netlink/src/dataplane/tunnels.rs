//! Packets that nodes wrap for each other (VXLAN, IP-in-IP): taken from nodes alone, for what is
//! inside was judged where it was wrapped; let through to nodes whatever policy of host endpoints
//! says; and VXLAN is not tracked, for it would be one connection for each flow inside.

use calico_core::dataplane::{HostSettings, Tunnels};
use calico_core::key::Family;

use super::elements::interface_key;
use super::matches::{self, End};
use super::names;
use super::translate;
use crate::nft::RuleDef;
use crate::nft::wire::{CmpOp, Expr, MetaKey, Reg, Verdict, fib};

/// `RTN_LOCAL`: an address of this host.
const LOCAL: u32 = 2;

/// Devices of tunnels, as upstream names them.
const VXLAN_V4: &str = "vxlan.calico";
const VXLAN_V6: &str = "vxlan-v6.calico";
const IPIP: &str = "tunl0";

/// A way of wrapping that is in use.
struct Way {
    identity: &'static str,
    family: Family,
    device: &'static str,
    match_: Vec<Expr>,
}

fn ways(host: &HostSettings) -> Vec<Way> {
    let Tunnels { vxlan_v4, vxlan_v6, ipip } = host.tunnels;
    let vxlan = |family, device| {
        let mut match_ = vxlan(host.vxlan_port);
        match_.extend(matches::family(family));
        Way { identity: "VXLAN", family, device, match_ }
    };
    let mut ways = Vec::new();
    if vxlan_v4 {
        ways.push(vxlan(Family::V4, VXLAN_V4));
    }
    if vxlan_v6 {
        ways.push(vxlan(Family::V6, VXLAN_V6));
    }
    if ipip {
        let mut match_ = matches::protocol(CmpOp::Eq, matches::IPIP).to_vec();
        match_.extend(matches::family(Family::V4));
        ways.push(Way { identity: "IPIP", family: Family::V4, device: IPIP, match_ });
    }
    ways
}

fn vxlan(port: u16) -> Vec<Expr> {
    let mut match_ = matches::protocol(CmpOp::Eq, matches::UDP).to_vec();
    match_.push(matches::port(End::Destination, 0));
    match_.push(matches::compare(CmpOp::Eq, port.to_be_bytes()));
    match_
}

/// The devices of tunnels that are in use.
pub(super) fn devices(host: &HostSettings) -> impl Iterator<Item = &'static str> {
    ways(host).into_iter().map(|way| way.device)
}

/// Whether VXLAN is in use, over any family.
pub(super) fn has_vxlan(host: &HostSettings) -> bool {
    host.tunnels.vxlan_v4 || host.tunnels.vxlan_v6
}

/// Before connection tracking: packets from nodes.
pub(super) fn untracked_in(host: &HostSettings) -> Vec<RuleDef> {
    untracked(host, End::Source)
}

/// Before connection tracking: packets to nodes. Others meet policy as any packet does.
pub(super) fn untracked_out(host: &HostSettings) -> Vec<RuleDef> {
    untracked(host, End::Destination)
}

fn untracked(host: &HostSettings, peer: End) -> Vec<RuleDef> {
    let vxlan = ways(host).into_iter().filter(|way| way.device != IPIP);
    let rules = vxlan.flat_map(|way| {
        let at_node = matches::at_node(way.family, peer, host, true);
        at_node.into_iter().map(move |at_node| {
            let expressions = [&way.match_[..], &at_node, &[Expr::NoTrack]].concat();
            rule(format!("{} between nodes is not tracked", way.identity), expressions)
        })
    });
    rules.collect()
}

/// Before all else that is for the host: packets that are wrapped, and not by a node.
pub(super) fn drop_foreign(host: &HostSettings) -> Vec<RuleDef> {
    let rules = ways(host).into_iter().map(|way| {
        let mut expressions = way.match_;
        expressions.extend(matches::at_node(way.family, End::Source, host, false).concat());
        let prefix = names::FOREIGN_TUNNEL.to_owned();
        expressions.extend(matches::drop_logged(names::GROUP_INGRESS, prefix));
        rule(format!("{} that is not from a node", way.identity), expressions)
    });
    rules.collect()
}

/// Those that are left are from nodes, and no policy of host endpoints is for them.
pub(super) fn accept_in(host: &HostSettings) -> Vec<RuleDef> {
    let rules = ways(host).into_iter().map(|way| {
        let mut expressions = way.match_;
        expressions.extend([Expr::COUNTER, Expr::Verdict(Verdict::Accept)]);
        rule(format!("{} from a node", way.identity), expressions)
    });
    rules.collect()
}

/// What this host wraps for other nodes.
pub(super) fn accept_out(host: &HostSettings) -> Vec<RuleDef> {
    let rules = ways(host).into_iter().flat_map(|way| {
        let at_node = matches::at_node(way.family, End::Destination, host, true);
        at_node.into_iter().map(move |at_node| {
            let accept = [Expr::COUNTER, Expr::Verdict(Verdict::Accept)];
            let expressions = [&way.match_[..], &at_node, &accept].concat();
            rule(format!("{} to a node", way.identity), expressions)
        })
    });
    rules.collect()
}

/// What the host sends into a tunnel from another of its addresses than the tunnel's gets that one:
/// answers to others would not come back through the tunnel. A service's translation, say, comes
/// after the choice of the source.
pub(super) fn masquerade_into(host: &HostSettings) -> Vec<RuleDef> {
    let rules = ways(host).into_iter().map(|way| {
        let device = matches::compare(CmpOp::Eq, interface_key(way.device));
        let mut expressions = vec![matches::meta(MetaKey::OifName), device];
        expressions.extend(matches::family(way.family));
        expressions.extend(source_is_local(fib::OIF, CmpOp::Neq));
        expressions.extend(source_is_local(0, CmpOp::Eq));
        expressions.push(Expr::COUNTER);
        expressions.extend(translate::masquerade());
        rule(format!("masquerade into {}", way.device), expressions)
    });
    rules.collect()
}

/// The source is an address of this host; with [`fib::OIF`]: of the outgoing interface.
fn source_is_local(interface: u32, op: CmpOp) -> [Expr; 2] {
    let (dreg, result, flags) = (Reg::R0, fib::RESULT_TYPE, fib::SADDR | interface);
    [Expr::Fib { dreg, result, flags }, matches::compare(op, LOCAL.to_ne_bytes())]
}

fn rule(identity: String, expressions: Vec<Expr>) -> RuleDef {
    RuleDef { identity, expressions }
}
