//! The two chains of an endpoint: which policies judge its packets, and in which order.

use std::sync::Arc;

use calico_core::dataplane::{
    DefaultAction, Direction, HostSettings, PolicyId, Rule, RuleOwner, TierPolicies,
    WorkloadEndpoint,
};
use calico_core::key::Family;
use ipnet::{IpNet, Ipv6Net};

use super::limits::{LimitChains, Limited};
use super::lower::address_key;
use super::matches::{self, Constant, End};
use super::names;
use super::style::{Marks, Style};
use crate::nft::wire::{CmpOp, Expr, Verdict};
use crate::nft::{ChainDef, RuleDef};

/// Link-local sources never leave the link, and neighbour discovery needs them.
const LINK_LOCAL: Ipv6Net =
    Ipv6Net::new_assert(std::net::Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10);

/// What an endpoint's chain holds, and the constant sets it looks up.
#[derive(Debug, Clone, Default)]
pub(super) struct Rendered {
    pub(super) chain: ChainDef,
    pub(super) constants: Vec<Constant>,
    /// Packets of established connections meet nothing else that could keep them.
    pub(super) goes_on: bool,
}

/// Policies and profiles that the endpoint's chain in this direction jumps to, in order.
pub(super) fn owners(
    endpoint: &WorkloadEndpoint,
    direction: Direction,
) -> impl Iterator<Item = RuleOwner> {
    let policies = endpoint.tiers.iter().flat_map(move |tier| policies(tier, direction));
    let profiles = endpoint.profiles.iter().cloned().map(RuleOwner::Profile);
    policies.cloned().map(RuleOwner::Policy).chain(profiles)
}

/// The chain in one direction. `known` tells which policies and profiles have rules: an unknown
/// profile denies all, as does the endpoint when a policy is unknown, for we cannot tell what it
/// would have denied. `open` tells which profiles let everything through, as most do, and by which
/// rule.
pub(super) fn chain<'a>(
    endpoint: &WorkloadEndpoint,
    direction: Direction,
    host: &HostSettings,
    limits: &LimitChains,
    known: impl Fn(&RuleOwner) -> bool,
    open: impl Fn(&RuleOwner) -> Option<&'a Rule>,
) -> Rendered {
    let mut rendered = Rendered::default();
    if let Some(missing) = first_missing_policy(endpoint, direction, &known) {
        let drop = vec![Expr::COUNTER, Expr::Verdict(Verdict::Drop)];
        rendered.push(&format!("{missing} is not known"), drop);
        return rendered;
    }
    rendered.limit(endpoint, direction, Limited::Packets, limits);
    // What is limited on its way to a workload is, before it goes on.
    rendered.goes_on = direction == Direction::Ingress || rendered.chain.rules.is_empty();
    // Before all else: a forged packet is no part of the connection that it pretends to be of.
    if direction == Direction::Egress && !uses_addresses_only(endpoint) {
        rendered.sources(endpoint);
    }
    rendered.connection(host);
    rendered.limit(endpoint, direction, Limited::Connections, limits);
    if direction == Direction::Egress {
        rendered.encapsulation(host);
    }
    let first_profile = endpoint.profiles.first().map(|name| RuleOwner::Profile(name.clone()));
    let judged = endpoint.tiers.iter().any(|tier| !policies(tier, direction).is_empty());
    if !judged && let Some(rule) = first_profile.filter(&known).and_then(|profile| open(&profile)) {
        // Nothing can keep the packet any more: no chain of rules, and no mark to tell what became
        // of it. Who comes back from a packet's sender was allowed.
        let mut allow = vec![Expr::COUNTER];
        if direction == Direction::Ingress {
            allow.push(Expr::Verdict(Verdict::Goto(names::ALLOWED_TO.to_owned())));
        }
        rendered.push(&rule.id.to_string(), allow);
        return rendered;
    }
    let style = Style::of(host);
    let Marks { accept, pass, host, .. } = style.marks;
    rendered.push("", matches::change_mark(accept | pass | host, false));
    rendered.tiers(style, &endpoint.tiers, direction, TierEnd::Acts, &[]);
    rendered.profiles(style, &endpoint.profiles, direction, &known);
    rendered
}

/// Where packets of an endpoint with single addresses come that have none of these as source: those
/// that neighbour discovery needs go on in the endpoint's chain.
pub(super) fn guard(chain: &str) -> Rendered {
    let mut rendered = Rendered::default();
    let mut on_link = matches::family(Family::V6).to_vec();
    on_link.extend(matches::source_on_link());
    rendered.push("", then(on_link, Verdict::Goto(chain.to_owned())));
    rendered.push(FORGED, forged());
    rendered
}

/// Identity of the rules against forged sources.
const FORGED: &str = "source is not the endpoint's";

fn forged() -> Vec<Expr> {
    matches::drop_logged(names::GROUP_EGRESS, names::SPOOFED.to_owned())
}

/// What happens at the end of a tier whose policies did not decide about a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TierEnd {
    /// The tier's default action.
    Acts,
    /// Nothing.
    Idle,
}

/// Whether its sources are single addresses.
pub(super) fn uses_addresses_only(endpoint: &WorkloadEndpoint) -> bool {
    let single = |net: &IpNet| net.prefix_len() == net.max_prefix_len();
    endpoint.allowed_sources.is_empty() && endpoint.addresses.iter().all(single)
}

/// The first policy of the endpoint, in this direction, that has no rules.
pub(super) fn first_missing_policy(
    endpoint: &WorkloadEndpoint,
    direction: Direction,
    known: impl Fn(&RuleOwner) -> bool,
) -> Option<RuleOwner> {
    owners(endpoint, direction).find(|owner| matches!(owner, RuleOwner::Policy(_)) && !known(owner))
}

impl Rendered {
    /// Connections that are known are not judged anew.
    pub(super) fn connection(&mut self, host: &HostSettings) {
        let invalid = if host.invalid_meets_policy { 0 } else { matches::CT_INVALID };
        let known = matches::ct_state(invalid | matches::CT_ESTABLISHED_RELATED);
        self.push("", then(known, Verdict::Goto(names::TRACKED.to_owned())));
    }

    pub(super) fn push(&mut self, identity: &str, expressions: Vec<Expr>) {
        let identity = identity.to_owned();
        self.chain.rules.push(RuleDef { identity, expressions });
    }

    /// A workload may use its addresses as source, and prefixes that it was granted.
    fn sources(&mut self, endpoint: &WorkloadEndpoint) {
        for family in Family::BOTH {
            let link_local = (family == Family::V6).then_some(IpNet::V6(LINK_LOCAL));
            let allowed = endpoint.addresses.iter().chain(&endpoint.allowed_sources);
            let ranges = matches::net_ranges(family, allowed.chain(&link_local));
            let load = matches::address(family, End::Source);
            let outside = matches::in_ranges(load, address_key(family), &ranges, true);
            let Some((outside, constant)) = outside else { continue };
            self.constants.extend(constant);
            let expressions = [&matches::family(family)[..], &outside, &forged()].concat();
            self.push(FORGED, expressions);
        }
    }

    /// Tunnelled packets would pass policy unseen.
    fn encapsulation(&mut self, host: &HostSettings) {
        let prefix = || names::ENCAPSULATED.to_owned();
        let deny = || Style::of(host).deny_logged(names::GROUP_EGRESS, prefix());
        if !host.vxlan_from_workloads {
            let mut vxlan = matches::protocol(CmpOp::Eq, matches::UDP).to_vec();
            vxlan.push(matches::port(End::Destination, 0));
            vxlan.push(matches::compare(CmpOp::Eq, host.vxlan_port.to_be_bytes()));
            vxlan.extend(deny());
            self.push("VXLAN from a workload", vxlan);
        }
        if !host.ipip_from_workloads {
            let mut ipip = matches::protocol(CmpOp::Eq, matches::IPIP).to_vec();
            ipip.extend(deny());
            self.push("IPIP from a workload", ipip);
        }
    }

    /// The policies in order. `accepted` is done with a packet that one of them accepts.
    pub(super) fn tiers(
        &mut self,
        style: Style,
        tiers: &[TierPolicies],
        direction: Direction,
        end: TierEnd,
        accepted: &[Expr],
    ) {
        let mut first = true;
        for tier in tiers.iter().filter(|tier| !policies(tier, direction).is_empty()) {
            self.tier(style, tier, direction, first, end, accepted);
            first = false;
        }
    }

    fn tier(
        &mut self,
        style: Style,
        tier: &TierPolicies,
        direction: Direction,
        first_tier: bool,
        end: TierEnd,
        accepted: &[Expr],
    ) {
        let Marks { accept, pass, .. } = style.marks;
        let policies = policies(tier, direction);
        if !first_tier {
            self.push(&format!("start of tier {}", tier.tier), matches::change_mark(pass, false));
        }
        for (position, policy) in policies.iter().enumerate() {
            let owner = RuleOwner::Policy(policy.clone());
            let chain = names::rules_chain(&owner, direction);
            // Before the first policy of a tier nothing can have passed.
            let not_passed = if position == 0 { Vec::new() } else { matches::mark(pass, false) };
            self.push("", then(not_passed, Verdict::Jump(chain)));
            let mut decided = matches::mark(accept, true);
            decided.extend_from_slice(accepted);
            self.push("", then(decided, Verdict::Return));
        }
        if end == TierEnd::Acts && tier.default_action == DefaultAction::Deny {
            let mut expressions = matches::mark(pass, false);
            let prefix = names::end_of_tier_prefix(direction, &tier.tier);
            expressions.extend(style.deny_logged(names::group(direction), prefix));
            self.push(&format!("end of tier {} {direction}", tier.tier), expressions);
        }
    }

    /// The profiles in order; what none of them accepts is dropped.
    pub(super) fn profiles(
        &mut self,
        style: Style,
        profiles: &[Arc<str>],
        direction: Direction,
        known: impl Fn(&RuleOwner) -> bool,
    ) {
        for profile in profiles {
            let owner = RuleOwner::Profile(profile.clone());
            if !known(&owner) {
                break;
            }
            let chain = names::rules_chain(&owner, direction);
            self.push("", then(Vec::new(), Verdict::Jump(chain)));
            self.push("", then(matches::mark(style.marks.accept, true), Verdict::Return));
        }
        let prefix = names::no_profile_prefix(direction);
        let drop = style.deny_logged(names::group(direction), prefix);
        self.push(&format!("no profile matched {direction}"), drop);
    }
}

pub(super) fn policies(tier: &TierPolicies, direction: Direction) -> &[PolicyId] {
    match direction {
        Direction::Ingress => &tier.ingress,
        Direction::Egress => &tier.egress,
    }
}

pub(super) fn then(mut match_: Vec<Expr>, verdict: Verdict) -> Vec<Expr> {
    match_.push(Expr::Verdict(verdict));
    match_
}
