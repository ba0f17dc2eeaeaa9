//! The canonical form of what our graph asks for.

use calico_core::dataplane::{
    Action, DefaultAction, EndpointId, HostInterface, PolicyId, Rule, RuleOwner, SetId, SetMember,
    Side, TierPolicies,
};
use calico_core::key::Family;
use calico_core::resource::EndpointName;
use calico_policy::desired::Desired;

use crate::canonical::{self, RuleText, Sets, State};

/// The state that our updates add up to.
#[must_use]
pub fn state(desired: &Desired) -> State {
    let mut state = State::default();
    let mut sets = Sets::default();
    for (owner, rules) in &desired.rules {
        let key = match owner {
            RuleOwner::Policy(id) => format!("policy {}", name(id)),
            RuleOwner::Profile(name) => format!("profile {name}"),
        };
        let mut of = |rules: &[Rule]| -> Vec<RuleText> {
            rules.iter().map(|each| rule(each, desired, &mut sets)).collect()
        };
        let (ingress, egress) = (of(&rules.ingress), of(&rules.egress));
        state.0.insert(key, canonical::rules(&ingress, &egress));
    }
    for endpoint in desired.endpoints.values() {
        let text = format!(
            "{} addresses={} sources={} profiles={}{}",
            endpoint.interface,
            canonical::nets(endpoint.addresses.iter().copied()),
            canonical::nets(endpoint.allowed_sources.iter().copied()),
            canonical::names(endpoint.profiles.iter()),
            tiers("tier", &endpoint.tiers),
        );
        state.0.insert(format!("workload {}", workload(&endpoint.id)), text);
    }
    for endpoint in desired.host_endpoints.values() {
        let text = format!(
            "{} profiles={}{}{}{}{}",
            match &endpoint.interface {
                HostInterface::Named(name) => name.to_string(),
                HostInterface::Addressed(addresses) =>
                    canonical::nets(addresses.iter().map(|address| (*address).into())),
                HostInterface::All => "*".to_owned(),
                other => format!("{other:?}"),
            },
            canonical::names(endpoint.profiles.iter()),
            tiers("tier", &endpoint.local),
            tiers("forward", &endpoint.forward),
            tiers("untracked", &endpoint.untracked),
            tiers("preDNAT", &endpoint.pre_dnat),
        );
        state.0.insert(format!("host {}", endpoint.name), text);
    }
    sets.join(&mut state);
    state
}

/// As Felix names it: namespace, pod and interface.
fn workload(id: &EndpointId) -> String {
    match id.name.parse::<EndpointName>() {
        Ok(name) => format!("{}/{} {}", id.namespace, name.workload, name.endpoint),
        Err(_) => id.to_string(),
    }
}

fn name(id: &PolicyId) -> String {
    match &id.namespace {
        Some(namespace) => format!("{namespace}/{}", id.name),
        None => id.name.to_string(),
    }
}

fn tiers(sort: &str, tiers: &[TierPolicies]) -> String {
    let of = |tier: &TierPolicies| {
        let action = match tier.default_action {
            DefaultAction::Deny => "Deny",
            DefaultAction::Pass => "Pass",
        };
        let names = |policies: &[PolicyId]| policies.iter().map(name).collect::<Vec<_>>();
        canonical::tier(sort, &tier.tier, action, &names(&tier.ingress), &names(&tier.egress))
    };
    tiers.iter().map(of).collect()
}

fn rule(rule: &Rule, desired: &Desired, sets: &mut Sets) -> RuleText {
    let mut text = RuleText::new(match rule.action {
        Action::Allow => "allow",
        Action::Deny => "deny",
        Action::Pass => "pass",
        Action::Log => "log",
    });
    text.one(
        "ip",
        rule.family.map(|family| match family {
            Family::V4 => 4,
            Family::V6 => 6,
        }),
    );
    text.one("proto", rule.protocol);
    text.one("!proto", rule.not_protocol);
    let icmp = |icmp: calico_core::dataplane::IcmpMatch| match icmp.code {
        Some(code) => format!("{}/{code}", icmp.kind),
        None => icmp.kind.to_string(),
    };
    text.one("icmp", rule.icmp.map(icmp));
    text.one("!icmp", rule.not_icmp.map(icmp));
    side(&mut text, "src", &rule.source, desired, sets);
    side(&mut text, "dst", &rule.destination, desired, sets);
    text
}

fn side(text: &mut RuleText, end: &str, side: &Side, desired: &Desired, sets: &mut Sets) {
    let nets = |nets: &[ipnet::IpNet]| nets.iter().map(|net| net.trunc().to_string()).collect();
    let ranges = |ranges: &[calico_core::dataplane::PortRange]| {
        ranges.iter().map(|range| canonical::ports(range.first, range.last)).collect()
    };
    let mut named = |ids: &[SetId]| -> Vec<String> {
        ids.iter().map(|id| sets.name(&id.0, members(desired, id))).collect()
    };
    let clauses: [(&str, Vec<String>); 8] = [
        ("net", nets(&side.nets)),
        ("!net", nets(&side.not_nets)),
        ("set", named(&side.sets)),
        ("!set", named(&side.not_sets)),
        ("port", ranges(&side.ports)),
        ("!port", ranges(&side.not_ports)),
        ("portset", named(&side.port_sets)),
        ("!portset", named(&side.not_port_sets)),
    ];
    for (name, values) in clauses {
        text.list(&format!("{end}.{name}"), values.into_iter());
    }
}

fn members<'a>(desired: &'a Desired, id: &SetId) -> impl Iterator<Item = String> + use<'a> {
    let members = desired.sets.get(id).map(|set| &set.members);
    members.into_iter().flatten().flat_map(|member| match member {
        // As two halves, since the kernel's ipsets have no prefix of length 0.
        SetMember::Net(net) if net.prefix_len() == 0 => {
            net.subnets(1).expect("longer than 0").map(|half| half.to_string()).collect()
        }
        SetMember::Net(net) => vec![net.to_string()],
        SetMember::Port { address, protocol, port } => vec![format!("{address},{protocol}:{port}")],
    })
}
