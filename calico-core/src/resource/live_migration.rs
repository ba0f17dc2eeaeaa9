//! Workloads on their way from one node to another.

use super::object::object;
use super::{Errors, NoStatus, ObjectMeta, Resource, Spec, validate};
use crate::kind::Kind;

/// A workload on its way from one node to another: OpenStack writes it, and of KubeVirt's
/// VirtualMachineInstanceMigration it is a view.
pub type LiveMigration = Resource<LiveMigrationSpec>;

object! {
    /// What moves from where to where.
    pub struct LiveMigrationSpec {
        /// What moves; absent until the orchestrator knows it.
        pub source: Option<LiveMigrationSource> = "source",
        /// What it becomes.
        pub target: Option<LiveMigrationTarget> = "target",
    }

    /// What moves: exactly one of the fields.
    pub struct LiveMigrationSource {
        /// A workload with all its interfaces (KubeVirt).
        pub workload: Option<WorkloadIdentifier> = "workload",
        /// One interface of a workload (OpenStack).
        pub workload_endpoint: Option<WorkloadEndpointIdentifier> = "workloadEndpoint",
    }

    /// What a moving workload becomes: exactly one of the fields.
    pub struct LiveMigrationTarget {
        /// Selects the endpoints of the new workload by their labels (KubeVirt).
        pub selector: Option<String> = "selector",
        /// One interface of a workload (OpenStack).
        pub workload_endpoint: Option<WorkloadEndpointIdentifier> = "workloadEndpoint",
    }

    /// A pod or a virtual machine.
    pub struct WorkloadIdentifier {
        /// Its node; of no account where `orchestratorID` is `k8s`.
        pub hostname: String = "hostname",
        /// Who runs it, such as `k8s`.
        pub orchestrator_id: String = "orchestratorID",
        /// Its name there; for `k8s`, `<namespace>/<pod>`.
        pub workload_id: String = "workloadID",
    }

    /// An interface of a pod or a virtual machine.
    pub struct WorkloadEndpointIdentifier {
        /// Its node; of no account where `orchestratorID` is `k8s`.
        pub hostname: String = "hostname",
        /// Who runs it, such as `openstack`.
        pub orchestrator_id: String = "orchestratorID",
        /// The workload's name there.
        pub workload_id: String = "workloadID",
        /// The interface.
        pub endpoint_id: String = "endpointID",
    }
}

impl Spec for LiveMigrationSpec {
    const KIND: Kind = Kind::LiveMigration;
    type Status = NoStatus;

    fn validate(&self, _metadata: &ObjectMeta, errors: &mut Errors) {
        validate::live_migration(self, errors);
    }
}
