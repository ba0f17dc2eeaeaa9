use calico_core::resource::{
    AddressType, KubernetesEndpointSlice, KubernetesEndpointSliceSpec, KubernetesService,
    KubernetesServiceSpec, KubernetesServiceStatus, LoadBalancerIngress, LoadBalancerStatus,
    Protocol, Resource, SERVICE_NAME_LABEL, ServiceType, SliceConditions, SliceEndpoint, SlicePort,
    Spec, TrafficPolicy,
};
use serde::{Deserialize, Deserializer};

use super::meta::KubernetesMeta;

/// Prefix of annotations that say what a service wants of Calico.
const ANNOTATIONS: &str = "projectcalico.org/";

/// A Service, as far as Calico looks at it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Service {
    /// Its metadata.
    pub metadata: KubernetesMeta,
    /// What is wanted.
    pub spec: ServiceSpec,
    /// What became of it.
    pub status: ServiceStatus,
}

/// See [`Service`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct ServiceSpec {
    /// `ClusterIP`, `NodePort`, `LoadBalancer` or `ExternalName`.
    #[serde(rename = "type")]
    pub service_type: Option<ServiceType>,
    /// Its first address; `None` or empty if it has none.
    #[serde(rename = "clusterIP")]
    pub cluster_ip: String,
    /// All its addresses.
    #[serde(rename = "clusterIPs")]
    pub cluster_ips: Vec<String>,
    /// The families of its addresses.
    pub ip_families: Vec<AddressType>,
    /// Addresses outside.
    #[serde(rename = "externalIPs")]
    pub external_ips: Vec<String>,
    /// The address that was asked for.
    #[serde(rename = "loadBalancerIP")]
    pub load_balancer_ip: String,
    /// Whose load balancer it is.
    pub load_balancer_class: String,
    /// `Cluster` or `Local`.
    pub external_traffic_policy: Option<TrafficPolicy>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
}

/// A port of a [`Service`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct ServicePort {
    /// Its name.
    pub name: String,
    /// TCP if unset.
    pub protocol: Option<Protocol>,
    /// The number.
    pub port: u16,
    /// The same on every node.
    pub node_port: u16,
}

/// What became of a [`Service`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct ServiceStatus {
    /// Its load balancer.
    pub load_balancer: ServiceLoadBalancer,
}

/// The load balancer of a [`Service`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct ServiceLoadBalancer {
    /// Where it takes traffic.
    pub ingress: Vec<ServiceIngress>,
}

/// A place where the load balancer of a [`Service`] takes traffic.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct ServiceIngress {
    /// By address.
    pub ip: String,
    /// By name.
    pub hostname: String,
}

/// An EndpointSlice, as far as Calico looks at it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct EndpointSlice {
    /// Its metadata.
    pub metadata: KubernetesMeta,
    /// What the addresses are.
    pub address_type: Option<AddressType>,
    /// The endpoints.
    #[serde(deserialize_with = "list")]
    pub endpoints: Vec<Endpoint>,
    /// Their ports.
    #[serde(deserialize_with = "list")]
    pub ports: Vec<EndpointPort>,
}

/// An endpoint of an [`EndpointSlice`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct Endpoint {
    /// Its addresses.
    #[serde(deserialize_with = "list")]
    pub addresses: Vec<String>,
    /// How it is.
    pub conditions: EndpointConditions,
    /// The node it is on.
    pub node_name: Option<String>,
}

/// How an [`Endpoint`] is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct EndpointConditions {
    /// Whether it takes traffic; unset is yes.
    pub ready: Option<bool>,
}

/// A port of an [`EndpointSlice`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct EndpointPort {
    /// Its name.
    pub name: Option<String>,
    /// TCP if unset.
    pub protocol: Option<Protocol>,
    /// The number.
    pub port: Option<u16>,
}

/// The API writes a list without members as `null`, too.
fn list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    Option::<Vec<T>>::deserialize(from).map(Option::unwrap_or_default)
}

/// The service as policy, BGP and IPAM see it, under its own name, with its annotations for Calico.
#[must_use]
pub fn kubernetes_service(service: &Service) -> KubernetesService {
    let spec = service.spec.clone();
    let port = |port: ServicePort| calico_core::resource::ServicePort {
        name: port.name,
        protocol: port.protocol,
        port: port.port,
        node_port: port.node_port,
        ..Default::default()
    };
    let mut made = of(
        &service.metadata,
        KubernetesServiceSpec {
            service_type: spec.service_type,
            cluster_ip: spec.cluster_ip,
            cluster_ips: spec.cluster_ips,
            ip_families: spec.ip_families,
            external_ips: spec.external_ips,
            load_balancer_ip: spec.load_balancer_ip,
            load_balancer_class: spec.load_balancer_class,
            external_traffic_policy: spec.external_traffic_policy,
            ports: spec.ports.into_iter().map(port).collect(),
            ..Default::default()
        },
    );
    let annotations = service.metadata.annotations.iter();
    let ours = annotations.filter(|(key, _)| key.starts_with(ANNOTATIONS));
    made.metadata.annotations = ours.map(|(key, text)| (key.clone(), text.clone())).collect();
    let ingress = service.status.load_balancer.ingress.iter().map(|ingress| LoadBalancerIngress {
        ip: ingress.ip.clone(),
        hostname: ingress.hostname.clone(),
        ..Default::default()
    });
    let ingress: Vec<_> = ingress.collect();
    made.status = (!ingress.is_empty()).then(|| KubernetesServiceStatus {
        load_balancer: LoadBalancerStatus { ingress, ..Default::default() },
        ..Default::default()
    });
    made
}

/// The slice as policy and BGP see it, under its own name. Of its labels, the one that says whose
/// it is stays.
#[must_use]
pub fn kubernetes_endpoint_slice(slice: &EndpointSlice) -> KubernetesEndpointSlice {
    let endpoint = |endpoint: &Endpoint| SliceEndpoint {
        addresses: endpoint.addresses.clone(),
        conditions: SliceConditions { ready: endpoint.conditions.ready, ..Default::default() },
        node_name: endpoint.node_name.clone().unwrap_or_default(),
        ..Default::default()
    };
    let port = |port: &EndpointPort| SlicePort {
        name: port.name.clone().unwrap_or_default(),
        protocol: port.protocol,
        port: port.port,
        ..Default::default()
    };
    let mut made = of(
        &slice.metadata,
        KubernetesEndpointSliceSpec {
            address_type: slice.address_type,
            endpoints: slice.endpoints.iter().map(endpoint).collect(),
            ports: slice.ports.iter().map(port).collect(),
            ..Default::default()
        },
    );
    if let Some(service) = slice.metadata.labels.get(SERVICE_NAME_LABEL) {
        made.metadata.labels.insert(SERVICE_NAME_LABEL.to_owned(), service.clone());
    }
    made
}

fn of<S: Spec>(meta: &KubernetesMeta, spec: S) -> Resource<S> {
    let mut view = meta.view(meta.name.clone(), meta.uid.clone());
    view.namespace.clone_from(&meta.namespace);
    Resource::with_metadata(view, spec)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn seen<S: Spec>(resource: &Resource<S>) -> Value {
        serde_json::from_str(&resource.to_json()).unwrap()
    }

    #[test]
    fn services_keep_what_is_looked_at() {
        let service: Service = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "prod", "uid": "u", "resourceVersion": "7",
                "labels": {"app": "web"}, "managedFields": [{"manager": "kubectl"}],
                "annotations": {"projectcalico.org/ipv4pools": "[\"a\"]", "other": "x"}},
            "spec": {"type": "LoadBalancer", "clusterIP": "10.9.0.1",
                "clusterIPs": ["10.9.0.1", "fd00::1"], "ipFamilies": ["IPv4", "IPv6"],
                "ipFamilyPolicy": "PreferDualStack", "externalIPs": ["192.0.2.9"],
                "externalTrafficPolicy": "Local", "internalTrafficPolicy": "Cluster",
                "loadBalancerIP": "192.0.2.10", "loadBalancerClass": "calico",
                "ports": [{"name": "http", "protocol": "TCP", "port": 80, "targetPort": "http",
                    "nodePort": 30080}],
                "selector": {"app": "web"}, "sessionAffinity": "None"},
            "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.10", "ipMode": "VIP"}]}},
        }))
        .unwrap();
        assert_eq!(
            seen(&kubernetes_service(&service)),
            json!({
                "kind": "KubernetesService", "apiVersion": "projectcalico.org/v3",
                "metadata": {"name": "web", "namespace": "prod", "uid": "u", "resourceVersion": "7",
                    "annotations": {"projectcalico.org/ipv4pools": "[\"a\"]"}},
                "spec": {"type": "LoadBalancer", "clusterIP": "10.9.0.1",
                    "clusterIPs": ["10.9.0.1", "fd00::1"], "ipFamilies": ["IPv4", "IPv6"],
                    "externalIPs": ["192.0.2.9"], "externalTrafficPolicy": "Local",
                    "loadBalancerIP": "192.0.2.10", "loadBalancerClass": "calico",
                    "ports": [{"name": "http", "protocol": "TCP", "port": 80, "nodePort": 30080}]},
                "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.10"}]}},
            })
        );
    }

    #[test]
    fn slices_keep_what_is_looked_at() {
        let slice: EndpointSlice = serde_json::from_value(json!({
            "metadata": {"name": "web-x", "namespace": "prod", "uid": "u", "resourceVersion": "7",
                "labels": {"kubernetes.io/service-name": "web", "app": "web"},
                "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": "now"}},
            "addressType": "IPv4",
            "endpoints": [
                {"addresses": ["10.0.0.1"], "nodeName": "n1", "zone": "a", "targetRef": {},
                    "conditions": {"ready": true, "serving": true, "terminating": false}},
                {"addresses": null, "nodeName": null, "conditions": {}},
            ],
            "ports": [{"name": "", "protocol": "SCTP", "port": 80}, {"port": null}],
        }))
        .unwrap();
        assert_eq!(
            seen(&kubernetes_endpoint_slice(&slice)),
            json!({
                "kind": "KubernetesEndpointSlice", "apiVersion": "projectcalico.org/v3",
                "metadata": {"name": "web-x", "namespace": "prod", "uid": "u", "resourceVersion": "7",
                    "labels": {"kubernetes.io/service-name": "web"}},
                "spec": {"addressType": "IPv4",
                    "endpoints": [
                        {"addresses": ["10.0.0.1"], "nodeName": "n1", "conditions": {"ready": true}},
                        {},
                    ],
                    "ports": [{"protocol": "SCTP", "port": 80}, {}]},
            })
        );
        // Neither endpoints nor ports: the API writes null.
        let empty = r#"{"metadata": {"name": "x"}, "endpoints": null, "ports": null}"#;
        let empty: EndpointSlice = serde_json::from_str(empty).unwrap();
        assert_eq!(kubernetes_endpoint_slice(&empty).addresses().count(), 0);
    }
}
