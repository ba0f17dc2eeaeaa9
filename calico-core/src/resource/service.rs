//! Kubernetes' services and what stands behind them, as far as Calico looks at them.

use std::net::IpAddr;

use super::choices::choices;
use super::object::object;
use super::{NoStatus, Protocol, Resource, Spec};
use crate::kind::Kind;

/// A service of Kubernetes. In a Kubernetes datastore it is a view of the Service of the same
/// name and namespace.
pub type KubernetesService = Resource<KubernetesServiceSpec>;

/// A part of what stands behind a service. In a Kubernetes datastore it is a view of the
/// EndpointSlice of the same name and namespace; the label [`SERVICE_NAME_LABEL`] says whose.
pub type KubernetesEndpointSlice = Resource<KubernetesEndpointSliceSpec>;

/// The label of an EndpointSlice that names its service.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

object! {
    /// The addresses and ports of a service.
    pub struct KubernetesServiceSpec {
        /// Who reaches it, and how; unset is `ClusterIP`.
        pub service_type: Option<ServiceType> = "type",
        /// Its first address; empty or `None` if it has none.
        pub cluster_ip: String = "clusterIP",
        /// All its addresses, one of each family at most.
        pub cluster_ips: Vec<String> = "clusterIPs",
        /// The families of its addresses and of what stands behind it.
        pub ip_families: Vec<AddressType> = "ipFamilies",
        /// Addresses outside that somebody leads to the nodes.
        pub external_ips: Vec<String> = "externalIPs",
        /// The address that its load balancer was asked to have.
        pub load_balancer_ip: String = "loadBalancerIP",
        /// Whose load balancer it is.
        pub load_balancer_class: String = "loadBalancerClass",
        /// Where traffic from outside goes.
        pub external_traffic_policy: Option<TrafficPolicy> = "externalTrafficPolicy",
        /// Its ports.
        pub ports: Vec<ServicePort> = "ports",
    }

    /// A port of a service.
    pub struct ServicePort {
        /// Its name.
        pub name: String = "name",
        /// TCP if unset.
        pub protocol: Option<Protocol> = "protocol",
        /// The number.
        pub port: u16 = "port" (always),
        /// The same on every node; 0 is none.
        pub node_port: u16 = "nodePort",
    }

    /// What became of a service.
    pub struct KubernetesServiceStatus {
        /// Its load balancer.
        pub load_balancer: LoadBalancerStatus = "loadBalancer",
    }

    /// A load balancer of a service.
    pub struct LoadBalancerStatus {
        /// Where it takes traffic.
        pub ingress: Vec<LoadBalancerIngress> = "ingress",
    }

    /// A place where a load balancer takes traffic.
    pub struct LoadBalancerIngress {
        /// By address.
        pub ip: String = "ip",
        /// By name.
        pub hostname: String = "hostname",
    }

    /// Endpoints of a service, all of the same ports.
    pub struct KubernetesEndpointSliceSpec {
        /// What `addresses` are.
        pub address_type: Option<AddressType> = "addressType",
        /// The endpoints.
        pub endpoints: Vec<SliceEndpoint> = "endpoints",
        /// Their ports.
        pub ports: Vec<SlicePort> = "ports",
    }

    /// An endpoint of a service.
    pub struct SliceEndpoint {
        /// Its addresses, which lead to the same.
        pub addresses: Vec<String> = "addresses",
        /// How it is.
        pub conditions: SliceConditions = "conditions",
        /// The node it is on.
        pub node_name: String = "nodeName",
    }

    /// How an endpoint is.
    pub struct SliceConditions {
        /// Whether it takes traffic; unset is yes.
        pub ready: Option<bool> = "ready",
    }

    /// A port of the endpoints of a slice.
    pub struct SlicePort {
        /// Its name.
        pub name: String = "name",
        /// TCP if unset.
        pub protocol: Option<Protocol> = "protocol",
        /// The number; unset says nothing about ports.
        pub port: Option<u16> = "port",
    }
}

choices! {
    /// Who reaches a service, and how.
    pub enum ServiceType {
        /// Pods and nodes, by addresses of its own.
        ClusterIp = "ClusterIP",
        /// The same, and others by a port of every node.
        NodePort = "NodePort",
        /// The same, and others by a load balancer.
        LoadBalancer = "LoadBalancer",
        /// Nobody: it is another name of something outside.
        ExternalName = "ExternalName",
    }

    /// Where traffic from outside to a service goes.
    pub enum TrafficPolicy {
        /// To any endpoint.
        Cluster = "Cluster",
        /// To the endpoints on the node that it comes to.
        Local = "Local",
    }

    /// What the addresses of endpoints are.
    pub enum AddressType {
        /// IPv4 addresses.
        Ipv4 = "IPv4",
        /// IPv6 addresses.
        Ipv6 = "IPv6",
        /// Names.
        Fqdn = "FQDN",
    }
}

impl SliceEndpoint {
    /// Whether it takes traffic.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.conditions.ready != Some(false)
    }

    /// Its addresses; names are left out.
    pub fn ips(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.iter().filter_map(|address| address.parse().ok())
    }
}

impl KubernetesEndpointSlice {
    /// The service whose endpoints these are; it is of the same namespace.
    #[must_use]
    pub fn service(&self) -> Option<&str> {
        let name = self.metadata.labels.get(SERVICE_NAME_LABEL)?;
        (!name.is_empty()).then_some(name)
    }

    /// Every address of its endpoints with every port, ready or not (upstream: policy lets
    /// traffic through to endpoints that are about to go, too). Ports without a number add none,
    /// and no protocol is TCP.
    pub fn addresses_and_ports(&self) -> impl Iterator<Item = (IpAddr, Protocol, u16)> {
        self.spec.endpoints.iter().flat_map(SliceEndpoint::ips).flat_map(|ip| {
            self.spec.ports.iter().filter_map(move |port| {
                Some((ip, port.protocol.unwrap_or(Protocol::Tcp), port.port?))
            })
        })
    }

    /// Every address of its endpoints, ready or not.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.spec.endpoints.iter().flat_map(SliceEndpoint::ips)
    }
}

impl Spec for KubernetesServiceSpec {
    const KIND: Kind = Kind::KubernetesService;
    type Status = KubernetesServiceStatus;
}

impl Spec for KubernetesEndpointSliceSpec {
    const KIND: Kind = Kind::KubernetesEndpointSlice;
    type Status = NoStatus;
}

impl KubernetesServiceSpec {
    /// Its addresses: all that are listed, else the first.
    pub fn cluster_addresses(&self) -> impl Iterator<Item = IpAddr> {
        let only = self.cluster_ips.is_empty().then_some(&self.cluster_ip);
        self.cluster_ips.iter().chain(only).filter_map(|address| address.parse().ok())
    }
}
