//! Endpoints of equal policy share their chains, so that one more endpoint is a few members of
//! sets, and the kernel has less to check.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use calico_core::dataplane::{Direction, WorkloadEndpoint};
use calico_core::key::Family;
use ipnet::IpNet;

use super::elements::{address_bytes, interface_key};
use super::endpoint::{self, Rendered, uses_addresses_only};
use super::flowtable::Devices;
use super::links::{Links, Told};
use super::names;
use super::state::State;
use crate::nft::wire::{Element, Verdict};

/// How packets come to a chain of endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    /// To the workload, by its interface.
    To,
    /// From the workload, by its interface.
    From,
    /// From the workload, by its interface and address; by its interface alone they come to a guard
    /// against forged sources.
    FromSource,
    /// From the workload, by the number of its interface and by its address, if they are of
    /// established connections.
    Established,
}

/// Who shares what.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// How many interfaces lead to a chain.
    users: BTreeMap<String, usize>,
    /// The chain that an interface leads to.
    chains: BTreeMap<(Arc<str>, Way), String>,
    /// What else stands for an interface in sets and maps, by the way that it is for.
    members: BTreeMap<(Arc<str>, Way), BTreeSet<Member>>,
    /// Sources of an interface whose established connections go on at once.
    proven: BTreeMap<Arc<str>, Vec<IpAddr>>,
    links: Links,
}

/// Name of a set or map, and what is in it.
type Member = (String, Element);

impl Shared {
    /// The interfaces that lead to a chain.
    pub(super) fn led_to(&self, chain: &str) -> impl Iterator<Item = &Arc<str>> {
        let led = move |(_, name): &(&(Arc<str>, Way), &String)| name.as_str() == chain;
        self.chains.iter().filter(led).map(|((interface, _), _)| interface)
    }
}

impl State {
    /// Leads packets to the endpoint to a chain of this content.
    pub(super) fn place_to(&mut self, endpoint: &WorkloadEndpoint, rendered: Rendered) {
        let interface = &endpoint.interface;
        let chain = names::endpoint_chain(Direction::Ingress, &rendered.chain.content());
        let goes_on = rendered.goes_on.then(|| Element::key(interface_key(interface)));
        let members = goes_on.map(|element| (names::ESTABLISHED_TO.to_owned(), element));
        self.lead(interface, Way::To, Some((chain, rendered)));
        self.set_members(interface, Way::To, members.into_iter().collect());
    }

    /// Leads packets from the endpoint to a chain of this content.
    pub(super) fn place_from(&mut self, endpoint: &WorkloadEndpoint, rendered: Rendered) {
        let interface = &endpoint.interface;
        let name_of = |rendered: &Rendered| {
            names::endpoint_chain(Direction::Egress, &rendered.chain.content())
        };
        let chain = name_of(&rendered);
        let mut members = BTreeSet::new();
        let mut proven = Vec::new();
        if uses_addresses_only(endpoint) {
            let guard = endpoint::guard(&chain);
            for net in &endpoint.addresses {
                let mut key = interface_key(interface);
                key.extend(address_bytes(net.addr()));
                let verdict = Some(Verdict::Goto(chain.clone()));
                let set = names::set(names::SOURCES, Family::of_net(net));
                members.insert((set, Element { verdict, ..Element::key(key) }));
            }
            if rendered.goes_on {
                proven.extend(endpoint.addresses.iter().map(IpNet::addr));
            }
            self.lead(interface, Way::From, Some((name_of(&guard), guard)));
            self.lead(interface, Way::FromSource, Some((chain, rendered)));
        } else {
            self.lead(interface, Way::From, Some((chain, rendered)));
            self.lead(interface, Way::FromSource, None);
        }
        self.set_members(interface, Way::FromSource, members);
        self.prove(interface, proven);
    }

    /// Established connections from these addresses go on at once.
    fn prove(&mut self, interface: &Arc<str>, sources: Vec<IpAddr>) {
        if sources.is_empty() {
            self.shared.proven.remove(interface);
        } else {
            self.shared.proven.insert(Arc::clone(interface), sources);
        }
        self.place_proven(interface);
    }

    /// True if that changed the desired table.
    fn place_proven(&mut self, interface: &Arc<str>) -> bool {
        let sources = self.shared.proven.get(interface).into_iter().flatten();
        let number = self.shared.links.number(interface);
        let member = |(number, address): (u32, &IpAddr)| {
            let mut key = number.to_ne_bytes().to_vec();
            key.extend(address_bytes(*address));
            let set = names::set(names::ESTABLISHED_FROM, Family::of(*address));
            (set, Element::key(key))
        };
        let members = sources.filter_map(|address| Some(member((number?, address)))).collect();
        self.set_members(interface, Way::Established, members)
    }

    /// The kernel told of these. True if that changed the desired table.
    pub(super) fn hear_of_links(&mut self, all: Vec<Told>) -> bool {
        let links = &mut self.shared.links;
        let changed: BTreeSet<_> = all.into_iter().flat_map(|told| links.hear(told)).collect();
        self.place_all_proven(&changed)
    }

    /// These are all. True if that changed the desired table.
    pub(super) fn replace_links(&mut self, all: Devices) -> bool {
        let changed = self.shared.links.replace(all);
        self.place_all_proven(&changed)
    }

    fn place_all_proven(&mut self, interfaces: &BTreeSet<Arc<str>>) -> bool {
        interfaces.iter().filter(|interface| self.place_proven(interface)).count() > 0
    }

    /// Leads packets of the interface nowhere.
    pub(super) fn displace(&mut self, interface: &Arc<str>) {
        for way in [Way::To, Way::From, Way::FromSource] {
            self.set_members(interface, way, BTreeSet::new());
            self.lead(interface, way, None);
        }
        self.prove(interface, Vec::new());
    }

    fn lead(&mut self, interface: &Arc<str>, way: Way, to: Option<(String, Rendered)>) {
        let key = (Arc::clone(interface), way);
        let before = self.shared.chains.remove(&key);
        if let Some((chain, rendered)) = to {
            if before.as_ref() != Some(&chain) {
                let users = self.shared.users.entry(chain.clone()).or_default();
                *users += 1;
                if *users == 1 {
                    self.put_chain(&chain, rendered.chain, rendered.constants);
                }
            }
            self.shared.chains.insert(key.clone(), chain);
        }
        let now = self.shared.chains.get(&key).cloned();
        if before == now {
            return;
        }
        if let Some(chain) = before {
            if let Some(map) = dispatch_map(way) {
                self.table.remove_element(map, &leads_to(interface, chain.clone()));
            }
            self.leave(&chain);
        }
        if let Some((map, chain)) = dispatch_map(way).zip(now) {
            self.table.add_element(map, leads_to(interface, chain));
        }
    }

    fn leave(&mut self, chain: &str) {
        if let Some(users) = self.shared.users.get_mut(chain) {
            *users -= 1;
            if *users == 0 {
                self.shared.users.remove(chain);
                self.remove_chain(chain);
            }
        }
    }

    /// True if that changed anything.
    fn set_members(&mut self, interface: &Arc<str>, way: Way, members: BTreeSet<Member>) -> bool {
        let key = (Arc::clone(interface), way);
        let before = self.shared.members.remove(&key).unwrap_or_default();
        for (set, gone) in before.difference(&members) {
            self.table.remove_element(set, gone);
        }
        for (set, new) in members.difference(&before) {
            self.table.add_element(set, new.clone());
        }
        let changed = before != members;
        if !members.is_empty() {
            self.shared.members.insert(key, members);
        }
        changed
    }
}

fn leads_to(interface: &str, chain: String) -> Element {
    let verdict = Some(Verdict::Goto(chain));
    Element { verdict, ..Element::key(interface_key(interface)) }
}

fn dispatch_map(way: Way) -> Option<&'static str> {
    match way {
        Way::To => Some(names::TO_WORKLOAD),
        Way::From => Some(names::FROM_WORKLOAD),
        Way::FromSource | Way::Established => None,
    }
}

#[cfg(test)]
mod tests {
    use calico_core::Kind;
    use calico_core::dataplane::{
        DefaultAction, EndpointId, HostSettings, Limits, PacketRate, PolicyId, TierPolicies,
        Transaction, Update,
    };

    use super::*;
    use crate::dataplane::causes::Causes;
    use crate::nft::Tracker;
    use crate::nft::wire::Family as TableFamily;

    fn workload() -> WorkloadEndpoint {
        WorkloadEndpoint {
            id: EndpointId { namespace: "prod".into(), name: "web".into() },
            interface: "cali1".into(),
            addresses: vec!["10.65.0.1/32".parse().unwrap(), "fd00::1/128".parse().unwrap()],
            allowed_sources: Vec::new(),
            limits: Limits::default(),
            tiers: Vec::new(),
            profiles: Vec::new(),
        }
    }

    /// How many elements packets from it, and to it, find when they are of established connections.
    fn go_on(endpoint: &WorkloadEndpoint) -> (usize, usize) {
        let table = Tracker::new(TableFamily::Inet, "calico");
        let mut state = State::new(table, Causes::default());
        let number = |state: &State, set: &str| state.table.desired().sets[set].elements.len();
        let count = |state: &State| {
            let from = Family::BOTH.map(|f| number(state, &names::set(names::ESTABLISHED_FROM, f)));
            (from[0] + from[1], number(state, names::ESTABLISHED_TO))
        };
        let mut apply = |update| {
            state.apply(Transaction { revision: 1, updates: vec![update] });
            count(&state)
        };
        let absent = apply(Update::Endpoint(endpoint.clone()));
        let told = |index, name: Option<&str>| vec![Told { index, name: name.map(Arc::from) }];
        let changed = state.hear_of_links(told(7, Some("cali1")));
        let there = count(&state);
        // Packets come by an interface that is there.
        assert_eq!((absent, changed), ((0, there.1), there.0 > 0));
        assert!(!state.hear_of_links(told(7, Some("cali1"))));
        state.hear_of_links(told(7, None));
        assert_eq!(count(&state), absent);
        state.replace_links([("cali1".into(), 9)].into());
        assert_eq!(count(&state), there);
        let mut apply = |update| {
            state.apply(Transaction { revision: 1, updates: vec![update] });
            count(&state)
        };
        // Not twice, and not when it is gone.
        assert_eq!(apply(Update::Host(HostSettings::default())), there);
        assert_eq!(apply(Update::EndpointRemoved(endpoint.id.clone())), (0, 0));
        there
    }

    #[test]
    fn established_packets_go_on_where_nothing_else_is_asked_of_them() {
        let plain = workload();
        assert_eq!(go_on(&plain), (2, 1));
        let mut granted = plain.clone();
        granted.allowed_sources = vec!["10.66.0.0/24".parse().unwrap()];
        assert_eq!(go_on(&granted), (0, 1));
        let rate = Some(PacketRate { per_second: 10, burst: 10 });
        let mut limited = plain.clone();
        limited.limits.egress.packets = rate;
        assert_eq!(go_on(&limited), (0, 1));
        // Those to it are limited before they go on (`limited-to`).
        limited.limits.ingress.packets = rate;
        assert_eq!(go_on(&limited), (0, 1));
        let mut connections = plain.clone();
        connections.limits.egress.connections = Some(3);
        assert_eq!(go_on(&connections), (2, 1));
        // What an unknown policy would have denied cannot be told.
        let mut closed = plain.clone();
        closed.tiers = vec![TierPolicies {
            tier: "default".into(),
            default_action: DefaultAction::Deny,
            ingress: vec![PolicyId {
                kind: Kind::NetworkPolicy,
                namespace: Some("prod".into()),
                name: "gone".into(),
            }],
            egress: Vec::new(),
        }];
        assert_eq!(go_on(&closed), (2, 0));
        let mut elsewhere = plain;
        elsewhere.interface = "eth0".into();
        assert_eq!(go_on(&elsewhere), (0, 0));
    }
}
