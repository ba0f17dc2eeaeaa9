//! Endpoints of equal policy share their chains, so that one more endpoint is a few members of
//! sets, and the kernel has less to check.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use calico_core::dataplane::{Direction, WorkloadEndpoint};
use calico_core::key::Family;

use super::elements::{address_bytes, interface_key};
use super::endpoint::{self, Rendered, uses_addresses_only};
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
        if uses_addresses_only(endpoint) {
            let guard = endpoint::guard(&chain);
            for net in &endpoint.addresses {
                let mut key = interface_key(interface);
                key.extend(address_bytes(net.addr()));
                let source = Element::key(key);
                let family = Family::of_net(net);
                if rendered.goes_on {
                    members.insert((names::set(names::ESTABLISHED_FROM, family), source.clone()));
                }
                let verdict = Some(Verdict::Goto(chain.clone()));
                members.insert((names::set(names::SOURCES, family), Element { verdict, ..source }));
            }
            self.lead(interface, Way::From, Some((name_of(&guard), guard)));
            self.lead(interface, Way::FromSource, Some((chain, rendered)));
        } else {
            self.lead(interface, Way::From, Some((chain, rendered)));
            self.lead(interface, Way::FromSource, None);
        }
        self.set_members(interface, Way::FromSource, members);
    }

    /// Leads packets of the interface nowhere.
    pub(super) fn displace(&mut self, interface: &Arc<str>) {
        for way in [Way::To, Way::From, Way::FromSource] {
            self.set_members(interface, way, BTreeSet::new());
            self.lead(interface, way, None);
        }
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

    fn set_members(&mut self, interface: &Arc<str>, way: Way, members: BTreeSet<Member>) {
        let key = (Arc::clone(interface), way);
        let before = self.shared.members.remove(&key).unwrap_or_default();
        for (set, gone) in before.difference(&members) {
            self.table.remove_element(set, gone);
        }
        for (set, new) in members.difference(&before) {
            self.table.add_element(set, new.clone());
        }
        if !members.is_empty() {
            self.shared.members.insert(key, members);
        }
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
        Way::FromSource => None,
    }
}
