//! Calico's view of Kubernetes' own objects, and the form of its objects as custom resources.
//!
//! Pure functions between the JSON of the Kubernetes API and the resources of
//! [`calico_core::resource`]: no client, no clock, no feature of this crate. The backend
//! `kubernetes` is built on them, and so can be a controller that copies Kubernetes' objects into
//! another store.
//!
//! | Kubernetes | Calico |
//! |---|---|
//! | [`Pod`] | [`workload_endpoint`] |
//! | [`KubernetesNode`] | [`node`] |
//! | [`Namespace`], [`ServiceAccount`] | [`namespace_profile`], [`service_account_profile`] |
//! | [`KubernetesNetworkPolicy`] | [`network_policy`] in tier `default` |
//! | [`ClusterNetworkPolicy`] | [`cluster_network_policy`] in tier `kube-admin` or `kube-baseline` |
//! | [`AdminNetworkPolicy`], [`BaselineAdminNetworkPolicy`] | [`admin_network_policy`], [`baseline_admin_network_policy`] |
//! | [`Service`], [`EndpointSlice`] | [`kubernetes_service`], [`kubernetes_endpoint_slice`] |
//! | [`VirtualMachineMigration`] of KubeVirt | [`live_migration`] |
//! | custom resources of both groups | [`custom`], and [`ipam`] for addresses |
//!
//! ```
//! use calico_datastore::conversion::{Pod, workload_endpoint};
//!
//! let pod: Pod = serde_json::from_str(
//!     r#"{"metadata": {"name": "web-0", "namespace": "prod"},
//!         "spec": {"nodeName": "n1", "serviceAccountName": "web"},
//!         "status": {"podIP": "10.65.0.2"}}"#,
//! )?;
//! let endpoint = workload_endpoint(&pod, "cali").expect("it is scheduled").resource;
//! assert_eq!(endpoint.name(), "n1-k8s-web--0-eth0");
//! assert_eq!(endpoint.spec.profiles, ["kns.prod", "ksa.prod.web"]);
//! # Ok::<(), serde_json::Error>(())
//! ```

mod admin_network_policy;
mod cluster_network_policy;
pub mod custom;
pub mod ipam;
mod live_migration;
mod meta;
mod network_policy;
mod node;
mod pod;
mod profile;
mod selector;
mod service;
mod uid;

pub use self::admin_network_policy::{
    ADMIN_POLICY_PREFIX, AdminNetworkPolicy, BASELINE_POLICY_PREFIX, BaselineAdminNetworkPolicy,
    admin_network_policy, baseline_admin_network_policy,
};
pub use self::cluster_network_policy::{
    CLUSTER_POLICY_PREFIX, ClusterNetworkPolicy, cluster_network_policy,
};
pub use self::custom::ApiGroup;
pub use self::live_migration::{
    VirtualMachineMigration, VirtualMachineMigrationSpec, VirtualMachineMigrationState,
    VirtualMachineMigrationStatus, live_migration,
};
pub use self::meta::KubernetesMeta;
pub use self::network_policy::{
    KubernetesNetworkPolicy, NETWORK_POLICY_ORDER, NETWORK_POLICY_PREFIX, network_policy,
};
pub use self::node::{KubernetesNode, node, node_annotations};
pub use self::pod::{
    CONTAINER_ID_ANNOTATION, POD_IP_ANNOTATION, POD_IPS_ANNOTATION, Pod, pod_annotations,
    workload_endpoint,
};
pub use self::profile::{
    Namespace, ProfileSource, ServiceAccount, namespace_profile, profile_source,
    service_account_profile,
};
pub use self::selector::LabelSelector;
pub use self::service::{EndpointSlice, Service, kubernetes_endpoint_slice, kubernetes_service};
pub use self::uid::calico_uid;

/// What became of an object, and what of it could not be carried over.
#[derive(Debug, Clone, PartialEq)]
pub struct Converted<T> {
    /// The object in Calico's terms.
    pub resource: T,
    /// What was left out or changed, each in one line; empty if nothing was.
    pub problems: Vec<String>,
}

impl<T> Converted<T> {
    const fn new(resource: T, problems: Vec<String>) -> Self {
        Self { resource, problems }
    }
}
