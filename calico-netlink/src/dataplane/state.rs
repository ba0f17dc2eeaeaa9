//! Desired state: what transactions described, and what it makes of our table. Pure: no IO.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::net::IpAddr;
use std::sync::Arc;

use calico_core::dataplane::{
    Direction, Dscp, EndpointId, HostSettings, Pool, Route, Rule, RuleOwner, RuleSet, SetId,
    SetKind, SetMember, Transaction, Translation, Tunnels, Update, WorkloadEndpoint,
};
use calico_core::key::Family;
use ipnet::IpNet;

use super::causes::Causes;
use super::elements::{address_bytes, element, net, net_elements};
use super::families::Families;
use super::host_state::OfHosts;
use super::limits::LimitChains;
use super::lower::{self, address_key};
use super::matches::Constant;
use super::recheck_state::Recheck;
use super::refused::Refused;
use super::shared::Shared;
use super::style::{Marks, Style};
use super::{base, endpoint, names};
use crate::nft::wire::{Element, KeyType};
use crate::nft::{ChainDef, RuleDef, SetDef, SetSpec, Tracker, parts};

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
    /// Code points that some packets carry.
    pub(super) marked: BTreeSet<Dscp>,
    sets: BTreeMap<SetId, SetKind>,
    /// The kernel has sets for these only.
    pub(super) families: Families,
    /// Members of sets of prefixes, which the kernel holds merged.
    nets: BTreeMap<SetId, BTreeSet<IpNet>>,
    pub(super) rules: BTreeMap<RuleOwner, RuleSet>,
    pub(super) endpoints: BTreeMap<EndpointId, WorkloadEndpoint>,
    /// Which endpoint has the chains of an interface, and the other way round.
    pub(super) interfaces: BTreeMap<Arc<str>, EndpointId>,
    interface_of: BTreeMap<EndpointId, Arc<str>>,
    uses: BTreeMap<EndpointId, BTreeSet<RulesKey>>,
    pub(super) users: BTreeMap<RulesKey, BTreeSet<EndpointId>>,
    failed: BTreeMap<EndpointId, String>,
    pub(super) addresses: BTreeMap<EndpointId, BTreeSet<IpAddr>>,
    /// Addresses that endpoints have lost.
    released: BTreeSet<IpAddr>,
    pub(super) recheck: Recheck,
    /// For each set of the table, how many chains look it up; such a set cannot go.
    lookups: BTreeMap<String, usize>,
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
        let was_complete = self.in_sync;
        for update in transaction.updates {
            self.update(update);
        }
        for id in mem::take(&mut self.dirty_endpoints) {
            self.render_endpoint(&id);
        }
        self.render_hosts();
        for key in mem::take(&mut self.dirty_rules) {
            self.render_rules(&key);
        }
        // A new endpoint has no connections, unless an earlier run knew it.
        if self.in_sync && !was_complete {
            self.recheck.endpoints.extend(self.endpoints.keys().cloned());
        }
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
                let now = DIRECTIONS.map(|direction| lower::allow_all(of(&rules, direction)));
                let before = self.rules.insert(owner.clone(), rules);
                let before = before.map(|rules| {
                    DIRECTIONS.map(|direction| lower::allow_all(of(&rules, direction)))
                });
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

    fn render_endpoint(&mut self, id: &EndpointId) {
        for key in self.uses.remove(id).unwrap_or_default() {
            if let Some(users) = self.users.get_mut(&key) {
                users.remove(id);
                if users.is_empty() {
                    self.users.remove(&key);
                    self.dirty_rules.insert(key);
                }
            }
        }
        self.failed.remove(id);
        let endpoint = self.endpoints.get(id).cloned();
        let addresses: BTreeSet<_> =
            endpoint.iter().flat_map(|e| &e.addresses).map(IpNet::addr).collect();
        let before = self.addresses.remove(id).unwrap_or_default();
        if !before.is_empty() {
            self.recheck.endpoints.insert(id.clone());
        }
        self.released.extend(before.difference(&addresses));
        if !addresses.is_empty() {
            self.addresses.insert(id.clone(), addresses);
        }
        if let Some(held) = self.interface_of.get(id).cloned()
            && endpoint.as_ref().map(|endpoint| &endpoint.interface) != Some(&held)
        {
            self.release_interface(&held);
        }
        let Some(endpoint) = endpoint else { return };
        if let Some(reason) = self.refused.endpoint(id) {
            self.failed.insert(id.clone(), format!("the kernel refused {reason}"));
            self.release_interface(&endpoint.interface);
            return;
        }
        if !endpoint.interface.starts_with(self.host.interface_prefix.as_ref()) {
            let prefix = &self.host.interface_prefix;
            let reason = format!(
                "its interface {} does not start with {prefix}, so no policy would apply to it",
                endpoint.interface
            );
            self.failed.insert(id.clone(), reason);
            return;
        }
        // The newest claim holds: the other endpoint's workload must be gone.
        if let Some(other) = self.interfaces.insert(endpoint.interface.clone(), id.clone())
            && other != *id
        {
            let reason = format!("its interface {} now belongs to {id}", endpoint.interface);
            self.interface_of.remove(&other);
            self.failed.insert(other, reason);
        }
        self.interface_of.insert(id.clone(), endpoint.interface.clone());
        self.put_endpoint(&endpoint);
    }

    fn put_endpoint(&mut self, endpoint: &WorkloadEndpoint) {
        let id = &endpoint.id;
        let mut uses = BTreeSet::new();
        self.place_limits(endpoint);
        for direction in DIRECTIONS {
            let known = |owner: &RuleOwner| self.has_rules(owner);
            let open = |owner: &RuleOwner| {
                self.rules.get(owner).is_some_and(|rules| lower::allow_all(of(rules, direction)))
            };
            let rendered =
                endpoint::chain(endpoint, direction, &self.host, &self.limits, known, open);
            let refused = endpoint::owners(endpoint, direction)
                .find_map(|owner| Some((self.refused.owner(&owner)?.to_owned(), owner)));
            if let Some((reason, owner)) = refused {
                self.failed
                    .insert(id.clone(), format!("{owner} is refused by the kernel {reason}"));
            } else if let Some(owner) = endpoint::first_missing_policy(endpoint, direction, known) {
                self.failed.insert(id.clone(), format!("{owner} is not known"));
            }
            for owner in endpoint::owners(endpoint, direction) {
                let key = (owner, direction);
                let users = self.users.entry(key.clone()).or_default();
                if users.is_empty() {
                    self.dirty_rules.insert(key.clone());
                }
                users.insert(id.clone());
                uses.insert(key);
            }
            for tier in &endpoint.tiers {
                self.causes.end_of_tier(direction, &tier.tier);
            }
            match direction {
                Direction::Ingress => self.place_to(endpoint, rendered),
                Direction::Egress => self.place_from(endpoint, rendered),
            }
        }
        self.uses.insert(id.clone(), uses);
    }

    fn release_interface(&mut self, interface: &Arc<str>) {
        if let Some(id) = self.interfaces.remove(interface) {
            self.interface_of.remove(&id);
        }
        self.displace(interface);
        self.displace_limits(interface);
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
            translates: self.translates,
            marks_packets: !self.marked.is_empty(),
        };
        for (name, chain) in base::chains(&self.host, needs) {
            unused.remove(name);
            let constants = vec![base::icmpv6_to_host()];
            self.put_chain(name, chain, constants);
        }
        unused.into_iter().for_each(|name| self.remove_chain(name));
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
        if pools.iter().any(|pool| pool.nat_outgoing) {
            self.keep_translating();
        }
    }

    /// There is, or was before this run, what translates addresses.
    pub(super) fn keep_translating(&mut self) {
        if !std::mem::replace(&mut self.translates, true) {
            self.put_base();
        }
    }

    fn put_set(&mut self, id: SetId, kind: SetKind, members: Vec<SetMember>) {
        self.take_back_set(&id);
        self.nets.remove(&id);
        self.meet_families(&members);
        if kind == SetKind::Net {
            self.nets.insert(id.clone(), members.iter().filter_map(net).collect());
        }
        for (family, name) in names::sets(&id) {
            if !self.families.has(family) {
                continue;
            }
            let spec = set_spec(kind, family);
            let elements = match self.nets.get(&id) {
                Some(nets) => net_elements(family, nets),
                None => members.iter().filter_map(|member| element(family, member)).collect(),
            };
            self.transient.remove(&name);
            self.table.put_set(&name, SetDef { spec, elements });
        }
        self.sets.insert(id, kind);
    }

    /// Rules look up sets of a family once one of these has members.
    fn meet_families(&mut self, members: &[SetMember]) {
        for family in self.families.meet(members) {
            for (id, kind) in &self.sets {
                let spec = set_spec(*kind, family);
                let elements = BTreeSet::new();
                self.table.put_set(&names::set(&id.0, family), SetDef { spec, elements });
            }
            self.dirty_rules.extend(self.recheck.looking_up().cloned());
        }
    }

    fn change_set(&mut self, id: &SetId, added: Vec<SetMember>, removed: Vec<SetMember>) {
        self.take_back_set(id);
        self.meet_families(&added);
        if let Some(nets) = self.nets.get_mut(id) {
            for net in removed.iter().filter_map(net) {
                nets.remove(&net);
            }
            nets.extend(added.iter().filter_map(net));
            for (family, name) in names::sets(id) {
                if !self.families.has(family) {
                    continue;
                }
                let spec = SetSpec::intervals(address_key(family));
                let elements = net_elements(family, &*nets);
                self.table.put_set(&name, SetDef { spec, elements });
            }
            return;
        }
        for (family, name) in names::sets(id) {
            for element in removed.iter().filter_map(|member| element(family, member)) {
                self.table.remove_element(&name, &element);
            }
            for element in added.iter().filter_map(|member| element(family, member)) {
                self.table.add_element(&name, element);
            }
        }
    }

    fn remove_set(&mut self, id: &SetId) {
        if self.sets.remove(id).is_none() {
            return;
        }
        self.take_back_set(id);
        self.nets.remove(id);
        self.leave_out_set(id);
    }

    /// The set goes from the table, at the latest with the last chain that looks it up.
    pub(super) fn leave_out_set(&mut self, id: &SetId) {
        for (_, name) in names::sets(id) {
            if self.lookups.contains_key(&name) {
                self.transient.insert(name);
            } else {
                self.table.remove_set(&name);
            }
        }
    }

    pub(super) fn put_chain(&mut self, name: &str, chain: ChainDef, constants: Vec<Constant>) {
        for (set, definition) in constants {
            if !self.table.desired().sets.contains_key(&set) {
                self.table.put_set(&set, definition);
            }
            self.transient.insert(set);
        }
        for set in looked_up(&chain.rules) {
            *self.lookups.entry(set).or_default() += 1;
        }
        self.release_lookups(name);
        self.table.put_chain(name, chain);
    }

    pub(super) fn remove_chain(&mut self, name: &str) {
        self.release_lookups(name);
        self.table.remove_chain(name);
    }

    /// The chain as it was no longer looks up its sets; those that nobody needs go.
    fn release_lookups(&mut self, chain: &str) {
        let Some(old) = self.table.desired().chains.get(chain) else { return };
        for set in looked_up(&old.rules) {
            let Some(count) = self.lookups.get_mut(&set) else { continue };
            *count -= 1;
            if *count == 0 {
                self.lookups.remove(&set);
                if self.transient.remove(&set) {
                    self.table.remove_set(&set);
                }
            }
        }
    }
}

fn set_spec(kind: SetKind, family: Family) -> SetSpec {
    let key = address_key(family);
    match kind {
        SetKind::Net => SetSpec::intervals(key),
        SetKind::AddressPort => SetSpec::set([key, KeyType::Proto, KeyType::Service]),
        _ => SetSpec::set([key]),
    }
}

fn of(rules: &RuleSet, direction: Direction) -> &Vec<Rule> {
    match direction {
        Direction::Ingress => &rules.ingress,
        Direction::Egress => &rules.egress,
    }
}

fn looked_up(rules: &[RuleDef]) -> BTreeSet<String> {
    rules.iter().flat_map(RuleDef::sets).map(str::to_owned).collect()
}
