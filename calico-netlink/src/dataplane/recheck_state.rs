//! Which endpoints' connections are to be held against policy again, and the answer.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use calico_core::dataplane::{Direction, EndpointId, Rule, SetId, WorkloadEndpoint};

use super::judge::Judge;
use super::state::{RulesKey, State};
use crate::nft::Tuple;

/// What changed since the last look at connections.
#[derive(Debug, Default)]
pub(super) struct Recheck {
    pub(super) endpoints: BTreeSet<EndpointId>,
    /// After a look that failed.
    addresses: BTreeSet<IpAddr>,
    /// Rules that look up a set, and the other way round.
    of_set: BTreeMap<SetId, BTreeSet<RulesKey>>,
    of_rules: BTreeMap<RulesKey, BTreeSet<SetId>>,
}

impl Recheck {
    /// Rules that look up this set.
    pub(super) fn users_of(&self, set: &SetId) -> impl Iterator<Item = &RulesKey> {
        self.of_set.get(set).into_iter().flatten()
    }

    /// Rules that look up sets.
    pub(super) fn looking_up(&self) -> impl Iterator<Item = &RulesKey> {
        self.of_rules.keys()
    }

    /// These rules are in force under this key; `None`: none.
    pub(super) fn set_rules(&mut self, key: &RulesKey, rules: Option<&Vec<Rule>>) {
        let sets: BTreeSet<SetId> = rules.into_iter().flatten().flat_map(sets_of).collect();
        for gone in self.of_rules.remove(key).unwrap_or_default().difference(&sets) {
            if let Some(users) = self.of_set.get_mut(gone) {
                users.remove(key);
                if users.is_empty() {
                    self.of_set.remove(gone);
                }
            }
        }
        for set in &sets {
            self.of_set.entry(set.clone()).or_default().insert(key.clone());
        }
        if !sets.is_empty() {
            self.of_rules.insert(key.clone(), sets);
        }
    }
}

impl State {
    pub(super) fn recheck_users_of_set(&mut self, set: &SetId) {
        for key in self.recheck.of_set.get(set).into_iter().flatten() {
            if let Some(users) = self.users.get(key) {
                self.recheck.endpoints.extend(users.iter().cloned());
            }
        }
    }

    /// Whether anything is to be looked at.
    pub(super) fn asks_for_recheck(&self) -> bool {
        self.cuts || !self.recheck.endpoints.is_empty() || !self.recheck.addresses.is_empty()
    }

    /// Addresses whose connections are to be looked at.
    pub(super) fn take_recheck(&mut self) -> BTreeSet<IpAddr> {
        let mut addresses = std::mem::take(&mut self.recheck.addresses);
        for id in std::mem::take(&mut self.recheck.endpoints) {
            addresses.extend(self.addresses.get(&id).into_iter().flatten());
        }
        addresses
    }

    pub(super) fn recheck_again(&mut self, addresses: BTreeSet<IpAddr>) {
        self.recheck.addresses.extend(addresses);
    }

    /// Which endpoint has an address.
    pub(super) fn address_owners(&self) -> HashMap<IpAddr, &WorkloadEndpoint> {
        let endpoints = self.addresses.iter().filter_map(|(id, addresses)| {
            let endpoint = self.endpoints.get(id)?;
            Some(addresses.iter().map(move |address| (*address, endpoint)))
        });
        endpoints.flatten().collect()
    }

    /// Whether a packet may pass between these endpoints.
    pub(super) fn allows(
        &self,
        owners: &HashMap<IpAddr, &WorkloadEndpoint>,
        packet: &Tuple,
    ) -> bool {
        let judge = Judge { rules: &self.rules, table: self.table.desired() };
        let at = |address: IpAddr, direction| {
            owners.get(&address).is_none_or(|endpoint| judge.allows(endpoint, direction, packet))
        };
        at(packet.source, Direction::Egress) && at(packet.destination, Direction::Ingress)
    }
}

fn sets_of(rule: &Rule) -> impl Iterator<Item = SetId> + '_ {
    [&rule.source, &rule.destination].into_iter().flat_map(|side| {
        let sets = [&side.sets, &side.not_sets, &side.port_sets, &side.not_port_sets];
        sets.into_iter().flatten().cloned()
    })
}
