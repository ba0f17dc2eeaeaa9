//! The chains of a host endpoint: one for each stage of a packet's way and each direction in
//! which policies have a say.

use std::collections::BTreeMap;

use calico_core::dataplane::{
    Direction, Failsafe, HostEndpoint, HostSettings, RuleOwner, TierPolicies,
};
use calico_core::key::Family;
use ipnet::IpNet;

use super::endpoint::{Rendered, TierEnd, policies, then};
use super::lower::address_key;
use super::matches::{self, CT_ESTABLISHED_RELATED, Constant, End};
use super::names;
use super::style::{Marks, Style};
use crate::nft::wire::{CmpOp, Expr, KeyType, MetaKey, PayloadBase, Reg, Verdict};
use crate::nft::{ChainDef, RuleDef};

/// A stage of a packet's way through a host, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// Before connection tracking.
    Untracked,
    /// Before destinations are translated.
    PreDnat,
    /// Packets of the host itself.
    Local,
    /// Packets that the host forwards.
    Forward,
}

impl Stage {
    pub(super) const ALL: [Self; 4] = [Self::Untracked, Self::PreDnat, Self::Local, Self::Forward];

    /// The policies of this stage.
    pub(super) fn tiers(self, endpoint: &HostEndpoint) -> &[TierPolicies] {
        match self {
            Self::Untracked => &endpoint.untracked,
            Self::PreDnat => &endpoint.pre_dnat,
            Self::Local => &endpoint.local,
            Self::Forward => &endpoint.forward,
        }
    }
}

/// ICMPv6 without which no port of a host is reached: router and neighbour solicitation and
/// advertisement (RFC 4861).
const NEIGHBOUR_DISCOVERY: [u8; 4] = [133, 134, 135, 136];

/// The key by which packets in this direction find their host endpoint.
pub(super) fn interface_of(direction: Direction) -> MetaKey {
    match direction {
        Direction::Ingress => MetaKey::IifName,
        Direction::Egress => MetaKey::OifName,
    }
}

/// Policies and profiles that the endpoint's chains jump to.
pub(super) fn owners(
    endpoint: &HostEndpoint,
    stage: Stage,
    direction: Direction,
) -> impl Iterator<Item = RuleOwner> {
    let policies = stage.tiers(endpoint).iter().flat_map(move |tier| policies(tier, direction));
    let profiles = endpoint.profiles.iter().filter(move |_| stage == Stage::Local);
    let profiles = profiles.cloned().map(RuleOwner::Profile);
    policies.cloned().map(RuleOwner::Policy).chain(profiles)
}

/// The chain of the endpoint at this stage; `None` where no policy has a say. `known` tells which
/// policies and profiles have rules: without those of a policy nothing passes but failsafe ports,
/// for we cannot tell what it would have denied.
pub(super) fn chain(
    endpoint: &HostEndpoint,
    stage: Stage,
    direction: Direction,
    host: &HostSettings,
    known: impl Fn(&RuleOwner) -> bool,
) -> Option<Rendered> {
    let tiers = stage.tiers(endpoint);
    let has_policies = tiers.iter().any(|tier| !policies(tier, direction).is_empty());
    if stage != Stage::Local && !has_policies {
        return None;
    }
    let mut rendered = Rendered::default();
    if matches!(stage, Stage::Local | Stage::Forward) {
        rendered.connection(host);
    }
    if stage != Stage::Forward {
        let failsafe = names::failsafe(stage == Stage::Untracked, direction).to_owned();
        rendered.push("", then(Vec::new(), Verdict::Jump(failsafe)));
    }
    let mut owners = owners(endpoint, stage, direction);
    let missing = owners.find(|o| matches!(o, RuleOwner::Policy(_)) && !known(o));
    if let Some(missing) = missing {
        let drop = vec![Expr::COUNTER, Expr::Verdict(Verdict::Drop)];
        rendered.push(&format!("{missing} is not known"), drop);
        return Some(rendered);
    }
    let style = Style::at_host(host);
    let Marks { accept, pass, host, .. } = style.marks;
    rendered.push("", matches::change_marks(accept | pass, host));
    let untracked = &[Expr::NoTrack];
    match stage {
        Stage::Untracked => rendered.tiers(style, tiers, direction, TierEnd::Idle, untracked),
        Stage::PreDnat => rendered.tiers(style, tiers, direction, TierEnd::Idle, &[]),
        Stage::Forward => rendered.tiers(style, tiers, direction, TierEnd::Acts, &[]),
        Stage::Local => {
            rendered.tiers(style, tiers, direction, TierEnd::Acts, &[]);
            rendered.profiles(style, &endpoint.profiles, direction, known);
        }
    }
    Some(rendered)
}

/// Leads to the chains of host endpoints by interface, and from all others to that for all
/// interfaces, if there is one.
pub(super) fn dispatch(stage: Stage, direction: Direction, to_all: bool) -> ChainDef {
    let name = names::host_dispatch(stage, direction);
    let mut rules = vec![rule("", matches::dispatch(interface_of(direction), name))];
    if to_all {
        let chain = names::host_chain(stage, direction, None);
        rules.push(rule("", vec![Expr::Verdict(Verdict::Goto(chain))]));
    }
    ChainDef { base: None, rules }
}

/// Accepts what stays open whatever policy says. Before connection tracking the answers to what
/// the other direction lets through are not known as such, so they pass by their source port.
pub(super) fn failsafe(
    host: &HostSettings,
    untracked: bool,
    direction: Direction,
) -> (ChainDef, Vec<Constant>) {
    let (own, others, peer) = match direction {
        Direction::Ingress => (&host.failsafe_inbound, &host.failsafe_outbound, End::Source),
        Direction::Egress => (&host.failsafe_outbound, &host.failsafe_inbound, End::Destination),
    };
    let identity = format!("failsafe {direction}");
    let (mut rules, mut constants) = (Vec::new(), Vec::new());
    let mut accept = |mut match_: Vec<Expr>| {
        match_.extend([Expr::COUNTER, Expr::Verdict(Verdict::Accept)]);
        rules.push(rule(&identity, match_));
    };
    let mut ports = |list: &[Failsafe], end: End| {
        let mut by_net: BTreeMap<Option<IpNet>, Vec<(u8, u16)>> = BTreeMap::new();
        for port in list {
            by_net.entry(port.net).or_default().push((port.protocol, port.port));
        }
        for (net, ports) in by_net {
            let mut expressions = Vec::new();
            if let Some(net) = net {
                let family = Family::of_net(&net);
                expressions.extend(matches::family(family));
                let ranges = matches::net_ranges(family, [&net]);
                let load = matches::address(family, peer);
                let inside = matches::in_ranges(load, address_key(family), &ranges, false);
                let Some((inside, _)) = inside else { continue };
                expressions.extend(inside);
            }
            let (match_, constant) = matches::protocol_port(end, ports);
            expressions.extend(match_);
            constants.push(constant);
            accept(expressions);
        }
    };
    ports(own, End::Destination);
    if untracked {
        ports(others, End::Source);
    }
    let mut discovery = matches::family(Family::V6).to_vec();
    discovery.extend(matches::protocol(CmpOp::Eq, matches::ICMPV6));
    let types = matches::constant_of(KeyType::Icmp6Type, &NEIGHBOUR_DISCOVERY);
    discovery.extend([
        Expr::Payload { base: PayloadBase::Transport, offset: 0, len: 1, dreg: Reg::R0 },
        matches::lookup(types.0.clone(), false),
    ]);
    constants.push(types);
    accept(discovery);
    (ChainDef { base: None, rules }, constants)
}

/// In `filter`: what an earlier stage accepted meets no policy of the host again.
pub(super) fn accept_accepted(marks: Marks) -> RuleDef {
    rule("accepted earlier", then(matches::mark(marks.accept, true), Verdict::Accept))
}

/// Nothing of what other chains, or an earlier way of the packet through them, left in our bits.
pub(super) fn clear_marks(marks: Marks) -> RuleDef {
    rule("", matches::change_mark(marks.accept | marks.pass | marks.host, false))
}

/// Connections that go on met the policies before destinations are translated at their start.
pub(super) fn accept_established() -> RuleDef {
    rule("established", then(matches::ct_state(CT_ESTABLISHED_RELATED), Verdict::Accept))
}

/// Leads to the dispatch of a stage, with these matches before it.
pub(super) fn jump(stage: Stage, direction: Direction, match_: Vec<Expr>) -> RuleDef {
    let to = names::host_dispatch(stage, direction).to_owned();
    rule("", then(match_, Verdict::Jump(to)))
}

fn rule(identity: &str, expressions: Vec<Expr>) -> RuleDef {
    RuleDef { identity: identity.to_owned(), expressions }
}
