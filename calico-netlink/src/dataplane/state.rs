//! Desired state: what transactions described, and what it makes of our table. Pure: no IO.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::net::IpAddr;
use std::sync::Arc;

use calico_core::dataplane::{
    Direction, Dscp, EndpointId, HostSettings, Pool, Route, Rule, RuleOwner, RuleSet, SetId,
    SetKind, Transaction, Translation, Tunnels, Update, WorkloadEndpoint,
};
use calico_core::key::Family;
use ipnet::IpNet;

use super::causes::Causes;
use super::elements::{address_bytes, net_elements};
use super::families::Families;
use super::host_state::OfHosts;
use super::limits::LimitChains;
use super::lower::{self, address_key};
use super::recheck_state::Recheck;
use super::refused::Refused;
use super::shared::Shared;
use super::style::{Marks, Style};
use super::{base, names};
use crate::nft::wire::Element;
use crate::nft::{SetDef, SetSpec, Tracker, parts};

pub(super) const DIRECTIONS: [Direction; 2] = [Direction::Ingress, Direction::Egress];

/// Rules of one policy or profile in one direction: a chain of the table if some endpoint uses
/// it.
pub(super) type RulesKey = (RuleOwner, Direction);

/// The sum of all transactions.
#[derive(Debug)]
pub(super) struct State {
    pub(super) table: Tracker,
    pub(super) causes: Causes,
    pub(super) host: HostSettings,
    pub(super) of_hosts: OfHosts,
    pub(super) shared: Shared,
    pub(super) limits: LimitChains,
    pub(super) refused: Refused,
    floating: Vec<Translation>,
    pools: Vec<Pool>,
    /// Code points that some packets carry.
    pub(super) marked: BTreeSet<Dscp>,
    pub(super) sets: BTreeMap<SetId, SetKind>,
    /// The kernel has sets for these only.
    pub(super) families: Families,
    /// Members of sets of prefixes, which the kernel holds merged.
    pub(super) nets: BTreeMap<SetId, BTreeSet<IpNet>>,
    pub(super) rules: BTreeMap<RuleOwner, RuleSet>,
    pub(super) endpoints: BTreeMap<EndpointId, WorkloadEndpoint>,
    /// Which endpoint has the chains of an interface, and the other way round.
    pub(super) interfaces: BTreeMap<Arc<str>, EndpointId>,
    pub(super) interface_of: BTreeMap<EndpointId, Arc<str>>,
    pub(super) uses: BTreeMap<EndpointId, BTreeSet<RulesKey>>,
    pub(super) users: BTreeMap<RulesKey, BTreeSet<EndpointId>>,
    pub(super) failed: BTreeMap<EndpointId, String>,
    pub(super) addresses: BTreeMap<EndpointId, BTreeSet<IpAddr>>,
    /// Addresses that endpoints have lost.
    pub(super) released: BTreeSet<IpAddr>,
    pub(super) recheck: Recheck,
    /// For each set of the table, how many chains look it up; such a set cannot go.
    pub(super) lookups: BTreeMap<String, usize>,
    /// Sets that go when their last chain does: constants, and described ones that were removed.
    pub(super) transient: BTreeSet<String>,
    routes: BTreeMap<IpNet, Route>,
    changed_routes: BTreeSet<IpNet>,
    pub(super) dirty_endpoints: BTreeSet<EndpointId>,
    pub(super) dirty_rules: BTreeSet<RulesKey>,
    in_sync: bool,
    learned_in_sync: bool,
    /// Whether there is a hook for NAT. Once there it stays: connections that were translated go on
    /// only as long as the kernel has one.
    translates: bool,
    /// Whether connections may be marked as denied by now.
    pub(super) cuts: bool,
}

impl State {
    /// The closed base: no endpoint, every packet from or to a workload dropped.
    pub(super) fn new(table: Tracker, causes: Causes) -> Self {
        let mut state = Self {
            table,
            causes,
            host: HostSettings::default(),
            of_hosts: OfHosts::default(),
            shared: Shared::default(),
            limits: LimitChains::default(),
            refused: Refused::default(),
            floating: Vec::new(),
            pools: Vec::new(),
            marked: BTreeSet::new(),
            sets: BTreeMap::new(),
            families: Families::default(),
            nets: BTreeMap::new(),
            rules: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            interfaces: BTreeMap::new(),
            interface_of: BTreeMap::new(),
            uses: BTreeMap::new(),
            users: BTreeMap::new(),
            failed: BTreeMap::new(),
            addresses: BTreeMap::new(),
            released: BTreeSet::new(),
            recheck: Recheck::default(),
            lookups: BTreeMap::new(),
            transient: BTreeSet::new(),
            routes: BTreeMap::new(),
            changed_routes: BTreeSet::new(),
            dirty_endpoints: BTreeSet::new(),
            dirty_rules: BTreeSet::new(),
            in_sync: false,
            learned_in_sync: false,
            translates: false,
            cuts: false,
        };
        base::put_sets(&mut state.table);
        state.put_base();
        state
    }

    pub(super) fn table(&mut self) -> &mut Tracker {
        &mut self.table
    }

    /// Whether the routes over other routers were declared complete, too.
    pub(super) fn learned_in_sync(&self) -> bool {
        self.learned_in_sync
    }

    /// Whether a complete desired state was described.
    pub(super) fn in_sync(&self) -> bool {
        self.in_sync
    }

    /// What transactions must refer to.
    pub(super) fn known_sets(&self) -> &BTreeMap<SetId, SetKind> {
        &self.sets
    }

    /// Endpoints that are blocked though they should not be, and why.
    pub(super) fn failed(&self) -> Vec<(EndpointId, String)> {
        self.failed.iter().map(|(id, reason)| (id.clone(), reason.clone())).collect()
    }

    /// Every desired route.
    pub(super) fn routes(&self) -> Vec<Route> {
        self.routes.values().cloned().collect()
    }

    /// Routes that changed since [`routes_done`](Self::routes_done): those to have, and
    /// destinations to have none for.
    pub(super) fn route_changes(&self) -> (Vec<Route>, Vec<IpNet>) {
        let mut have = Vec::new();
        let mut gone = Vec::new();
        for destination in &self.changed_routes {
            match self.routes.get(destination) {
                Some(route) => have.push(route.clone()),
                None => gone.push(*destination),
            }
        }
        (have, gone)
    }

    /// Addresses that endpoints lost since the last call: their connections are to be forgotten.
    pub(super) fn take_released(&mut self) -> Vec<IpAddr> {
        mem::take(&mut self.released).into_iter().collect()
    }

    pub(super) fn routes_done(&mut self) {
        self.changed_routes.clear();
    }

    /// Takes a transaction over that [`check`](super::check) found valid.
    pub(super) fn apply(&mut self, transaction: Transaction) {
        self.take(transaction);
        self.render_some(usize::MAX);
    }

    /// The first half of [`apply`](Self::apply); [`render_some`](Self::render_some) is the other.
    pub(super) fn take(&mut self, transaction: Transaction) {
        let was_complete = self.in_sync;
        for update in transaction.updates {
            self.update(update);
        }
        for id in mem::take(&mut self.dirty_endpoints) {
            self.render_endpoint(&id);
        }
        self.render_hosts();
        // A new endpoint has no connections, unless an earlier run knew it.
        if self.in_sync && !was_complete {
            self.recheck.endpoints.extend(self.endpoints.keys().cloned());
        }
    }

    /// Makes the chains of so many policies and profiles. True if there may be more.
    pub(super) fn render_some(&mut self, count: usize) -> bool {
        for _ in 0..count {
            let Some(key) = self.dirty_rules.pop_first() else { return false };
            self.render_rules(&key);
        }
        true
    }

    fn update(&mut self, update: Update) {
        match update {
            Update::Set { id, kind, members } => {
                self.recheck_users_of_set(&id);
                self.put_set(id, kind, members);
            }
            Update::SetDelta { id, added, removed } => {
                self.recheck_users_of_set(&id);
                self.change_set(&id, added, removed);
            }
            Update::SetRemoved(id) => self.remove_set(&id),
            Update::Rules { owner, rules } => {
                let opens = |rules: &RuleSet| {
                    DIRECTIONS.map(|direction| lower::allow_all(of(rules, direction)).is_some())
                };
                let now = opens(&rules);
                let before = self.rules.insert(owner.clone(), rules).map(|rules| opens(&rules));
                let again = self.refused.forget_owner(&owner);
                self.rules_changed(owner, before != Some(now) || again);
            }
            Update::RulesRemoved(owner) => {
                self.refused.forget_owner(&owner);
                if self.rules.remove(&owner).is_some() {
                    self.rules_changed(owner, true);
                }
            }
            Update::Endpoint(endpoint) => {
                let id = endpoint.id.clone();
                self.refused.forget_endpoint(&id);
                if self.endpoints.insert(id.clone(), endpoint.clone()).as_ref() != Some(&endpoint)
                    || self.failed.contains_key(&id)
                {
                    self.dirty_endpoints.insert(id);
                }
            }
            Update::EndpointRemoved(id) => {
                self.refused.forget_endpoint(&id);
                if self.endpoints.remove(&id).is_some() {
                    self.dirty_endpoints.insert(id);
                }
            }
            Update::Route(route) => {
                let destination = route.destination.trunc();
                let route = Route { destination, ..route };
                if self.routes.get(&destination) != Some(&route) {
                    self.routes.insert(destination, route);
                    self.changed_routes.insert(destination);
                }
            }
            Update::RouteRemoved(destination) => {
                let destination = destination.trunc();
                if self.routes.remove(&destination).is_some() {
                    self.changed_routes.insert(destination);
                }
            }
            Update::Pools(pools) => self.put_pools(&pools),
            Update::Host(host) => self.put_host(host),
            Update::Translations(all) => {
                self.translates |= !all.is_empty();
                self.floating = all;
                self.put_base();
            }
            Update::Markings(all) => self.put_markings(&all),
            Update::HostEndpoint(endpoint) => self.put_host_endpoint(endpoint),
            Update::HostEndpointRemoved(name) => self.remove_host_endpoint(&name),
            Update::InSync => self.in_sync = true,
            Update::LearnedInSync => self.learned_in_sync = true,
            other => tracing::warn!(?other, "an update this dataplane does not know is ignored"),
        }
    }

    /// Whether there are rules, and the kernel takes them.
    pub(super) fn has_rules(&self, owner: &RuleOwner) -> bool {
        self.rules.contains_key(owner) && self.refused.owner(owner).is_none()
    }

    /// An endpoint renders differently when a policy it names comes to be known, or no longer is.
    pub(super) fn rules_changed(&mut self, owner: RuleOwner, existence: bool) {
        for direction in DIRECTIONS {
            let key = (owner.clone(), direction);
            if existence && let Some(users) = self.users.get(&key) {
                self.dirty_endpoints.extend(users.iter().cloned());
            }
            if existence {
                self.of_hosts.rules_changed(&key);
            }
            self.dirty_rules.insert(key);
        }
    }

    fn render_rules(&mut self, key: &RulesKey) {
        let (owner, direction) = key;
        let chain = names::rules_chain(owner, *direction);
        let used = self.users.contains_key(key) || self.of_hosts.uses(key);
        let rules = self.rules.get(owner).filter(|_| used && self.has_rules(owner));
        let Some(rules) = rules else {
            self.causes.forget(&chain);
            let parts: Vec<String> = self.parts_of(&chain).cloned().collect();
            parts.iter().for_each(|part| self.remove_chain(part));
            self.remove_chain(&chain);
            self.recheck.set_rules(key, None);
            return;
        };
        let rules = of(rules, *direction);
        self.causes.rules(&chain, rules);
        self.recheck.set_rules(key, Some(rules));
        if let Some(users) = self.users.get(key) {
            self.recheck.endpoints.extend(users.iter().cloned());
        }
        let lower::Lowered { rules, constants } =
            lower::rules(rules, self.families, self.style_of(key));
        let now = parts::split(&chain, rules);
        let gone = self.parts_of(&chain).filter(|part| now.iter().all(|(name, _)| name != *part));
        let gone: Vec<String> = gone.cloned().collect();
        for (name, chain) in now {
            self.put_chain(&name, chain, constants.clone());
        }
        gone.iter().for_each(|part| self.remove_chain(part));
    }

    /// The desired parts of a chain of rules.
    fn parts_of(&self, chain: &str) -> impl Iterator<Item = &String> {
        let prefix = parts::prefix(chain);
        let from = self.table.desired().chains.range(prefix.clone()..);
        from.map(|(name, _)| name).take_while(move |name| name.starts_with(&prefix))
    }

    /// How the rules under this key say what they decide.
    fn style_of(&self, key: &RulesKey) -> Style {
        if self.of_hosts.uses(key) { Style::at_host(&self.host) } else { Style::of(&self.host) }
    }

    fn put_host(&mut self, host: HostSettings) {
        // What chains of endpoints depend on.
        let of_endpoints = |host: &HostSettings| {
            let tunnels = (host.vxlan_from_workloads, host.vxlan_port, host.ipip_from_workloads);
            let style = Style { log_limit: None, ..Style::of(host) };
            (Arc::clone(&host.interface_prefix), tunnels, host.invalid_meets_policy, style)
        };
        if of_endpoints(&host) != of_endpoints(&self.host) {
            self.dirty_endpoints.extend(self.endpoints.keys().cloned());
        }
        if host.mark_mask != self.host.mark_mask {
            let enough = host.mark_mask.count_ones() >= HostSettings::MARK_BITS;
            if !enough {
                tracing::warn!(mask = host.mark_mask, "too few bits for marks; the default holds");
            }
            self.causes.set_marks(Marks::of(host.mark_mask));
            // Connections that are condemned have another bit now.
            self.recheck.endpoints.extend(self.endpoints.keys().cloned());
            self.cuts = true;
        }
        if Style::of(&host) != Style::of(&self.host) {
            self.dirty_rules.extend(self.users.keys().chain(self.of_hosts.used()).cloned());
        }
        for family in Family::BOTH {
            let of_family = host.node_addresses.iter().filter(|a| Family::of(**a) == family);
            let elements = of_family.map(|a| Element::key(address_bytes(*a))).collect();
            let spec = SetSpec::set([address_key(family)]);
            self.table.put_set(&names::set(names::ALL_NODES, family), SetDef { spec, elements });
        }
        for family in Family::BOTH {
            let spec = SetSpec::intervals(address_key(family));
            let elements = net_elements(family, &host.service_cidrs);
            self.table.put_set(&names::set(names::SERVICES, family), SetDef { spec, elements });
            let spec = SetSpec::intervals(address_key(family));
            let elements = net_elements(family, &host.external_nodes);
            let name = names::set(names::EXTERNAL_NODES, family);
            self.table.put_set(&name, SetDef { spec, elements });
        }
        self.of_hosts.settings_changed(&self.host, &host);
        self.translates |= host.tunnels != Tunnels::default();
        self.host = host;
        self.render_markings();
        self.put_base();
    }

    pub(super) fn put_base(&mut self) {
        let mut unused = BTreeSet::from(base::OPTIONAL);
        let hooks = self.of_hosts.hooks();
        let needs = base::Needs {
            hooks,
            floating: &self.floating,
            pools: &self.pools,
            translates: self.translates,
            marks_packets: !self.marked.is_empty(),
            cuts: self.cuts,
            limits_packets: self.limits.packets_to(),
        };
        for (name, chain) in base::chains(&self.host, needs) {
            unused.remove(name);
            let constants = vec![base::icmpv6_to_host()];
            self.put_chain(name, chain, constants);
        }
        unused.into_iter().for_each(|name| self.remove_chain(name));
    }

    /// Whether connections may be marked as denied by now.
    pub(super) fn set_cuts(&mut self, cuts: bool) {
        if std::mem::replace(&mut self.cuts, cuts) != cuts {
            self.put_base();
        }
    }

    fn put_pools(&mut self, pools: &[Pool]) {
        for family in Family::BOTH {
            let mut put = |name, pools: Vec<&IpNet>| {
                let spec = SetSpec::intervals(address_key(family));
                let elements = net_elements(family, pools);
                self.table.put_set(&names::set(name, family), SetDef { spec, elements });
            };
            put(names::ALL_POOLS, pools.iter().map(|pool| &pool.cidr).collect());
            let masqueraded = pools.iter().filter(|pool| pool.nat_outgoing);
            put(names::MASQUERADED_POOLS, masqueraded.map(|pool| &pool.cidr).collect());
        }
        self.pools = pools.to_vec();
        self.translates |= pools.iter().any(|pool| pool.nat_outgoing);
        self.put_base();
    }

    /// There is, or was before this run, what translates addresses.
    pub(super) fn keep_translating(&mut self) {
        if !std::mem::replace(&mut self.translates, true) {
            self.put_base();
        }
    }
}

pub(super) fn of(rules: &RuleSet, direction: Direction) -> &Vec<Rule> {
    match direction {
        Direction::Ingress => &rules.ingress,
        Direction::Egress => &rules.egress,
    }
}
