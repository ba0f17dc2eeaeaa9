//! What of policy the packets of a test reached: a feature that no verdict depended on was not
//! tested, however many packets were sent.
//!
//! A clause of a rule is reached in two ways. It *matched* where the rule that decided has it. It
//! *kept away* where the rule would have matched without it, and the verdict would have been
//! another one. Both must have happened, of each clause at each end of the traffic.

mod clauses;
mod compiled;
mod features;
mod lookup;

use std::collections::BTreeMap;
use std::fmt;

use calico_core::dataplane::{
    Action, DefaultAction, Direction, EndpointToHostAction, HostInterface, RuleId, RuleOwner,
    Verdict, VerdictCause,
};
use calico_core::key::{Family, Key};
use calico_core::kind::Kind;
use calico_policy::Object;
use calico_policy::desired::Desired;
use calico_policy::eval::{Decision, Packet, Stage, Step, mismatch};

use self::features::FEATURES;
use self::lookup::{rule, source, whose};
use crate::predict::{Met, Place};

/// How often each feature had a part in a verdict.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Coverage(BTreeMap<String, u64>);

/// Under what packets were sent.
#[derive(Debug, Clone, Copy)]
pub struct Configured<'a> {
    /// The resources.
    pub objects: &'a BTreeMap<Key, Object>,
    /// What is in force.
    pub desired: &'a Desired,
    /// What would be if staged policies were.
    pub staged: Option<&'a Desired>,
}

impl Coverage {
    /// Every feature that there is, by the names that [`add`](Self::add) gives them.
    #[must_use]
    pub fn wanted() -> Vec<String> {
        let mut all: Vec<String> = clauses::names();
        let others =
            FEATURES.iter().chain(&compiled::OF_THE_ENGINE).chain(&compiled::OF_A_DATAPLANE);
        all.extend(others.map(|name| (*name).to_owned()));
        all
    }

    /// Features that no verdict depended on.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        Self::wanted().into_iter().filter(|name| !self.0.contains_key(name)).collect()
    }

    /// Of what only a kernel shows, what it has not shown.
    #[must_use]
    pub fn missing_in_kernel(&self) -> Vec<String> {
        let names = compiled::IN_THE_KERNEL.iter().map(|name| (*name).to_owned());
        names.filter(|name| !self.0.contains_key(name)).collect()
    }

    /// A packet was counted by a rule that stands in the chain of its protocol.
    pub fn add_part(&mut self) {
        self.note(compiled::IN_THE_KERNEL[0]);
    }

    /// Whether it was seen that several interfaces lead to one chain.
    #[must_use]
    pub fn has_shared_chain(&self) -> bool {
        self.0.contains_key(compiled::IN_THE_KERNEL[1])
    }

    /// Several interfaces lead to one chain.
    pub fn add_shared_chain(&mut self) {
        self.note(compiled::IN_THE_KERNEL[1]);
    }

    /// Takes note of what had a part in what became of a packet.
    pub fn add(&mut self, configured: Configured<'_>, met: &Met) {
        let place = &met.place;
        let (verdict, decision) = match place {
            Place::ToHost(action) => {
                return self.note(match action {
                    EndpointToHostAction::Drop => "defaultEndpointToHostAction Drop",
                    EndpointToHostAction::Accept => "defaultEndpointToHostAction Accept",
                    EndpointToHostAction::Return => "defaultEndpointToHostAction Return",
                });
            }
            Place::Unknown => return self.note("unknown endpoint"),
            Place::Workload(_, decision) | Place::Host(_, _, decision) => {
                (decision.verdict, decision)
            }
        };
        self.packet(&met.packet, verdict);
        self.steps(configured, &met.packet, decision);
        match place {
            Place::Workload(id, _) => {
                let endpoint = &configured.desired.endpoints[id];
                for name in compiled::features(configured, endpoint, decision, &met.packet) {
                    self.note(name);
                }
                let own = |address| endpoint.addresses.iter().any(|net| net.contains(address));
                if met.direction == Direction::Egress
                    && decision.cause != VerdictCause::Spoofed
                    && !own(&met.packet.source)
                {
                    self.note("allowSpoofedSourcePrefixes");
                }
            }
            Place::Host(name, ..) => {
                let endpoint = &configured.desired.host_endpoints[name];
                self.note(match endpoint.interface {
                    HostInterface::Named(_) => "host endpoint by name",
                    HostInterface::Addressed(_) => "host endpoint by address",
                    _ => "host endpoint of all interfaces",
                });
            }
            _ => {}
        }
        self.staged(configured, met, verdict);
    }

    fn note(&mut self, name: impl Into<String>) {
        *self.0.entry(name.into()).or_default() += 1;
    }

    fn packet(&mut self, packet: &Packet, verdict: Verdict) {
        let protocol = match packet.protocol {
            1 | 58 => "ICMP",
            6 => "TCP",
            17 => "UDP",
            132 => "SCTP",
            136 => "UDPLite",
            _ => "other protocols",
        };
        let family = Family::of(packet.source);
        self.note(format!("{protocol} over {family} {}", word(verdict)));
    }

    fn steps(&mut self, configured: Configured<'_>, packet: &Packet, decision: &Decision) {
        let mut stage = None;
        for step in &decision.steps {
            match step {
                Step::Stage(now) => stage = Some(*now),
                Step::Rule { id, action, mismatch: found } => {
                    let rule = rule(configured.desired, id);
                    let Some(source) = source(configured.objects, id) else { continue };
                    match found {
                        Some(why) if decides_otherwise(*action, id, decision.verdict) => {
                            for name in clauses::keeping_away(source, why.clause, rule, |relaxed| {
                                mismatch(relaxed, packet, configured.desired).is_none()
                            }) {
                                self.note(name);
                            }
                        }
                        Some(_) => {}
                        None => self.matched(configured, packet, id, *action, stage, decision),
                    }
                }
                Step::TierEnd { action: DefaultAction::Pass, .. } => self.note("end of tier: Pass"),
                Step::TierEnd { .. } => self.note("end of tier: Deny"),
                Step::NoRules { .. } => self.note("policy without rules"),
                Step::End => self.note("no profile matched"),
                Step::Spoofed => self.note("spoofed source"),
                Step::Encapsulated if packet.protocol == 4 => self.note("IPIP of a workload"),
                Step::Encapsulated => self.note("VXLAN of a workload"),
                Step::Failsafe if packet.protocol == 58 => self.note("neighbour discovery"),
                Step::Failsafe => self.note(match stage {
                    Some(Stage::Untracked) => "failsafe port before connection tracking",
                    Some(Stage::PreDnat) => "failsafe port before destination NAT",
                    _ => "failsafe port of the host",
                }),
                _ => {}
            }
        }
        if decision.cause == VerdictCause::NoForwardPolicy {
            self.note("no policy for forwarded packets");
        }
    }

    fn matched(
        &mut self,
        configured: Configured<'_>,
        packet: &Packet,
        id: &RuleId,
        action: Action,
        stage: Option<Stage>,
        decision: &Decision,
    ) {
        let of = if matches!(id.owner, RuleOwner::Policy(_)) { "policy" } else { "profile" };
        self.note(format!("{action:?} of a {of}"));
        if decision.cause != VerdictCause::Rule(id.clone()) {
            return;
        }
        if let Some(stage) = stage {
            let verdict = word(decision.verdict);
            self.note(format!("{stage:?} host policy {verdict} {}", id.direction));
        }
        if let RuleOwner::Policy(policy) = &id.owner {
            let key = Key::resource(policy.kind, policy.namespace.as_deref(), &policy.name);
            self.policy(&configured.objects[&key]);
        }
        let (rule, desired) = (rule(configured.desired, id), configured.desired);
        if let Some(source) = source(configured.objects, id) {
            for name in clauses::matched(source, rule, packet, desired) {
                self.note(name);
            }
        }
        for (side, address) in
            [(&rule.source, packet.source), (&rule.destination, packet.destination)]
        {
            if !side.sets.is_empty() {
                self.note(format!("set with {}", whose(configured.objects, address)));
            }
            if !side.port_sets.is_empty()
                && whose(configured.objects, address) == "the address of a host endpoint"
            {
                self.note("named port of a host endpoint");
            }
        }
    }

    /// What the policy that decided says besides its rules.
    fn policy(&mut self, object: &Object) {
        let mut says = |name: &str, said: bool| {
            if said {
                self.note(format!("policy with {name}"));
            }
        };
        match object {
            Object::NetworkPolicy(policy) => {
                let spec = &policy.spec;
                says("a namespace", true);
                says("a tier", !spec.tier.is_empty());
                says("an order", spec.order.is_some());
                says("types", !spec.types.is_empty());
                says("serviceAccountSelector", !spec.service_account_selector.is_empty());
                says("performanceHints", !spec.performance_hints.is_empty());
            }
            Object::GlobalNetworkPolicy(policy) => {
                let spec = &policy.spec;
                says("no namespace", true);
                says("namespaceSelector", !spec.namespace_selector.is_empty());
                says("serviceAccountSelector", !spec.service_account_selector.is_empty());
                says("applyOnForward", spec.apply_on_forward);
                says("doNotTrack", spec.do_not_track);
                says("preDNAT", spec.pre_dnat);
            }
            _ => {}
        }
    }

    /// A staged policy must change nothing; that shows where it would have.
    fn staged(&mut self, configured: Configured<'_>, met: &Met, verdict: Verdict) {
        let Some(staged) = configured.staged else { return };
        let would = match &met.place {
            Place::Workload(id, _) => {
                staged.evaluate(&staged.endpoints[id], met.direction, &met.packet)
            }
            Place::Host(name, forwarded, _) => {
                let endpoint = &staged.host_endpoints[name];
                staged.evaluate_host(endpoint, met.direction, *forwarded, &met.packet)
            }
            _ => return,
        };
        if would.verdict == verdict {
            return;
        }
        self.note(match would.cause {
            VerdictCause::Rule(RuleId { owner: RuleOwner::Policy(policy), .. })
                if policy.kind == Kind::NetworkPolicy =>
            {
                "StagedNetworkPolicy, which does nothing"
            }
            VerdictCause::Rule(RuleId { owner: RuleOwner::Policy(_), .. }) => {
                "StagedGlobalNetworkPolicy, which does nothing"
            }
            _ => "a staged policy without a rule for it, which does nothing",
        });
    }
}

impl fmt::Display for Coverage {
    /// A line a feature.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(name, count)| writeln!(f, "{count:>7}  {name}"))
    }
}

const fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Allowed => "allowed",
        _ => "denied",
    }
}

/// Whether the verdict would have been another one if this rule had matched.
fn decides_otherwise(action: Action, id: &RuleId, verdict: Verdict) -> bool {
    let is_last = matches!(id.owner, RuleOwner::Profile(_));
    match action {
        Action::Allow => verdict != Verdict::Allowed,
        Action::Deny => verdict != Verdict::Denied,
        Action::Pass => is_last && verdict != Verdict::Denied,
        Action::Log => false,
    }
}
