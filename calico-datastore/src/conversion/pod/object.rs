//! A pod as Kubernetes' API has it.

use std::net::IpAddr;

use calico_core::resource::{Cidr, EndpointName};
use serde::Deserialize;

use super::super::meta::KubernetesMeta;
use super::{POD_IP_ANNOTATION, POD_IPS_ANNOTATION};

const AWS_IPS_ANNOTATION: &str = "vpc.amazonaws.com/pod-ips";

/// A pod, as far as Calico looks at it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Pod {
    /// Its metadata.
    pub metadata: KubernetesMeta,
    /// What shall run.
    pub spec: PodSpec,
    /// What does run.
    pub status: PodStatus,
}

/// See [`Pod`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct PodSpec {
    /// The node that it was given to; empty before.
    pub node_name: String,
    /// Whether it uses the node's own network.
    pub host_network: bool,
    /// Its account.
    pub service_account_name: String,
    /// What runs in it.
    pub containers: Vec<Container>,
    /// What runs in it before, or along with the rest.
    pub init_containers: Vec<Container>,
}

/// A container of a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct Container {
    /// `Always` for an init container that runs along with the others.
    pub restart_policy: String,
    /// Where it listens.
    pub ports: Vec<ContainerPort>,
}

/// A port of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct ContainerPort {
    /// The name that policies use.
    pub name: String,
    /// The number.
    pub container_port: u16,
    /// The node's port mapped to it; 0 is none.
    pub host_port: u16,
    /// The node's address mapped to it.
    #[serde(rename = "hostIP")]
    pub host_ip: String,
    /// `TCP`, `UDP` or `SCTP`; empty is TCP.
    pub protocol: String,
}

/// See [`Pod`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct PodStatus {
    /// `Pending`, `Running`, `Succeeded`, `Failed`, ...
    pub phase: String,
    /// Its first address.
    #[serde(rename = "podIP")]
    pub pod_ip: String,
    /// All of its addresses.
    #[serde(rename = "podIPs")]
    pub pod_ips: Vec<PodIp>,
}

/// An address of a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct PodIp {
    /// The address.
    pub ip: String,
}

impl Pod {
    /// Whether Calico connects it: it is on a node, and not in the node's own network.
    #[must_use]
    pub fn is_workload(&self) -> bool {
        !self.spec.node_name.is_empty() && !self.spec.host_network
    }

    /// The name of its endpoint `eth0`.
    #[must_use]
    pub fn endpoint_name(&self) -> String {
        EndpointName::pod(&*self.spec.node_name, &*self.metadata.name, "eth0").to_string()
    }

    /// Whether its addresses are no longer its own.
    pub(super) fn is_finished(&self) -> bool {
        let released = || {
            self.metadata.annotations.get(POD_IP_ANNOTATION).is_some_and(String::is_empty)
                && self.metadata.deletion_timestamp.is_some()
        };
        matches!(self.status.phase.as_str(), "Failed" | "Succeeded" | "Completed") || released()
    }

    /// Its addresses, from the first source that has any.
    pub(super) fn addresses(&self, problems: &mut Vec<String>) -> Vec<Cidr> {
        let annotation = |name: &str| {
            let list = self.metadata.annotations.get(name).map_or("", String::as_str);
            list.split(',').map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned)
        };
        let status = &self.status;
        let sources: [Vec<String>; 5] = [
            status.pod_ips.iter().map(|ip| ip.ip.clone()).filter(|ip| !ip.is_empty()).collect(),
            Some(status.pod_ip.clone()).filter(|ip| !ip.is_empty()).into_iter().collect(),
            annotation(POD_IPS_ANNOTATION).collect(),
            annotation(POD_IP_ANNOTATION).collect(),
            annotation(AWS_IPS_ANNOTATION).collect(),
        ];
        let found = sources.into_iter().find(|source| !source.is_empty()).unwrap_or_default();
        let read = |text: String| match text.parse::<Cidr>() {
            Ok(net) => Some(Cidr(ipnet_of(net.addr()))),
            Err(_) => {
                problems.push(format!("{text:?} is no address; it is left out"));
                None
            }
        };
        found.into_iter().filter_map(read).collect()
    }
}

pub(super) fn ipnet_of(address: IpAddr) -> ipnet::IpNet {
    ipnet::IpNet::from(address)
}
