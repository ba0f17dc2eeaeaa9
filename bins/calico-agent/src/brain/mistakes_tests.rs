//! What objects with mistakes do, at a restart and later.

use std::net::IpAddr;

use calico_policy::desired::Desired;
use calico_policy::eval::Packet;

use super::*;

const POD: &str = "n1-cni-c-eth0";

fn policy(name: &str, spec: Value) -> (Key, Value) {
    let value = json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec});
    (Key::resource(Kind::NetworkPolicy, Some("default"), name), value)
}

fn global(name: &str, spec: Value) -> (Key, Value) {
    (
        Key::resource(Kind::GlobalNetworkPolicy, None, name),
        json!({"metadata": {"name": name}, "spec": spec}),
    )
}

fn pod() -> (Key, Value) {
    let value = json!({"metadata": {"name": POD, "namespace": "default", "labels": {"app": "a"}},
        "spec": {"orchestrator": "cni", "node": "n1", "containerID": "c", "endpoint": "eth0",
            "interfaceName": "cali1", "ipNetworks": ["10.65.0.1/32"]}});
    (Key::resource(Kind::WorkloadEndpoint, Some("default"), POD), value)
}

/// Lets anybody in on these ports.
fn opens(name: &str, order: u32, ports: Value) -> (Key, Value) {
    let rule = json!({"action": "Allow", "protocol": "TCP", "destination": {"ports": ports}});
    policy(name, json!({"selector": "app == 'a'", "order": order, "ingress": [rule]}))
}

/// As an agent that starts.
fn start(objects: &[(Key, Value)]) -> Brain {
    let mut brain = Brain::new("n1", Options::default());
    list(&mut brain, objects);
    brain
}

fn list(brain: &mut Brain, objects: &[(Key, Value)]) {
    brain.handle_store(WatchEvent::Begin);
    for (key, value) in objects {
        let value = Arc::from(value.to_string());
        let entry = Entry { key: key.clone(), value, revision: Revision(1) };
        brain.handle_store(WatchEvent::Item(entry));
    }
    brain.handle_store(WatchEvent::Ready(Revision(1)));
}

/// Which of the ports 80, 90 and 99 of the pod are open.
fn open(brain: &mut Brain) -> Vec<u16> {
    brain.flush();
    let desired: Desired = brain.graph.desired();
    let pod = EndpointId { namespace: "default".into(), name: POD.into() };
    let reaches = |port: &u16| {
        let ends = ["192.0.2.9", "10.65.0.1"].map(|text| text.parse::<IpAddr>().unwrap());
        let packet = Packet::to_port(ends[0], ends[1], 6, *port);
        desired.explain(None, Some(&pod), &packet).is_allowed()
    };
    [80, 90, 99].into_iter().filter(reaches).collect()
}

fn mistakes(brain: &mut Brain) -> Option<Vec<String>> {
    let news = brain.new_mistakes()?;
    Some(news.into_iter().map(|(path, reason)| format!("{path}: {reason}")).collect())
}

#[test]
fn after_a_restart_what_a_policy_with_mistakes_would_have_judged_is_denied() {
    let bad = opens("bad", 5, json!(["99:x:y"]));
    let before = opens("a", 1, json!([80]));
    let after = opens("z", 9, json!([80, 90]));
    let mut brain = start(&[pod(), before.clone(), after.clone()]);
    assert_eq!(open(&mut brain), [80, 90]);
    assert_eq!(mistakes(&mut brain), None);

    let mut brain = start(&[pod(), before.clone(), bad.clone(), after.clone()]);
    assert_eq!(open(&mut brain), [80], "what policies before it let in");
    let [said] = &mistakes(&mut brain).unwrap()[..] else { panic!("one object") };
    assert!(said.contains("/default/bad: malformed: spec.ingress[0].destination.ports"), "{said}");
    // The datastore is listed again: it is no news.
    list(&mut brain, &[pod(), before.clone(), bad.clone(), after.clone()]);
    assert_eq!((open(&mut brain), mistakes(&mut brain)), (vec![80], None));

    // It is still wrong, but now for others.
    let others = policy("bad", json!({"selector": "app == 'b'", "ingress": [{"action": "Dent"}]}));
    put(&mut brain, others.0.clone(), &others.1);
    assert_eq!(open(&mut brain), [80, 90]);
    assert_eq!(mistakes(&mut brain).unwrap().len(), 1);
    put(&mut brain, bad.0.clone(), &bad.1);
    assert_eq!(open(&mut brain), [80]);

    // Mended, wrong again, and gone.
    let mended = opens("bad", 5, json!([99]));
    put(&mut brain, bad.0.clone(), &mended.1);
    assert_eq!(open(&mut brain), [80, 90, 99]);
    assert_eq!(mistakes(&mut brain), Some(vec![]));
    put(&mut brain, bad.0.clone(), &bad.1);
    assert_eq!(open(&mut brain), [80, 90, 99], "its last good version stays in force");
    assert_eq!(mistakes(&mut brain).unwrap().len(), 1);
    brain.handle_store(WatchEvent::Gone { key: bad.0, revision: Revision(20) });
    assert_eq!(open(&mut brain), [80, 90]);
    assert_eq!(mistakes(&mut brain), Some(vec![]));
}

#[test]
fn a_new_policy_with_mistakes_has_no_effect_until_a_restart() {
    let bad = policy("wild", json!({"selector": "all()", "order": 1, "ingress": [{"action": 5}]}));
    let good = opens("a", 5, json!([80]));
    let mut brain = start(&[pod(), good.clone()]);
    assert_eq!(open(&mut brain), [80]);
    put(&mut brain, bad.0.clone(), &bad.1);
    assert_eq!(open(&mut brain), [80]);
    assert_eq!(mistakes(&mut brain).unwrap().len(), 1);
    assert_eq!(open(&mut start(&[pod(), good, bad])), [0; 0]);
}

#[test]
fn whom_a_policy_is_for_is_not_guessed_beyond_its_namespace() {
    let good = opens("a", 5, json!([80]));
    let unparsed = |selector: &str| json!({"selector": selector, "order": 9});
    for selector in ["app ==", "has("] {
        let bad = policy("bad", unparsed(selector));
        assert_eq!(open(&mut start(&[pod(), good.clone(), bad])), [0; 0]);
        let bad = global("bad", unparsed(selector));
        let mut brain = start(&[pod(), good.clone(), bad]);
        assert_eq!(open(&mut brain), [80]);
        let [said] = &mistakes(&mut brain).unwrap()[..] else { panic!("one object") };
        assert!(said.contains("/bad: spec.selector"), "{said}");
    }
    // Not even JSON: the store says no more than where it is.
    let mut brain = Brain::new("n1", Options::default());
    let path = policy("bad", json!({})).0.to_string();
    brain.handle_store(WatchEvent::Begin);
    for (key, value) in [pod(), good] {
        let value = Arc::from(value.to_string());
        brain.handle_store(WatchEvent::Item(Entry { key, value, revision: Revision(1) }));
    }
    brain.handle_store(WatchEvent::Bad { path: path.clone(), reason: "no text".to_owned() });
    brain.handle_store(WatchEvent::Ready(Revision(1)));
    assert_eq!(open(&mut brain), [0; 0]);
    assert_eq!(mistakes(&mut brain).unwrap(), [format!("{path}: no text")]);
    let key = path.parse().unwrap();
    brain.handle_store(WatchEvent::Gone { key, revision: Revision(3) });
    assert_eq!(open(&mut brain), [80]);
}

#[test]
fn other_objects_with_mistakes_are_named_and_open_nothing() {
    let bad = |kind, name: &str| {
        (Key::resource(kind, None, name), json!({"metadata": {"name": name}, "spec": 5}))
    };
    let good = opens("a", 5, json!([80]));
    let sound = [pod(), good];
    let kinds = [
        Kind::BgpConfiguration,
        Kind::BgpFilter,
        Kind::BgpPeer,
        Kind::FelixConfiguration,
        Kind::GlobalNetworkSet,
        Kind::HostEndpoint,
        Kind::IpPool,
        Kind::Node,
        Kind::Profile,
        Kind::Tier,
    ];
    let mut objects: Vec<_> = kinds.iter().map(|kind| bad(*kind, "default")).collect();
    let block: ipnet::IpNet = "10.65.0.0/26".parse().unwrap();
    objects.push((Key::Block(block), json!({"cidr": 5})));
    let claim = Key::Affinity { owner_type: OwnerType::Host, owner: "n1".into(), block };
    objects.push((claim, json!({"state": 5})));
    objects.extend(sound);
    let mut brain = start(&objects);
    assert_eq!(open(&mut brain), [80]);
    let said = mistakes(&mut brain).unwrap();
    assert_eq!(said.len(), kinds.len() + 2, "{said:#?}");
    // A pod that nobody can read is unknown to the kernel, which lets nothing of it pass.
    let (key, _) = pod();
    let mut brain = start(&[(key, json!({"spec": {"node": "n1", "ipNetworks": "x"}}))]);
    assert_eq!(brain.flush().unwrap().endpoints, []);
    assert_eq!(mistakes(&mut brain).unwrap().len(), 1);
}

#[test]
fn a_node_that_nobody_can_read_is_there() {
    let node = |name: &str, spec: Value| {
        (Key::resource(Kind::Node, None, name), json!({"metadata": {"name": name}, "spec": spec}))
    };
    let block: ipnet::IpNet = "10.65.0.0/26".parse().unwrap();
    let owned = json!({"cidr": "10.65.0.0/26", "affinity": "host:n2", "deleted": false,
        "allocations": [], "unallocated": [], "attributes": []});
    let absent = |second: Value| {
        let objects =
            [node("n1", json!({})), node("n2", second), (Key::Block(block), owned.clone())];
        start(&objects).flush().unwrap().overlay.unwrap().addresses.absence.nodes.len()
    };
    assert_eq!(absent(json!({})), 0);
    assert_eq!(absent(json!({"bgp": 5})), 0, "its addresses are not given back");
}
