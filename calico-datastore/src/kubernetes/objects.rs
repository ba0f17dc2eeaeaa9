//! Objects of the API as Calico's own.

use std::sync::Arc;

use calico_core::datastore::Entry;
use calico_core::key::Key;
use calico_core::kind::Kind;
use calico_core::resource::{GlobalNetworkPolicy, Resource, Spec};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::reading::{LISTED, Read, Reading, revision};
use super::source::{Source, What};
use crate::conversion::custom::from_custom;
use crate::conversion::ipam;
use crate::conversion::{
    ADMIN_POLICY_PREFIX, AdminNetworkPolicy, BASELINE_POLICY_PREFIX, BaselineAdminNetworkPolicy,
    CLUSTER_POLICY_PREFIX, ClusterNetworkPolicy, Converted, EndpointSlice, KubernetesMeta,
    KubernetesNetworkPolicy, KubernetesNode, NETWORK_POLICY_PREFIX, Namespace, Pod, Service,
    ServiceAccount, VirtualMachineMigration, admin_network_policy, baseline_admin_network_policy,
    cluster_network_policy, kubernetes_endpoint_slice, kubernetes_service, live_migration,
    namespace_profile, network_policy, node, service_account_profile, workload_endpoint,
};

/// An object of the API that Calico sees as one of its own.
pub(super) trait Object: DeserializeOwned {
    fn version(&self) -> &str;
    fn ends_listing(&self) -> bool;
    fn read(self, source: &Source, reading: &Reading) -> Read;
}

fn seen<S: Spec>(
    source: &Source,
    meta: &KubernetesMeta,
    reading: &Reading,
    found: Resource<S>,
) -> Read {
    match revision(&meta.resource_version) {
        Ok(revision) => Read::Object(Entry { key: found.key(), value: found.to_json(), revision }),
        Err(reason) => Read::Bad { path: source.path_from(meta, reading.group), reason, key: None },
    }
}

/// What could not be carried over is for who wrote the object; it says it at each reading.
fn told<T>(source: &Source, meta: &KubernetesMeta, reading: &Reading, found: Converted<T>) -> T {
    if !found.problems.is_empty() {
        let path = source.path_from(meta, reading.group);
        tracing::debug!(path, problems = ?found.problems, "not everything can be carried over");
    }
    found.resource
}

/// A policy of the whole cluster, under the name that it has among Calico's own.
fn cluster_wide(
    source: &Source,
    meta: &KubernetesMeta,
    reading: &Reading,
    prefix: &str,
    found: Result<Converted<GlobalNetworkPolicy>, String>,
) -> Read {
    let name = format!("{prefix}{}", meta.name);
    match found {
        Ok(found) => {
            let mut found = told(source, meta, reading, found);
            found.metadata.name = name;
            seen(source, meta, reading, found)
        }
        Err(reason) => {
            let key = Some(Key::resource(Kind::GlobalNetworkPolicy, None, &name));
            Read::Bad { path: source.path_from(meta, reading.group), reason, key }
        }
    }
}

macro_rules! typed {
    ($type:ty, $this:ident, $source:ident, $reading:ident => $read:expr) => {
        impl Object for $type {
            fn version(&self) -> &str {
                &self.metadata.resource_version
            }

            fn ends_listing(&self) -> bool {
                self.metadata.annotations.get(LISTED).is_some_and(|word| word == "true")
            }

            fn read(self, $source: &Source, $reading: &Reading) -> Read {
                let $this = self;
                $read
            }
        }
    };
}

typed!(KubernetesNode, this, source, reading => {
    let found = told(source, &this.metadata, reading, node(&this, reading.use_pod_cidr));
    seen(source, &this.metadata, reading, found)
});
typed!(Pod, this, source, reading => {
    match workload_endpoint(&this, &reading.interface_prefix) {
        Some(found) => {
            let found = told(source, &this.metadata, reading, found);
            seen(source, &this.metadata, reading, found)
        }
        None => Read::Other,
    }
});
typed!(Namespace, this, source, reading => {
    seen(source, &this.metadata, reading, namespace_profile(&this))
});
typed!(ServiceAccount, this, source, reading => {
    seen(source, &this.metadata, reading, service_account_profile(&this))
});
typed!(KubernetesNetworkPolicy, this, source, reading => {
    let mut found = told(source, &this.metadata, reading, network_policy(&this));
    found.metadata.name = format!("{NETWORK_POLICY_PREFIX}{}", found.metadata.name);
    seen(source, &this.metadata, reading, found)
});
typed!(ClusterNetworkPolicy, this, source, reading => {
    cluster_wide(source, &this.metadata, reading, CLUSTER_POLICY_PREFIX, cluster_network_policy(&this))
});
typed!(AdminNetworkPolicy, this, source, reading => {
    cluster_wide(source, &this.metadata, reading, ADMIN_POLICY_PREFIX, admin_network_policy(&this))
});
typed!(BaselineAdminNetworkPolicy, this, source, reading => {
    let found = baseline_admin_network_policy(&this);
    cluster_wide(source, &this.metadata, reading, BASELINE_POLICY_PREFIX, found)
});
typed!(Service, this, source, reading => {
    seen(source, &this.metadata, reading, kubernetes_service(&this))
});
typed!(EndpointSlice, this, source, reading => {
    seen(source, &this.metadata, reading, kubernetes_endpoint_slice(&this))
});
typed!(VirtualMachineMigration, this, source, reading => {
    let meta = &this.metadata;
    match live_migration(&this) {
        Some(found) => seen(source, meta, reading, found),
        // It may have been one a moment ago.
        None => Read::Hidden(Key::resource(Kind::LiveMigration, Some(&meta.namespace), &meta.name)),
    }
});

impl Object for Value {
    fn version(&self) -> &str {
        self["metadata"]["resourceVersion"].as_str().unwrap_or_default()
    }

    fn ends_listing(&self) -> bool {
        self["metadata"]["annotations"][LISTED] == "true"
    }

    fn read(self, source: &Source, reading: &Reading) -> Read {
        let path = source.path_of(&self["metadata"], reading.group);
        let found =
            revision(self.version()).and_then(|at| Ok((at, custom(source, reading, self)?)));
        match found {
            Ok((_, (key, _, true))) => Read::Hidden(key),
            Ok((revision, (key, value, false))) => {
                if !key.is_storable() {
                    let reason = format!("{key} cannot be the name of an object");
                    return Read::Bad { path, reason, key: None };
                }
                Read::Object(Entry { key, value, revision })
            }
            Err(reason) => Read::Bad { path, reason, key: None },
        }
    }
}

/// Key, text, and whether it is being deleted.
fn custom(
    source: &Source,
    reading: &Reading,
    object: Value,
) -> Result<(Key, Arc<str>, bool), String> {
    let resource = |kind, object| {
        from_custom(reading.group, kind, object).map(|(key, value)| (key, value, false))
    };
    match source.what {
        // The settings of IPAM have one name; what has another is somebody's own.
        What::Ipam(kind @ Kind::IpamConfiguration)
            if object["metadata"]["name"].as_str() != Some("default") =>
        {
            resource(kind, object)
        }
        What::Ipam(kind) => ipam::from_custom(kind, &object)
            .map(|found| (found.key, found.value.into(), found.deleted)),
        What::Custom(kind) => resource(kind, object),
        _ => Err("it is no custom resource".to_owned()),
    }
}
