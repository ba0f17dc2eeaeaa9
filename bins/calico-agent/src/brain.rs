//! What a node does about what the datastore and other routers say. Pure.
//!
//! Events come in with [`Brain::handle_store`] and [`Brain::handle_route`]; [`Brain::flush`] says
//! what to do about all of them at once.

use std::collections::BTreeMap;

use calico_core::dataplane::{EndpointId, Transaction, Update};
use calico_core::datastore::{Entry, Revision, WatchEvent};
use calico_core::key::{Key, OwnerType};
use calico_core::kind::Kind;
use calico_core::resource::{AffinityState, BlockAffinityValue, IpPool, IpPoolSpec};
use calico_core::routes::RouteEvent;
use calico_peering::{Peering, SpeakerPlan};
use calico_policy::{Graph, Rejected};
use ipnet::IpNet;
use tracing::warn;

use crate::mirror::{Change, Mirror};
use crate::routing::{ExportPool, Routing};

/// What to do.
#[derive(Debug, Default)]
pub struct Work {
    /// For the dataplane; nothing if it has no updates.
    pub transaction: Transaction,
    /// Prefixes to announce.
    pub announce: Vec<IpNet>,
    /// Prefixes to withdraw.
    pub withdraw: Vec<IpNet>,
    /// How the BGP speaker is to be, if that may have changed.
    pub speaker: Option<Option<SpeakerPlan>>,
    /// Everything that the datastore said up to here is in this work or was before.
    pub store: Revision,
    /// Endpoints of this node that come or change.
    pub endpoints: Vec<EndpointId>,
    /// Endpoints of this node that go.
    pub gone: Vec<EndpointId>,
}

/// The node's view of the cluster.
#[derive(Debug)]
pub struct Brain {
    node: String,
    mirror: Mirror,
    graph: Graph,
    routing: Routing,
    peering: Peering,
    pools: BTreeMap<String, IpPoolSpec>,
    pools_dirty: bool,
    peering_dirty: bool,
    told_in_sync: bool,
    told_learned: bool,
    revision: u64,
}

impl Brain {
    /// Of the node of this name.
    #[must_use]
    pub fn new(node: &str) -> Self {
        Self {
            node: node.to_owned(),
            mirror: Mirror::default(),
            graph: Graph::for_node(node),
            routing: Routing::default(),
            peering: Peering::new(node.to_owned()),
            pools: BTreeMap::new(),
            pools_dirty: true,
            peering_dirty: true,
            told_in_sync: false,
            told_learned: false,
            revision: 0,
        }
    }

    /// Whether the datastore was listed once: only then there is anything to do.
    #[must_use]
    pub const fn in_sync(&self) -> bool {
        self.mirror.in_sync()
    }

    /// What this node routes and announces.
    #[must_use]
    pub const fn routing(&self) -> &Routing {
        &self.routing
    }

    /// Takes news from the datastore.
    pub fn handle_store(&mut self, event: WatchEvent) {
        if let WatchEvent::Bad { path, reason } = &event {
            warn!(path, reason, "an object in the datastore is ignored");
        }
        for change in self.mirror.handle(event) {
            match change {
                Change::Put(entry) => {
                    if let Err(error) = self.put(&entry) {
                        warn!(key = %entry.key, %error, "an object in the datastore is ignored");
                    }
                }
                Change::Gone(key) => self.gone(&key),
            }
        }
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
        let mut work = Work { store: self.mirror.revision(), ..Work::default() };
        let updates = &mut work.transaction.updates;
        updates.extend(self.graph.flush());
        for warning in self.graph.take_warnings() {
            warn!(%warning, "a part of an object has no effect");
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
        if std::mem::take(&mut self.pools_dirty) {
            self.routing.set_pools(self.export_pools());
        }
        let routes = self.routing.flush();
        updates.extend(routes.routes);
        (work.announce, work.withdraw) = (routes.announce, routes.withdraw);
        if std::mem::take(&mut self.peering_dirty) {
            work.speaker = Some(self.peering.plan());
        }
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

    fn put(&mut self, entry: &Entry) -> Result<(), Rejected> {
        match &entry.key {
            Key::Affinity { owner_type: OwnerType::Host, owner, block } if *owner == self.node => {
                let value: BlockAffinityValue = entry.decode()?;
                self.routing.set_block(
                    *block,
                    value.state == Some(AffinityState::Confirmed) && !value.deleted,
                );
                return Ok(());
            }
            Key::Resource { kind: Kind::IpPool, name, .. } => {
                let pool: IpPool = entry.decode()?;
                self.pools.insert(name.clone(), pool.spec);
                self.pools_dirty = true;
            }
            _ => {}
        }
        self.peering_dirty |= self.peering.put(entry)?;
        self.graph.handle_entry(entry)
    }

    fn gone(&mut self, key: &Key) {
        match key {
            Key::Affinity { owner_type: OwnerType::Host, owner, block } if *owner == self.node => {
                self.routing.set_block(*block, false);
            }
            Key::Resource { kind: Kind::IpPool, name, .. } => {
                self.pools.remove(name);
                self.pools_dirty = true;
            }
            _ => {}
        }
        self.peering_dirty |= self.peering.gone(key);
        self.graph.handle_gone(key);
    }

    fn export_pools(&self) -> Vec<ExportPool> {
        let export =
            |pool: &IpPoolSpec| ExportPool { cidr: pool.cidr, exported: !pool.disable_bgp_export };
        self.pools.values().map(export).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;

    fn put(brain: &mut Brain, key: Key, value: &Value) {
        let value = Arc::from(value.to_string());
        brain.handle_store(WatchEvent::Put(Entry { key, value, revision: Revision(9) }));
    }

    fn listed() -> Brain {
        let mut brain = Brain::new("n1");
        assert!(brain.flush().is_none(), "nothing before the datastore is listed");
        brain.handle_store(WatchEvent::Begin);
        brain.handle_store(WatchEvent::Ready(Revision(1)));
        brain
    }

    #[test]
    fn the_first_work_declares_the_state_complete_and_learned_routes_wait() {
        let mut brain = listed();
        let updates = brain.flush().unwrap().transaction.updates;
        assert_eq!(updates.last(), Some(&Update::InSync));
        assert!(!updates.contains(&Update::LearnedInSync));
        brain.handle_route(RouteEvent::Begin);
        brain.handle_route(RouteEvent::Ready);
        assert_eq!(brain.flush().unwrap().transaction.updates, [Update::LearnedInSync]);
    }

    #[test]
    fn an_endpoint_brings_its_policy_and_its_route_in_one_transaction() {
        let mut brain = listed();
        brain.flush();
        let endpoint = json!({"metadata": {"name": "n1-cni-c-eth0", "namespace": "default"},
            "spec": {"orchestrator": "cni", "node": "n1", "containerID": "c", "endpoint": "eth0",
                "interfaceName": "cali1", "ipNetworks": ["10.65.0.1/32"]}});
        let key = Key::resource(Kind::WorkloadEndpoint, Some("default"), "n1-cni-c-eth0");
        put(&mut brain, key.clone(), &endpoint);
        let work = brain.flush().unwrap();
        assert_eq!(work.endpoints.len(), 1);
        assert_eq!(work.store, Revision(9));
        let has = |wanted: fn(&Update) -> bool| work.transaction.updates.iter().any(wanted);
        assert!(has(|update| matches!(update, Update::Endpoint(_))));
        assert!(has(|update| matches!(update, Update::Route(_))));

        brain.handle_store(WatchEvent::Gone { key, revision: Revision(10) });
        let work = brain.flush().unwrap();
        assert_eq!((work.gone.len(), work.store), (1, Revision(10)));
    }

    #[test]
    fn a_bad_object_stops_nothing() {
        let mut brain = listed();
        put(&mut brain, Key::resource(Kind::IpPool, None, "bad"), &json!({"spec": {"cidr": 5}}));
        let affinity = Key::Affinity {
            owner_type: OwnerType::Host,
            owner: "n1".into(),
            block: "10.65.0.0/26".parse().unwrap(),
        };
        put(&mut brain, affinity, &json!({"state": "confirmed", "deleted": false}));
        let pool = json!({"metadata": {"name": "good"}, "spec": {"cidr": "10.65.0.0/16"}});
        put(&mut brain, Key::resource(Kind::IpPool, None, "good"), &pool);
        assert_eq!(brain.flush().unwrap().announce, ["10.65.0.0/26".parse().unwrap()]);
    }
}
