//! Policy read straight from resources: no index, no sets, no IR. Slow, short, and written
//! without a look at the engine, so that the two can check each other.

use std::collections::BTreeMap;
use std::net::IpAddr;

use calico_core::dataplane::Direction;
use calico_core::key::Key;
use calico_core::resource::{
    Action, EntityRule, GlobalNetworkPolicy, KubernetesEndpointSlice, NetworkPolicy, PolicyType,
    Port, Profile, Protocol, Rule, ServiceMatch, Tier, TierAction, WorkloadEndpoint,
};
use calico_core::selector::{self, Selector};
use calico_policy::eval::Packet;
use calico_policy::{Input, Object};

use super::name;

/// All objects there are.
pub(crate) struct Cluster(BTreeMap<Key, Object>);

/// A policy of either kind.
struct Policy<'a> {
    name: String,
    tie: String,
    tier: &'a str,
    order: f64,
    namespace: &'a str,
    rules: &'a [Rule],
    applies: bool,
    selector: Selector,
}

impl Cluster {
    pub(crate) fn of(inputs: &[Input]) -> Self {
        let mut objects = BTreeMap::new();
        for input in inputs {
            match input {
                Input::Put(object) => objects.insert(name(input), object.clone()),
                _ => objects.remove(&name(input)),
            };
        }
        Self(objects)
    }

    pub(crate) fn endpoints(&self) -> impl Iterator<Item = &WorkloadEndpoint> {
        self.0.values().filter_map(|object| match object {
            Object::WorkloadEndpoint(endpoint) => Some(&**endpoint),
            _ => None,
        })
    }

    /// What becomes of a packet at an endpoint: `allowed by X` or `denied by X`.
    pub(crate) fn verdict(
        &self,
        endpoint: &WorkloadEndpoint,
        direction: Direction,
        packet: &Packet,
    ) -> String {
        let labels = self.labels_of(endpoint);
        let mut policies = self.policies(direction);
        policies.retain(|policy| policy.applies && policy.selector.matches(&labels));
        let mut tiers: Vec<&str> = policies.iter().map(|policy| policy.tier).collect();
        let rank = |name: &str| match self.tier(name) {
            Some(tier) => (0, tier.spec.order()),
            None => (1, 0.0),
        };
        tiers.sort_by(|a, b| rank(a).partial_cmp(&rank(b)).unwrap().then(a.cmp(b)));
        tiers.dedup();
        policies.sort_by(|a, b| a.order.total_cmp(&b.order).then(a.tie.cmp(&b.tie)));
        'tiers: for tier in tiers {
            for policy in policies.iter().filter(|policy| policy.tier == tier) {
                match self.first(policy.rules, policy.namespace, packet) {
                    Some((Action::Pass, _)) => continue 'tiers,
                    Some((action, index)) => {
                        return format!("{} {} rule {index}", word(action), policy.name);
                    }
                    None => {}
                }
            }
            let action = self.tier(tier).map_or(TierAction::Deny, |t| t.spec.default_action());
            if action == TierAction::Deny {
                return format!("denied by the end of tier {tier}");
            }
        }
        for profile in &endpoint.spec.profiles {
            let key = Key::resource(calico_core::Kind::Profile, None, profile);
            let missing = Profile::new(profile.as_str(), Default::default());
            let (profile_rules, exists) = match self.0.get(&key) {
                Some(Object::Profile(profile)) => (&**profile, true),
                _ => (&missing, false),
            };
            let rules = match direction {
                Direction::Ingress => &profile_rules.spec.ingress,
                Direction::Egress => &profile_rules.spec.egress,
            };
            let found =
                if exists { self.first(rules, "", packet) } else { Some((Action::Deny, 0)) };
            if let Some((action, index)) = found {
                let action = if action == Action::Pass { Action::Deny } else { action };
                return format!("{} Profile {profile} {direction} rule {index}", word(action));
            }
        }
        "denied by default: no profile allowed it".to_owned()
    }

    fn policies(&self, direction: Direction) -> Vec<Policy<'_>> {
        self.0
            .values()
            .filter_map(|object| match object {
                Object::NetworkPolicy(policy) => Some(namespaced(policy, direction)),
                Object::GlobalNetworkPolicy(policy) => Some(global(policy, direction)),
                _ => None,
            })
            .collect()
    }

    fn tier(&self, name: &str) -> Option<Tier> {
        let stored = self.0.get(&Key::resource(calico_core::Kind::Tier, None, name));
        match stored {
            Some(Object::Tier(tier)) => Some((**tier).clone()),
            _ => Tier::built_in().into_iter().find(|tier| tier.name() == name),
        }
    }

    /// The first rule that decides.
    fn first(&self, rules: &[Rule], namespace: &str, packet: &Packet) -> Option<(Action, usize)> {
        let mut rules = rules.iter().enumerate();
        rules
            .find(|(_, rule)| rule.action != Action::Log && self.holds(rule, namespace, packet))
            .map(|(index, rule)| (rule.action, index))
    }

    fn holds(&self, rule: &Rule, namespace: &str, packet: &Packet) -> bool {
        let protocol_is =
            |protocol: calico_core::resource::Protocol| protocol.number() == packet.protocol;
        let (source_port, destination_port) = packet.ports.unzip();
        rule.ip_version.is_none_or(|version| (version == 4) == packet.source.is_ipv4())
            && rule.protocol.is_none_or(protocol_is)
            && !rule.not_protocol.is_some_and(protocol_is)
            && self.end(&rule.source, namespace, packet, packet.source, source_port)
            && rule.source.services.as_ref().is_none_or(|service| {
                self.slices_of(service, namespace)
                    .any(|slice| slice.addresses().any(|address| address == packet.source))
            })
            && rule.destination.services.as_ref().is_none_or(|service| {
                let wanted = |(address, protocol, port): (IpAddr, Protocol, u16)| {
                    (address, protocol.number(), Some(port))
                        == (packet.destination, packet.protocol, destination_port)
                };
                self.slices_of(service, namespace)
                    .any(|slice| slice.addresses_and_ports().any(wanted))
            })
            && self.end(&rule.destination, namespace, packet, packet.destination, destination_port)
    }

    fn slices_of<'a>(
        &'a self,
        service: &'a ServiceMatch,
        namespace: &'a str,
    ) -> impl Iterator<Item = &'a KubernetesEndpointSlice> {
        let stated = Some(&*service.namespace).filter(|stated| !stated.is_empty());
        let namespace = stated.unwrap_or(namespace);
        self.0.values().filter_map(move |object| match object {
            Object::KubernetesEndpointSlice(slice) => (slice.namespace() == namespace
                && slice.service() == Some(&*service.name))
            .then_some(&**slice),
            _ => None,
        })
    }

    fn end(
        &self,
        entity: &EntityRule,
        namespace: &str,
        packet: &Packet,
        address: IpAddr,
        port: Option<u16>,
    ) -> bool {
        let within =
            |nets: &[calico_core::resource::Cidr]| nets.iter().any(|net| net.contains(&address));
        let (selected, excluded) = selector::entity_selectors(entity, namespace).unwrap();
        let has = |ports: &[Port]| {
            ports.iter().any(|wanted| match (wanted, port) {
                (Port::Range { first, last }, Some(port)) => (*first..=*last).contains(&port),
                (Port::Named(name), Some(port)) => self.endpoints().any(|endpoint| {
                    let labels = self.labels_of(endpoint);
                    selected.as_ref().is_none_or(|selector| selector.matches(&labels))
                        && endpoint.spec.ip_networks.iter().any(|net| net.addr() == address)
                        && endpoint.spec.ports.iter().any(|candidate| {
                            candidate.name == *name
                                && candidate.port == port
                                && candidate.protocol.unwrap().number() == packet.protocol
                        })
                }),
                (_, None) => false,
            })
        };
        (entity.nets.is_empty() || within(&entity.nets))
            && !within(&entity.not_nets)
            && selected.as_ref().is_none_or(|selector| self.is_selected(selector, address))
            && !excluded.as_ref().is_some_and(|selector| self.is_selected(selector, address))
            && (entity.ports.is_empty() || has(&entity.ports))
            && !has(&entity.not_ports)
    }

    /// Whether an endpoint or network set with this address is selected.
    fn is_selected(&self, selector: &Selector, address: IpAddr) -> bool {
        self.0.values().any(|object| match object {
            Object::WorkloadEndpoint(endpoint) => {
                endpoint.spec.ip_networks.iter().any(|net| net.addr() == address)
                    && selector.matches(&self.labels_of(endpoint))
            }
            Object::GlobalNetworkSet(set) => {
                set.spec.nets.iter().any(|net| net.contains(&address))
                    && selector.matches(&set.metadata.labels)
            }
            Object::NetworkSet(set) => {
                let profile = [format!("kns.{}", set.namespace())];
                let mut labels = self.inherited(&profile);
                labels.extend(set.metadata.labels.clone());
                labels.insert(selector::NAMESPACE_LABEL.into(), set.namespace().into());
                set.spec.nets.iter().any(|net| net.contains(&address)) && selector.matches(&labels)
            }
            _ => false,
        })
    }

    fn labels_of(&self, endpoint: &WorkloadEndpoint) -> BTreeMap<String, String> {
        let mut labels = self.inherited(&endpoint.spec.profiles);
        labels.extend(endpoint.metadata.labels.clone());
        labels.insert(selector::NAMESPACE_LABEL.into(), endpoint.namespace().into());
        labels.insert(selector::ORCHESTRATOR_LABEL.into(), "k8s".into());
        labels
    }

    fn inherited(&self, profiles: &[String]) -> BTreeMap<String, String> {
        let mut labels = BTreeMap::new();
        for profile in profiles.iter().rev() {
            let key = Key::resource(calico_core::Kind::Profile, None, profile);
            if let Some(Object::Profile(profile)) = self.0.get(&key) {
                labels.extend(profile.spec.labels_to_apply.clone());
            }
        }
        labels
    }
}

fn namespaced(policy: &NetworkPolicy, direction: Direction) -> Policy<'_> {
    let (rules, side) = match direction {
        Direction::Ingress => (&policy.spec.ingress, PolicyType::Ingress),
        Direction::Egress => (&policy.spec.egress, PolicyType::Egress),
    };
    let (namespace, name) = (policy.namespace(), policy.name());
    Policy {
        name: format!("NetworkPolicy {namespace}/{name} {direction}"),
        tie: format!("{name}/{namespace}/NetworkPolicy"),
        tier: policy.spec.tier(),
        order: policy.spec.order.unwrap_or(f64::INFINITY),
        namespace,
        rules,
        applies: policy.spec.types().contains(&side),
        selector: selector::policy_selector(&policy.spec, namespace).unwrap(),
    }
}

fn global(policy: &GlobalNetworkPolicy, direction: Direction) -> Policy<'_> {
    let (rules, side) = match direction {
        Direction::Ingress => (&policy.spec.ingress, PolicyType::Ingress),
        Direction::Egress => (&policy.spec.egress, PolicyType::Egress),
    };
    let name = policy.name();
    Policy {
        name: format!("GlobalNetworkPolicy {name} {direction}"),
        tie: format!("{name}//GlobalNetworkPolicy"),
        tier: policy.spec.tier(),
        order: policy.spec.order.unwrap_or(f64::INFINITY),
        namespace: "",
        rules,
        applies: policy.spec.types().contains(&side)
            && !policy.spec.do_not_track
            && !policy.spec.pre_dnat,
        selector: selector::global_policy_selector(&policy.spec).unwrap(),
    }
}

fn word(action: Action) -> &'static str {
    if action == Action::Allow { "allowed by" } else { "denied by" }
}
