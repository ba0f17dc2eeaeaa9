//! What of policy the packets of a test reached: a feature that no verdict depended on was not
//! tested, however many packets were sent.
//!
//! A clause of a rule is reached in two ways. It *matched* where the rule that decided has it. It
//! *kept away* where the rule would have matched without it, and the verdict would have been
//! another one. Both must have happened, of each clause at each end of the traffic.

mod clauses;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use calico_core::dataplane::{
    Action, DefaultAction, Direction, EndpointToHostAction, HostInterface, Rule, RuleId, RuleOwner,
    SetMember, Verdict, VerdictCause, WorkloadEndpoint,
};
use calico_core::key::{Family, Key};
use calico_core::kind::Kind;
use calico_core::resource;
use calico_policy::Object;
use calico_policy::desired::Desired;
use calico_policy::eval::{Decision, Packet, Stage, Step, mismatch};

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
        all.extend(FEATURES.iter().map(|name| (*name).to_owned()));
        all
    }

    /// Features that no verdict depended on.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        Self::wanted().into_iter().filter(|name| !self.0.contains_key(name)).collect()
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
                self.shared(configured.desired, endpoint, decision, &met.packet);
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

    /// What is compiled in another way than it is written: what several share, what is merged, and
    /// what is left out.
    fn shared(
        &mut self,
        desired: &Desired,
        endpoint: &WorkloadEndpoint,
        decision: &Decision,
        packet: &Packet,
    ) {
        let alike = |other: &&WorkloadEndpoint| {
            (&other.tiers, &other.profiles) == (&endpoint.tiers, &endpoint.profiles)
        };
        if desired.endpoints.values().filter(alike).count() > 1 {
            self.note("chain that endpoints of equal policy share");
        }
        let VerdictCause::Rule(id) = &decision.cause else { return };
        let rule = rule(desired, id);
        let ends = [(&rule.source, packet.source), (&rule.destination, packet.destination)];
        for (set, address) in
            ends.iter().flat_map(|(side, address)| side.sets.iter().map(move |set| (set, address)))
        {
            let users = desired.rules.values().filter(|rules| {
                let mut all = rules.ingress.iter().chain(&rules.egress);
                all.any(|r| r.source.sets.contains(set) || r.destination.sets.contains(set))
            });
            if users.count() > 1 {
                self.note("set that policies share");
            }
            let holds = |member: &&SetMember| match member {
                SetMember::Net(net) => net.contains(address),
                SetMember::Port { .. } => false,
            };
            if desired.sets[set].members.iter().filter(holds).count() > 1 {
                self.note("prefixes of a set that are merged");
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

/// Besides clauses of rules.
const FEATURES: [&str; 71] = [
    "chain that endpoints of equal policy share",
    "set that policies share",
    "prefixes of a set that are merged",
    "Allow of a policy",
    "Deny of a policy",
    "Pass of a policy",
    "Log of a policy",
    "Allow of a profile",
    "Deny of a profile",
    "Pass of a profile",
    "Log of a profile",
    "Untracked host policy allowed ingress",
    "Untracked host policy denied ingress",
    "Untracked host policy allowed egress",
    "Untracked host policy denied egress",
    "PreDnat host policy allowed ingress",
    "PreDnat host policy denied ingress",
    "Local host policy allowed ingress",
    "Local host policy denied ingress",
    "Local host policy allowed egress",
    "Local host policy denied egress",
    "Forward host policy allowed ingress",
    "Forward host policy denied ingress",
    "Forward host policy allowed egress",
    "Forward host policy denied egress",
    "host endpoint by name",
    "host endpoint by address",
    "host endpoint of all interfaces",
    "no policy for forwarded packets",
    "failsafe port before connection tracking",
    "failsafe port before destination NAT",
    "failsafe port of the host",
    "neighbour discovery",
    "defaultEndpointToHostAction Drop",
    "defaultEndpointToHostAction Accept",
    "defaultEndpointToHostAction Return",
    "unknown endpoint",
    "spoofed source",
    "allowSpoofedSourcePrefixes",
    "VXLAN of a workload",
    "IPIP of a workload",
    "end of tier: Pass",
    "end of tier: Deny",
    "policy without rules",
    "no profile matched",
    "policy with a namespace",
    "policy with no namespace",
    "policy with a tier",
    "policy with an order",
    "policy with types",
    "policy with namespaceSelector",
    "policy with serviceAccountSelector",
    "policy with performanceHints",
    "policy with applyOnForward",
    "policy with doNotTrack",
    "policy with preDNAT",
    "set with the address of a workload",
    "set with the address of a host endpoint",
    "set with a network set",
    "named port of a host endpoint",
    "StagedNetworkPolicy, which does nothing",
    "StagedGlobalNetworkPolicy, which does nothing",
    "a staged policy without a rule for it, which does nothing",
    "TCP over IPv4 allowed",
    "TCP over IPv6 denied",
    "UDP over IPv6 allowed",
    "SCTP over IPv4 allowed",
    "UDPLite over IPv6 allowed",
    "ICMP over IPv4 allowed",
    "ICMP over IPv6 denied",
    "other protocols over IPv4 denied",
];

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

/// A rule as compiled.
fn rule<'a>(desired: &'a Desired, id: &RuleId) -> &'a Rule {
    let rules = &desired.rules[&id.owner];
    let list = if id.direction == Direction::Ingress { &rules.ingress } else { &rules.egress };
    &list[usize::from(id.index)]
}

/// A rule as written; none of the profile that is always there.
fn source<'a>(objects: &'a BTreeMap<Key, Object>, id: &RuleId) -> Option<&'a resource::Rule> {
    let key = match &id.owner {
        RuleOwner::Policy(policy) => {
            Key::resource(policy.kind, policy.namespace.as_deref(), &policy.name)
        }
        RuleOwner::Profile(name) => Key::resource(Kind::Profile, None, name),
    };
    let [ingress, egress] = match objects.get(&key)? {
        Object::NetworkPolicy(policy) => [&policy.spec.ingress, &policy.spec.egress],
        Object::GlobalNetworkPolicy(policy) => [&policy.spec.ingress, &policy.spec.egress],
        Object::Profile(profile) => [&profile.spec.ingress, &profile.spec.egress],
        _ => return None,
    };
    let list = if id.direction == Direction::Ingress { ingress } else { egress };
    list.get(usize::from(id.index))
}

/// What an address that is in a set of labels is there for.
fn whose(objects: &BTreeMap<Key, Object>, address: IpAddr) -> &'static str {
    let is_host = |object: &Object| match object {
        Object::HostEndpoint(endpoint) => endpoint.spec.expected_ips.contains(&address),
        _ => false,
    };
    let is_workload = |object: &Object| match object {
        Object::WorkloadEndpoint(endpoint) => {
            endpoint.spec.ip_networks.iter().any(|net| net.addr() == address)
        }
        _ => false,
    };
    if objects.values().any(is_host) {
        "the address of a host endpoint"
    } else if objects.values().any(is_workload) {
        "the address of a workload"
    } else {
        "a network set"
    }
}
