use calico_core::resource::{
    LiveMigration, LiveMigrationSource, LiveMigrationSpec, LiveMigrationTarget, WorkloadIdentifier,
};
use serde::Deserialize;

use super::meta::KubernetesMeta;

/// KubeVirt's VirtualMachineInstanceMigration, as far as Calico looks at it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct VirtualMachineMigration {
    /// Its metadata.
    pub metadata: KubernetesMeta,
    /// What is wanted.
    pub spec: VirtualMachineMigrationSpec,
    /// How far it is.
    pub status: VirtualMachineMigrationStatus,
}

/// See [`VirtualMachineMigration`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct VirtualMachineMigrationSpec {
    /// The virtual machine that moves.
    pub vmi_name: String,
}

/// See [`VirtualMachineMigration`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct VirtualMachineMigrationStatus {
    /// A word for how far it is.
    pub phase: String,
    /// Pods and nodes, once they are known.
    pub migration_state: Option<VirtualMachineMigrationState>,
}

/// See [`VirtualMachineMigration`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct VirtualMachineMigrationState {
    /// The pod that the machine leaves.
    pub source_pod: String,
}

/// Phases in which endpoints have a role: upstream begins as early as it can, so that the role is
/// known before the new pod's endpoint is.
const PHASES: [&str; 6] =
    ["Scheduling", "Scheduled", "PreparingTarget", "TargetReady", "Running", "Failed"];

/// The migration as IPAM and routing see it, under its own name; `None` before it has begun and
/// after it has succeeded.
///
/// The new pod is selected by the job's label, and by the machine's in both of KubeVirt's
/// spellings: older versions know the second only.
#[must_use]
pub fn live_migration(migration: &VirtualMachineMigration) -> Option<LiveMigration> {
    let meta = &migration.metadata;
    let machine = &migration.spec.vmi_name;
    let phase = &*migration.status.phase;
    if !PHASES.contains(&phase) || machine.is_empty() || meta.uid.is_empty() {
        return None;
    }
    let selector = format!(
        "(vmi.kubevirt.io/id == '{machine}' || vm.kubevirt.io/name == '{machine}') \
         && kubevirt.io/migrationJobUID == '{}'",
        meta.uid
    );
    let state = migration.status.migration_state.as_ref();
    let source = state.filter(|state| !state.source_pod.is_empty()).map(|state| {
        let workload = WorkloadIdentifier {
            orchestrator_id: "k8s".to_owned(),
            workload_id: format!("{}/{}", meta.namespace, state.source_pod),
            ..WorkloadIdentifier::default()
        };
        LiveMigrationSource { workload: Some(workload), ..LiveMigrationSource::default() }
    });
    let target = LiveMigrationTarget { selector: Some(selector), ..LiveMigrationTarget::default() };
    let mut view = meta.view(meta.name.clone(), meta.uid.clone());
    view.namespace.clone_from(&meta.namespace);
    view.labels.clone_from(&meta.labels);
    view.annotations.clone_from(&meta.annotations);
    let spec = LiveMigrationSpec { source, target: Some(target), ..LiveMigrationSpec::default() };
    Some(LiveMigration::with_metadata(view, spec))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn check(status: Value, expected: Value) {
        let migration = serde_json::from_value(json!({
            "metadata": {"name": "move", "namespace": "prod", "uid": "u-1"},
            "spec": {"vmiName": "vm", "addedNodeSelector": {}},
            "status": status,
        }));
        let found = live_migration(&migration.unwrap());
        let spec = found.map(|found| {
            assert_eq!((found.namespace(), found.name()), ("prod", "move"));
            assert_eq!(found.validate(), Ok(()));
            serde_json::to_value(&found.spec).unwrap()
        });
        assert_eq!(spec.unwrap_or(Value::Null), expected);
    }

    #[test]
    fn migrations_tell_their_source_once_it_is_known() {
        let target = json!({"selector": "(vmi.kubevirt.io/id == 'vm' || \
            vm.kubevirt.io/name == 'vm') && kubevirt.io/migrationJobUID == 'u-1'"});
        for phase in ["", "Pending", "Succeeded", "Later"] {
            check(json!({"phase": phase}), Value::Null);
        }
        check(json!({"phase": "Scheduling"}), json!({"target": target}));
        check(
            json!({"phase": "Running", "migrationState": {"sourcePod": ""}}),
            json!({"target": target}),
        );
        let source =
            json!({"workload": {"orchestratorID": "k8s", "workloadID": "prod/launcher-a"}});
        check(
            json!({"phase": "Failed", "migrationState": {"sourcePod": "launcher-a", "sourceNode": "n1"}}),
            json!({"source": source, "target": target}),
        );
    }
}
