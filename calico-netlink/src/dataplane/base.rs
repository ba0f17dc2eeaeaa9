//! The chains that are there whatever the policies: hooks, dispatch, masquerading. Without any
//! endpoint they drop all packets from and to workloads.

use std::collections::BTreeSet;

use calico_core::dataplane::{Direction, EndpointToHostAction, HostSettings, Pool, Translation};
use calico_core::key::Family;

use super::host::{self, Stage};
use super::matches;
use super::style::{Marks, Style};
use super::{dscp, names, translate, tunnels};
use crate::nft::wire::{BaseChain, CmpOp, Expr, KeyType, MetaKey, Reg, Verdict, hook};
use crate::nft::{ChainDef, RuleDef, SetDef, SetSpec, Tracker};

/// ICMPv6 that a workload may always send to its host, which is its router: multicast listener
/// query, report and done, router solicitation, neighbour solicitation and advertisement.
const ICMPV6_TO_HOST: [u8; 6] = [130, 131, 132, 133, 135, 136];

/// Priorities of `linux/netfilter_ipv4.h`.
const RAW: i32 = -300;
const MANGLE: i32 = -150;
const FILTER: i32 = 0;
const DESTINATION_NAT: i32 = -100;
const SOURCE_NAT: i32 = 100;

/// Name of the base chains' constant set.
pub(super) fn icmpv6_to_host() -> matches::Constant {
    matches::constant_of(KeyType::Icmp6Type, &ICMPV6_TO_HOST)
}

/// Desires sets and maps that the base chains use. Elements they have stay.
pub(super) fn put_sets(tracker: &mut Tracker) {
    let mut put = |name: &str, spec: SetSpec| {
        if !tracker.desired().sets.contains_key(name) {
            tracker.put_set(name, SetDef { spec, elements: [].into() });
        }
    };
    put(names::FROM_WORKLOAD, SetSpec::verdict_map([KeyType::IfName]));
    put(names::TO_WORKLOAD, SetSpec::verdict_map([KeyType::IfName]));
    for family in Family::BOTH {
        let key = super::lower::address_key(family);
        put(&names::set(names::ALL_POOLS, family), SetSpec::intervals(key));
        put(&names::set(names::MASQUERADED_POOLS, family), SetSpec::intervals(key));
        put(&names::set(names::ALL_NODES, family), SetSpec::set([key]));
        put(&names::set(names::EXTERNAL_NODES, family), SetSpec::intervals(key));
        put(&names::set(names::SERVICES, family), SetSpec::intervals(key));
        put(&names::set(names::SOURCES, family), SetSpec::verdict_map([KeyType::IfName, key]));
        let spec = SetSpec::set([KeyType::IfIndex, key]);
        put(&names::set(names::ESTABLISHED_FROM, family), spec);
    }
    put(names::ESTABLISHED_TO, SetSpec::set([KeyType::IfName]));
    put(names::LIMITED_TO, SetSpec::verdict_map([KeyType::IfName]));
    let (name, set) = icmpv6_to_host();
    tracker.put_set(&name, set);
}

/// Chains that are there only as long as something needs them.
pub(super) const OPTIONAL: [&str; 12] = [
    names::RAW_PREROUTING,
    names::NAT_POSTROUTING,
    names::NAT_OUTGOING,
    names::NAT_PREROUTING,
    names::NAT_OUTPUT,
    names::FLOATING_IN,
    names::FLOATING_OUT,
    names::CIDR_BLOCK,
    names::RAW_OUTPUT,
    names::MANGLE_PREROUTING,
    names::MANGLE_POSTROUTING,
    names::FILTER_OUTPUT,
];

/// At which stages, in which directions, host endpoints have chains; at none if there are no
/// host endpoints.
pub(super) type Hooks = BTreeSet<(Stage, Egress)>;
/// Whether packets go out.
type Egress = bool;

/// What of the base chains is needed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Needs<'a> {
    /// By host endpoints.
    pub(super) hooks: &'a Hooks,
    /// Floating addresses.
    pub(super) floating: &'a [Translation],
    pub(super) pools: &'a [Pool],
    /// Something translates addresses. A hook for NAT costs the first packet of each connection even
    /// without rules.
    pub(super) translates: bool,
    /// Packets of some sources carry code points.
    pub(super) marks_packets: bool,
    /// Some connections are marked as denied by now.
    pub(super) cuts: bool,
    /// Packets to some workloads are limited.
    pub(super) limits_packets: bool,
}

/// The base chains for these settings.
pub(super) fn chains(host: &HostSettings, needs: Needs<'_>) -> Vec<(&'static str, ChainDef)> {
    let Needs { hooks, floating, pools, translates, marks_packets, cuts, limits_packets } = needs;
    let prefix = host.interface_prefix.as_ref();
    let style = Style::of(host);
    let mut chains = vec![
        (names::FILTER_INPUT, input(host, hooks)),
        (names::TRACKED, tracked(style.marks)),
        (names::WORKLOAD_TO_HOST, workload_to_host(host.endpoint_to_host)),
        (names::FROM_WORKLOAD, from_workload(style)),
        (names::TO_WORKLOAD, to_workload(style)),
    ];
    if translates {
        chains.push((names::NAT_POSTROUTING, postrouting(host, !floating.is_empty())));
        let outgoing = translate::nat_outgoing(host, pools);
        chains.push((names::NAT_OUTGOING, outgoing));
    }
    let block = translate::cidr_block(host);
    chains.push((names::FILTER_FORWARD, established(host, cuts, limits_packets)));
    chains.push((names::FORWARD, forward(host, hooks, block.is_some())));
    chains.push((names::ALLOWED_TO, allowed_to(style.marks, hooks, block.is_some())));
    chains.push((names::ALLOWED_FROM, allowed(style.marks)));
    chains.extend(block.map(|chain| (names::CIDR_BLOCK, chain)));
    if !floating.is_empty() {
        let to_workloads = || vec![jump(&[], names::FLOATING_IN)];
        let before = base("nat", hook::PREROUTING, DESTINATION_NAT, to_workloads());
        chains.push((names::NAT_PREROUTING, before));
        chains
            .push((names::NAT_OUTPUT, base("nat", hook::OUTPUT, DESTINATION_NAT, to_workloads())));
        chains.push((names::FLOATING_IN, translate::floating_in(floating)));
        chains.push((names::FLOATING_OUT, translate::floating_out(floating)));
    }
    if !hooks.is_empty() || tunnels::has_vxlan(host) {
        chains.push((names::RAW_PREROUTING, raw_prerouting(host, hooks)));
        chains.push((names::RAW_OUTPUT, raw_output(host, hooks)));
    }
    if !hooks.is_empty() {
        chains.push((names::FILTER_OUTPUT, output(host)));
    }
    if !hooks.is_empty() || marks_packets {
        let at_host = (!hooks.is_empty()).then_some(prefix);
        chains.push((
            names::MANGLE_POSTROUTING,
            mangle_postrouting(style.marks, at_host, marks_packets),
        ));
    }
    if hooks.contains(&(Stage::PreDnat, false)) {
        chains.push((names::MANGLE_PREROUTING, mangle_prerouting(style.marks, prefix)));
    }
    chains
}

fn raw_prerouting(host: &HostSettings, hooks: &Hooks) -> ChainDef {
    let prefix = host.interface_prefix.as_ref();
    let mut rules = tunnels::untracked_in(host);
    if !hooks.is_empty() {
        rules.push(host::clear_marks(Marks::of(host.mark_mask)));
    }
    if hooks.contains(&(Stage::Untracked, false)) {
        rules.push(from_host(Stage::Untracked, prefix));
    }
    base("filter", hook::PREROUTING, RAW, rules)
}

fn raw_output(host: &HostSettings, hooks: &Hooks) -> ChainDef {
    let prefix = host.interface_prefix.as_ref();
    let mut rules = tunnels::untracked_out(host);
    if !hooks.is_empty() {
        rules.push(host::clear_marks(Marks::of(host.mark_mask)));
    }
    if hooks.contains(&(Stage::Untracked, true)) {
        rules.push(to_host(Stage::Untracked, prefix));
    }
    base("filter", hook::OUTPUT, RAW, rules)
}

fn mangle_prerouting(marks: Marks, prefix: &str) -> ChainDef {
    let rules = vec![
        host::accept_established(),
        host::accept_accepted(marks),
        from_host(Stage::PreDnat, prefix),
    ];
    base("filter", hook::PREROUTING, MANGLE, rules)
}

/// What a workload sends its host meets no policy of host endpoints.
fn input(host: &HostSettings, hooks: &Hooks) -> ChainDef {
    let prefix = host.interface_prefix.as_ref();
    let mut from_workload = matches::interface(MetaKey::IifName, prefix).to_vec();
    from_workload.push(Expr::Verdict(Verdict::Goto(names::WORKLOAD_TO_HOST.to_owned())));
    let mut rules = tunnels::drop_foreign(host);
    rules.push(rule("", from_workload));
    if !hooks.is_empty() {
        rules.extend(tunnels::accept_in(host));
        rules.push(host::accept_accepted(Marks::of(host.mark_mask)));
        rules.push(host::jump(Stage::Local, Direction::Ingress, Vec::new()));
    }
    base("filter", hook::INPUT, FILTER, rules)
}

/// The host always reaches its workloads. Where a packet goes whose destination was just
/// translated is not known yet: see `mangle_postrouting`.
fn output(host: &HostSettings) -> ChainDef {
    let mut match_ = matches::other_interface(MetaKey::OifName, &host.interface_prefix).to_vec();
    match_.extend(matches::ct_translated(false));
    let mut rules = tunnels::accept_out(host);
    rules.push(host::accept_accepted(Marks::of(host.mark_mask)));
    rules.push(host::jump(Stage::Local, Direction::Egress, match_));
    base("filter", hook::OUTPUT, FILTER, rules)
}

/// What the host sends to a translated destination, which now has its interface. What was
/// forwarded has the mark. `at_host`: there are host endpoints, and interfaces of workloads begin so.
fn mangle_postrouting(marks: Marks, at_host: Option<&str>, marks_packets: bool) -> ChainDef {
    let mut rules = Vec::new();
    if marks_packets {
        rules.extend(dscp::rules());
    }
    if let Some(prefix) = at_host {
        let mut match_ = matches::other_interface(MetaKey::OifName, prefix).to_vec();
        match_.extend(matches::ct_translated(true));
        rules.push(host::accept_accepted(marks));
        rules.push(host::jump(Stage::Local, Direction::Egress, match_));
    }
    base("filter", hook::POSTROUTING, MANGLE, rules)
}

fn from_host(stage: Stage, prefix: &str) -> RuleDef {
    let match_ = matches::other_interface(MetaKey::IifName, prefix).to_vec();
    host::jump(stage, Direction::Ingress, match_)
}

fn to_host(stage: Stage, prefix: &str) -> RuleDef {
    let match_ = matches::other_interface(MetaKey::OifName, prefix).to_vec();
    host::jump(stage, Direction::Egress, match_)
}

/// Most packets are of established connections, so these are asked about before all else: where
/// from by one lookup, which proves the source, or where to, and they go on. All others go the long
/// way, as do those of workloads that are not in these sets (`Rendered::goes_on`). Who cuts
/// connections sees to `cuts` first (see `recheck`). Limits of packets to a workload hold wherever
/// these come from, so they are asked about here; those of other packets, in the workload's chain.
fn established(host: &HostSettings, cuts: bool, limits_packets: bool) -> ChainDef {
    let long_way = || Expr::Verdict(Verdict::Goto(names::FORWARD.to_owned()));
    let go_on = |match_: Vec<Expr>| {
        let accept = [Expr::Verdict(Verdict::Accept)];
        rule("established", match_.into_iter().chain(accept).collect())
    };
    let from = |family| {
        let set = names::set(names::ESTABLISHED_FROM, family);
        let match_ = [&matches::family(family)[..], &matches::source_among(family, set)];
        go_on(match_.concat())
    };
    let mut to = matches::other_interface(MetaKey::IifName, &host.interface_prefix).to_vec();
    to.push(matches::meta(MetaKey::OifName));
    to.push(matches::lookup(names::ESTABLISHED_TO.to_owned(), false));

    let mut others = matches::not_established().to_vec();
    others.push(long_way());
    let mut rules = vec![rule("", others)];
    if cuts {
        let mut condemned = matches::ct_mark(Marks::of(host.mark_mask).condemned, true);
        condemned.push(long_way());
        rules.push(rule("", condemned));
    }
    if limits_packets {
        rules.push(rule("limits", matches::dispatch(MetaKey::OifName, names::LIMITED_TO)));
    }
    rules.extend([from(Family::V4), go_on(to), from(Family::V6), rule("", vec![long_way()])]);
    base("filter", hook::FORWARD, FILTER, rules)
}

/// Packets between two workloads of this host pass both dispatches. Who comes back from a
/// dispatch was allowed by it, so the end of this chain accepts. What is done here with packets to
/// workloads after their policy allowed them belongs into `allowed_to`, too.
fn forward(host: &HostSettings, hooks: &Hooks, blocks_services: bool) -> ChainDef {
    let prefix = host.interface_prefix.as_ref();
    let Marks { accept, .. } = Marks::of(host.mark_mask);
    let mut rules = Vec::new();
    if hooks.contains(&(Stage::Forward, false)) {
        let mut match_ = matches::mark(accept, false);
        match_.extend(matches::other_interface(MetaKey::IifName, prefix));
        rules.push(host::jump(Stage::Forward, Direction::Ingress, match_));
    }
    rules.extend([
        jump(&matches::interface(MetaKey::IifName, prefix), names::FROM_WORKLOAD),
        jump(&matches::interface(MetaKey::OifName, prefix), names::TO_WORKLOAD),
    ]);
    if hooks.contains(&(Stage::Forward, true)) {
        rules.push(to_host(Stage::Forward, prefix));
    }
    if blocks_services {
        rules.push(jump(&[], names::CIDR_BLOCK));
    }
    if !hooks.is_empty() {
        rules.push(rule("", matches::change_mark(accept, true)));
    }
    ChainDef { base: None, rules }
}

/// Where policy leads what it allows: a mark tells the chain of the endpoint, or of the host
/// endpoint, that goes on from there.
fn allowed(marks: Marks) -> ChainDef {
    ChainDef { base: None, rules: vec![rule("", matches::change_mark(marks.accept, true))] }
}

/// A packet to a workload has been everywhere when its policy allows it, unless there are host
/// endpoints, whose rules end here as well: then it takes the long way back.
fn allowed_to(marks: Marks, hooks: &Hooks, blocks_services: bool) -> ChainDef {
    if !hooks.is_empty() {
        return allowed(marks);
    }
    let mut rules = Vec::new();
    if blocks_services {
        rules.push(jump(&[], names::CIDR_BLOCK));
    }
    rules.push(rule("", vec![Expr::Verdict(Verdict::Accept)]));
    ChainDef { base: None, rules }
}

fn postrouting(host: &HostSettings, floating: bool) -> ChainDef {
    let mut rules = Vec::new();
    if floating {
        rules.push(jump(&[], names::FLOATING_OUT));
    }
    rules.push(jump(&[], names::NAT_OUTGOING));
    rules.extend(tunnels::masquerade_into(host));
    base("nat", hook::POSTROUTING, SOURCE_NAT, rules)
}

/// A workload's own policy decides first, then the setting.
fn workload_to_host(action: EndpointToHostAction) -> ChainDef {
    let mut router = matches::family(Family::V6).to_vec();
    router.extend(matches::protocol(CmpOp::Eq, matches::ICMPV6));
    router.extend([
        Expr::Payload {
            base: crate::nft::wire::PayloadBase::Transport,
            offset: 0,
            len: 1,
            dreg: Reg::R0,
        },
        matches::lookup(icmpv6_to_host().0, false),
        Expr::COUNTER,
        Expr::Verdict(Verdict::Accept),
    ]);
    let mut rules = vec![rule("ICMPv6 to the router", router), jump(&[], names::FROM_WORKLOAD)];
    let verdict = match action {
        EndpointToHostAction::Drop => Some(Verdict::Drop),
        EndpointToHostAction::Accept => Some(Verdict::Accept),
        EndpointToHostAction::Return => None,
    };
    if let Some(verdict) = verdict {
        let action = vec![Expr::COUNTER, Expr::Verdict(verdict)];
        rules.push(rule("defaultEndpointToHostAction", action));
    }
    ChainDef { base: None, rules }
}

/// Where packets of connections go that are known, or that belong to none: what was let through
/// goes on, unless policy denies it by now.
fn tracked(marks: Marks) -> ChainDef {
    // What belongs to no connection has no mark that could be compared.
    let mut go_on = matches::ct_mark(marks.condemned, false);
    go_on.push(Expr::Verdict(Verdict::Accept));
    let mut condemned = matches::ct_state(matches::CT_ESTABLISHED_RELATED);
    condemned.extend([Expr::COUNTER, Expr::Verdict(Verdict::Drop)]);
    let invalid = vec![Expr::COUNTER, Expr::Verdict(Verdict::Drop)];
    ChainDef {
        base: None,
        rules: vec![
            rule("established", go_on),
            rule("policy denies this connection by now", condemned),
            rule("invalid", invalid),
        ],
    }
}

/// Most workloads have single addresses, by which their packets find their chain and show that they
/// are not forged with one lookup; all others find theirs by the interface's name.
fn from_workload(style: Style) -> ChainDef {
    let map = names::FROM_WORKLOAD;
    let mut chain = dispatch(style, MetaKey::IifName, map, Direction::Egress, names::UNKNOWN_FROM);
    let by_source = Family::BOTH.map(|family| {
        let mut expressions = matches::family(family).to_vec();
        expressions.extend(matches::dispatch_source(family, names::set(names::SOURCES, family)));
        rule("known source", expressions)
    });
    chain.rules.splice(0..0, by_source);
    chain
}

fn to_workload(style: Style) -> ChainDef {
    dispatch(style, MetaKey::OifName, names::TO_WORKLOAD, Direction::Ingress, names::UNKNOWN_TO)
}

fn dispatch(
    style: Style,
    key: MetaKey,
    map: &str,
    direction: Direction,
    unknown: &str,
) -> ChainDef {
    let drop = style.deny_logged(names::group(direction), unknown.to_owned());
    ChainDef {
        base: None,
        rules: vec![
            rule("known endpoint", matches::dispatch(key, map)),
            rule("unknown endpoint", drop),
        ],
    }
}

fn base(kind: &str, hook: u32, priority: i32, rules: Vec<RuleDef>) -> ChainDef {
    let kind = kind.to_owned();
    let base = BaseChain { kind, hook, priority, policy: Verdict::Accept };
    ChainDef { base: Some(base), rules }
}

fn jump(match_: &[Expr], to: &str) -> RuleDef {
    let mut expressions = match_.to_vec();
    expressions.push(Expr::Verdict(Verdict::Jump(to.to_owned())));
    rule("", expressions)
}

fn rule(identity: &str, expressions: Vec<Expr>) -> RuleDef {
    RuleDef { identity: identity.to_owned(), expressions }
}
