//! Workloads that are about to arrive at this node from another (LiveMigration): until the migration
//! is over, their addresses belong to the workload that leaves. Pure.

use std::collections::{BTreeMap, BTreeSet};

use calico_core::dataplane::EndpointId;
use calico_core::datastore::{Entry, StoreError};
use calico_core::key::Key;
use calico_core::kind::Kind;
use calico_core::resource::{EndpointName, LiveMigration, WorkloadEndpoint};
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
    /// With their labels.
    endpoints: BTreeMap<EndpointId, BTreeMap<String, String>>,
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

    /// Takes in an object.
    ///
    /// # Errors
    ///
    /// If it is a migration that cannot be read; it has no effect then.
    pub fn put(&mut self, entry: &Entry) -> Result<(), StoreError> {
        match &entry.key {
            Key::Resource { kind: Kind::LiveMigration, namespace, name } => {
                let name = (namespace.clone().unwrap_or_default(), name.clone());
                self.targets.remove(&name);
                let migration: LiveMigration = entry.decode()?;
                let Some(target) = migration.spec.target else { return Ok(()) };
                let bad = |error: String| StoreError::bad_object(&entry.key, &error);
                let target = match (target.selector, target.workload_endpoint) {
                    (Some(text), _) => Target::Labels(
                        text.parse().map_err(|error| bad(format!("target.selector: {error}")))?,
                    ),
                    (None, Some(at)) if at.hostname == self.node => {
                        Target::Endpoint(EndpointName {
                            node: at.hostname,
                            orchestrator: at.orchestrator_id,
                            workload: at.workload_id,
                            endpoint: at.endpoint_id,
                        })
                    }
                    _ => return Ok(()),
                };
                self.targets.insert(name, target);
            }
            Key::Resource { kind: Kind::WorkloadEndpoint, .. } => {
                let Some(id) = id(&entry.key) else { return Ok(()) };
                // Few endpoints arrive from elsewhere; all others cost no more than this. What
                // cannot be read is reported by others.
                let may = entry.value.contains(LABEL);
                let endpoint = may.then(|| entry.decode::<WorkloadEndpoint>().ok()).flatten();
                let here = endpoint.filter(|endpoint| endpoint.spec.node == self.node);
                match here.map(|endpoint| endpoint.metadata.labels) {
                    Some(labels) if labels.contains_key(LABEL) => {
                        self.endpoints.insert(id, labels);
                    }
                    _ => drop(self.endpoints.remove(&id)),
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// An object is gone.
    pub fn gone(&mut self, key: &Key) {
        match key {
            Key::Resource { kind: Kind::LiveMigration, namespace, name } => {
                self.targets.remove(&(namespace.clone().unwrap_or_default(), name.clone()));
            }
            _ => {
                if let Some(id) = id(key) {
                    self.endpoints.remove(&id);
                }
            }
        }
    }

    /// Endpoints that are about to arrive, if others than at the last call.
    pub fn news(&mut self) -> Option<BTreeSet<EndpointId>> {
        let mut arriving = BTreeSet::new();
        for ((namespace, _), target) in &self.targets {
            match target {
                Target::Labels(selector) => {
                    let of = |id: &EndpointId| *id.namespace == **namespace;
                    let hit = self
                        .endpoints
                        .iter()
                        .filter(|(id, labels)| of(id) && selector.matches(*labels));
                    arriving.extend(hit.map(|(id, _)| id.clone()));
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

fn id(key: &Key) -> Option<EndpointId> {
    match key {
        Key::Resource { kind: Kind::WorkloadEndpoint, namespace: Some(namespace), name } => {
            Some(EndpointId { namespace: namespace.as_str().into(), name: name.as_str().into() })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use calico_core::datastore::Revision;
    use serde_json::{Value, json};

    use super::*;

    fn put(migrations: &mut Migrations, kind: Kind, name: &str, spec: Value, labels: Value) {
        let value = json!({ "metadata": { "name": name, "namespace": "prod", "labels": labels },
            "spec": spec });
        let key = Key::resource(kind, Some("prod"), name);
        let entry = Entry { key, value: value.to_string().into(), revision: Revision(1) };
        migrations.put(&entry).unwrap();
    }

    fn endpoint(migrations: &mut Migrations, node: &str, pod: &str, labels: Value) -> EndpointId {
        let name = format!("{node}-k8s-{pod}-eth0");
        let spec = json!({ "node": node, "orchestrator": "k8s", "pod": pod, "endpoint": "eth0" });
        put(migrations, Kind::WorkloadEndpoint, &name, spec, labels);
        EndpointId { namespace: "prod".into(), name: name.as_str().into() }
    }

    #[test]
    fn a_pod_arrives_until_its_migration_is_over() {
        let mut migrations = Migrations::to("n1");
        let moves = json!({ LABEL: "move", "vm.kubevirt.io/name": "vm" });
        let here = endpoint(&mut migrations, "n1", "a", moves.clone());
        endpoint(&mut migrations, "n2", "b", moves.clone());
        endpoint(
            &mut migrations,
            "n1",
            "c",
            json!({ LABEL: "another", "vm.kubevirt.io/name": "x" }),
        );
        assert_eq!(migrations.news(), None, "no migration, or one that is over");
        let selector = format!("vm.kubevirt.io/name == 'vm' && {LABEL} == 'move'");
        let target = json!({ "target": { "selector": selector } });
        put(&mut migrations, Kind::LiveMigration, "m", target, json!({}));
        assert_eq!(migrations.news(), Some([here.clone()].into()));
        endpoint(&mut migrations, "n1", "a", moves);
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
        put(&mut migrations, Kind::LiveMigration, "m", target("n2"), json!({}));
        assert_eq!(migrations.news(), None, "another node's");
        put(&mut migrations, Kind::LiveMigration, "m", target("n1"), json!({}));
        let arriving = migrations.news().unwrap();
        assert_eq!(arriving.len(), 1);
        assert_eq!(&*arriving.first().unwrap().name, "n1-openstack-w-e");
    }
}
