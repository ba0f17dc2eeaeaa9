//! What is compiled in another way than it is written: what several share, what is merged, and
//! what is left out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use calico_core::dataplane::{
    Rule, RuleId, RuleOwner, SetId, SetMember, VerdictCause, WorkloadEndpoint,
};
use calico_core::key::Key;
use calico_core::resource::{EntityRule, Profile};
use calico_policy::Object;
use calico_policy::desired::Desired;
use calico_policy::eval::{Decision, Packet};

use super::Configured;
use super::lookup::{rule, source};

/// What the engine does besides compiling rule by rule.
pub(super) const OF_THE_ENGINE: [&str; 6] = [
    "set that policies share",
    "set that rules of a policy share",
    "set of selectors that are written in several ways",
    "member of a set that several objects bring",
    "policy that is left out, as no endpoint needs it",
    "profile that is left out, as no endpoint needs it",
];

/// What a dataplane may do besides, as far as the desired state shows it.
pub(super) const OF_A_DATAPLANE: [&str; 2] =
    ["chain that endpoints of equal policy share", "prefixes of a set that are merged"];

/// What was found in the kernel.
pub(super) const IN_THE_KERNEL: [&str; 2] =
    ["kernel: rule in the chain of its protocol", "kernel: chain that interfaces share"];

/// A place in rules that asks for a set: the rule, and `source` or `destination`.
type User<'a> = (&'a RuleId, &'static str);

/// The features that had a part in a decision at a workload.
pub(super) fn features(
    configured: Configured<'_>,
    endpoint: &WorkloadEndpoint,
    decision: &Decision,
    packet: &Packet,
) -> Vec<&'static str> {
    let desired = configured.desired;
    let mut found = left_out(configured.objects, desired);
    let alike = |other: &&WorkloadEndpoint| {
        (&other.tiers, &other.profiles) == (&endpoint.tiers, &endpoint.profiles)
    };
    if desired.endpoints.values().filter(alike).count() > 1 {
        found.push("chain that endpoints of equal policy share");
    }
    let VerdictCause::Rule(id) = &decision.cause else { return found };
    let rule = rule(desired, id);
    for (side, address) in [(&rule.source, packet.source), (&rule.destination, packet.destination)]
    {
        for set in &side.sets {
            found.extend(of_set(configured.objects, desired, set, address));
        }
    }
    found
}

fn of_set(
    objects: &BTreeMap<Key, Object>,
    desired: &Desired,
    set: &SetId,
    address: IpAddr,
) -> Vec<&'static str> {
    let mut found = Vec::new();
    let users = users(desired, set);
    let owners: BTreeSet<&RuleOwner> = users.iter().map(|(id, _)| &id.owner).collect();
    if owners.len() > 1 {
        found.push("set that policies share");
    }
    if users.len() > owners.len() {
        found.push("set that rules of a policy share");
    }
    let written = |(id, end): &User<'_>| {
        let rule = source(objects, id)?;
        let entity = if *end == "source" { &rule.source } else { &rule.destination };
        Some(text(entity))
    };
    if users.iter().filter_map(written).collect::<BTreeSet<_>>().len() > 1 {
        found.push("set of selectors that are written in several ways");
    }
    let holds = |member: &&SetMember| match member {
        SetMember::Net(net) => net.contains(&address),
        SetMember::Port { .. } => false,
    };
    if desired.sets[set].members.iter().filter(holds).count() > 1 {
        found.push("prefixes of a set that are merged");
    }
    if desired.sets[set].members.iter().filter(holds).any(|member| bring(objects, *member) > 1) {
        found.push("member of a set that several objects bring");
    }
    found
}

fn users<'a>(desired: &'a Desired, set: &SetId) -> BTreeSet<User<'a>> {
    let rules = desired.rules.values().flat_map(|rules| rules.ingress.iter().chain(&rules.egress));
    let of = |rule: &'a Rule| {
        let ends = [(&rule.source, "source"), (&rule.destination, "destination")];
        ends.into_iter().filter(|(side, _)| side.sets.contains(set)).map(|(_, end)| (&rule.id, end))
    };
    rules.flat_map(of).collect()
}

/// What of a rule says who is meant by labels.
fn text(entity: &EntityRule) -> String {
    let (selector, namespaces) = (&entity.selector, &entity.namespace_selector);
    format!("{selector}; {namespaces}; {:?}", entity.service_accounts)
}

/// How many objects have a member among their addresses.
fn bring(objects: &BTreeMap<Key, Object>, member: SetMember) -> usize {
    let SetMember::Net(wanted) = member else { return 0 };
    let has = |object: &&Object| match object {
        Object::WorkloadEndpoint(it) => {
            it.spec.ip_networks.iter().any(|net| wanted == net.addr().into())
        }
        Object::HostEndpoint(it) => {
            it.spec.expected_ips.iter().any(|address| wanted == (*address).into())
        }
        Object::NetworkSet(it) => it.spec.nets.iter().any(|net| net.0.trunc() == wanted),
        Object::GlobalNetworkSet(it) => it.spec.nets.iter().any(|net| net.0.trunc() == wanted),
        _ => false,
    };
    objects.values().filter(has).count()
}

fn left_out(objects: &BTreeMap<Key, Object>, desired: &Desired) -> Vec<&'static str> {
    let is_there = |owner: RuleOwner| desired.rules.contains_key(&owner);
    let mut found = Vec::new();
    let policies = objects.values().filter(|object| {
        matches!(object, Object::NetworkPolicy(_) | Object::GlobalNetworkPolicy(_))
    });
    let of_policies = desired.rules.keys().filter(|owner| matches!(owner, RuleOwner::Policy(_)));
    if policies.count() > of_policies.count() {
        found.push("policy that is left out, as no endpoint needs it");
    }
    let is_missing = |profile: &Profile| {
        let rules = [&profile.spec.ingress, &profile.spec.egress];
        rules.iter().any(|list| !list.is_empty())
            && !is_there(RuleOwner::Profile(profile.name().into()))
    };
    if objects.values().any(|object| matches!(object, Object::Profile(it) if is_missing(it))) {
        found.push("profile that is left out, as no endpoint needs it");
    }
    found
}
