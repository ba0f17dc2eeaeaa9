//! Limits of an endpoint's packets and connections: chains of its own, which the endpoint's chains
//! jump to. They stay as they are while policy changes, and so does what they have counted.
//!
//! Bandwidth is not a matter of rules: see [`qos`](crate::qos).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use calico_core::dataplane::{DataplaneError, Direction, Limits, TrafficLimits, WorkloadEndpoint};

use super::elements::interface_key;
use super::endpoint::{Rendered, then};
use super::state::{DIRECTIONS, State};
use super::{matches, names};
use crate::nft::wire::{CmpOp, Element, Expr, Family, RejectKind, Verdict};
use crate::nft::{ChainDef, RuleDef, Socket};

/// What is limited by rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Limited {
    /// Packets per second.
    Packets,
    /// TCP connections at the same time.
    Connections,
}

/// Chains of limits by the interface that they are for, and what the kernel cannot do.
#[derive(Debug, Default)]
pub(super) struct LimitChains {
    of: BTreeMap<Arc<str>, BTreeSet<String>>,
    refused: BTreeSet<Limited>,
}

impl Limited {
    const ALL: [Self; 2] = [Self::Packets, Self::Connections];

    fn prefix(self, direction: Direction) -> &'static str {
        match (self, direction) {
            (Self::Packets, Direction::Ingress) => "cali-tr-",
            (Self::Packets, Direction::Egress) => "cali-fr-",
            (Self::Connections, Direction::Ingress) => "cali-tc-",
            (Self::Connections, Direction::Egress) => "cali-fc-",
        }
    }

    fn chain(self, direction: Direction, interface: &str) -> String {
        format!("{}{interface}", self.prefix(direction))
    }

    /// The rule that stops what is beyond the limit, if there is a limit.
    fn rule(self, limits: &TrafficLimits, direction: Direction) -> Option<RuleDef> {
        let (identity, expressions) = match self {
            Self::Packets => {
                let packets = limits.packets?;
                let (rate, burst) = (packets.per_second, packets.burst.max(1));
                let limit = Expr::PacketLimit { rate, unit: 1, burst, inverted: true };
                ("packet rate", vec![limit, Expr::COUNTER, Expr::Verdict(Verdict::Drop)])
            }
            Self::Connections => {
                // Only TCP can be told that there is no room; as upstream does.
                let mut over = matches::protocol(CmpOp::Eq, TCP).to_vec();
                let reset = Expr::Reject { kind: RejectKind::TcpReset, code: 0 };
                let limit = Expr::ConnLimit { count: limits.connections?, inverted: true };
                over.extend([limit, Expr::COUNTER, reset]);
                ("connections", over)
            }
        };
        let identity = format!("beyond the limit of {identity} {direction}");
        Some(RuleDef { identity, expressions })
    }
}

/// Sees in the kernel whether a workload's limits of packets and connections are in force, by the
/// name of its interface; says which is not. Bandwidth is [`qos::check`](crate::qos::check)'s.
///
/// # Errors
///
/// If the kernel does not answer.
pub async fn check_limits(
    interface: &str,
    limits: &Limits,
) -> Result<Option<String>, DataplaneError> {
    let wanted: Vec<_> = kinds()
        .filter_map(|(direction, limited)| {
            let limits = match direction {
                Direction::Ingress => &limits.ingress,
                Direction::Egress => &limits.egress,
            };
            let rule = limited.rule(limits, direction)?;
            Some((limited.chain(direction, interface), rule))
        })
        .collect();
    if wanted.is_empty() {
        return Ok(None);
    }
    let mut socket = Socket::open().map_err(super::linux::failed)?;
    for (chain, rule) in wanted {
        let rules = socket.rules(Family::Inet, super::TABLE, &chain).await;
        if rules.map_err(super::linux::failed)? != [rule.clone()] {
            let what = rule.identity.trim_start_matches("beyond the ");
            return Ok(Some(format!("the {what} of {interface} is not in force ({chain})")));
        }
    }
    Ok(None)
}

/// IANA's number.
const TCP: u8 = 6;

impl LimitChains {
    /// Whether packets to any workload are limited.
    pub(super) fn packets_to(&self) -> bool {
        let prefix = Limited::Packets.prefix(Direction::Ingress);
        self.of.values().flatten().any(|chain| chain.starts_with(prefix))
    }
}

impl Rendered {
    /// Judges packets by the limit first, if the endpoint has it and the kernel knows it.
    pub(super) fn limit(
        &mut self,
        endpoint: &WorkloadEndpoint,
        direction: Direction,
        limited: Limited,
        chains: &LimitChains,
    ) {
        let has = !chains.refused.contains(&limited)
            && limited.rule(of(endpoint, direction), direction).is_some();
        if has {
            let chain = limited.chain(direction, &endpoint.interface);
            // Packets of established connections to a workload do not all come here.
            let asked_before = limited == Limited::Packets && direction == Direction::Ingress;
            let match_ = if asked_before { matches::not_established().to_vec() } else { vec![] };
            self.push("", then(match_, Verdict::Jump(chain)));
        }
    }
}

impl State {
    /// Makes the chains of the endpoint's limits, and removes those that it has no more.
    pub(super) fn place_limits(&mut self, endpoint: &WorkloadEndpoint) {
        let interface = &endpoint.interface;
        let mut chains = BTreeSet::new();
        for (direction, limited) in kinds() {
            let Some(rule) = limited.rule(of(endpoint, direction), direction) else { continue };
            if self.limits.refused.contains(&limited) {
                continue;
            }
            let chain = limited.chain(direction, interface);
            self.put_chain(&chain, ChainDef { base: None, rules: vec![rule] }, Vec::new());
            chains.insert(chain);
        }
        self.have_limits(interface, chains);
    }

    /// Removes the chains of the interface's limits.
    pub(super) fn displace_limits(&mut self, interface: &Arc<str>) {
        self.have_limits(interface, BTreeSet::new());
    }

    fn have_limits(&mut self, interface: &Arc<str>, chains: BTreeSet<String>) {
        let limited = self.limits.packets_to();
        let packets_to = Limited::Packets.chain(Direction::Ingress, interface);
        let has = chains.contains(&packets_to);
        let before = self.limits.of.remove(interface).unwrap_or_default();
        let had = before.contains(&packets_to);
        let verdict = Some(Verdict::Jump(packets_to));
        let led = Element { verdict, ..Element::key(interface_key(interface)) };
        if had && !has {
            self.table.remove_element(names::LIMITED_TO, &led);
        }
        for gone in before.difference(&chains) {
            self.remove_chain(gone);
        }
        if has && !had {
            self.table.add_element(names::LIMITED_TO, led);
        }
        if !chains.is_empty() {
            self.limits.of.insert(Arc::clone(interface), chains);
        }
        if self.limits.packets_to() != limited {
            self.put_base();
        }
    }

    /// A chain of limits was refused: what it limits is not limited, for any endpoint. False if it
    /// is no such chain.
    pub(super) fn isolate_limits(&mut self, chain: &str, reason: &str) -> bool {
        let Some((_, limited)) = kinds().find(|(direction, limited)| {
            chain.starts_with(limited.prefix(*direction)) && !self.limits.refused.contains(limited)
        }) else {
            return false;
        };
        let what = match limited {
            Limited::Packets => "packet rates",
            Limited::Connections => "numbers of connections",
        };
        tracing::warn!(reason, "limits of {what} are not in force: this kernel cannot do them");
        self.limits.refused.insert(limited);
        let interfaces: Vec<_> = self.limits.of.keys().cloned().collect();
        for interface in interfaces {
            if let Some(id) = self.interfaces.get(&interface) {
                self.dirty_endpoints.insert(id.clone());
            }
        }
        true
    }
}

fn kinds() -> impl Iterator<Item = (Direction, Limited)> {
    DIRECTIONS.into_iter().flat_map(|direction| Limited::ALL.map(|limited| (direction, limited)))
}

const fn of(endpoint: &WorkloadEndpoint, direction: Direction) -> &TrafficLimits {
    match direction {
        Direction::Ingress => &endpoint.limits.ingress,
        Direction::Egress => &endpoint.limits.egress,
    }
}
