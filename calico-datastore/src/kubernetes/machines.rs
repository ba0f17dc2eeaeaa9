//! Virtual machines of KubeVirt: whose pods keep their addresses, and for how long.

use calico_core::datastore::StoreError;
use serde::Deserialize;

use super::KubernetesStore;
use super::pods::is_name;
use crate::conversion::KubernetesMeta;

/// Label of a pod that a machine moves to: identity of the migration.
const MIGRATION_LABEL: &str = "kubevirt.io/migrationJobUID";

const GROUP: &str = "kubevirt.io/";

/// The virtual machine that a pod runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MachineMeta {
    /// Its name, which the VirtualMachineInstance and its VirtualMachine share.
    pub name: String,
    /// Identity of the VirtualMachineInstance.
    pub uid: String,
    /// Identity of the VirtualMachine; `None` if the instance stands alone.
    pub vm_uid: Option<String>,
    /// Identity of the migration that the pod is the target of.
    pub migration: Option<String>,
}

#[derive(Deserialize)]
struct Object {
    metadata: KubernetesMeta,
}

/// An object, as far as it says what it belongs to.
#[derive(Deserialize)]
pub(super) struct Owned {
    metadata: OwnedMeta,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OwnedMeta {
    #[serde(default)]
    uid: String,
    #[serde(default)]
    owner_references: Vec<OwnerReference>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct OwnerReference {
    api_version: String,
    kind: String,
    name: String,
    uid: String,
    controller: bool,
}

impl KubernetesStore {
    /// The machine that a pod runs, by the reference to its controller: labels alone could be
    /// anybody's. `None` if its controller is none, or no machine.
    pub(super) async fn machine_of(
        &self,
        pod: &KubernetesMeta,
        owned: &Owned,
    ) -> Result<Option<MachineMeta>, StoreError> {
        let instance = owned.by("VirtualMachineInstance").filter(|owner| is_name(&owner.name));
        let Some(instance) = instance else { return Ok(None) };
        let path = path("virtualmachineinstances", &pod.namespace, &instance.name);
        let bad = |reason: String| StoreError::BadObject {
            path: format!("/api/v1/namespaces/{}/pods/{}", pod.namespace, pod.name),
            reason,
        };
        let found = self.object::<Owned>(path).await?;
        let Some(found) = found.filter(|found| found.metadata.uid == instance.uid) else {
            let name = &instance.name;
            return Err(bad(format!("it belongs to the virtual machine {name}, which is gone")));
        };
        Ok(Some(MachineMeta {
            vm_uid: found.by("VirtualMachine").map(|vm| vm.uid.clone()),
            name: instance.name.clone(),
            uid: instance.uid.clone(),
            migration: pod.labels.get(MIGRATION_LABEL).filter(|uid| !uid.is_empty()).cloned(),
        }))
    }

    /// Whether the machine of this name is gone or goes: nothing of it runs again. A machine that is
    /// stopped is still there; so is one that starts anew.
    ///
    /// # Errors
    ///
    /// As those of the [`Datastore`](calico_core::Datastore).
    pub async fn machine_ends(&self, namespace: &str, name: &str) -> Result<bool, StoreError> {
        if !is_name(namespace) || !is_name(name) {
            return Ok(false);
        }
        // The VirtualMachine decides where there is one: it makes its instances anew.
        for kind in ["virtualmachines", "virtualmachineinstances"] {
            if let Some(found) = self.object::<Object>(path(kind, namespace, name)).await? {
                return Ok(found.metadata.deletion_timestamp.is_some());
            }
        }
        Ok(true)
    }
}

fn path(kind: &str, namespace: &str, name: &str) -> String {
    format!("/apis/kubevirt.io/v1/namespaces/{namespace}/{kind}/{name}")
}

impl Owned {
    /// Its controller, if that is a machine of this kind.
    fn by(&self, kind: &str) -> Option<&OwnerReference> {
        self.metadata.owner_references.iter().find(|owner| {
            owner.controller && owner.kind == kind && owner.api_version.starts_with(GROUP)
        })
    }
}
