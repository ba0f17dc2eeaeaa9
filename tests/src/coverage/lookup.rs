//! What identities of rules and addresses stand for.

use std::collections::BTreeMap;
use std::net::IpAddr;

use calico_core::dataplane::{Direction, Rule, RuleId, RuleOwner};
use calico_core::key::Key;
use calico_core::kind::Kind;
use calico_core::resource;
use calico_policy::Object;
use calico_policy::desired::Desired;

/// A rule as compiled.
pub(super) fn rule<'a>(desired: &'a Desired, id: &RuleId) -> &'a Rule {
    let rules = &desired.rules[&id.owner];
    let list = if id.direction == Direction::Ingress { &rules.ingress } else { &rules.egress };
    &list[usize::from(id.index)]
}

/// A rule as written; none of the profile that is always there.
pub(super) fn source<'a>(
    objects: &'a BTreeMap<Key, Object>,
    id: &RuleId,
) -> Option<&'a resource::Rule> {
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
pub(super) fn whose(objects: &BTreeMap<Key, Object>, address: IpAddr) -> &'static str {
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
