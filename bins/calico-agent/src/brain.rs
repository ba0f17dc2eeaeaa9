//! What a node does about what the datastore and other routers say. Pure.
//!
//! Events come in with [`Brain::handle_store`] and [`Brain::handle_route`]; [`Brain::flush`] says
//! what to do about all of them at once.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use calico_core::dataplane::{EndpointId, Transaction, Update};
use calico_core::datastore::{Entry, Revision, StoreError, WatchEvent};
use calico_core::felix::Local;
use calico_core::key::{Key, OwnerType};
use calico_core::kind::Kind;
use calico_core::resource::{AffinityState, BlockAffinityValue, FelixConfigurationSpec};
use calico_core::routes::RouteEvent;
use calico_peering::{HostRoute, Note, Options, Peering, Secret, SecretRef, SpeakerPlan};
use calico_policy::{Graph, Object, Rejected, Stats};
use ipnet::IpNet;
use tracing::{debug, info, warn};

use crate::doubts::Doubts;
use crate::ignored::Ignored;
use crate::migrations::Migrations;
use crate::overlay::{Overlay, OverlayPlan};
use crate::routing::Routing;
use crate::settings::{self, Unsupported};
use crate::source::{News, Read, Stored};
use crate::stand_in::stand_ins;
use calico_router::mirror::{Change, Mirror};

/// What to do.
#[derive(Debug, Default)]
pub struct Work {
    /// For the dataplane; nothing if it has no updates.
    pub transaction: Transaction,
    /// Prefixes to announce.
    pub announce: Vec<IpNet>,
    /// Prefixes to withdraw.
    pub withdraw: Vec<IpNet>,
    /// Prefixes that are announced with another LOCAL_PREF than the usual one, or no longer.
    pub preferred: Vec<(IpNet, Option<u32>)>,
    /// Endpoints that arrived from another node, to be [settled](Brain::settle) after a while.
    pub arrived: Vec<EndpointId>,
    /// How the BGP speaker is to be, if that may have changed.
    pub speaker: Option<Option<SpeakerPlan>>,
    /// The node agent's settings, if they may have changed.
    pub settings: Option<Arc<FelixConfigurationSpec>>,
    /// Tunnels between nodes, if they may have changed.
    pub overlay: Option<OverlayPlan>,
    /// Everything that the datastore said up to here is in this work or was before.
    pub store: Revision,
    /// Endpoints of this node that come or change.
    pub endpoints: Vec<EndpointId>,
    /// Endpoints of this node that go.
    pub gone: Vec<EndpointId>,
    /// Endpoints of this node that the datastore told of, each with its own revision, whether or
    /// not anything follows from it.
    pub heard: Vec<(EndpointId, Revision)>,
}

/// The node's view of the cluster.
#[derive(Debug)]
pub struct Brain {
    node: String,
    mirror: Mirror,
    graph: Graph,
    routing: Routing,
    peering: Peering,
    overlay: Overlay,
    migrations: Migrations,
    peering_dirty: bool,
    /// What was said of the resources already.
    noted: Vec<Note>,
    settings: Option<Arc<FelixConfigurationSpec>>,
    /// Whether the kernel is told of IPv6 addresses.
    ipv6: bool,
    unsupported: Unsupported,
    doubts: Doubts,
    /// Objects that have mistakes.
    ignored: Ignored,
    /// Policies among them that others stand in for.
    stood_in: HashSet<Key>,
    told_in_sync: bool,
    told_learned: bool,
    revision: u64,
    heard: Vec<(EndpointId, Revision)>,
}

impl Brain {
    /// Of the node of this name.
    #[must_use]
    pub fn new(node: &str, options: Options) -> Self {
        Self {
            node: node.to_owned(),
            mirror: Mirror::default(),
            graph: Graph::for_node(node),
            routing: Routing::default(),
            peering: Peering::with_options(node, options),
            overlay: Overlay::new(node),
            migrations: Migrations::to(node),
            peering_dirty: true,
            noted: Vec::new(),
            settings: None,
            ipv6: true,
            unsupported: Unsupported::default(),
            doubts: Doubts::default(),
            ignored: Ignored::default(),
            stood_in: HashSet::new(),
            told_in_sync: false,
            told_learned: false,
            revision: 0,
            heard: Vec::new(),
        }
    }

    /// The node's name.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Settings that hold on this host whatever the datastore says.
    pub fn set_local(&mut self, local: Local) {
        self.graph.set_local(local);
    }

    /// Whether the datastore was listed once: only then there is anything to do.
    #[must_use]
    pub const fn in_sync(&self) -> bool {
        self.mirror.in_sync()
    }

    /// How much policy there is.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.graph.stats()
    }

    /// How many resources of a kind the datastore has.
    #[must_use]
    pub fn count(&self, kind: Kind) -> usize {
        self.mirror.count(kind)
    }

    /// What this node routes and announces.
    #[must_use]
    pub const fn routing(&self) -> &Routing {
        &self.routing
    }

    /// Takes news from the datastore.
    pub fn handle_store(&mut self, event: WatchEvent) {
        let news = News::read(&self.node, event);
        self.handle_news(news);
    }

    /// As [`handle_store`](Self::handle_store), of what somebody has [read](News::read) already.
    pub fn handle_news(&mut self, news: News) {
        let event = match news {
            News::Event(event) => event,
            News::Object(Stored { entry, listed, read }) => {
                self.mirror.see(&entry.key, entry.revision, listed);
                match self.put(&entry, read) {
                    Ok(()) => self.is_fine(&entry.key),
                    Err(error) => self.has_mistakes(&entry, &reason(error)),
                }
                return;
            }
        };
        self.ignored.follow(&event);
        if let WatchEvent::Bad { path, reason } = &event {
            match path.parse() {
                Ok(key) => {
                    let (value, revision) = (Arc::from(""), Revision::default());
                    self.has_mistakes(&Entry { key, value, revision }, reason);
                }
                Err(_no_key) => self.ignored.note_path(path, reason),
            }
        }
        for change in self.mirror.handle(event) {
            match change {
                Change::Put(entry) => debug!(key = %entry.key, "an object that nobody has read"),
                Change::Gone(key) => self.gone(&key),
            }
        }
    }

    /// Objects that have mistakes: by path, with what is wrong, if others than at the last call.
    pub fn new_mistakes(&mut self) -> Option<BTreeMap<String, String>> {
        self.ignored.news()
    }

    /// The passwords that resources refer to; to be brought with [`set_secret`](Self::set_secret)
    /// before [`flush`](Self::flush).
    #[must_use]
    pub fn wanted_secrets(&self) -> BTreeSet<SecretRef> {
        self.peering.wanted_secrets()
    }

    /// Takes a password, or why there is none.
    pub fn set_secret(&mut self, reference: SecretRef, secret: Secret) {
        self.peering_dirty |= self.peering.set_secret(reference, secret);
    }

    /// Everybody knows by now that the endpoint is here.
    pub fn settle(&mut self, id: &EndpointId) {
        self.routing.settle(id);
    }

    /// Takes the routes that the host has besides Calico's.
    pub fn set_host_routes(&mut self, routes: Vec<HostRoute>) {
        self.peering_dirty |= self.peering.set_host_routes(routes);
    }

    /// Takes news from other routers.
    pub fn handle_route(&mut self, event: RouteEvent) {
        self.routing.handle_route(event);
    }

    /// What to do about everything since the last call; `None` if nothing. Until the datastore
    /// was listed there is nothing to do.
    pub fn flush(&mut self) -> Option<Work> {
        if !self.in_sync() {
            return None;
        }
        let heard = std::mem::take(&mut self.heard);
        let mut work = Work { store: self.mirror.revision(), heard, ..Work::default() };
        work.settings = self.new_settings();
        let updates = &mut work.transaction.updates;
        updates.extend(self.graph.flush());
        self.leave_out_ipv6(updates);
        for warning in self.graph.take_warnings() {
            warn!(%warning, "a part of an object has no effect");
        }
        if let Some(arriving) = self.migrations.news() {
            self.routing.set_arriving(arriving);
        }
        for update in updates.iter() {
            match update {
                Update::Endpoint(endpoint) => {
                    self.routing.set_endpoint(endpoint);
                    work.endpoints.push(endpoint.id.clone());
                }
                Update::EndpointRemoved(id) => {
                    self.routing.remove_endpoint(id);
                    work.gone.push(id.clone());
                }
                _ => {}
            }
        }
        if std::mem::take(&mut self.peering_dirty) {
            let plan = self.peering.plan();
            self.follow(plan.as_ref());
            work.speaker = Some(plan);
        }
        if let Some(settings) = &work.settings {
            self.overlay.set_settings(settings);
            self.routing.set_metrics(settings::kernel::metrics(settings));
        }
        work.overlay = self.overlay.plan();
        for (destination, target) in self.overlay.routes() {
            self.routing.set_overlay(destination, target);
        }
        let routes = self.routing.flush();
        updates.extend(routes.routes);
        (work.announce, work.withdraw) = (routes.announce, routes.withdraw);
        (work.preferred, work.arrived) = (routes.preferred, routes.arrived);
        if !std::mem::replace(&mut self.told_in_sync, true) {
            updates.push(Update::InSync);
        }
        if self.routing.learned_in_sync() && !std::mem::replace(&mut self.told_learned, true) {
            updates.push(Update::LearnedInSync);
        }
        self.revision += 1;
        work.transaction.revision = self.revision;
        Some(work)
    }

    /// Without support of IPv6 the kernel is told of no such address of an endpoint, so that its
    /// packets from there are nobody's and dropped. A change concerns every endpoint.
    fn leave_out_ipv6(&mut self, updates: &mut Vec<Update>) {
        let supported = self.settings.as_ref().is_none_or(|settings| settings.ipv6_support());
        if std::mem::replace(&mut self.ipv6, supported) != supported {
            updates.extend(self.graph.desired().endpoints.into_values().map(Update::Endpoint));
        }
        if supported {
            return;
        }
        for update in updates {
            if let Update::Endpoint(endpoint) = update {
                endpoint.addresses.retain(|address| address.addr().is_ipv4());
            }
        }
    }

    /// Takes over what of a plan is not the speaker's business.
    fn follow(&mut self, plan: Option<&SpeakerPlan>) {
        let Some(plan) = plan else {
            self.routing.set_services([]);
            self.routing.set_host([]);
            self.routing.set_gateways(BTreeMap::new());
            return;
        };
        self.routing.set_services(plan.services.iter().copied());
        self.routing.set_host(plan.host.iter().copied());
        self.routing.set_gateways(plan.gateways.clone());
        self.routing.set_kernel(plan.kernel.clone());
        for note in plan.notes.iter().filter(|note| !self.noted.contains(note)) {
            warn!(%note, "a part of a resource is not in force");
        }
        self.noted.clone_from(&plan.notes);
    }

    fn new_settings(&mut self) -> Option<Arc<FelixConfigurationSpec>> {
        let settings = self.graph.settings();
        // They are the same ones as long as nothing that they are from has changed.
        let same = |known: &Arc<_>| Arc::ptr_eq(known, &settings.spec) || *known == settings.spec;
        if self.settings.as_ref().is_some_and(same) {
            return None;
        }
        let news = self.unsupported.news(settings);
        for setting in news.unsupported {
            warn!(setting, "a setting is not supported and has no effect");
        }
        if !news.not_applicable.is_empty() {
            let settings = news.not_applicable.join(", ");
            info!(settings, "what these settings are about does not exist here");
        }
        self.settings = Some(Arc::clone(&settings.spec));
        self.settings.clone()
    }

    fn put(&mut self, entry: &Entry, read: Result<Read, StoreError>) -> Result<(), Rejected> {
        // That it is there matters even if nobody can read it.
        self.overlay.put(&entry.key, read.as_ref().ok());
        match read? {
            Read::Object(object, doubts) => {
                self.doubts.tell(&entry.key, entry.revision, &doubts);
                self.put_object(object, entry.revision)
            }
            Read::Block(_) => Ok(()),
            Read::Other => Ok(self.put_other(entry)?),
        }
    }

    fn is_fine(&mut self, key: &Key) {
        self.ignored.clear(key);
        self.stood_in.remove(key);
    }

    /// What was known of the object stays in force. After a restart nothing is known of a policy, and
    /// nobody can tell what it forbids: all that it would have judged is denied.
    fn has_mistakes(&mut self, entry: &Entry, reason: &str) {
        let is_policy =
            matches!(entry.key.kind(), Some(Kind::NetworkPolicy | Kind::GlobalNetworkPolicy));
        let is_new = !self.graph.has_policy(&entry.key) && self.in_sync();
        let is_known = self.graph.has_policy(&entry.key) && !self.stood_in.contains(&entry.key);
        let effect = if !is_policy {
            "what was known of it, if anything, stays in force"
        } else if is_new {
            "there was no good version before, so it has no effect"
        } else if is_known {
            "its last good version stays in force"
        } else if stand_ins(entry).into_iter().any(|it| self.graph.handle(it).is_ok()) {
            self.stood_in.insert(entry.key.clone());
            "after a restart no good version is known: all that it would have judged is denied"
        } else {
            "after a restart no good version is known, nor whom it is for: it has no effect"
        };
        self.ignored.note(&entry.key, reason, effect);
    }

    /// Of a cluster's objects nearly all are policy's, and some of these others' as well.
    fn put_object(&mut self, object: Object, revision: Revision) -> Result<(), Rejected> {
        let mut own = None;
        self.peering_dirty |= match &object {
            Object::EndpointElsewhere(endpoint) => self.left(&endpoint.namespace, &endpoint.name),
            Object::WorkloadEndpoint(endpoint) if endpoint.spec.node != self.node => {
                self.left(endpoint.namespace(), endpoint.name())
            }
            Object::WorkloadEndpoint(endpoint) => {
                let (namespace, name) = (endpoint.namespace(), endpoint.name());
                own = Some(EndpointId { namespace: namespace.into(), name: name.into() });
                self.migrations.put_endpoint(namespace, name, &endpoint.metadata.labels);
                self.peering.put_workload(namespace, name, (**endpoint).clone())
            }
            Object::KubernetesEndpointSlice(slice) => {
                self.peering.put_slice(slice.namespace(), slice.name(), slice)
            }
            Object::Node(node) => self.peering.put_node(node.name(), (**node).clone()),
            Object::IpPool(pool) => self.peering.put_pool(pool.name(), &pool.spec),
            Object::BgpConfiguration(configuration) => {
                self.peering.put_configuration(configuration.name(), &configuration.spec)
            }
            Object::Profile(profile) => {
                self.peering.put_labels(profile.name(), &profile.spec.labels_to_apply)
            }
            _ => false,
        };
        self.graph.handle(object)?;
        self.heard.extend(own.filter(|id| self.graph.is_local(id)).map(|id| (id, revision)));
        Ok(())
    }

    /// An endpoint is on another node. Says whether it was on this one, to others than policy.
    fn left(&mut self, namespace: &str, name: &str) -> bool {
        self.migrations.endpoint_gone(namespace, name);
        self.peering.workload_gone(namespace, name)
    }

    fn put_other(&mut self, entry: &Entry) -> Result<(), StoreError> {
        if let Key::Affinity { owner_type: OwnerType::Host, owner, block } = &entry.key {
            if *owner == self.node {
                let claim: BlockAffinityValue = entry.decode()?;
                // A block on its way out is routed and told until it is gone.
                self.routing.set_block(*block, claim.state != Some(AffinityState::Pending));
                self.peering_dirty |= self.peering.put_block(*block, &claim);
            }
            return Ok(());
        }
        self.migrations.put(entry)?;
        self.peering_dirty |= self.peering.put(entry)?;
        Ok(())
    }

    fn gone(&mut self, key: &Key) {
        if let Key::Affinity { owner_type: OwnerType::Host, owner, block } = key
            && *owner == self.node
        {
            self.routing.set_block(*block, false);
        }
        self.is_fine(key);
        self.doubts.forget(key);
        self.overlay.gone(key);
        self.migrations.gone(key);
        self.peering_dirty |= self.peering.gone(key);
        self.graph.handle_gone(key);
        if let Key::Resource { kind: Kind::WorkloadEndpoint, namespace, name } = key {
            let namespace = namespace.as_deref().unwrap_or_default();
            self.heard.retain(|(id, _)| *id.namespace != *namespace || *id.name != **name);
        }
    }
}

/// What is wrong, without the object's name.
fn reason(error: Rejected) -> String {
    match error {
        Rejected::Invalid { errors, .. } => {
            let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
            errors.join("; ")
        }
        Rejected::Unreadable(StoreError::BadObject { reason, .. }) => {
            format!("malformed: {reason}")
        }
        other => other.to_string(),
    }
}
