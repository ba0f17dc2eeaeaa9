//! The calculation graph: resources in, changes for a dataplane out.

mod endpoints;
mod flush;
mod host;
mod host_endpoints;
mod policies;
mod services;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use calico_core::dataplane::{
    EndpointId, HostEndpoint, PolicyId, RuleOwner, RuleSet, SetId, WorkloadEndpoint,
};
use calico_core::datastore::Entry;
use calico_core::felix::{self, Settings};
use calico_core::key::Key;
use calico_core::kind::Kind;
use calico_core::resource::{AnyResource, Tier, TierAction};

use crate::desired::Desired;
use crate::index::{IdMap, Interner, ItemId, LabelIndex, QueryId};
use crate::input::{Input, Object, Rejected, Warning};
use crate::rules::{Compiled, service_name};
use crate::sets::Sets;
use endpoints::{Item, ItemKey, Local};
use host::Host;
use host_endpoints::LocalHost;
use policies::{Policy, ProfileState};
use services::Services;

/// Keeps what the endpoints of a node need, while endpoints, policies and the rest change.
///
/// Feed it with [`handle`](Self::handle) in any order, and take the changes out with
/// [`flush`](Self::flush) whenever it suits: after each input, or once after thousands. The sum of
/// the changes depends on the last state of the inputs only.
///
/// # Cost
///
/// An input costs what depends on it: an endpoint is compared with the selectors that ask for one
/// of its labels, a policy with the local endpoints that have a label it asks for. A profile whose
/// inherited labels change costs a comparison of each of its endpoints.
#[derive(Debug, Default)]
pub struct Graph {
    /// The node whose endpoints count as local; all of them if `None`.
    node: Option<Arc<str>>,
    names: Interner,
    /// Everything with addresses and labels, by the number that both indexes use.
    items: hashbrown::HashMap<ItemKey, ItemId>,
    slots: Vec<Option<Item>>,
    free: Vec<ItemId>,
    /// All items, against the selectors in active rules.
    everyone: LabelIndex,
    sets: Sets,
    services: Services,
    /// Local endpoints, against the selectors of policies.
    residents: LabelIndex,
    locals: BTreeMap<EndpointId, Local>,
    /// Host endpoints of this node, against the selectors of policies that apply to them.
    host_residents: LabelIndex,
    local_hosts: BTreeMap<Arc<str>, LocalHost>,
    policy_numbers: HashMap<PolicyId, QueryId>,
    policies: IdMap<QueryId, Policy>,
    free_policies: Vec<QueryId>,
    profiles: HashMap<Arc<str>, ProfileState>,
    tiers: BTreeMap<Arc<str>, TierState>,
    host: Host,
    /// Whether workloads may use foreign source addresses that their endpoint names.
    spoofing: bool,
    warnings: Vec<Warning>,
    /// What to look at in the next flush.
    dirty: Dirty,
    /// What the dataplane was told.
    sent: Sent,
}

#[derive(Debug, Default)]
struct Dirty {
    owners: BTreeSet<RuleOwner>,
    endpoints: BTreeSet<EndpointId>,
    hosts: BTreeSet<Arc<str>>,
}

#[derive(Debug, Default)]
struct Sent {
    rules: HashMap<RuleOwner, Active>,
    endpoints: HashMap<EndpointId, WorkloadEndpoint>,
    hosts: BTreeMap<Arc<str>, HostEndpoint>,
}

/// Rules that the dataplane has.
#[derive(Debug)]
struct Active {
    rules: Arc<RuleSet>,
    /// The sets they use.
    sets: Box<[SetId]>,
}

/// What a tier's place and end are.
#[derive(Debug, Clone, Copy, PartialEq)]
struct TierState {
    /// Infinite if unset: such tiers come last.
    order: f64,
    action: TierAction,
}

/// How much a [`Graph`] holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Workload endpoints and network sets of the whole cluster.
    pub items: usize,
    /// Endpoints of this node.
    pub local_endpoints: usize,
    /// Policies of the whole cluster.
    pub policies: usize,
    /// Policies and profiles in use on this node.
    pub active: usize,
    /// Sets in use on this node.
    pub sets: usize,
    /// Distinct label keys and values, and names of profiles and ports.
    pub texts: usize,
}

impl Graph {
    /// A graph for the endpoints of one node.
    #[must_use]
    pub fn for_node(node: &str) -> Self {
        Self { node: Some(node.into()), ..Self::for_every_node() }
    }

    /// A graph for which every endpoint is local: to explain or to compare policy away from any
    /// node.
    #[must_use]
    pub fn for_every_node() -> Self {
        let tiers = known_tiers().map(|tier| (tier.name().into(), tier_state(&tier)));
        Self { tiers: tiers.collect(), ..Self::default() }
    }

    /// Settings that hold on this host whatever the datastore says.
    pub fn set_local(&mut self, local: felix::Local) {
        self.host.set_local(local);
    }

    /// The node agent's settings as they hold on this node.
    pub fn settings(&mut self) -> &Settings {
        self.host.effective(self.node.as_deref())
    }

    /// Takes in one change.
    ///
    /// # Errors
    ///
    /// [`Rejected`] if the object makes no sense; then nothing has changed.
    pub fn handle(&mut self, input: impl Into<Input>) -> Result<(), Rejected> {
        let object = match input.into() {
            Input::Put(object) => object,
            Input::Remove(key) => {
                self.remove(&key);
                return Ok(());
            }
        };
        let mut problems = Vec::new();
        let result = match &object {
            Object::EndpointElsewhere(endpoint) => {
                self.put_endpoint_elsewhere(endpoint);
                Ok(())
            }
            Object::WorkloadEndpoint(endpoint) => self.put_endpoint(endpoint, &mut problems),
            Object::HostEndpoint(endpoint) => self.put_host_endpoint(endpoint, &mut problems),
            Object::NetworkSet(set) => {
                self.put_network_set(set);
                Ok(())
            }
            Object::GlobalNetworkSet(set) => {
                self.put_global_network_set(set);
                Ok(())
            }
            Object::KubernetesEndpointSlice(slice) => {
                self.put_slice(slice);
                Ok(())
            }
            Object::NetworkPolicy(policy) => self.put_network_policy(policy, &mut problems),
            Object::GlobalNetworkPolicy(policy) => {
                self.put_global_network_policy(policy, &mut problems)
            }
            Object::Profile(profile) => self.put_profile(profile, &mut problems),
            Object::Tier(tier) => {
                self.put_tier(tier.name(), Some(tier_state(tier)));
                Ok(())
            }
            Object::IpPool(pool) => {
                self.host.put_pool(pool);
                Ok(())
            }
            Object::Node(node) => {
                self.host.put_node(node);
                Ok(())
            }
            Object::BgpConfiguration(config) => {
                self.host.put_services(config);
                Ok(())
            }
            Object::FelixConfiguration(config) => self.host.put_config(config, &mut problems),
        };
        if let Err(errors) = result {
            return Err(Rejected::Invalid { key: object.key(), errors });
        }
        let warnings = problems.into_iter().map(|problem| Warning { key: object.key(), problem });
        self.warnings.extend(warnings);
        Ok(())
    }

    /// Takes in a stored object. Objects that have no say in policy are passed over.
    ///
    /// # Errors
    ///
    /// [`Rejected`] if the object cannot be read or makes no sense; then nothing has changed.
    pub fn handle_entry(&mut self, entry: &Entry) -> Result<(), Rejected> {
        Object::decode(entry)?.map_or(Ok(()), |object| self.handle(Input::Put(object)))
    }

    /// Takes in a resource of any kind, such as one from a manifest. Those that have no say in
    /// policy are passed over.
    ///
    /// # Errors
    ///
    /// [`Rejected`] if the resource does not fit its kind or makes no sense; then nothing has
    /// changed.
    pub fn handle_resource(&mut self, resource: &AnyResource) -> Result<(), Rejected> {
        match Object::from_resource(resource) {
            Ok(object) => object.map_or(Ok(()), |object| self.handle(object)),
            Err(error) => Err(Rejected::Invalid { key: resource.key(), errors: vec![error] }),
        }
    }

    /// Takes in that a stored object is gone.
    pub fn handle_gone(&mut self, key: &Key) {
        self.remove(key);
    }

    /// What was accepted since the last call but does not do what it says.
    pub fn take_warnings(&mut self) -> Vec<Warning> {
        std::mem::take(&mut self.warnings)
    }

    /// The state that all flushes up to now add up to, with descriptions of its sets: for a backend
    /// that starts anew, or to explain verdicts. Call it after a [`flush`](Self::flush), when there
    /// is nothing left to say.
    #[must_use]
    pub fn desired(&self) -> Desired {
        let rules = self.sent.rules.iter();
        let describe = |(id, text): (&SetId, &str)| (id.clone(), text.to_owned());
        Desired {
            sets: self.sets.sent().collect(),
            rules: rules.map(|(owner, sent)| (owner.clone(), (*sent.rules).clone())).collect(),
            endpoints: self.sent.endpoints.clone().into_iter().collect(),
            host_endpoints: self.sent.hosts.clone(),
            pools: self.host.sent_pools().to_vec(),
            host: self.host.sent_settings().cloned(),
            in_sync: false,
            descriptions: self.describe_sets().map(describe).collect(),
        }
    }

    /// What is in each set that was sent, for people: `app == "web"`, or
    /// `http/TCP of app == "web"` for a named port.
    pub fn describe_sets(&self) -> impl Iterator<Item = (&SetId, &str)> {
        self.sets.describe()
    }

    /// Whether this workload endpoint is one of this node, with its policy in the rules.
    #[must_use]
    pub fn is_local(&self, endpoint: &EndpointId) -> bool {
        self.locals.contains_key(endpoint)
    }

    /// Whether a version of this policy was taken in.
    #[must_use]
    pub fn has_policy(&self, key: &Key) -> bool {
        let Key::Resource { kind, namespace, name } = key else { return false };
        self.policy_numbers.contains_key(&PolicyId {
            kind: *kind,
            namespace: namespace.as_deref().map(Into::into),
            name: name.as_str().into(),
        })
    }

    /// How much there is.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats {
            items: self.items.len(),
            local_endpoints: self.locals.len(),
            policies: self.policies.len(),
            active: self.sent.rules.len(),
            sets: self.sets.len(),
            texts: self.names.len(),
        }
    }

    fn remove(&mut self, key: &Key) {
        let Key::Resource { kind, namespace, name } = key else { return };
        let namespace = namespace.as_deref();
        match kind {
            Kind::WorkloadEndpoint
            | Kind::HostEndpoint
            | Kind::NetworkSet
            | Kind::GlobalNetworkSet => {
                self.remove_item(&self.item_key(*kind, namespace.unwrap_or_default(), name));
            }
            Kind::NetworkPolicy | Kind::GlobalNetworkPolicy => {
                let namespace = namespace.map(Into::into);
                self.remove_policy(&PolicyId {
                    kind: *kind,
                    namespace,
                    name: name.as_str().into(),
                });
            }
            Kind::KubernetesEndpointSlice => {
                self.remove_slice(&service_name(namespace.unwrap_or_default(), name));
            }
            Kind::Profile => self.remove_profile(name),
            Kind::Tier => {
                let known = known_tiers().find(|tier| tier.name() == name);
                self.put_tier(name, known.as_ref().map(tier_state));
            }
            Kind::IpPool | Kind::Node | Kind::FelixConfiguration | Kind::BgpConfiguration => {
                self.host.remove(*kind, name);
            }
            _ => {}
        }
    }

    fn put_tier(&mut self, name: &str, state: Option<TierState>) {
        let before = match state {
            Some(state) => self.tiers.insert(name.into(), state),
            None => self.tiers.remove(name),
        };
        if before != state {
            // Tiers change rarely, and an endpoint whose tiers stay the same is not sent again.
            self.dirty.endpoints.extend(self.locals.keys().cloned());
            self.dirty.hosts.extend(self.local_hosts.keys().cloned());
        }
    }
}

/// Tiers that need no resource.
fn known_tiers() -> impl Iterator<Item = Tier> {
    Tier::built_in().into_iter().chain(Tier::implied())
}

fn tier_state(tier: &Tier) -> TierState {
    TierState { order: tier.spec.order(), action: tier.spec.default_action() }
}
