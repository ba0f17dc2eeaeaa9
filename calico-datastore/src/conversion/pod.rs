mod object;

use std::collections::BTreeMap;
use std::net::IpAddr;

use calico_core::resource::{
    Cidr, IpNat, NAMESPACE_PROFILE_PREFIX, ObjectMeta, Protocol, QosControls,
    SERVICE_ACCOUNT_PROFILE_PREFIX, WorkloadEndpoint, WorkloadEndpointPort, WorkloadEndpointSpec,
    pod_interface_name,
};
use calico_core::selector::{NAMESPACE_LABEL, ORCHESTRATOR_LABEL, SERVICE_ACCOUNT_LABEL};

pub use self::object::Pod;
use self::object::{ContainerPort, PodSpec};
use super::Converted;
use super::meta::KubernetesMeta;

/// The first address that a pod was given; empty once they are released.
pub const POD_IP_ANNOTATION: &str = "cni.projectcalico.org/podIP";
/// All addresses that a pod was given, separated by commas; empty once they are released.
pub const POD_IPS_ANNOTATION: &str = "cni.projectcalico.org/podIPs";
/// The sandbox that the addresses were given to.
pub const CONTAINER_ID_ANNOTATION: &str = "cni.projectcalico.org/containerID";

const FLOATING_IPS_ANNOTATION: &str = "cni.projectcalico.org/floatingIPs";
const SOURCE_PREFIXES_ANNOTATION: &str = "cni.projectcalico.org/allowedSourcePrefixes";
/// Carried over as it is.
const NETWORK_STATUS_ANNOTATION: &str = "k8s.v1.cni.cncf.io/network-status";

/// Kubernetes cuts labels off at this length; a longer account has no label.
const LABEL_LENGTH: usize = 63;

/// The endpoint of a pod; `None` if Calico does not connect it. `prefix` is the first entry of
/// Felix's `InterfacePrefix`, or `cali`.
#[must_use]
pub fn workload_endpoint(pod: &Pod, prefix: &str) -> Option<Converted<WorkloadEndpoint>> {
    if !pod.is_workload() {
        return None;
    }
    let mut problems = Vec::new();
    let (meta, spec) = (&pod.metadata, &pod.spec);
    let account = spec.service_account_name.as_str();
    let ip_networks = match pod.is_finished() {
        true => Vec::new(),
        false => pod.addresses(&mut problems),
    };
    let mut labels = meta.labels.clone();
    labels.insert(NAMESPACE_LABEL.to_owned(), meta.namespace.clone());
    labels.insert(ORCHESTRATOR_LABEL.to_owned(), "k8s".to_owned());
    if !account.is_empty() && account.len() < LABEL_LENGTH {
        labels.insert(SERVICE_ACCOUNT_LABEL.to_owned(), account.to_owned());
    }
    let mut profiles = vec![format!("{NAMESPACE_PROFILE_PREFIX}{}", meta.namespace)];
    if !account.is_empty() {
        profiles.push(format!("{SERVICE_ACCOUNT_PROFILE_PREFIX}{}.{account}", meta.namespace));
    }
    let status = meta.annotations.get_key_value(NETWORK_STATUS_ANNOTATION);
    let metadata = ObjectMeta {
        namespace: meta.namespace.clone(),
        generate_name: meta.generate_name.clone(),
        labels,
        annotations: status.map(|(key, value)| (key.clone(), value.clone())).into_iter().collect(),
        ..meta.view(pod.endpoint_name(), meta.uid.clone())
    };
    let spec = WorkloadEndpointSpec {
        orchestrator: "k8s".to_owned(),
        node: spec.node_name.clone(),
        container_id: annotation(meta, CONTAINER_ID_ANNOTATION).to_owned(),
        pod: meta.name.clone(),
        endpoint: "eth0".to_owned(),
        service_account_name: account.to_owned(),
        ip_nats: floating_ips(meta, &ip_networks, &mut problems),
        ip_networks,
        profiles,
        interface_name: pod_interface_name(prefix, &meta.namespace, &meta.name),
        ports: ports(spec, &mut problems),
        allow_spoofed_source_prefixes: json_list(meta, SOURCE_PREFIXES_ANNOTATION, &mut problems),
        qos_controls: QosControls::of_annotations(&meta.annotations, &mut problems),
        ..WorkloadEndpointSpec::default()
    };
    Some(Converted::new(WorkloadEndpoint::with_metadata(metadata, spec), problems))
}

/// The annotations by which a pod says what `endpoint` says: what writing an endpoint writes.
/// For one without addresses they are empty, which tells that they were released.
#[must_use]
pub fn pod_annotations(endpoint: &WorkloadEndpointSpec) -> BTreeMap<String, String> {
    let addresses: Vec<String> = endpoint.ip_networks.iter().map(|net| net.0.to_string()).collect();
    let mut annotations = BTreeMap::from([
        (POD_IP_ANNOTATION.to_owned(), addresses.first().cloned().unwrap_or_default()),
        (POD_IPS_ANNOTATION.to_owned(), addresses.join(",")),
    ]);
    if !endpoint.container_id.is_empty() {
        annotations.insert(CONTAINER_ID_ANNOTATION.to_owned(), endpoint.container_id.clone());
    }
    annotations
}

fn annotation<'a>(meta: &'a KubernetesMeta, name: &str) -> &'a str {
    meta.annotations.get(name).map_or("", String::as_str)
}

/// Ports that policies or the node's ports refer to.
fn ports(spec: &PodSpec, problems: &mut Vec<String>) -> Vec<WorkloadEndpointPort> {
    let sidecars = spec.init_containers.iter().filter(|init| init.restart_policy == "Always");
    let all = spec.containers.iter().chain(sidecars).flat_map(|container| &container.ports);
    let read = |port: &ContainerPort| {
        let protocol = if port.protocol.is_empty() { "TCP" } else { &port.protocol };
        let Ok(protocol) = protocol.parse::<Protocol>() else {
            problems.push(format!("port {} has unknown protocol {protocol:?}", port.name));
            return None;
        };
        Some(WorkloadEndpointPort {
            name: port.name.clone(),
            protocol: Some(protocol),
            port: port.container_port,
            host_port: port.host_port,
            host_ip: port.host_ip.clone(),
            ..WorkloadEndpointPort::default()
        })
    };
    let of_use = |port: &&ContainerPort| {
        port.container_port != 0 && (!port.name.is_empty() || port.host_port != 0)
    };
    all.filter(of_use).filter_map(read).collect()
}

/// Addresses outside, each for the endpoint's own of its family.
fn floating_ips(meta: &KubernetesMeta, own: &[Cidr], problems: &mut Vec<String>) -> Vec<IpNat> {
    let outside: Vec<IpAddr> = json_list(meta, FLOATING_IPS_ANNOTATION, problems);
    let pair = |outside: IpAddr| {
        let inside = own.iter().map(|net| net.addr()).find(|ip| ip.is_ipv4() == outside.is_ipv4());
        if inside.is_none() {
            problems.push(format!("floating IP {outside} has no address of the pod to lead to"));
        }
        let external_ip = Some(outside);
        inside.map(|ip| IpNat { internal_ip: Some(ip), external_ip, ..IpNat::default() })
    };
    outside.into_iter().filter_map(pair).collect()
}

/// An annotation that is a JSON list of texts.
fn json_list<T: std::str::FromStr>(
    meta: &KubernetesMeta,
    name: &str,
    problems: &mut Vec<String>,
) -> Vec<T> {
    let text = annotation(meta, name);
    if text.is_empty() {
        return Vec::new();
    }
    let read = serde_json::from_str::<Vec<String>>(text).ok();
    let read = read.and_then(|texts| texts.iter().map(|text| text.parse().ok()).collect());
    read.unwrap_or_else(|| {
        problems.push(format!("annotation {name} {text:?} is no list as it should be; ignored"));
        Vec::new()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(more: Value) -> Pod {
        let mut pod = json!({
            "metadata": {"name": "web-0", "namespace": "prod", "uid": "u", "resourceVersion": "9",
                "generateName": "web-", "labels": {"app": "web"}, "annotations": {}},
            "spec": {"nodeName": "node-1", "serviceAccountName": "sa"},
            "status": {"phase": "Running"},
        });
        merge(&mut pod, more);
        serde_json::from_value(pod).unwrap()
    }

    fn merge(into: &mut Value, more: Value) {
        match (into, more) {
            (Value::Object(into), Value::Object(more)) => {
                for (key, value) in more {
                    merge(into.entry(key).or_insert(Value::Null), value);
                }
            }
            (into, more) => *into = more,
        }
    }

    fn convert(more: Value) -> WorkloadEndpoint {
        let converted = workload_endpoint(&pod(more), "cali").unwrap();
        assert_eq!(converted.problems, [] as [String; 0]);
        converted.resource
    }

    #[test]
    fn names_labels_and_profiles_are_upstreams() {
        let wep = convert(json!({}));
        assert_eq!(wep.name(), "node--1-k8s-web--0-eth0");
        assert_eq!(wep.namespace(), "prod");
        assert_eq!(wep.metadata.uid, "u");
        assert_eq!(wep.metadata.generate_name, "web-");
        let labels: Vec<(&str, &str)> =
            wep.metadata.labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(
            labels,
            [
                ("app", "web"),
                ("projectcalico.org/namespace", "prod"),
                ("projectcalico.org/orchestrator", "k8s"),
                ("projectcalico.org/serviceaccount", "sa"),
            ]
        );
        assert_eq!(wep.spec.profiles, ["kns.prod", "ksa.prod.sa"]);
        // printf prod.web-0 | sha1sum | cut -c1-11
        assert_eq!(wep.spec.interface_name, pod_interface_name("cali", "prod", "web-0"));
        let long = "a".repeat(63);
        let wep = convert(json!({"spec": {"serviceAccountName": long}}));
        assert!(!wep.metadata.labels.contains_key("projectcalico.org/serviceaccount"));
        assert_eq!(wep.spec.service_account_name, long);
    }

    #[test]
    fn only_scheduled_pods_with_a_network_of_their_own_are_endpoints() {
        for no in [json!({"spec": {"nodeName": ""}}), json!({"spec": {"hostNetwork": true}})] {
            assert_eq!(workload_endpoint(&pod(no), "cali"), None);
        }
    }

    #[track_caller]
    fn check_addresses(more: Value, expected: &[&str]) {
        let wep = convert(more);
        let found: Vec<String> = wep.spec.ip_networks.iter().map(|net| net.0.to_string()).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn addresses_are_of_the_first_source_that_has_any() {
        check_addresses(json!({}), &[]);
        let aws = json!({"vpc.amazonaws.com/pod-ips": "10.0.0.5"});
        check_addresses(json!({"metadata": {"annotations": aws}}), &["10.0.0.5/32"]);
        let one =
            json!({"vpc.amazonaws.com/pod-ips": "10.0.0.5", POD_IP_ANNOTATION: "10.0.0.4/32"});
        check_addresses(json!({"metadata": {"annotations": one}}), &["10.0.0.4/32"]);
        let both = json!({POD_IP_ANNOTATION: "10.0.0.4/32", POD_IPS_ANNOTATION: "10.0.0.3/32,fd00::3/128"});
        check_addresses(
            json!({"metadata": {"annotations": both}}),
            &["10.0.0.3/32", "fd00::3/128"],
        );
        check_addresses(
            json!({"metadata": {"annotations": both}, "status": {"podIP": "10.0.0.2"}}),
            &["10.0.0.2/32"],
        );
        check_addresses(
            json!({"metadata": {"annotations": both}, "status": {"podIP": "10.0.0.2",
                "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]}}),
            &["10.0.0.1/32", "fd00::1/128"],
        );
    }

    #[test]
    fn finished_pods_have_no_addresses() {
        for phase in ["Failed", "Succeeded", "Completed"] {
            check_addresses(json!({"status": {"phase": phase, "podIP": "10.0.0.1"}}), &[]);
        }
        let released = json!({"annotations": {POD_IP_ANNOTATION: ""}});
        let address = json!({"podIP": "10.0.0.1"});
        check_addresses(json!({"metadata": released, "status": address}), &["10.0.0.1/32"]);
        let deleting = json!({"annotations": {POD_IP_ANNOTATION: ""},
            "deletionTimestamp": "2026-01-01T00:00:00Z"});
        check_addresses(json!({"metadata": deleting, "status": address}), &[]);
        let terminating = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
        check_addresses(json!({"metadata": terminating, "status": address}), &["10.0.0.1/32"]);
    }

    #[test]
    fn named_ports_and_ports_of_the_node_are_kept() {
        let wep = convert(json!({"spec": {
            "containers": [{"ports": [
                {"name": "http", "containerPort": 80},
                {"containerPort": 81},
                {"containerPort": 53, "hostPort": 5353, "hostIP": "10.0.0.9", "protocol": "UDP"}]}],
            "initContainers": [
                {"ports": [{"name": "setup", "containerPort": 1}]},
                {"restartPolicy": "Always", "ports": [{"name": "proxy", "containerPort": 2, "protocol": "SCTP"}]}],
        }}));
        let ports: Vec<(&str, u16, u16, String)> = wep
            .spec
            .ports
            .iter()
            .map(|p| (p.name.as_str(), p.port, p.host_port, p.protocol.unwrap().to_string()))
            .collect();
        assert_eq!(
            ports,
            [
                ("http", 80, 0, "TCP".to_owned()),
                ("", 53, 5353, "UDP".to_owned()),
                ("proxy", 2, 0, "SCTP".to_owned()),
            ]
        );
        assert_eq!(wep.spec.ports[1].host_ip, "10.0.0.9");
    }

    #[test]
    fn annotations_say_more() {
        let wep = convert(json!({
            "metadata": {"annotations": {
                "cni.projectcalico.org/containerID": "c1",
                "cni.projectcalico.org/floatingIPs": "[\"192.0.2.1\"]",
                "cni.projectcalico.org/allowedSourcePrefixes": "[\"10.9.0.0/16\"]",
                "k8s.v1.cni.cncf.io/network-status": "[]",
                "kubernetes.io/ingress-bandwidth": "10M",
                "other": "x"}},
            "status": {"podIP": "10.0.0.1"}}));
        assert_eq!(wep.spec.container_id, "c1");
        assert_eq!(wep.spec.ip_nats[0].internal_ip, Some("10.0.0.1".parse().unwrap()));
        assert_eq!(wep.spec.ip_nats[0].external_ip, Some("192.0.2.1".parse().unwrap()));
        assert_eq!(wep.spec.allow_spoofed_source_prefixes, ["10.9.0.0/16".parse().unwrap()]);
        assert_eq!(wep.spec.qos_controls.unwrap().ingress_bandwidth, 10_000_000);
        assert_eq!(wep.metadata.annotations.len(), 1);
    }

    #[test]
    fn what_cannot_be_read_is_left_out_and_told() {
        let odd = pod(json!({
            "metadata": {"annotations": {"cni.projectcalico.org/floatingIPs": "192.0.2.1"}},
            "status": {"podIPs": [{"ip": "x"}, {"ip": "10.0.0.1"}]}}));
        let converted = workload_endpoint(&odd, "cali").unwrap();
        assert_eq!(converted.problems.len(), 2, "{:?}", converted.problems);
        assert_eq!(converted.resource.spec.ip_networks.len(), 1);
    }

    #[test]
    fn an_endpoint_is_written_as_annotations() {
        let mut wep =
            convert(json!({"status": {"podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]}}));
        wep.spec.container_id = "c".to_owned();
        let written = pod_annotations(&wep.spec);
        assert_eq!(written[POD_IP_ANNOTATION], "10.0.0.1/32");
        assert_eq!(written[POD_IPS_ANNOTATION], "10.0.0.1/32,fd00::1/128");
        assert_eq!(written[CONTAINER_ID_ANNOTATION], "c");
        let released = pod_annotations(&WorkloadEndpointSpec::default());
        assert_eq!((&*released[POD_IP_ANNOTATION], &*released[POD_IPS_ANNOTATION]), ("", ""));
    }
}
