//! Resources compiled with nothing shared and nothing left out: what the engine saves, done in
//! full, for the evaluator to compare.
//!
//! The engine gives equal selectors one set, keeps each member once, leaves out what no endpoint of
//! the node needs, and finds who is selected by an index, change by change. Here each end of each
//! rule has sets of its own, every policy and profile is compiled, and every selector is asked about
//! every object, from the start. Only the settings of the host are taken over: no policy is in them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use calico_core::dataplane::{
    self, Action, DefaultAction, Direction, EndpointId, IcmpMatch, PolicyId, PortRange, RuleId,
    RuleOwner, RuleSet, SetId, SetKind, SetMember, Side, TierPolicies,
};
use calico_core::key::{Family, Key};
use calico_core::kind::Kind;
use calico_core::resource::{
    self, EntityRule, Icmp, PolicyType, Port, Profile, Protocol, Rule, TierAction,
};
use calico_core::selector::{self, Selector};
use calico_policy::Object;
use calico_policy::desired::{Desired, Members};

type Labels = BTreeMap<String, String>;

/// When a policy judges packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Normal,
    Forward,
    PreDnat,
    Untracked,
}

/// A policy of either kind.
struct Policy<'a> {
    id: PolicyId,
    tier: &'a str,
    order: f64,
    types: [bool; 2],
    stage: Stage,
    selector: Selector,
}

/// Something that rules mean by labels.
struct Item<'a> {
    labels: Labels,
    nets: Vec<ipnet::IpNet>,
    /// Name, protocol and number of each port.
    ports: Vec<(&'a str, u8, u16)>,
}

/// Everything, and the state that comes of it.
struct Compiler<'a> {
    objects: &'a BTreeMap<Key, Object>,
    items: Vec<Item<'a>>,
    desired: Desired,
}

/// What the endpoints of `node` are to have by these resources. `settings` are what the engine made
/// of the host's.
#[must_use]
pub fn compile(objects: &BTreeMap<Key, Object>, node: &str, settings: &Desired) -> Desired {
    let desired = Desired {
        host: settings.host.clone(),
        pools: settings.pools.clone(),
        in_sync: settings.in_sync,
        ..Desired::default()
    };
    let mut compiler = Compiler { objects, items: Vec::new(), desired };
    compiler.items = objects.values().filter_map(|object| compiler.item(object)).collect();
    objects.values().for_each(|object| compiler.rules(object));
    let policies: Vec<Policy<'_>> = objects.values().filter_map(policy).collect();
    for object in objects.values() {
        compiler.endpoint(object, node, &policies, settings);
    }
    compiler.desired
}

impl<'a> Compiler<'a> {
    /// First come, first served: of labels that several profiles give, the first one's count.
    fn inherited(&self, profiles: &[String]) -> Labels {
        let mut labels = Labels::new();
        for name in profiles.iter().rev() {
            if let Some(profile) = self.profile(name) {
                labels.extend(profile.spec.labels_to_apply.clone());
            }
        }
        labels
    }

    fn profile(&self, name: &str) -> Option<&'a Profile> {
        match self.objects.get(&Key::resource(Kind::Profile, None, name)) {
            Some(Object::Profile(profile)) => Some(profile),
            _ => None,
        }
    }

    fn labels(&self, profiles: &[String], own: Labels) -> Labels {
        let mut labels = self.inherited(profiles);
        labels.extend(own);
        labels
    }

    fn item(&self, object: &'a Object) -> Option<Item<'a>> {
        let number = |protocol: Option<Protocol>| protocol.map_or(6, Protocol::number);
        let one = |address: IpAddr| ipnet::IpNet::from(address);
        match object {
            Object::WorkloadEndpoint(it) => {
                let ports = it.spec.ports.iter().filter(|port| !port.name.is_empty());
                Some(Item {
                    labels: self.labels(&it.spec.profiles, it.selector_labels()),
                    nets: it.spec.ip_networks.iter().map(|net| one(net.addr())).collect(),
                    ports: ports.map(|p| (&*p.name, number(p.protocol), p.port)).collect(),
                })
            }
            Object::HostEndpoint(it) => {
                let ports = it.spec.ports.iter();
                Some(Item {
                    labels: self.labels(&it.spec.profiles, it.metadata.labels.clone()),
                    nets: it.spec.expected_ips.iter().copied().map(one).collect(),
                    ports: ports.map(|p| (&*p.name, number(p.protocol), p.port)).collect(),
                })
            }
            Object::NetworkSet(it) => {
                let namespace = [format!("kns.{}", it.namespace())];
                Some(Item {
                    labels: self.labels(&namespace, it.selector_labels()),
                    nets: it.spec.nets.iter().map(|net| net.0.trunc()).collect(),
                    ports: Vec::new(),
                })
            }
            Object::GlobalNetworkSet(it) => Some(Item {
                labels: it.metadata.labels.clone(),
                nets: it.spec.nets.iter().map(|net| net.0.trunc()).collect(),
                ports: Vec::new(),
            }),
            _ => None,
        }
    }

    fn rules(&mut self, object: &Object) {
        let (owner, namespace, lists) = match object {
            Object::NetworkPolicy(it) => {
                let id = id(Kind::NetworkPolicy, Some(it.namespace()), it.name());
                let lists = [&it.spec.ingress, &it.spec.egress];
                (RuleOwner::Policy(id), it.namespace(), lists)
            }
            Object::GlobalNetworkPolicy(it) => {
                let id = id(Kind::GlobalNetworkPolicy, None, it.name());
                (RuleOwner::Policy(id), "", [&it.spec.ingress, &it.spec.egress])
            }
            Object::Profile(it) => {
                let lists = [&it.spec.ingress, &it.spec.egress];
                (RuleOwner::Profile(it.name().into()), "", lists)
            }
            _ => return,
        };
        let [ingress, egress] = [Direction::Ingress, Direction::Egress].map(|direction| {
            let list = lists[usize::from(direction == Direction::Egress)];
            let numbered = list.iter().enumerate().map(|(index, rule)| {
                let index = u16::try_from(index).expect("few rules");
                (RuleId { owner: owner.clone(), direction, index }, rule)
            });
            numbered.map(|(id, rule)| self.rule(id, rule, namespace)).collect::<Vec<_>>()
        });
        self.desired.rules.insert(owner, RuleSet { ingress, egress });
    }

    fn rule(&mut self, id: RuleId, rule: &Rule, namespace: &str) -> dataplane::Rule {
        let action = match rule.action {
            resource::Action::Allow => Action::Allow,
            resource::Action::Deny => Action::Deny,
            resource::Action::Log => Action::Log,
            resource::Action::Pass => Action::Pass,
        };
        let icmp = |icmp: &Option<Icmp>| {
            let icmp = icmp.as_ref()?;
            Some(IcmpMatch { kind: icmp.icmp_type?, code: icmp.code })
        };
        let mut out = dataplane::Rule::any(id.clone(), action);
        out.protocol = rule.protocol.map(Protocol::number);
        out.not_protocol = rule.not_protocol.map(Protocol::number);
        out.family = match (rule.ip_version, out.protocol) {
            (Some(4), _) | (None, Some(1)) => Some(Family::V4),
            (Some(_), _) | (None, Some(58)) => Some(Family::V6),
            _ => None,
        };
        (out.icmp, out.not_icmp) = (icmp(&rule.icmp), icmp(&rule.not_icmp));
        out.source = self.side(&format!("{id} source"), &rule.source, out.protocol, namespace);
        let end = format!("{id} destination");
        out.destination = self.side(&end, &rule.destination, out.protocol, namespace);
        if let Some(service) = &rule.source.services {
            let members = self.behind(service, namespace, false);
            out.source.sets.push(self.set(format!("{id} source service"), members));
        }
        if let Some(service) = &rule.destination.services {
            let members = self.behind(service, namespace, true);
            out.destination.port_sets.push(self.set(format!("{end} service"), members));
        }
        out
    }

    fn side(
        &mut self,
        end: &str,
        entity: &EntityRule,
        protocol: Option<u8>,
        namespace: &str,
    ) -> Side {
        let (selected, excluded) = selector::entity_selectors(entity, namespace).unwrap();
        let nets = |nets: &[resource::Cidr]| nets.iter().map(|net| net.0.trunc()).collect();
        let mut side =
            Side { nets: nets(&entity.nets), not_nets: nets(&entity.not_nets), ..Side::default() };
        if let Some(selector) = &selected {
            let members = self.addresses(selector);
            side.sets.push(self.set(format!("{end} selected"), members));
        }
        if let Some(selector) = &excluded {
            let members = self.addresses(selector);
            side.not_sets.push(self.set(format!("{end} excluded"), members));
        }
        let protocol = protocol.unwrap_or(6);
        for (ports, what) in [(&entity.ports, "port"), (&entity.not_ports, "notPort")] {
            for (number, port) in ports.iter().enumerate() {
                let (ranges, sets) = match what {
                    "port" => (&mut side.ports, &mut side.port_sets),
                    _ => (&mut side.not_ports, &mut side.not_port_sets),
                };
                match port {
                    Port::Range { first, last } => {
                        ranges.push(PortRange { first: *first, last: *last });
                    }
                    Port::Named(name) => {
                        let members = self.named_ports(selected.as_ref(), name, protocol);
                        sets.push(self.set(format!("{end} {what} {number}"), members));
                    }
                }
            }
        }
        side
    }

    fn set(&mut self, id: String, members: BTreeSet<SetMember>) -> SetId {
        let is_port = |member: &SetMember| matches!(member, SetMember::Port { .. });
        let kind = if members.iter().any(is_port) { SetKind::AddressPort } else { SetKind::Net };
        let id = SetId(id.into());
        let before = self.desired.sets.insert(id.clone(), Members { kind, members });
        assert!(before.is_none(), "{id} is shared");
        id
    }

    fn selected<'s>(&'s self, selector: &'s Selector) -> impl Iterator<Item = &'s Item<'a>> {
        self.items.iter().filter(|item| selector.matches(&item.labels))
    }

    fn addresses(&self, selector: &Selector) -> BTreeSet<SetMember> {
        let nets = self.selected(selector).flat_map(|item| &item.nets);
        nets.map(|net| SetMember::Net(*net)).collect()
    }

    fn named_ports(
        &self,
        selector: Option<&Selector>,
        name: &str,
        protocol: u8,
    ) -> BTreeSet<SetMember> {
        let all = Selector::all();
        let items = self.selected(selector.unwrap_or(&all));
        let members = items.flat_map(|item| {
            let ports = item.ports.iter().filter(|port| (port.0, port.1) == (name, protocol));
            ports.flat_map(|(_, protocol, port)| {
                let of = |net: &ipnet::IpNet| SetMember::Port {
                    address: net.addr(),
                    protocol: *protocol,
                    port: *port,
                };
                item.nets.iter().map(of).collect::<Vec<_>>()
            })
        });
        members.collect()
    }

    /// What is behind a service: addresses, with ports or without.
    fn behind(
        &self,
        service: &resource::ServiceMatch,
        namespace: &str,
        ports: bool,
    ) -> BTreeSet<SetMember> {
        let namespace = match &*service.namespace {
            "" => namespace,
            stated => stated,
        };
        let slices = self.objects.values().filter_map(|object| match object {
            Object::KubernetesEndpointSlice(slice) => (slice.namespace() == namespace
                && slice.service() == Some(&*service.name))
            .then_some(slice),
            _ => None,
        });
        let members = slices.flat_map(|slice| match ports {
            true => {
                let of = |(address, protocol, port): (IpAddr, Protocol, u16)| SetMember::Port {
                    address,
                    protocol: protocol.number(),
                    port,
                };
                slice.addresses_and_ports().map(of).collect::<Vec<_>>()
            }
            false => slice.addresses().map(|address| SetMember::Net(address.into())).collect(),
        });
        members.collect()
    }

    fn endpoint(
        &mut self,
        object: &Object,
        node: &str,
        policies: &[Policy<'_>],
        settings: &Desired,
    ) {
        match object {
            Object::WorkloadEndpoint(it) if it.spec.node == node => {
                let labels = self.labels(&it.spec.profiles, it.selector_labels());
                let id = EndpointId { namespace: it.namespace().into(), name: it.name().into() };
                let at_workloads = [Stage::Normal, Stage::Forward];
                let endpoint = dataplane::WorkloadEndpoint {
                    interface: it.spec.interface_name.as_str().into(),
                    addresses: it.spec.ip_networks.iter().map(|net| net.addr().into()).collect(),
                    tiers: self.tiers(policies, &labels, &at_workloads),
                    profiles: self.profiles(&it.spec.profiles),
                    // Whether they count is up to the host's settings.
                    allowed_sources: settings.endpoints[&id].allowed_sources.clone(),
                    limits: settings.endpoints[&id].limits,
                    id: id.clone(),
                };
                self.desired.endpoints.insert(id, endpoint);
            }
            Object::HostEndpoint(it) if it.spec.node == node => {
                let labels = self.labels(&it.spec.profiles, it.metadata.labels.clone());
                let interface = match &*it.spec.interface_name {
                    "" => dataplane::HostInterface::Addressed(it.spec.expected_ips.clone()),
                    "*" => dataplane::HostInterface::All,
                    name => dataplane::HostInterface::Named(name.into()),
                };
                let of_all = interface == dataplane::HostInterface::All;
                let mut pre_dnat = self.tiers(policies, &labels, &[Stage::PreDnat]);
                pre_dnat.iter_mut().for_each(|tier| tier.egress.clear());
                let early: &[Stage] = if of_all { &[] } else { &[Stage::Untracked] };
                let name: Arc<str> = it.name().into();
                let endpoint = dataplane::HostEndpoint {
                    interface,
                    local: self.tiers(policies, &labels, &[Stage::Normal, Stage::Forward]),
                    forward: self.tiers(policies, &labels, &[Stage::Forward]),
                    pre_dnat,
                    untracked: self.tiers(policies, &labels, early),
                    profiles: self.profiles(&it.spec.profiles),
                    name: Arc::clone(&name),
                };
                self.desired.host_endpoints.insert(name, endpoint);
            }
            _ => {}
        }
    }

    /// Those that nobody defined get the rules that they stand for: the built-in one allows, others
    /// deny.
    fn profiles(&mut self, names: &[String]) -> Vec<Arc<str>> {
        for name in names {
            let owner = RuleOwner::Profile(name.as_str().into());
            let action = match name == resource::DEFAULT_ALLOW_PROFILE {
                true => Action::Allow,
                false => Action::Deny,
            };
            let rules = |direction| {
                let id = RuleId { owner: owner.clone(), direction, index: 0 };
                vec![dataplane::Rule::any(id, action)]
            };
            let rules =
                RuleSet { ingress: rules(Direction::Ingress), egress: rules(Direction::Egress) };
            self.desired.rules.entry(owner).or_insert(rules);
        }
        names.iter().map(|name| name.as_str().into()).collect()
    }

    /// The policies of these stages that select these labels, a tier after the other.
    fn tiers(
        &self,
        policies: &[Policy<'_>],
        labels: &Labels,
        stages: &[Stage],
    ) -> Vec<TierPolicies> {
        let selects = |policy: &&Policy<'_>| {
            stages.contains(&policy.stage) && policy.selector.matches(labels)
        };
        let mut selected: Vec<&Policy<'_>> = policies.iter().filter(selects).collect();
        let names: BTreeSet<&str> = selected.iter().map(|policy| policy.tier).collect();
        let mut tiers: Vec<_> = names.iter().map(|name| (self.tier(name), *name)).collect();
        tiers.sort_by(|((a, _), a_name), ((b, _), b_name)| {
            a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)).then(a_name.cmp(b_name))
        });
        let tie = |id: &PolicyId| {
            format!("{}/{}/{}", id.name, id.namespace.as_deref().unwrap_or_default(), id.kind)
        };
        selected.sort_by(|a, b| a.order.total_cmp(&b.order).then(tie(&a.id).cmp(&tie(&b.id))));
        let of = |((_, default_action), name): ((_, DefaultAction), &str)| {
            let list = |direction: usize| {
                let here = selected.iter().filter(|policy| policy.tier == name);
                here.filter(|policy| policy.types[direction]).map(|p| p.id.clone()).collect()
            };
            TierPolicies { tier: name.into(), default_action, ingress: list(0), egress: list(1) }
        };
        tiers.into_iter().map(of).collect()
    }

    /// Where a tier stands (those that nobody defined are last), and how it ends.
    fn tier(&self, name: &str) -> ((bool, f64), DefaultAction) {
        let known = match self.objects.get(&Key::resource(Kind::Tier, None, name)) {
            Some(Object::Tier(tier)) => Some((**tier).clone()),
            _ => resource::Tier::built_in().into_iter().find(|tier| tier.name() == name),
        };
        let Some(tier) = known else { return ((true, 0.0), DefaultAction::Deny) };
        let action = match tier.spec.default_action() {
            TierAction::Pass => DefaultAction::Pass,
            TierAction::Deny => DefaultAction::Deny,
        };
        ((false, tier.spec.order()), action)
    }
}

fn id(kind: Kind, namespace: Option<&str>, name: &str) -> PolicyId {
    PolicyId { kind, namespace: namespace.map(Into::into), name: name.into() }
}

fn policy(object: &Object) -> Option<Policy<'_>> {
    let both = [PolicyType::Ingress, PolicyType::Egress];
    match object {
        Object::NetworkPolicy(it) => Some(Policy {
            id: id(Kind::NetworkPolicy, Some(it.namespace()), it.name()),
            tier: it.spec.tier(),
            order: it.spec.order.unwrap_or(f64::INFINITY),
            types: both.map(|of| it.spec.types().contains(&of)),
            stage: Stage::Normal,
            selector: selector::policy_selector(&it.spec, it.namespace()).unwrap(),
        }),
        Object::GlobalNetworkPolicy(it) => Some(Policy {
            id: id(Kind::GlobalNetworkPolicy, None, it.name()),
            tier: it.spec.tier(),
            order: it.spec.order.unwrap_or(f64::INFINITY),
            types: both.map(|of| it.spec.types().contains(&of)),
            stage: match &it.spec {
                spec if spec.do_not_track => Stage::Untracked,
                spec if spec.pre_dnat => Stage::PreDnat,
                spec if spec.apply_on_forward => Stage::Forward,
                _ => Stage::Normal,
            },
            selector: selector::global_policy_selector(&it.spec).unwrap(),
        }),
        _ => None,
    }
}
