use std::sync::Arc;

use serde_json::{Value, json};

use super::*;

#[path = "mistakes_tests.rs"]
mod mistakes;

fn put(brain: &mut Brain, key: Key, value: &Value) {
    let value = Arc::from(value.to_string());
    brain.handle_store(WatchEvent::Put(Entry { key, value, revision: Revision(9) }));
}

fn listed() -> Brain {
    let mut brain = Brain::new("n1", Options::default());
    assert!(brain.flush().is_none(), "nothing before the datastore is listed");
    brain.handle_store(WatchEvent::Begin);
    brain.handle_store(WatchEvent::Ready(Revision(1)));
    brain
}

#[test]
fn the_first_work_declares_the_state_complete_and_learned_routes_wait() {
    let mut brain = listed();
    let updates = brain.flush().unwrap().transaction.updates;
    assert_eq!(updates.last(), Some(&Update::InSync));
    assert!(!updates.contains(&Update::LearnedInSync));
    brain.handle_route(RouteEvent::Begin);
    brain.handle_route(RouteEvent::Ready);
    assert_eq!(brain.flush().unwrap().transaction.updates, [Update::LearnedInSync]);
}

#[test]
fn an_endpoint_brings_its_policy_and_its_route_in_one_transaction() {
    let mut brain = listed();
    brain.flush();
    let endpoint = json!({"metadata": {"name": "n1-cni-c-eth0", "namespace": "default"},
        "spec": {"orchestrator": "cni", "node": "n1", "containerID": "c", "endpoint": "eth0",
            "interfaceName": "cali1", "ipNetworks": ["10.65.0.1/32"]}});
    let key = Key::resource(Kind::WorkloadEndpoint, Some("default"), "n1-cni-c-eth0");
    put(&mut brain, key.clone(), &endpoint);
    let work = brain.flush().unwrap();
    assert_eq!(work.endpoints.len(), 1);
    assert_eq!(work.heard, [(work.endpoints[0].clone(), Revision(9))]);
    assert_eq!(work.store, Revision(9));
    let has = |wanted: fn(&Update) -> bool| work.transaction.updates.iter().any(wanted);
    assert!(has(|update| matches!(update, Update::Endpoint(_))));
    assert!(has(|update| matches!(update, Update::Route(_))));

    brain.handle_store(WatchEvent::Gone { key, revision: Revision(10) });
    let work = brain.flush().unwrap();
    assert_eq!((work.gone.len(), work.store), (1, Revision(10)));
}

#[test]
fn without_ipv6_the_kernel_hears_of_ipv4_alone() {
    let mut brain = listed();
    brain.flush();
    let endpoint = json!({"metadata": {"name": "n1-cni-c-eth0", "namespace": "default"},
        "spec": {"orchestrator": "cni", "node": "n1", "containerID": "c", "endpoint": "eth0",
            "interfaceName": "cali1", "ipNetworks": ["10.65.0.1/32", "fd00::1/128"]}});
    put(
        &mut brain,
        Key::resource(Kind::WorkloadEndpoint, Some("default"), "n1-cni-c-eth0"),
        &endpoint,
    );
    let shown = |brain: &mut Brain| -> Vec<String> {
        let updates = brain.flush().unwrap().transaction.updates;
        let mut shown = Vec::new();
        for update in updates {
            match update {
                Update::Endpoint(endpoint) => {
                    shown.push(format!("{} addresses", endpoint.addresses.len()));
                }
                Update::Route(route) => shown.push(route.to_string()),
                Update::RouteRemoved(destination) => shown.push(format!("no {destination}")),
                _ => {}
            }
        }
        shown
    };
    let both =
        ["2 addresses", "10.65.0.1/32 dev cali1 metric 1024", "fd00::1/128 dev cali1 metric 1024"];
    assert_eq!(shown(&mut brain), both);
    let felix = |spec: Value| json!({"metadata": {"name": "default"}, "spec": spec});
    let key = Key::resource(Kind::FelixConfiguration, None, "default");
    put(&mut brain, key.clone(), &felix(json!({"ipv6Support": false})));
    assert_eq!(shown(&mut brain), ["1 addresses", "no fd00::1/128"]);
    put(&mut brain, key.clone(), &felix(json!({"ipv4NormalRoutePriority": 7})));
    let again = ["2 addresses", "10.65.0.1/32 dev cali1 metric 7", both[2]];
    assert_eq!(shown(&mut brain), again);
}

#[test]
fn a_bad_object_stops_nothing() {
    let mut brain = listed();
    put(&mut brain, Key::resource(Kind::IpPool, None, "bad"), &json!({"spec": {"cidr": 5}}));
    let affinity = Key::Affinity {
        owner_type: OwnerType::Host,
        owner: "n1".into(),
        block: "10.65.0.0/26".parse().unwrap(),
    };
    put(&mut brain, affinity, &json!({"state": "confirmed", "deleted": false}));
    let pool = json!({"metadata": {"name": "good"}, "spec": {"cidr": "10.65.0.0/16"}});
    put(&mut brain, Key::resource(Kind::IpPool, None, "good"), &pool);
    assert_eq!(brain.flush().unwrap().announce, ["10.65.0.0/26".parse().unwrap()]);
}
