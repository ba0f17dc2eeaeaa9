//! BGPFilter resources as rules of the speaker.

use std::collections::BTreeMap;

use calico_bgp::filter::{Action, AnyCommunity, Condition, Operation, PrefixMatch, Rule};
use calico_core::key::Family;
use calico_core::resource::{
    BgpFilterAction, BgpFilterOperation, BgpFilterRule, BgpFilterSpec, MatchOperator, PeerType,
};
use ipnet::IpNet;

use crate::host::HostPrefixes;
use crate::notes::{Note, Problem};

/// A kernel route's priority and LOCAL_PREF add up to this, as upstream.
pub(crate) const PRIORITY_BASE: u32 = i32::MAX as u32;

/// Which way routes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Import,
    Export,
}

/// A rule, and what a person calls it.
pub(crate) type Labelled = (Rule, String);

/// The rules of a session's filters, one after the other. As upstream, a filter that does not
/// exist has no rules.
pub(crate) fn rules(
    names: &[String],
    known: &BTreeMap<String, BgpFilterSpec>,
    family: Family,
    direction: Direction,
    resource: &str,
    host: &HostPrefixes,
    notes: &mut Vec<Note>,
) -> Vec<Labelled> {
    let mut rules = Vec::new();
    for name in names {
        let Some(spec) = known.get(name) else {
            notes.push(Note::new(resource, Problem::NoSuchFilter(name.clone())));
            continue;
        };
        let (field, of_filter) = match (direction, family) {
            (Direction::Import, Family::V4) => ("importV4", &spec.import_v4),
            (Direction::Import, Family::V6) => ("importV6", &spec.import_v6),
            (Direction::Export, Family::V4) => ("exportV4", &spec.export_v4),
            (Direction::Export, Family::V6) => ("exportV6", &spec.export_v6),
        };
        for (at, rule) in of_filter.iter().enumerate() {
            let by_interface = !rule.interface.is_empty();
            if by_interface && direction == Direction::Import {
                let why = format!("rule {at} asks for an interface, which no learned route has");
                notes.push(Note::no_effect(format!("BGPFilter {name}"), field, why));
            }
            match self::rule(rule) {
                Ok(rule) => {
                    let label = format!("BGPFilter {name}, {field} rule {at}");
                    // Interfaces are known of the host's own routes.
                    if by_interface && direction == Direction::Export {
                        rules.push((of_host(&rule, host), label.clone()));
                    }
                    rules.push((rule, label));
                }
                Err(error) => {
                    let why = format!("rule {at}: {error}");
                    notes.push(Note::bad(format!("BGPFilter {name}"), field, why));
                }
            }
        }
    }
    rules
}

/// The same rule for the host's own routes, of which it is known where they lead.
fn of_host(rule: &Rule, host: &HostPrefixes) -> Rule {
    let condition = |condition: &Condition| match condition {
        Condition::Interface(pattern) => Condition::Prefixes(host.over(pattern)),
        other => other.clone(),
    };
    let own = std::iter::once(Condition::Local);
    let conditions = own.chain(rule.conditions.iter().map(condition)).collect();
    Rule { conditions, action: rule.action.clone() }
}

fn rule(spec: &BgpFilterRule) -> Result<Rule, String> {
    let mut conditions = Vec::new();
    if let (Some(cidr), Some(operator)) = (spec.cidr, spec.match_operator) {
        conditions.push(Condition::Prefix(prefix(spec, cidr, operator)));
    }
    if spec.source.is_some() {
        conditions.push(Condition::Learned);
    }
    if !spec.interface.is_empty() {
        let pattern = spec.interface.parse().map_err(|e| format!("{e}"))?;
        conditions.push(Condition::Interface(pattern));
    }
    match spec.peer_type {
        Some(PeerType::Ebgp) => conditions.push(Condition::ExternalPeer),
        Some(PeerType::Ibgp) => conditions.push(Condition::InternalPeer),
        None => {}
    }
    for value in spec.communities.iter().flat_map(|c| &c.values) {
        conditions.push(Condition::Community(community(value)?));
    }
    if !spec.as_path_prefix.is_empty() {
        let asns = spec.as_path_prefix.iter().map(|asn| asn.0).collect();
        conditions.push(Condition::AsPathPrefix(asns));
    }
    if let Some(priority) = spec.priority {
        conditions.push(Condition::LocalPref(local_pref(priority)));
    }
    let action = match spec.action {
        Some(BgpFilterAction::Accept) => {
            let operations: Result<Vec<_>, _> = spec.operations.iter().map(operation).collect();
            Action::Accept(operations?)
        }
        Some(BgpFilterAction::Reject) => Action::Reject,
        None => return Err("it has no action".to_owned()),
    };
    Ok(Rule { conditions, action })
}

fn prefix(spec: &BgpFilterRule, cidr: IpNet, operator: MatchOperator) -> PrefixMatch {
    let within = match &spec.prefix_length {
        Some(lengths) => {
            let min = lengths.min.unwrap_or_else(|| cidr.prefix_len());
            let max = lengths.max.unwrap_or_else(|| cidr.max_prefix_len());
            PrefixMatch::within(cidr).lengths(min..=max)
        }
        None => PrefixMatch::within(cidr),
    };
    match operator {
        MatchOperator::Equal => PrefixMatch::exactly(cidr),
        MatchOperator::NotEqual => PrefixMatch::exactly(cidr).negated(),
        MatchOperator::In => within,
        MatchOperator::NotIn => within.negated(),
    }
}

fn operation(spec: &BgpFilterOperation) -> Result<Operation, String> {
    if let Some(add) = &spec.add_community {
        return Ok(Operation::AddCommunity(community(&add.value)?));
    }
    if let Some(prepend) = &spec.prepend_as_path {
        return Ok(Operation::PrependAsPath(prepend.prefix.iter().map(|asn| asn.0).collect()));
    }
    match &spec.set_priority {
        Some(set) => Ok(Operation::SetLocalPref(local_pref(set.value))),
        None => Err("an operation says nothing".to_owned()),
    }
}

fn community(text: &str) -> Result<AnyCommunity, String> {
    text.parse().map_err(|e| format!("{e}"))
}

const fn local_pref(priority: u32) -> u32 {
    PRIORITY_BASE.saturating_sub(priority)
}
