//! A ClusterNetworkPolicy as Kubernetes' API has it.

use serde::Deserialize;
use serde_json::Value;

use super::super::meta::KubernetesMeta;
use super::super::selector::LabelSelector;

/// A ClusterNetworkPolicy of `policy.networking.k8s.io/v1alpha2`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct ClusterNetworkPolicy {
    /// Its metadata.
    pub metadata: KubernetesMeta,
    /// What it says.
    pub spec: ClusterNetworkPolicySpec,
}

/// See [`ClusterNetworkPolicy`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct ClusterNetworkPolicySpec {
    /// `Admin` or `Baseline`.
    pub tier: String,
    /// Its place in the tier, 0-1000.
    pub priority: Option<i64>,
    /// The pods.
    pub subject: ClusterPeer,
    /// Rules for what comes in.
    pub ingress: Vec<ClusterRule>,
    /// Rules for what goes out.
    pub egress: Vec<ClusterRule>,
}

/// A rule of a cluster's policy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct ClusterRule {
    /// For people.
    pub name: String,
    /// `Accept`, `Deny` or `Pass`.
    pub action: String,
    /// Protocols and ports; empty is all.
    pub protocols: Vec<ClusterProtocol>,
    /// The other end: any of these.
    #[serde(alias = "to")]
    pub from: Vec<ClusterPeer>,
}

/// One end of traffic: exactly one field is set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct ClusterPeer {
    /// All pods of these namespaces.
    pub namespaces: Option<LabelSelector>,
    /// These pods of these namespaces.
    pub pods: Option<NamespacedPods>,
    /// Addresses.
    pub networks: Vec<String>,
    /// Nodes with these labels; Calico cannot match them.
    pub nodes: Option<Value>,
    /// Domains; Calico cannot match them.
    pub domain_names: Vec<String>,
}

/// Pods of namespaces.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct NamespacedPods {
    /// The namespaces.
    pub namespace_selector: LabelSelector,
    /// The pods.
    pub pod_selector: LabelSelector,
}

/// A protocol, and ports of it: exactly one field is set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct ClusterProtocol {
    /// TCP.
    pub tcp: Option<DestinationPort>,
    /// UDP.
    pub udp: Option<DestinationPort>,
    /// SCTP.
    pub sctp: Option<DestinationPort>,
    /// A port by its name, whatever its protocol.
    pub destination_named_port: String,
}

/// Where traffic goes to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct DestinationPort {
    /// The port; none is all.
    pub destination_port: Option<PortOrRange>,
}

/// A port or a range.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct PortOrRange {
    /// One port.
    pub number: Option<u16>,
    /// Several.
    pub range: Option<PortRange>,
}

/// Ports from `start` to `end`, both included.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct PortRange {
    /// The first.
    pub start: u16,
    /// The last.
    pub end: u16,
}
