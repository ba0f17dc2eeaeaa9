//! A policy, from the bytes of its `spec` to what becomes of packets.

use std::net::IpAddr;

use calico_core::dataplane::Direction;
use calico_core::resource::{
    AnyResource, GlobalNetworkPolicy, Mode, NetworkPolicy, WorkloadEndpoint, WorkloadEndpointPort,
    WorkloadEndpointSpec,
};
use calico_policy::desired::Desired;
use calico_policy::eval::Packet;
use calico_policy::{Graph, Input, Object};
use serde_json::{Value, json};

/// Reads the JSON of a policy's `spec`, as one of a namespace and as one of the cluster. True if
/// either is taken.
pub(crate) fn run(data: &[u8]) -> bool {
    let Ok(spec) = serde_json::from_slice::<Value>(data) else { return false };
    let taken = ["NetworkPolicy", "GlobalNetworkPolicy"].map(|kind| policy(kind, &spec));
    taken.contains(&true)
}

fn policy(kind: &str, spec: &Value) -> bool {
    let mut metadata = json!({"name": "p"});
    if kind == "NetworkPolicy" {
        metadata["namespace"] = "prod".into();
    }
    let value = json!({"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": metadata,
        "spec": spec});
    // What a store may hold is taken with less care than what people write.
    let strict = AnyResource::from_value(value.clone(), Mode::Valid);
    if let Err(errors) = &strict {
        assert!(errors.iter().all(|error| !error.message.is_empty()), "{errors:?}");
    }
    let Ok(resource) = AnyResource::from_value(value, Mode::Tolerant) else { return false };
    let Ok(Some(object)) = Object::from_resource(&resource) else { return false };
    round_trip(&object);
    let (mut graph, mut desired) = (cluster(), Desired::default());
    flush(&mut graph, &mut desired);
    let before = desired.clone();
    let key = object.key();
    if graph.handle(Input::Put(object)).is_err() {
        // It changed nothing; and whoever wrote it was told.
        assert!(graph.flush().is_empty());
        return false;
    }
    flush(&mut graph, &mut desired);
    evaluate(&desired);
    for warning in graph.take_warnings() {
        assert!(warning.to_string().contains("spec"), "{warning}");
    }
    graph.handle_gone(&key);
    flush(&mut graph, &mut desired);
    assert!(desired == before, "something is left of {spec}");
    strict.is_ok()
}

fn round_trip(object: &Object) {
    match object {
        Object::NetworkPolicy(it) => {
            let again: NetworkPolicy = again(&**it);
            assert_eq!(again, **it);
        }
        Object::GlobalNetworkPolicy(it) => {
            let again: GlobalNetworkPolicy = again(&**it);
            assert_eq!(again, **it);
        }
        other => panic!("{other:?} is no policy"),
    }
}

/// Written and read.
fn again<T: serde::Serialize + serde::de::DeserializeOwned>(value: &T) -> T {
    let text = serde_json::to_string(value).expect("JSON");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// Two endpoints of the policy's namespace.
fn cluster() -> Graph {
    let mut graph = Graph::for_node("n1");
    for (name, address) in [("web", "10.0.0.1"), ("db", "fd00::2")] {
        let spec = WorkloadEndpointSpec {
            node: "n1".into(),
            interface_name: format!("cali{name}"),
            ip_networks: vec![address.parse().expect("an address")],
            profiles: vec!["projectcalico-default-allow".into()],
            ports: vec![WorkloadEndpointPort {
                name: "http".into(),
                protocol: Some(calico_core::resource::Protocol::Tcp),
                port: 80,
                ..Default::default()
            }],
            ..Default::default()
        };
        let mut pod = WorkloadEndpoint::namespaced("prod", name, spec);
        pod.metadata.labels.insert("app".into(), name.into());
        graph.handle(pod).expect("an endpoint");
    }
    graph
}

/// A dataplane that insists on the order of updates.
fn flush(graph: &mut Graph, desired: &mut Desired) {
    for update in graph.flush() {
        desired.apply(&update).expect("updates fit");
    }
}

fn evaluate(desired: &Desired) {
    let address = |text: &str| text.parse::<IpAddr>().expect("an address");
    for (from, to) in [("10.0.0.1", "192.0.2.1"), ("192.0.2.1", "10.0.0.1"), ("fd00::2", "fd00::9")]
    {
        let (from, to) = (address(from), address(to));
        for packet in [
            Packet::to_port(from, to, 6, 80),
            Packet::to_port(from, to, 17, 0),
            Packet::ping(from, to),
            Packet { protocol: 255, ports: None, ..Packet::to_port(from, to, 6, 80) },
        ] {
            for endpoint in desired.endpoints.values() {
                for direction in [Direction::Ingress, Direction::Egress] {
                    let decision = desired.evaluate(endpoint, direction, &packet);
                    assert!(!decision.to_string().is_empty());
                }
            }
        }
    }
}
