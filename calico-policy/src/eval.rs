//! The reference evaluator: what becomes of a packet, and why.
//!
//! It reads the rule IR word by word, without any index or compiled form, so that dataplanes and
//! the incremental graph can be tested against it. It is slow, and meant to be.

mod host;
mod mismatch;
mod show;

use std::net::IpAddr;
use std::sync::Arc;

use calico_core::dataplane::{
    Action, DefaultAction, Direction, EndpointId, Flow, HostSettings, PolicyId, Rule, RuleId,
    RuleOwner, SetId, TierPolicies, Verdict, VerdictCause, WorkloadEndpoint,
};
use ipnet::IpNet;
use serde::Serialize;

pub use host::Stage;
pub(crate) use mismatch::protocol_name;
pub use mismatch::{Mismatch, mismatch};

use crate::desired::Desired;

/// A packet, as far as policy looks at it: the first one of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub struct Packet {
    /// From.
    pub source: IpAddr,
    /// To.
    pub destination: IpAddr,
    /// IANA protocol number.
    pub protocol: u8,
    /// Source and destination port, of protocols that have them.
    pub ports: Option<(u16, u16)>,
    /// Type and code, of ICMP and ICMPv6.
    pub icmp: Option<(u8, u8)>,
}

/// Says what is in a set.
pub trait SetLookup {
    /// Whether the address is in a set of addresses or prefixes. False for an unknown set.
    fn has_address(&self, set: &SetId, address: IpAddr) -> bool;

    /// Whether address, protocol and port are in a set of ports. False for an unknown set.
    fn has_port(&self, set: &SetId, address: IpAddr, protocol: u8, port: u16) -> bool;

    /// What is in the set, for people: the selector behind it. `None` if only its id is known.
    fn describe(&self, _set: &SetId) -> Option<&str> {
        None
    }
}

/// What becomes of a packet at one endpoint, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Decision {
    /// Allowed or denied.
    pub verdict: Verdict,
    /// What decided.
    pub cause: VerdictCause,
    /// How evaluation got there, in order; the last step decided.
    pub steps: Vec<Step>,
}

/// One step of an evaluation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum Step {
    /// Evaluation came to a tier with policies for this direction.
    Tier(Arc<str>),
    /// A rule was looked at.
    Rule {
        /// Which.
        id: RuleId,
        /// What it would do.
        action: Action,
        /// Why it did not match; `None` if it did.
        mismatch: Option<Mismatch>,
    },
    /// A policy that applies has no rule for this direction, so that it leaves all to the end of
    /// its tier.
    NoRules {
        /// Which.
        policy: PolicyId,
        /// The direction.
        direction: Direction,
    },
    /// No rule of the tier's policies matched, so its default action was taken.
    TierEnd {
        /// The tier.
        tier: Arc<str>,
        /// Its default action.
        action: DefaultAction,
    },
    /// Evaluation came to the profiles.
    Profiles,
    /// Nothing matched at all, so the packet was dropped.
    End,
    /// The source address was not one that the endpoint may use.
    Spoofed,
    /// The packet carried another one, which would pass policy unseen.
    Encapsulated,
    /// Evaluation came to a stage of the way through a host.
    Stage(Stage),
    /// The port is one that stays open whatever the policies of this stage say.
    Failsafe,
}

impl Packet {
    /// A packet of TCP, UDP or SCTP from an arbitrary high port.
    #[must_use]
    pub const fn to_port(source: IpAddr, destination: IpAddr, protocol: u8, port: u16) -> Self {
        Self { source, destination, protocol, ports: Some((40_000, port)), icmp: None }
    }

    /// An echo request of the right ICMP for the addresses.
    #[must_use]
    pub const fn ping(source: IpAddr, destination: IpAddr) -> Self {
        let (protocol, kind) = if destination.is_ipv6() { (58, 128) } else { (1, 8) };
        Self { source, destination, protocol, ports: None, icmp: Some((kind, 0)) }
    }

    /// As verdict events describe it.
    #[must_use]
    pub fn flow(&self) -> Flow {
        Flow {
            source: self.source,
            destination: self.destination,
            protocol: self.protocol,
            source_port: self.ports.map(|ports| ports.0),
            destination_port: self.ports.map(|ports| ports.1),
        }
    }
}

impl Decision {
    /// The tier that decided; `None` if profiles did, or no policy at all.
    #[must_use]
    pub fn tier(&self) -> Option<&str> {
        match self.cause {
            VerdictCause::Rule(_) | VerdictCause::EndOfTier(_) => {}
            _ => return None,
        }
        let step = self.steps.iter().rev().find_map(|step| match step {
            Step::Tier(tier) | Step::TierEnd { tier, action: DefaultAction::Deny } => {
                Some(Some(&**tier))
            }
            Step::Profiles => Some(None),
            _ => None,
        });
        step.flatten()
    }
}

/// What happens to a packet at the end of a tier whose policies did not decide about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TierEnd {
    /// The tier's default action.
    Acts,
    /// Nothing: pre-DNAT and untracked policy of hosts.
    Idle,
}

impl Desired {
    /// What becomes of a packet to (`Ingress`) or from (`Egress`) an endpoint.
    ///
    /// A policy or profile whose rules are missing counts as one that denies nothing and allows
    /// nothing.
    #[must_use]
    pub fn evaluate(
        &self,
        endpoint: &WorkloadEndpoint,
        direction: Direction,
        packet: &Packet,
    ) -> Decision {
        let mut steps = Vec::new();
        if direction == Direction::Egress && is_spoofed(endpoint, packet.source) {
            steps.push(Step::Spoofed);
            return Decision { verdict: Verdict::Denied, cause: VerdictCause::Spoofed, steps };
        }
        if direction == Direction::Egress && self.is_encapsulated(packet) {
            steps.push(Step::Encapsulated);
            return Decision { verdict: Verdict::Denied, cause: VerdictCause::Encapsulated, steps };
        }
        let (verdict, cause) = self.decide(endpoint, direction, packet, &mut steps);
        Decision { verdict, cause, steps }
    }

    /// What becomes of a packet on its way between two endpoints of this state: first the policy
    /// of the one that sends it, then that of the one that receives it.
    ///
    /// `None` stands for an address outside, which no policy protects.
    #[must_use]
    pub fn explain(
        &self,
        from: Option<&EndpointId>,
        to: Option<&EndpointId>,
        packet: &Packet,
    ) -> Explanation {
        let at = |id: Option<&EndpointId>, direction| {
            let endpoint = self.endpoints.get(id?)?;
            Some(self.evaluate(endpoint, direction, packet))
        };
        let egress = at(from, Direction::Egress);
        // A packet that does not leave does not arrive.
        let stopped = egress.as_ref().is_some_and(|d| d.verdict == Verdict::Denied);
        let ingress = if stopped { None } else { at(to, Direction::Ingress) };
        Explanation { packet: *packet, egress, ingress }
    }

    /// As [`explain`](Self::explain), between the endpoints that have the packet's addresses.
    #[must_use]
    pub fn explain_packet(&self, packet: &Packet) -> Explanation {
        let from = self.endpoint_of(packet.source).map(|endpoint| &endpoint.id);
        let to = self.endpoint_of(packet.destination).map(|endpoint| &endpoint.id);
        self.explain(from, to, packet)
    }

    fn decide(
        &self,
        endpoint: &WorkloadEndpoint,
        direction: Direction,
        packet: &Packet,
        steps: &mut Vec<Step>,
    ) -> (Verdict, VerdictCause) {
        self.tiers_decide(&endpoint.tiers, TierEnd::Acts, direction, packet, steps)
            .unwrap_or_else(|| self.profiles_decide(&endpoint.profiles, direction, packet, steps))
    }

    /// `None` if every tier passes the packet on.
    fn tiers_decide(
        &self,
        tiers: &[TierPolicies],
        end: TierEnd,
        direction: Direction,
        packet: &Packet,
        steps: &mut Vec<Step>,
    ) -> Option<(Verdict, VerdictCause)> {
        for tier in tiers {
            let policies = match direction {
                Direction::Ingress => &tier.ingress,
                Direction::Egress => &tier.egress,
            };
            if policies.is_empty() {
                continue;
            }
            steps.push(Step::Tier(Arc::clone(&tier.tier)));
            let owners = policies.iter().cloned().map(RuleOwner::Policy);
            match self.first_match(owners, direction, packet, steps) {
                Some((Action::Allow, id)) => {
                    return Some((Verdict::Allowed, VerdictCause::Rule(id)));
                }
                Some((Action::Pass, _)) => continue,
                Some((_, id)) => return Some((Verdict::Denied, VerdictCause::Rule(id))),
                None if end == TierEnd::Idle => continue,
                None => {}
            }
            let action = tier.default_action;
            steps.push(Step::TierEnd { tier: Arc::clone(&tier.tier), action });
            if action == DefaultAction::Deny {
                return Some((Verdict::Denied, VerdictCause::EndOfTier(Arc::clone(&tier.tier))));
            }
        }
        None
    }

    fn profiles_decide(
        &self,
        profiles: &[Arc<str>],
        direction: Direction,
        packet: &Packet,
        steps: &mut Vec<Step>,
    ) -> (Verdict, VerdictCause) {
        steps.push(Step::Profiles);
        let owners = profiles.iter().cloned().map(RuleOwner::Profile);
        match self.first_match(owners, direction, packet, steps) {
            Some((Action::Allow, id)) => (Verdict::Allowed, VerdictCause::Rule(id)),
            // Pass has nowhere to go from a profile.
            Some((_, id)) => (Verdict::Denied, VerdictCause::Rule(id)),
            None => {
                steps.push(Step::End);
                (Verdict::Denied, VerdictCause::NoProfileMatch)
            }
        }
    }

    /// Whether the packet is a tunnel's, of a kind that workloads of this host may not send.
    fn is_encapsulated(&self, packet: &Packet) -> bool {
        let default = HostSettings::default();
        let host = self.host.as_ref().unwrap_or(&default);
        match packet.protocol {
            4 => !host.ipip_from_workloads,
            17 => {
                let to_vxlan = packet.ports.is_some_and(|ports| ports.1 == host.vxlan_port);
                to_vxlan && !host.vxlan_from_workloads
            }
            _ => false,
        }
    }

    /// The first rule that matches and is more than a note in the log.
    fn first_match(
        &self,
        owners: impl Iterator<Item = RuleOwner>,
        direction: Direction,
        packet: &Packet,
        steps: &mut Vec<Step>,
    ) -> Option<(Action, RuleId)> {
        for owner in owners {
            let Some(rules) = self.rules.get(&owner) else { continue };
            let rules = match direction {
                Direction::Ingress => &rules.ingress,
                Direction::Egress => &rules.egress,
            };
            if let (RuleOwner::Policy(policy), []) = (&owner, &rules[..]) {
                steps.push(Step::NoRules { policy: policy.clone(), direction });
            }
            for Rule { id, action, .. } in rules.iter().filter(|rule| {
                let mismatch = mismatch(rule, packet, self);
                let matches = mismatch.is_none();
                let (id, action) = (rule.id.clone(), rule.action);
                steps.push(Step::Rule { id, action, mismatch });
                matches
            }) {
                if *action != Action::Log {
                    return Some((*action, id.clone()));
                }
            }
        }
        None
    }
}

fn is_spoofed(endpoint: &WorkloadEndpoint, source: IpAddr) -> bool {
    let mut own = endpoint.addresses.iter().chain(&endpoint.allowed_sources);
    !own.any(|net: &IpNet| net.contains(&source))
}

/// See [`Desired::explain`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The packet.
    pub packet: Packet,
    /// At the endpoint that sends it; `None` if that is outside.
    pub egress: Option<Decision>,
    /// At the endpoint that receives it; `None` if that is outside, or if the packet never left.
    pub ingress: Option<Decision>,
}

impl Explanation {
    /// Whether the packet arrives.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        let mut decisions = self.egress.iter().chain(&self.ingress);
        decisions.all(|decision| decision.verdict == Verdict::Allowed)
    }

    /// The decision that counts: the denial, or else the last one. `None` if no policy was asked.
    #[must_use]
    pub fn deciding(&self) -> Option<(Direction, &Decision)> {
        let egress = self.egress.as_ref().map(|decision| (Direction::Egress, decision));
        let ingress = self.ingress.as_ref().map(|decision| (Direction::Ingress, decision));
        ingress.or(egress)
    }
}

/// The policy that a rule belongs to, if it is not a profile's.
#[must_use]
pub const fn policy_of(id: &RuleId) -> Option<&PolicyId> {
    match &id.owner {
        RuleOwner::Policy(policy) => Some(policy),
        RuleOwner::Profile(_) => None,
    }
}
