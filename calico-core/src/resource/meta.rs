//! Metadata that every resource carries.

use std::collections::BTreeMap;

use serde_json::Value;

use super::object::object;

object! {
    /// Name, labels and bookkeeping of a resource, as in Kubernetes.
    pub struct ObjectMeta {
        /// Name, unique for its kind (and namespace).
        pub name: String = "name",
        /// Prefix for a name made by the store.
        pub generate_name: String = "generateName",
        /// Namespace; empty for cluster-wide kinds.
        pub namespace: String = "namespace",
        /// Unused; older writers left it.
        pub self_link: String = "selfLink",
        /// Identity of this very object: a successor of the same name has another one.
        pub uid: String = "uid",
        /// The store's revision of this object; opaque, compared for equality only.
        pub resource_version: String = "resourceVersion",
        /// Counts changes of the spec.
        pub generation: i64 = "generation",
        /// When it was created, RFC 3339.
        pub creation_timestamp: Option<String> = "creationTimestamp",
        /// When deletion was asked for, RFC 3339; it stays until its finalizers are gone.
        pub deletion_timestamp: Option<String> = "deletionTimestamp",
        /// Seconds that deletion may take.
        pub deletion_grace_period_seconds: Option<i64> = "deletionGracePeriodSeconds",
        /// Labels, which selectors match.
        pub labels: BTreeMap<String, String> = "labels",
        /// Free notes.
        pub annotations: BTreeMap<String, String> = "annotations",
        /// Objects that this one belongs to, as written.
        pub owner_references: Vec<Value> = "ownerReferences",
        /// Names of the parties that must agree before the object goes away.
        pub finalizers: Vec<String> = "finalizers",
        /// Who set which field, as written.
        pub managed_fields: Vec<Value> = "managedFields",
    }
}

impl ObjectMeta {
    /// Metadata with a name only.
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// Metadata with namespace and name.
    pub fn namespaced(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { name: name.into(), namespace: namespace.into(), ..Self::default() }
    }

    /// Adds a label.
    #[must_use]
    pub fn with_label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(key.into(), value.into());
        self
    }

    /// Whether deletion was asked for.
    #[must_use]
    pub const fn is_being_deleted(&self) -> bool {
        self.deletion_timestamp.is_some()
    }
}
