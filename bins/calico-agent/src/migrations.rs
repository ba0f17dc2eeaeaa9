//! Workloads that are about to arrive at this node from another (LiveMigration): until the migration
//! is over, their addresses belong to the workload that leaves. Pure.

use std::collections::{BTreeMap, BTreeSet};

use calico_core::dataplane::EndpointId;
use calico_core::datastore::{Entry, StoreError};
use calico_core::key::Key;
use calico_core::kind::Kind;
use calico_core::resource::{EndpointName, LiveMigration};
use calico_core::selector::Selector;

/// Labels of pods that a virtual machine moves to.
const LABEL: &str = "kubevirt.io/migrationJobUID";

/// Namespace and name of a migration.
type Name = (String, String);

/// What arrives where.
#[derive(Debug)]
enum Target {
    /// An endpoint of the migration's namespace that has these labels.
    Labels(Selector),
    /// One endpoint.
    Endpoint(EndpointName),
}

/// Migrations, and endpoints of this node that may be a target of one.
#[derive(Debug)]
pub struct Migrations {
    node: String,
    targets: BTreeMap<Name, Target>,
    /// With their labels; by namespace and name.
    endpoints: BTreeMap<String, BTreeMap<String, BTreeMap<String, String>>>,
    arriving: BTreeSet<EndpointId>,
}

impl Migrations {
    /// To the node of this name.
    #[must_use]
    pub fn to(node: &str) -> Self {
        Self {
            node: node.to_owned(),
            targets: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            arriving: BTreeSet::new(),
        }
    }

    /// Takes in an object that is no endpoint.
    ///
    /// # Errors
    ///
    /// If it is a migration that cannot be read; it has no effect then.
    pub fn put(&mut self, entry: &Entry) -> Result<(), StoreError> {
        let Key::Resource { kind: Kind::LiveMigration, namespace, name } = &entry.key else {
            return Ok(());
        };
        let name = (namespace.clone().unwrap_or_default(), name.clone());
        self.targets.remove(&name);
        let migration: LiveMigration = entry.resource()?;
        let Some(target) = migration.spec.target else { return Ok(()) };
        let bad = |error: String| StoreError::bad_object(&entry.key, &error);
        let target = match (target.selector, target.workload_endpoint) {
            (Some(text), _) => Target::Labels(
                text.parse().map_err(|error| bad(format!("target.selector: {error}")))?,
            ),
            (None, Some(at)) if at.hostname == self.node => Target::Endpoint(EndpointName {
                node: at.hostname,
                orchestrator: at.orchestrator_id,
                workload: at.workload_id,
                endpoint: at.endpoint_id,
            }),
            _ => return Ok(()),
        };
        self.targets.insert(name, target);
        Ok(())
    }

    /// An endpoint of this node is there, with these labels.
    pub fn put_endpoint(&mut self, namespace: &str, name: &str, labels: &BTreeMap<String, String>) {
        if labels.contains_key(LABEL) {
            let endpoints = self.endpoints.entry(namespace.to_owned()).or_default();
            endpoints.insert(name.to_owned(), labels.clone());
        } else {
            self.endpoint_gone(namespace, name);
        }
    }

    /// An endpoint is gone, or is none of this node.
    pub fn endpoint_gone(&mut self, namespace: &str, name: &str) {
        let Some(endpoints) = self.endpoints.get_mut(namespace) else { return };
        endpoints.remove(name);
        if endpoints.is_empty() {
            self.endpoints.remove(namespace);
        }
    }

    /// An object is gone.
    pub fn gone(&mut self, key: &Key) {
        let Key::Resource { kind, namespace, name } = key else { return };
        let namespace = namespace.as_deref().unwrap_or_default();
        match kind {
            Kind::LiveMigration => {
                self.targets.remove(&(namespace.to_owned(), name.clone()));
            }
            Kind::WorkloadEndpoint => self.endpoint_gone(namespace, name),
            _ => {}
        }
    }

    /// Endpoints that are about to arrive, if others than at the last call.
    pub fn news(&mut self) -> Option<BTreeSet<EndpointId>> {
        let mut arriving = BTreeSet::new();
        for ((namespace, _), target) in &self.targets {
            match target {
                Target::Labels(selector) => {
                    let endpoints = self.endpoints.get(namespace).into_iter().flatten();
                    let hit = endpoints.filter(|(_, labels)| selector.matches(*labels));
                    arriving.extend(hit.map(|(name, _)| EndpointId {
                        namespace: namespace.as_str().into(),
                        name: name.as_str().into(),
                    }));
                }
                Target::Endpoint(name) => {
                    let (namespace, name) = (namespace.as_str().into(), name.to_string().into());
                    arriving.insert(EndpointId { namespace, name });
                }
            }
        }
        if arriving == self.arriving {
            return None;
        }
        self.arriving.clone_from(&arriving);
        Some(arriving)
    }
}

#[cfg(test)]
mod tests {
    use calico_core::datastore::Revision;
    use serde_json::{Value, json};

    use super::*;

    fn put(migrations: &mut Migrations, name: &str, spec: Value) {
        let value = json!({ "metadata": { "name": name, "namespace": "prod" }, "spec": spec });
        let key = Key::resource(Kind::LiveMigration, Some("prod"), name);
        let entry = Entry { key, value: value.to_string().into(), revision: Revision(1) };
        migrations.put(&entry).unwrap();
    }

    fn endpoint(migrations: &mut Migrations, pod: &str, labels: Value) -> EndpointId {
        let name = format!("n1-k8s-{pod}-eth0");
        migrations.put_endpoint("prod", &name, &serde_json::from_value(labels).unwrap());
        EndpointId { namespace: "prod".into(), name: name.as_str().into() }
    }

    #[test]
    fn a_pod_arrives_until_its_migration_is_over() {
        let mut migrations = Migrations::to("n1");
        let moves = json!({ LABEL: "move", "vm.kubevirt.io/name": "vm" });
        let here = endpoint(&mut migrations, "a", moves.clone());
        endpoint(&mut migrations, "b", moves.clone());
        migrations.endpoint_gone("prod", "n1-k8s-b-eth0");
        endpoint(&mut migrations, "c", json!({ LABEL: "another", "vm.kubevirt.io/name": "x" }));
        endpoint(&mut migrations, "d", json!({ "vm.kubevirt.io/name": "vm" }));
        assert_eq!(migrations.news(), None, "no migration, or one that is over");
        let selector = format!("vm.kubevirt.io/name == 'vm' && {LABEL} == 'move'");
        let target = json!({ "target": { "selector": selector } });
        put(&mut migrations, "m", target);
        assert_eq!(migrations.news(), Some([here.clone()].into()));
        endpoint(&mut migrations, "a", moves);
        assert_eq!(migrations.news(), None, "nothing new");
        migrations.gone(&Key::resource(Kind::LiveMigration, Some("prod"), "m"));
        assert_eq!(migrations.news(), Some(BTreeSet::new()));
    }

    #[test]
    fn an_endpoint_may_be_named() {
        let mut migrations = Migrations::to("n1");
        let target = |node: &str| {
            json!({ "target": { "workloadEndpoint": { "hostname": node,
                "orchestratorID": "openstack", "workloadID": "w", "endpointID": "e" } } })
        };
        put(&mut migrations, "m", target("n2"));
        assert_eq!(migrations.news(), None, "another node's");
        put(&mut migrations, "m", target("n1"));
        let arriving = migrations.news().unwrap();
        assert_eq!(arriving.len(), 1);
        assert_eq!(&*arriving.first().unwrap().name, "n1-openstack-w-e");
    }
}
