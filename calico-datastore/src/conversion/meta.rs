use std::collections::BTreeMap;

use calico_core::resource::ObjectMeta;
use serde::Deserialize;

/// What is looked at in the metadata of a Kubernetes object; the rest is not even kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct KubernetesMeta {
    /// Name.
    pub name: String,
    /// Beginning of a name that the server completed.
    pub generate_name: String,
    /// Namespace; empty for cluster-wide objects.
    pub namespace: String,
    /// Identity of this very object.
    pub uid: String,
    /// Its version.
    pub resource_version: String,
    /// When it was created, RFC 3339.
    pub creation_timestamp: Option<String>,
    /// When its deletion was asked for, RFC 3339.
    pub deletion_timestamp: Option<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
}

impl KubernetesMeta {
    /// What every view of the object has of it: identity, version and time.
    pub(super) fn view(&self, name: String, uid: String) -> ObjectMeta {
        ObjectMeta {
            name,
            uid,
            resource_version: self.resource_version.clone(),
            creation_timestamp: self.creation_timestamp.clone(),
            ..ObjectMeta::default()
        }
    }
}
