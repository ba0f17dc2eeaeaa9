//! One rule of the IR becomes rules of nf_tables.
//!
//! A rule that names no address and no ICMP is one rule for both families. Otherwise it is one
//! for each family it can match, and for each alternative where clauses are joined by *or*
//! (numbered and named ports). All of them carry the identity of their source. A packet that
//! meets several alternatives is counted and reported once.
//!
//! Sets have members of both families or, in most clusters, of one. As long as no set has members
//! of a family, what would look one up for it is left out.

use calico_core::dataplane::{Action, Direction, IcmpMatch, Rule, RuleOwner, Side};
use calico_core::key::Family;

use super::families::Families;

use super::matches::{self, Constant, End};
use super::names;
use super::style::Style;
use crate::nft::RuleDef;
use crate::nft::wire::{CmpOp, Expr, KeyType, PayloadBase, Reg, Verdict};

/// Protocols whose header starts with two ports: TCP, UDP, SCTP, UDP-Lite.
const WITH_PORTS: [u8; 4] = [6, 17, 132, 136];

/// Rules, and the constant sets they look up.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Lowered {
    pub(super) rules: Vec<RuleDef>,
    pub(super) constants: Vec<Constant>,
}

/// What one family's packets must fulfil: all of `early` and `all`, and of each entry of `any`
/// one. What is cheap and tells most packets off comes early: protocol and ports, so that the
/// rules of both families are soon passed by.
#[derive(Default)]
struct Clauses {
    /// Whether sets have members of the family.
    filled: bool,
    early: Vec<Expr>,
    all: Vec<Expr>,
    any: Vec<Vec<Vec<Expr>>>,
    constants: Vec<Constant>,
}

/// The rules of a policy or profile in one direction. `filled`: the families of which sets have
/// members.
pub(super) fn rules(rules: &[Rule], filled: Families, style: Style) -> Lowered {
    let mut lowered = Lowered::default();
    for rule in rules {
        lower(rule, filled, style, &mut lowered);
    }
    lowered
}

/// The rule that lets every packet through, if the first one does.
pub(super) fn allow_all(rules: &[Rule]) -> Option<&Rule> {
    rules.first().filter(|rule| **rule == Rule::any(rule.id.clone(), Action::Allow))
}

/// Prefix of the reports of a rule, when it makes some.
pub(super) fn report_prefix(rule: &Rule) -> Option<String> {
    match effective(rule) {
        Action::Deny => Some(names::rule_prefix('D', &rule.id)),
        Action::Log => Some(names::rule_prefix('L', &rule.id)),
        Action::Allow | Action::Pass => None,
    }
}

fn lower(rule: &Rule, filled: Families, style: Style, lowered: &mut Lowered) {
    let families: &[Option<Family>] = match rule.family {
        Some(Family::V4) => &[Some(Family::V4)],
        Some(Family::V6) => &[Some(Family::V6)],
        None if depends_on_family(rule) => &[Some(Family::V4), Some(Family::V6)],
        None => &[None],
    };
    for family in families {
        // A clause that this family cannot fulfil: no rule for it.
        let filled = family.is_some_and(|family| filled.has(family));
        let Some(clauses) = clauses(rule, *family, filled) else { continue };
        lowered.constants.extend(clauses.constants);
        let alternatives = product(&clauses.any);
        // Any other action is the last one that a packet meets in this chain.
        let once = effective(rule) == Action::Log && alternatives.len() > 1;
        if once {
            let expressions = matches::change_mark(style.marks.noted, false);
            lowered.rules.push(RuleDef { identity: String::new(), expressions });
        }
        for alternative in alternatives {
            let mut expressions = [&clauses.early[..], &clauses.all, &alternative].concat();
            if once {
                expressions.splice(0..0, matches::mark(style.marks.noted, false));
                // A limit ends the rule, so this comes before it.
                expressions.extend(matches::change_mark(style.marks.noted, true));
            }
            expressions.extend(action(rule, style));
            lowered.rules.push(RuleDef { identity: rule.id.to_string(), expressions });
        }
    }
}

fn depends_on_family(rule: &Rule) -> bool {
    let side = |side: &Side| {
        !(side.nets.is_empty()
            && side.not_nets.is_empty()
            && side.sets.is_empty()
            && side.not_sets.is_empty()
            && side.port_sets.is_empty()
            && side.not_port_sets.is_empty())
    };
    side(&rule.source) || side(&rule.destination) || rule.icmp.is_some() || rule.not_icmp.is_some()
}

fn clauses(rule: &Rule, family: Option<Family>, filled: bool) -> Option<Clauses> {
    let mut clauses = Clauses { filled, ..Clauses::default() };
    if let Some(protocol) = rule.protocol {
        clauses.early.extend(matches::protocol(CmpOp::Eq, protocol));
    }
    if let Some(protocol) = rule.not_protocol {
        clauses.early.extend(matches::protocol(CmpOp::Neq, protocol));
    }
    if rule.protocol.is_none() && (asks_ports(&rule.source) || asks_ports(&rule.destination)) {
        let with_ports = matches::constant_of(KeyType::Proto, &WITH_PORTS);
        let load = matches::meta(crate::nft::wire::MetaKey::L4Proto);
        clauses.early.extend([load, matches::lookup(with_ports.0.clone(), false)]);
        clauses.constants.push(with_ports);
    }
    if let Some(family) = family {
        clauses.all.extend(matches::family(family));
    }
    clauses.side(&rule.source, End::Source, family)?;
    clauses.side(&rule.destination, End::Destination, family)?;
    if let Some(family) = family {
        clauses.icmp(rule, family)?;
    }
    Some(clauses)
}

impl Clauses {
    fn side(&mut self, side: &Side, end: End, family: Option<Family>) -> Option<()> {
        if let Some(family) = family {
            self.addresses(side, end, family)?;
        }
        self.ports(side, end, family)
    }

    fn addresses(&mut self, side: &Side, end: End, family: Family) -> Option<()> {
        let key = address_key(family);
        if !side.nets.is_empty() {
            let ranges = matches::net_ranges(family, &side.nets);
            let inside = self.ranges(matches::address(family, end), key, &ranges, false)?;
            self.all.extend(inside);
        }
        let ranges = matches::net_ranges(family, &side.not_nets);
        let outside = self.ranges(matches::address(family, end), key, &ranges, true)?;
        self.all.extend(outside);
        if !self.filled {
            return side.sets.is_empty().then_some(());
        }
        for (sets, inverted) in [(&side.sets, false), (&side.not_sets, true)] {
            for set in sets {
                let name = names::set(&set.0, family);
                self.all.extend([matches::address(family, end), matches::lookup(name, inverted)]);
            }
        }
        Some(())
    }

    fn ports(&mut self, side: &Side, end: End, family: Option<Family>) -> Option<()> {
        let ranges = |ports: &[calico_core::dataplane::PortRange]| {
            matches::merge(ports.iter().map(|range| (range.first.into(), range.last.into())))
        };
        let mut any = Vec::new();
        if !side.ports.is_empty() {
            let load = matches::port(end, 0);
            let numbered = self.ranges(load, KeyType::Service, &ranges(&side.ports), false)?;
            if side.port_sets.is_empty() {
                self.early.extend(numbered);
            } else {
                any.push(numbered);
            }
        }
        // Sets of named ports make the rule depend on the family, so there is one.
        if let Some(family) = family.filter(|_| self.filled) {
            let members = |id: &calico_core::dataplane::SetId, inverted| {
                matches::address_port(family, end, names::set(&id.0, family), inverted)
            };
            any.extend(side.port_sets.iter().map(|id| members(id, false)));
            self.all.extend(side.not_port_sets.iter().flat_map(|id| members(id, true)));
        }
        match any.len() {
            0 if side.ports.is_empty() && !side.port_sets.is_empty() => return None,
            0 => {}
            1 => self.all.extend(any.remove(0)),
            _ => self.any.push(any),
        }
        let load = matches::port(end, 0);
        let others = self.ranges(load, KeyType::Service, &ranges(&side.not_ports), true)?;
        self.early.extend(others);
        Some(())
    }

    fn ranges(
        &mut self,
        load: Expr,
        key: KeyType,
        ranges: &[(u128, u128)],
        negated: bool,
    ) -> Option<Vec<Expr>> {
        let (expressions, constant) = matches::in_ranges(load, key, ranges, negated)?;
        self.constants.extend(constant);
        Some(expressions)
    }

    fn icmp(&mut self, rule: &Rule, family: Family) -> Option<()> {
        let of_family = match family {
            Family::V4 => matches::ICMP,
            Family::V6 => matches::ICMPV6,
        };
        let is_icmp = rule.protocol == Some(of_family);
        if let Some(icmp) = rule.icmp {
            // Protocol clauses name one ICMP; without one, each family has its own.
            if !is_icmp && rule.protocol.is_some() {
                return None;
            }
            if !is_icmp {
                self.all.extend(matches::protocol(CmpOp::Eq, of_family));
            }
            self.all.extend(icmp_type(icmp, CmpOp::Eq));
        }
        match rule.not_icmp {
            Some(icmp) if is_icmp => self.all.extend(icmp_type(icmp, CmpOp::Neq)),
            // Other protocols are not that ICMP type either.
            Some(icmp) if rule.protocol.is_none() => {
                let other = matches::protocol(CmpOp::Neq, of_family).to_vec();
                let mut same = matches::protocol(CmpOp::Eq, of_family).to_vec();
                same.extend(icmp_type(icmp, CmpOp::Neq));
                self.any.push(vec![other, same]);
            }
            _ => {}
        }
        Some(())
    }
}

fn asks_ports(side: &Side) -> bool {
    !(side.ports.is_empty()
        && side.not_ports.is_empty()
        && side.port_sets.is_empty()
        && side.not_port_sets.is_empty())
}

/// Type, or type and code, which stand next to each other in both ICMP headers.
fn icmp_type(icmp: IcmpMatch, op: CmpOp) -> [Expr; 2] {
    let mut value = vec![icmp.kind];
    value.extend(icmp.code);
    let len = u32::try_from(value.len()).expect("one or two");
    [
        Expr::Payload { base: PayloadBase::Transport, offset: 0, len, dreg: Reg::R0 },
        matches::compare(op, value),
    ]
}

pub(super) fn address_key(family: Family) -> KeyType {
    match family {
        Family::V4 => KeyType::Ipv4,
        Family::V6 => KeyType::Ipv6,
    }
}

/// In profiles Pass means Deny: nothing comes after them.
fn effective(rule: &Rule) -> Action {
    match (&rule.id.owner, rule.action) {
        (RuleOwner::Profile(_), Action::Pass) => Action::Deny,
        (_, action) => action,
    }
}

fn action(rule: &Rule, style: Style) -> Vec<Expr> {
    let direction: Direction = rule.id.direction;
    let group = names::group(direction);
    match effective(rule) {
        // Every rule is checked by the kernel expression by expression, so what all of them do
        // stands in one chain.
        Action::Allow => {
            vec![Expr::COUNTER, Expr::Verdict(Verdict::Goto(names::allowed(direction).to_owned()))]
        }
        Action::Pass => {
            let mut passed = vec![Expr::COUNTER];
            passed.extend(matches::change_mark(style.marks.pass, true));
            passed.push(Expr::Verdict(Verdict::Return));
            passed
        }
        Action::Deny => style.deny_logged(group, names::rule_prefix('D', &rule.id)),
        Action::Log => {
            let prefix = names::rule_prefix('L', &rule.id);
            let limit = style.log_limit.map(|limit| Expr::PacketLimit {
                rate: limit.packets,
                unit: limit.seconds,
                burst: limit.burst,
                inverted: false,
            });
            let report = Expr::NfLog { group, prefix, snaplen: None };
            [Expr::COUNTER].into_iter().chain(limit).chain([report]).collect()
        }
    }
}

/// Every way to choose one alternative from each entry.
fn product(any: &[Vec<Vec<Expr>>]) -> Vec<Vec<Expr>> {
    any.iter().fold(vec![Vec::new()], |chosen, alternatives| {
        chosen
            .iter()
            .flat_map(|before| {
                alternatives.iter().map(|next| [before.clone(), next.clone()].concat())
            })
            .collect()
    })
}
