//! What the rules in force would say about the first packet of a connection.
//!
//! The kernel asks policy about that packet only. When policy changes, connections that go on are
//! judged here. The rule IR is read word by word, as the reference evaluator of `calico-policy`
//! does; the differential test holds both against each other.

use std::net::IpAddr;

use calico_core::dataplane::{
    Action, DefaultAction, Direction, IcmpMatch, PortRange, Rule, RuleOwner, RuleSet, SetId,
    SetMember, Side, WorkloadEndpoint,
};
use calico_core::key::Family;

use super::elements::{address_bytes, element};
use super::endpoint::policies;
use super::names;
use crate::nft::wire::Element;
use crate::nft::{Ruleset, Tuple};

/// Where the rules and the members of sets are.
#[derive(Clone, Copy)]
pub(super) struct Judge<'a> {
    pub(super) rules: &'a std::collections::BTreeMap<RuleOwner, RuleSet>,
    pub(super) table: &'a Ruleset,
}

impl Judge<'_> {
    /// Whether the endpoint may receive, or send, this packet.
    pub(super) fn allows(
        &self,
        endpoint: &WorkloadEndpoint,
        direction: Direction,
        packet: &Tuple,
    ) -> bool {
        for tier in &endpoint.tiers {
            let policies = policies(tier, direction);
            if policies.is_empty() {
                continue;
            }
            let owners = policies.iter().cloned().map(RuleOwner::Policy);
            match self.first(owners, direction, packet) {
                Err(Unknown) => return false,
                Ok(Some(Action::Allow)) => return true,
                Ok(Some(Action::Pass)) => {}
                Ok(Some(_)) => return false,
                Ok(None) if tier.default_action == DefaultAction::Deny => return false,
                Ok(None) => {}
            }
        }
        let owners = endpoint.profiles.iter().cloned().map(RuleOwner::Profile);
        matches!(self.first(owners, direction, packet), Ok(Some(Action::Allow)))
    }

    fn first(
        &self,
        mut owners: impl Iterator<Item = RuleOwner>,
        direction: Direction,
        packet: &Tuple,
    ) -> Result<Option<Action>, Unknown> {
        owners
            .find_map(|owner| {
                let Some(rules) = self.rules.get(&owner) else { return Some(Err(Unknown)) };
                let rules = match direction {
                    Direction::Ingress => &rules.ingress,
                    Direction::Egress => &rules.egress,
                };
                let decides = |rule: &&Rule| rule.action != Action::Log;
                let rule = rules.iter().filter(decides).find(|rule| self.matches(rule, packet));
                rule.map(|rule| Ok(rule.action))
            })
            .transpose()
    }

    fn matches(&self, rule: &Rule, packet: &Tuple) -> bool {
        let family = Family::of(packet.source);
        let own_icmp = if family == Family::V4 { 1 } else { 58 };
        let is_icmp = |wanted: IcmpMatch| {
            packet.protocol == own_icmp
                && packet.icmp.is_some_and(|(_, kind, code)| {
                    kind == wanted.kind && wanted.code.is_none_or(|wanted| wanted == code)
                })
        };
        rule.family.is_none_or(|wanted| wanted == family)
            && rule.protocol.is_none_or(|wanted| wanted == packet.protocol)
            && rule.not_protocol.is_none_or(|unwanted| unwanted != packet.protocol)
            && rule.icmp.is_none_or(is_icmp)
            && !rule.not_icmp.is_some_and(is_icmp)
            && self.side(&rule.source, packet, packet.source, packet.ports.map(|p| p.0))
            && self.side(&rule.destination, packet, packet.destination, packet.ports.map(|p| p.1))
    }

    fn side(&self, side: &Side, packet: &Tuple, address: IpAddr, port: Option<u16>) -> bool {
        let inside = |set: &SetId| self.has_address(set, address);
        let in_range =
            |range: &PortRange| port.is_some_and(|port| (range.first..=range.last).contains(&port));
        let named = |set: &SetId| {
            port.is_some_and(|port| self.has_port(set, address, packet.protocol, port))
        };
        let any_port = side.ports.is_empty() && side.port_sets.is_empty();
        (side.nets.is_empty() || side.nets.iter().any(|net| net.contains(&address)))
            && !side.not_nets.iter().any(|net| net.contains(&address))
            && side.sets.iter().all(inside)
            && !side.not_sets.iter().any(inside)
            && (any_port || side.ports.iter().any(in_range) || side.port_sets.iter().any(named))
            && !side.not_ports.iter().any(in_range)
            && !side.not_port_sets.iter().any(named)
    }

    /// Sets of prefixes hold ranges that do not overlap: the one that starts last before the
    /// address has it or none does.
    fn has_address(&self, set: &SetId, address: IpAddr) -> bool {
        let family = Family::of(address);
        let Some(set) = self.table.sets.get(&names::set(&set.0, family)) else { return false };
        let key = address_bytes(address);
        let plain = Element::key(key.clone());
        if !set.spec.interval {
            return set.elements.contains(&plain);
        }
        let last = Element { key_end: Some(vec![0xff; key.len() + 1]), ..plain };
        let before = set.elements.range(..=last).next_back();
        before.is_some_and(|range| range.key_end.as_ref().is_some_and(|end| *end >= key))
    }

    fn has_port(&self, set: &SetId, address: IpAddr, protocol: u8, port: u16) -> bool {
        let family = Family::of(address);
        let set = self.table.sets.get(&names::set(&set.0, family));
        let member = element(family, &SetMember::Port { address, protocol, port });
        set.zip(member).is_some_and(|(set, member)| set.elements.contains(&member))
    }
}

/// A policy or profile without rules: it denies, for we cannot tell what it would have denied.
struct Unknown;
