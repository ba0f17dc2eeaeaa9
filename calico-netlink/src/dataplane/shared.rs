//! Endpoints of equal policy share their chains, so that one more endpoint is a few members of
//! sets, and the kernel has less to check.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use calico_core::dataplane::{Direction, WorkloadEndpoint};
use calico_core::key::Family;

use super::elements::{address_bytes, interface_key};
use super::endpoint::{Rendered, uses_addresses_only};
use super::names;
use super::state::State;
use crate::nft::wire::{Element, Verdict};

/// Who shares what.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// How many interfaces lead to a chain.
    users: BTreeMap<String, usize>,
    /// The chain that an interface leads to.
    chains: BTreeMap<(Arc<str>, Direction), String>,
    /// The sources of an interface.
    sources: BTreeMap<Arc<str>, BTreeSet<(Family, Element)>>,
}

impl Shared {
    /// The interfaces that lead to a chain.
    pub(super) fn led_to(&self, chain: &str) -> impl Iterator<Item = &Arc<str>> {
        let led = move |(_, name): &(&(Arc<str>, Direction), &String)| name.as_str() == chain;
        self.chains.iter().filter(led).map(|((interface, _), _)| interface)
    }
}

impl State {
    /// Leads packets of the interface to a chain of this content.
    pub(super) fn place(&mut self, interface: &Arc<str>, direction: Direction, new: Rendered) {
        let name = names::endpoint_chain(direction, &new.chain.content());
        let key = (Arc::clone(interface), direction);
        if self.shared.chains.get(&key) == Some(&name) {
            return;
        }
        let users = self.shared.users.entry(name.clone()).or_default();
        *users += 1;
        if *users == 1 {
            self.put_chain(&name, new.chain, new.constants);
        }
        let before = self.shared.chains.insert(key, name.clone());
        if let Some(before) = before {
            self.leave(interface, direction, &before);
        }
        self.table.add_element(dispatch_map(direction), leads_to(interface, name));
    }

    /// What the interface may send from.
    pub(super) fn place_sources(&mut self, endpoint: &WorkloadEndpoint) {
        let mut sources = BTreeSet::new();
        if uses_addresses_only(endpoint) {
            for net in &endpoint.addresses {
                let mut key = interface_key(&endpoint.interface);
                key.extend(address_bytes(net.addr()));
                sources.insert((Family::of_net(net), Element::key(key)));
            }
        }
        self.set_sources(&endpoint.interface, sources);
    }

    /// Leads packets of the interface nowhere.
    pub(super) fn displace(&mut self, interface: &Arc<str>) {
        for direction in [Direction::Ingress, Direction::Egress] {
            let key = (Arc::clone(interface), direction);
            if let Some(chain) = self.shared.chains.remove(&key) {
                self.leave(interface, direction, &chain);
            }
        }
        self.set_sources(interface, BTreeSet::new());
    }

    fn leave(&mut self, interface: &str, direction: Direction, chain: &str) {
        let element = leads_to(interface, chain.to_owned());
        self.table.remove_element(dispatch_map(direction), &element);
        if let Some(users) = self.shared.users.get_mut(chain) {
            *users -= 1;
            if *users == 0 {
                self.shared.users.remove(chain);
                self.remove_chain(chain);
            }
        }
    }

    fn set_sources(&mut self, interface: &Arc<str>, sources: BTreeSet<(Family, Element)>) {
        let before = self.shared.sources.remove(interface).unwrap_or_default();
        for (family, gone) in before.difference(&sources) {
            self.table.remove_element(&names::set(names::SOURCES, *family), gone);
        }
        for (family, new) in sources.difference(&before) {
            self.table.add_element(&names::set(names::SOURCES, *family), new.clone());
        }
        if !sources.is_empty() {
            self.shared.sources.insert(Arc::clone(interface), sources);
        }
    }
}

fn leads_to(interface: &str, chain: String) -> Element {
    let verdict = Some(Verdict::Goto(chain));
    Element { verdict, ..Element::key(interface_key(interface)) }
}

fn dispatch_map(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => names::TO_WORKLOAD,
        Direction::Egress => names::FROM_WORKLOAD,
    }
}
