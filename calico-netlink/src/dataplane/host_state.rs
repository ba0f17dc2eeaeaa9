//! Host endpoints in the desired state. They are few, so that a change of any renders all of
//! them anew; what stays the same reaches the kernel as no change.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use calico_core::dataplane::{Direction, HostEndpoint, HostSettings, RuleOwner};

use super::base::Hooks;
use super::elements::interface_key;
use super::endpoint::Rendered;
use super::host::{self, Stage};
use super::hosts::{Hosts, Interfaces};
use super::names;
use super::state::{DIRECTIONS, RulesKey, State};
use crate::nft::wire::{Element, KeyType, Verdict};
use crate::nft::{SetDef, SetSpec};

/// What the state knows of host endpoints.
#[derive(Debug, Default)]
pub(super) struct OfHosts {
    hosts: Hosts,
    dirty: bool,
    hooks: Hooks,
    uses: BTreeSet<RulesKey>,
    chains: BTreeSet<String>,
    maps: BTreeSet<&'static str>,
}

impl OfHosts {
    pub(super) fn hooks(&self) -> &Hooks {
        &self.hooks
    }

    pub(super) fn uses(&self, key: &RulesKey) -> bool {
        self.uses.contains(key)
    }

    /// Rules that chains of host endpoints jump to.
    pub(super) fn used(&self) -> impl Iterator<Item = &RulesKey> {
        self.uses.iter()
    }

    /// Rules that were not there are, or the other way round.
    pub(super) fn rules_changed(&mut self, key: &RulesKey) {
        self.dirty |= self.uses.contains(key);
    }

    pub(super) fn settings_changed(&mut self, before: &HostSettings, now: &HostSettings) {
        self.dirty |= !self.hosts.is_empty()
            && (before.failsafe_inbound != now.failsafe_inbound
                || before.failsafe_outbound != now.failsafe_outbound
                || before.interface_prefix != now.interface_prefix
                || before.invalid_meets_policy != now.invalid_meets_policy
                || before.mark_mask != now.mark_mask);
    }
}

/// What is to be in the table for host endpoints.
#[derive(Default)]
struct Plan {
    chains: BTreeMap<String, Rendered>,
    maps: BTreeMap<&'static str, BTreeSet<Element>>,
    hooks: Hooks,
    uses: BTreeSet<RulesKey>,
    tiers: BTreeSet<(Direction, Arc<str>)>,
}

impl State {
    pub(super) fn put_host_endpoint(&mut self, endpoint: HostEndpoint) {
        self.of_hosts.dirty |= self.of_hosts.hosts.put(endpoint);
    }

    pub(super) fn remove_host_endpoint(&mut self, name: &str) {
        self.of_hosts.dirty |= self.of_hosts.hosts.remove(name);
    }

    /// Whether host endpoints are found by address.
    pub(super) fn asks_for_interfaces(&self) -> bool {
        self.of_hosts.hosts.asks_for_interfaces()
    }

    /// The host has these interfaces. True if that changed the desired table.
    pub(super) fn set_interfaces(&mut self, interfaces: Interfaces) -> bool {
        let changed = self.of_hosts.hosts.set_interfaces(interfaces);
        if changed {
            self.of_hosts.dirty = true;
            self.apply(calico_core::dataplane::Transaction::default());
        }
        changed
    }

    /// Brings host endpoints into the table, if anything about them changed.
    pub(super) fn render_hosts(&mut self) {
        if !std::mem::take(&mut self.of_hosts.dirty) {
            return;
        }
        for (name, reason) in self.of_hosts.hosts.idle(&self.host.interface_prefix) {
            tracing::warn!("host endpoint {name} protects nothing now: {reason}");
        }
        let plan = self.plan();
        for (direction, tier) in &plan.tiers {
            self.causes.end_of_tier(*direction, tier);
        }
        let changed = plan.uses.symmetric_difference(&self.of_hosts.uses).cloned();
        self.dirty_rules.extend(changed);
        // Chains that rules come to jump to are made before the rules by the tracker.
        let of_hosts = &mut self.of_hosts;
        let chains = plan.chains.keys().cloned().collect();
        let gone_chains = std::mem::replace(&mut of_hosts.chains, chains);
        let maps = plan.maps.keys().copied().collect();
        let gone_maps = std::mem::replace(&mut of_hosts.maps, maps);
        (of_hosts.uses, of_hosts.hooks) = (plan.uses, plan.hooks);
        for (name, elements) in plan.maps {
            let spec = SetSpec::verdict_map([KeyType::IfName]);
            self.table.put_set(name, SetDef { spec, elements });
        }
        for (name, Rendered { chain, constants, .. }) in plan.chains {
            self.put_chain(&name, chain, constants);
        }
        self.put_base();
        for name in gone_chains.difference(&self.of_hosts.chains.clone()) {
            self.remove_chain(name);
        }
        for name in gone_maps.difference(&self.of_hosts.maps) {
            self.table.remove_set(name);
        }
    }

    fn plan(&self) -> Plan {
        let mut plan = Plan::default();
        let resolved = self.of_hosts.hosts.resolve(&self.host.interface_prefix);
        let known = |owner: &RuleOwner| self.has_rules(owner);
        for stage in Stage::ALL {
            for direction in DIRECTIONS {
                if (stage, direction) == (Stage::PreDnat, Direction::Egress) {
                    continue;
                }
                let mut chain_of = |endpoint: &HostEndpoint, interface: Option<&str>| {
                    let rendered = host::chain(endpoint, stage, direction, &self.host, known)?;
                    let owners = host::owners(endpoint, stage, direction);
                    plan.uses.extend(owners.map(|owner| (owner, direction)));
                    let tiers = stage.tiers(endpoint).iter();
                    plan.tiers.extend(tiers.map(|tier| (direction, Arc::clone(&tier.tier))));
                    let name = names::host_chain(stage, direction, interface);
                    plan.chains.insert(name.clone(), rendered);
                    Some(name)
                };
                let all = resolved.all.and_then(|endpoint| chain_of(endpoint, None));
                let mut elements = BTreeSet::new();
                for (interface, endpoint) in &resolved.named {
                    // Without a say at this stage: no policy for all interfaces either.
                    let verdict = match chain_of(endpoint, Some(interface)) {
                        Some(chain) => Verdict::Goto(chain),
                        None if all.is_some() => Verdict::Return,
                        None => continue,
                    };
                    let key = Element::key(interface_key(interface));
                    elements.insert(Element { verdict: Some(verdict), ..key });
                }
                if elements.is_empty() && all.is_none() {
                    continue;
                }
                plan.hooks.insert((stage, direction == Direction::Egress));
                let name = names::host_dispatch(stage, direction);
                let chain = host::dispatch(stage, direction, all.is_some());
                plan.chains.insert(name.to_owned(), Rendered { chain, ..Rendered::default() });
                plan.maps.insert(name, elements);
                if stage != Stage::Forward {
                    let untracked = stage == Stage::Untracked;
                    let (chain, constants) = host::failsafe(&self.host, untracked, direction);
                    let name = names::failsafe(untracked, direction).to_owned();
                    let rendered = Rendered { chain, constants, ..Rendered::default() };
                    plan.chains.insert(name, rendered);
                }
            }
        }
        plan
    }
}
