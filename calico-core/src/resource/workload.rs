//! Workload endpoints: one interface of a pod, VM or container.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::object::object;
use super::{
    Cidr, Errors, NAMESPACE_LABEL_PREFIX, NoStatus, ObjectMeta, Protocol, Resource,
    SERVICE_ACCOUNT_LABEL_PREFIX, Spec,
};
use crate::kind::Kind;
use crate::selector::{NAMESPACE_LABEL, ORCHESTRATOR_LABEL, SERVICE_ACCOUNT_LABEL};

/// One interface of a pod, VM or container.
pub type WorkloadEndpoint = Resource<WorkloadEndpointSpec>;

object! {
    /// Where an endpoint is and what it may use.
    pub struct WorkloadEndpointSpec {
        /// Who runs it: `k8s`, `cni`, `openstack`, ...
        pub orchestrator: String = "orchestrator",
        /// The workload's name there, for orchestrators other than Kubernetes.
        pub workload: String = "workload",
        /// The node it runs on.
        pub node: String = "node",
        /// The container or sandbox, as the container runtime names it.
        pub container_id: String = "containerID",
        /// The pod.
        pub pod: String = "pod",
        /// The interface inside, such as `eth0`.
        pub endpoint: String = "endpoint",
        /// The Kubernetes service account.
        pub service_account_name: String = "serviceAccountName",
        /// Its addresses, each /32 or /128.
        pub ip_networks: Vec<Cidr> = "ipNetworks",
        /// Addresses outside that lead to one of its own (floating IPs).
        pub ip_nats: Vec<IpNat> = "ipNATs",
        /// IPv4 gateway inside.
        pub ipv4_gateway: Option<Ipv4Addr> = "ipv4Gateway",
        /// IPv6 gateway inside.
        pub ipv6_gateway: Option<Ipv6Addr> = "ipv6Gateway",
        /// Profiles, tried in order after policy.
        pub profiles: Vec<String> = "profiles",
        /// The host's end of its veth.
        pub interface_name: String = "interfaceName",
        /// Its hardware address.
        pub mac: String = "mac",
        /// Named ports, and ports mapped from the host.
        pub ports: Vec<WorkloadEndpointPort> = "ports",
        /// Sources it may use besides its own addresses.
        pub allow_spoofed_source_prefixes: Vec<IpNet> = "allowSpoofedSourcePrefixes",
        /// Limits of traffic.
        pub qos_controls: Option<QosControls> = "qosControls",
    }

    /// An outside address that leads to an endpoint.
    pub struct IpNat {
        /// The endpoint's own address.
        pub internal_ip: Option<IpAddr> = "internalIP" (required),
        /// The address outside.
        pub external_ip: Option<IpAddr> = "externalIP" (required),
    }

    /// A port of an endpoint.
    pub struct WorkloadEndpointPort {
        /// The name that rules use.
        pub name: String = "name",
        /// TCP, UDP or SCTP.
        pub protocol: Option<Protocol> = "protocol",
        /// The number.
        pub port: u16 = "port" (always),
        /// The node's port mapped to it; 0 is none.
        pub host_port: u16 = "hostPort" (always),
        /// The node's address mapped to it.
        pub host_ip: String = "hostIP" (always),
    }

    /// Limits of an endpoint's traffic; 0 is no limit.
    pub struct QosControls {
        /// bit/s into the endpoint.
        pub ingress_bandwidth: i64 = "ingressBandwidth",
        /// Bits that may come at once.
        pub ingress_burst: i64 = "ingressBurst",
        /// bit/s within a burst.
        pub ingress_peakrate: i64 = "ingressPeakrate",
        /// Bytes of the peak bucket.
        pub ingress_minburst: i64 = "ingressMinburst",
        /// Packets per second into the endpoint.
        pub ingress_packet_rate: i64 = "ingressPacketRate",
        /// Packets that may come at once.
        pub ingress_packet_burst: i64 = "ingressPacketBurst",
        /// Connections into the endpoint.
        pub ingress_max_connections: i64 = "ingressMaxConnections",
        /// bit/s out of the endpoint.
        pub egress_bandwidth: i64 = "egressBandwidth",
        /// Bits that may leave at once.
        pub egress_burst: i64 = "egressBurst",
        /// bit/s within a burst.
        pub egress_peakrate: i64 = "egressPeakrate",
        /// Bytes of the peak bucket.
        pub egress_minburst: i64 = "egressMinburst",
        /// Packets per second out of the endpoint.
        pub egress_packet_rate: i64 = "egressPacketRate",
        /// Packets that may leave at once.
        pub egress_packet_burst: i64 = "egressPacketBurst",
        /// Connections out of the endpoint.
        pub egress_max_connections: i64 = "egressMaxConnections",
        /// DSCP of packets that leave, as written.
        pub dscp: Option<serde_json::Value> = "dscp",
    }
}

impl WorkloadEndpoint {
    /// The endpoint's own labels as selectors see them: those of its metadata, except names
    /// reserved for inheritance, and namespace, orchestrator and service account.
    ///
    /// Labels of its profiles come on top; see [`super::ProfileSpec::labels_to_apply`].
    #[must_use]
    pub fn selector_labels(&self) -> BTreeMap<String, String> {
        self.selector_label_pairs().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    /// The same without a copy: each label once, in no particular order.
    pub fn selector_label_pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        let own = self.metadata.labels.iter().map(|(key, value)| (&**key, &**value));
        let spec = &self.spec;
        selected(own, &self.metadata.namespace, &spec.orchestrator, &spec.service_account_name)
    }
}

/// Labels as selectors see them, from those in an endpoint's metadata.
pub(super) fn selected<'a>(
    own: impl Iterator<Item = (&'a str, &'a str)>,
    namespace: &'a str,
    orchestrator: &'a str,
    service_account: &'a str,
) -> impl Iterator<Item = (&'a str, &'a str)> {
    let added = [
        (NAMESPACE_LABEL, namespace),
        (ORCHESTRATOR_LABEL, orchestrator),
        (SERVICE_ACCOUNT_LABEL, service_account),
    ];
    let replaced = move |key: &str| added.iter().any(|(k, value)| *k == key && !value.is_empty());
    let reserved = |key: &str| {
        key.starts_with(NAMESPACE_LABEL_PREFIX) || key.starts_with(SERVICE_ACCOUNT_LABEL_PREFIX)
    };
    own.filter(move |(key, _)| !reserved(key) && !replaced(key))
        .chain(added.into_iter().filter(|(_, value)| !value.is_empty()))
}

impl Spec for WorkloadEndpointSpec {
    const KIND: Kind = Kind::WorkloadEndpoint;
    type Status = NoStatus;

    fn validate(&self, metadata: &ObjectMeta, errors: &mut Errors) {
        super::validate::workload_endpoint(self, metadata, errors);
    }
}
