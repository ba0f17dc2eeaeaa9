//! Cluster-wide state and the settings of the controllers.

use std::collections::BTreeMap;

use super::choices::choices;
use super::object::object;
use super::{GoDuration, NoStatus, Resource, Spec};
use crate::kind::Kind;

/// Identity and version of the cluster; only the name `default` is used.
pub type ClusterInformation = Resource<ClusterInformationSpec>;

/// Settings of the cluster-wide controllers; only the name `default` is used.
pub type KubeControllersConfiguration = Resource<KubeControllersConfigurationSpec>;

object! {
    /// Identity and version of the cluster.
    pub struct ClusterInformationSpec {
        /// Random identity, 32 hexadecimal digits.
        pub cluster_guid: String = "clusterGUID",
        /// What the cluster is made of, separated by commas.
        pub cluster_type: String = "clusterType",
        /// Version of the newest node.
        pub calico_version: String = "calicoVersion",
        /// Whether data may be used; false locks it.
        pub datastore_ready: Option<bool> = "datastoreReady",
        /// The product, such as `Calico`.
        pub variant: String = "variant",
    }

    /// Settings of the cluster-wide controllers.
    pub struct KubeControllersConfigurationSpec {
        /// Least severity that is logged: None, Debug, Info, Warning, Error, Fatal or Panic.
        pub log_severity_screen: String = "logSeverityScreen",
        /// Whether they answer health checks.
        pub health_checks: Option<Toggle> = "healthChecks",
        /// Time between compactions of etcd; 0 is never.
        pub etcd_v3_compaction_period: Option<GoDuration> = "etcdV3CompactionPeriod",
        /// Port of the metrics; 0 or unset serves none.
        pub prometheus_metrics_port: Option<u16> = "prometheusMetricsPort",
        /// The controllers that run.
        pub controllers: ControllersConfig = "controllers" (always),
        /// Port of the profiler.
        pub debug_profile_port: Option<u16> = "debugProfilePort",
    }

    /// What the controllers report.
    pub struct KubeControllersConfigurationStatus {
        /// The settings in force.
        pub running_config: Option<KubeControllersConfigurationSpec> = "runningConfig",
        /// The environment variables that were used.
        pub environment_vars: BTreeMap<String, String> = "environmentVars",
    }

    /// The controllers that run, and their settings.
    pub struct ControllersConfig {
        /// Follows nodes.
        pub node: Option<NodeControllerConfig> = "node",
        /// Follows Kubernetes policies.
        pub policy: Option<ReconcilerConfig> = "policy",
        /// Follows pods.
        pub workload_endpoint: Option<ReconcilerConfig> = "workloadEndpoint",
        /// Follows service accounts.
        pub service_account: Option<ReconcilerConfig> = "serviceAccount",
        /// Follows namespaces.
        pub namespace: Option<ReconcilerConfig> = "namespace",
        /// Gives addresses to services.
        pub load_balancer: Option<LoadBalancerControllerConfig> = "loadBalancer",
        /// Renames policies of older versions.
        pub migration: Option<MigrationControllerConfig> = "migration",
    }

    /// Settings that most controllers have.
    pub struct ReconcilerConfig {
        /// Time between full comparisons; 5 minutes when unset.
        pub reconciler_period: Option<GoDuration> = "reconcilerPeriod",
    }

    /// Settings of the node controller.
    pub struct NodeControllerConfig {
        /// Time between full comparisons; 5 minutes when unset.
        pub reconciler_period: Option<GoDuration> = "reconcilerPeriod",
        /// Whether labels of Kubernetes nodes are copied.
        pub sync_labels: Option<Toggle> = "syncLabels",
        /// Host endpoints made by the controller.
        pub host_endpoint: Option<AutoHostEndpointConfig> = "hostEndpoint",
        /// Age at which an unused address counts as leaked; 15 minutes when unset.
        pub leak_grace_period: Option<GoDuration> = "leakGracePeriod",
    }

    /// Host endpoints made by the controller.
    pub struct AutoHostEndpointConfig {
        /// Whether any are made.
        pub auto_create: Option<Toggle> = "autoCreate",
        /// Whether each node gets one for all interfaces.
        pub create_default_host_endpoint: Option<Toggle> = "createDefaultHostEndpoint",
        /// Further ones.
        pub templates: Vec<HostEndpointTemplate> = "templates",
    }

    /// A host endpoint per matching node, and per interface where a pattern is given.
    pub struct HostEndpointTemplate {
        /// Part of the name.
        pub generate_name: String = "generateName",
        /// Ranges in which the node's addresses become expected addresses.
        pub interface_cidrs: Vec<String> = "interfaceCIDRs",
        /// Regular expression of interface names.
        pub interface_pattern: String = "interfacePattern",
        /// Labels it gets.
        pub labels: BTreeMap<String, String> = "labels",
        /// Annotations it gets.
        pub annotations: BTreeMap<String, String> = "annotations",
        /// Nodes it is made for.
        pub node_selector: String = "nodeSelector",
    }

    /// Settings of the load balancer controller.
    pub struct LoadBalancerControllerConfig {
        /// Services that get an address.
        pub assign_ips: Option<AssignIps> = "assignIPs",
    }

    /// Settings of the migration controller.
    pub struct MigrationControllerConfig {
        /// Whether policies are renamed.
        pub policy_name_migrator: Option<Toggle> = "policyNameMigrator",
    }
}

choices! {
    /// On or off.
    pub enum Toggle {
        /// On.
        Enabled = "Enabled",
        /// Off.
        Disabled = "Disabled",
    }

    /// Services that get an address.
    #[derive(Default)]
    pub enum AssignIps {
        /// All of type LoadBalancer.
        #[default]
        AllServices = "AllServices",
        /// Those that ask by annotation.
        RequestedServicesOnly = "RequestedServicesOnly",
    }
}

impl Toggle {
    /// Whether this is `Enabled`.
    #[must_use]
    pub const fn is_on(self) -> bool {
        matches!(self, Self::Enabled)
    }
}

impl Spec for ClusterInformationSpec {
    const KIND: Kind = Kind::ClusterInformation;
    type Status = NoStatus;
}

impl Spec for KubeControllersConfigurationSpec {
    const KIND: Kind = Kind::KubeControllersConfiguration;
    type Status = KubeControllersConfigurationStatus;

    fn apply_defaults(&mut self) {
        self.health_checks.get_or_insert(Toggle::Enabled);
    }
}
