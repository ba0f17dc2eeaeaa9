//! BGPFilter resources and prefix advertisements, as rules of the speaker.

use std::collections::BTreeMap;

use calico_bgp::filter::{Action, AnyCommunity, Condition, Filter, Operation, PrefixMatch, Rule};
use calico_core::key::Family;
use calico_core::resource::{
    BgpConfigurationSpec, BgpFilterAction, BgpFilterOperation, BgpFilterRule, BgpFilterSpec,
    MatchOperator, PeerType,
};
use ipnet::IpNet;
use tracing::warn;

/// A kernel route's priority and LOCAL_PREF add up to this, as upstream.
const PRIORITY_BASE: u32 = i32::MAX as u32;

/// Which way routes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Import,
    Export,
}

/// The filters of a session, one after the other; `None` if they have no rule.
pub(crate) fn filter(
    names: &[String],
    known: &BTreeMap<String, BgpFilterSpec>,
    family: Family,
    direction: Direction,
) -> Option<Filter> {
    let mut filter = Filter::default();
    for name in names {
        let Some(spec) = known.get(name) else {
            warn!(filter = name, "a BGPPeer names a BGPFilter that does not exist");
            continue;
        };
        let rules = match (direction, family) {
            (Direction::Import, Family::V4) => &spec.import_v4,
            (Direction::Import, Family::V6) => &spec.import_v6,
            (Direction::Export, Family::V4) => &spec.export_v4,
            (Direction::Export, Family::V6) => &spec.export_v6,
        };
        for (at, rule) in rules.iter().enumerate() {
            match self::rule(rule) {
                Ok(rule) => filter.rules.push(rule),
                Err(error) => {
                    warn!(filter = name, rule = at, %error, "a rule of a BGPFilter is ignored");
                }
            }
        }
    }
    (!filter.rules.is_empty()).then_some(filter)
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

/// What the prefixes inside of a range are announced with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advertisement {
    /// The range.
    pub cidr: IpNet,
    /// Their communities.
    pub communities: Vec<AnyCommunity>,
}

/// The advertisements of a node: its own, or else the global ones. Names of communities may be of
/// either.
pub(crate) fn advertisements(
    own: Option<&BgpConfigurationSpec>,
    global: &BgpConfigurationSpec,
) -> Vec<Advertisement> {
    let source = own.filter(|own| !own.prefix_advertisements.is_empty()).unwrap_or(global);
    let named = |name: &str| {
        let mut all = own.into_iter().chain([global]).flat_map(|c| &c.communities);
        all.find(|c| c.name == name).map(|c| c.value.clone())
    };
    let community = |text: &String| match named(text).unwrap_or_else(|| text.clone()).parse() {
        Ok(community) => Some(community),
        Err(error) => {
            warn!(community = text, %error, "a community of a prefix advertisement is ignored");
            None
        }
    };
    let advertisement = |a: &calico_core::resource::PrefixAdvertisement| {
        let communities = a.communities.iter().filter_map(community).collect();
        Some(Advertisement { cidr: a.cidr?, communities })
    };
    source.prefix_advertisements.iter().filter_map(advertisement).collect()
}
