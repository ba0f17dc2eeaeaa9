//! What an ADD makes, and a DEL takes away.

use std::time::Duration;

use calico_cni::spec::{Call, Verb};
use calico_core::key::{Key, Scope};
use calico_core::resource::WorkloadEndpoint;
use calico_core::{Datastore, Kind};
use serde_json::{Value, json};

use super::common::{Node, addresses, config, with};
use super::gone::reconcile;

#[tokio::test]
async fn an_add_leaves_its_traces_and_a_del_takes_them_away() {
    let node = Node::new().await;
    let pod = node.pod("0f3c", "web-0");
    let result = node.call(Verb::Add, &config("1.1.0"), &pod).await.unwrap();
    let host = result["interfaces"][0]["name"].as_str().unwrap();
    assert_eq!(host, "cali0d7763386da");
    assert_eq!(result["interfaces"][1]["sandbox"], pod.netns.to_str().unwrap());
    assert_eq!((result["ips"][0]["interface"].as_u64(), addresses(&result).len()), (Some(1), 2));

    let key = Key::resource(Kind::WorkloadEndpoint, Some("default"), "node1-k8s-web--0-eth0");
    let entry = node.memory.get(&key).await.unwrap();
    let stored: Value = serde_json::from_str(&entry.value).unwrap();
    assert_eq!(stored["spec"]["containerID"], "0f3c");
    assert_eq!(stored["spec"]["interfaceName"], host);
    assert_eq!(stored["spec"]["ipNetworks"], json!(addresses(&result)));
    assert_eq!(stored["spec"]["mac"], result["interfaces"][1]["mac"]);
    assert_eq!(stored["spec"]["profiles"], json!(["kns.default"]));
    assert_eq!(stored["metadata"]["labels"]["projectcalico.org/namespace"], "default");
    assert_eq!(node.handles().await, ["net.0f3c"]);
    assert_eq!(*node.policy.asked.lock().unwrap(), ["default/node1-k8s-web--0-eth0"]);
    // Without a controller, the namespace's profile is made, or nothing would be allowed.
    assert!(node.memory.get(&Key::resource(Kind::Profile, None, "kns.default")).await.is_ok());

    let check = with(config("1.1.0"), "prevResult", result.clone());
    assert_eq!(node.call(Verb::Check, &check, &pod).await, Ok(Value::Null));
    for _ in 0..2 {
        assert_eq!(node.call(Verb::Del, &check, &pod).await, Ok(Value::Null));
        node.assert_clean().await;
    }
    let gone = node.call(Verb::Check, &check, &pod).await.unwrap_err();
    assert_eq!(gone["code"], 102);
}

#[tokio::test]
async fn every_version_is_answered_in_its_form() {
    let node = Node::new().await;
    for version in ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let sandbox = node.sandbox("c");
        let result = node.call(Verb::Add, &config(version), &sandbox).await.unwrap();
        assert_eq!(result["cniVersion"], version);
        assert_eq!(result.get("ip4").is_some(), version < "0.3.0");
        assert_eq!(
            result["ips"][0].get("version").is_some(),
            ("0.3.0".."1.0.0").contains(&version)
        );
        let del = with(config(version), "prevResult", result);
        node.call(Verb::Del, &del, &sandbox).await.unwrap();
    }
    node.assert_clean().await;
    // CHECK, GC and STATUS came with later versions.
    for (verb, version) in [(Verb::Check, "0.3.1"), (Verb::Gc, "1.0.0"), (Verb::Status, "1.0.0")] {
        let error = node.call(verb, &config(version), &node.sandbox("c")).await.unwrap_err();
        assert_eq!(error["code"], 1, "{verb:?}");
    }
}

#[tokio::test]
async fn a_container_without_orchestrator_is_known_by_its_id() {
    let node = Node::new().await;
    let labelled = with(
        config("1.0.0"),
        "args",
        json!({ "cni": { "labels": [{ "key": "app", "value": "web" }] } }),
    );
    let result = node.call(Verb::Add, &labelled, &node.sandbox("0123456789abcdef")).await.unwrap();
    assert_eq!(result["interfaces"][0]["name"], "cali0123456789a");
    assert_eq!(node.endpoints().await, ["node1-cni-0123456789abcdef-eth0"]);
    let key = Key::resource(Kind::WorkloadEndpoint, Some("default"), &node.endpoints().await[0]);
    let stored: Value = serde_json::from_str(&node.memory.get(&key).await.unwrap().value).unwrap();
    assert_eq!(stored["metadata"]["labels"]["app"], "web");
    assert_eq!(stored["spec"]["profiles"], json!(["net"]));
    let profile = node.memory.get(&Key::resource(Kind::Profile, None, "net")).await.unwrap();
    let profile: Value = serde_json::from_str(&profile.value).unwrap();
    assert_eq!(profile["spec"]["ingress"][0]["source"]["selector"], "has(net)");
    assert_eq!(profile["spec"]["labelsToApply"], json!({ "net": "" }));
}

#[tokio::test]
async fn a_repeated_add_answers_the_same() {
    let node = Node::new().await;
    let pod = node.pod("a", "web");
    let first = node.call(Verb::Add, &config("1.1.0"), &pod).await.unwrap();
    assert_eq!(node.call(Verb::Add, &config("1.1.0"), &pod).await.unwrap(), first);
    // Even a repetition that fails harms nothing of what is there.
    *node.policy.refuse.lock().unwrap() = Some("no".into());
    assert!(node.call(Verb::Add, &config("1.1.0"), &pod).await.is_err());
    assert_eq!((node.endpoints().await.len(), node.network.names().len()), (1, 1));
    *node.policy.refuse.lock().unwrap() = None;
    node.call(Verb::Del, &config("1.1.0"), &pod).await.unwrap();
    node.assert_clean().await;
}

#[tokio::test]
async fn interfaces_of_one_container_come_and_go_on_their_own() {
    let node = Node::new().await;
    let conf = config("1.1.0");
    let first = node.pod("sandbox", "web-0");
    let second = Call { ifname: "net1".into(), ..first.clone() };
    let own = addresses(&node.call(Verb::Add, &conf, &first).await.unwrap());
    let others = addresses(&node.call(Verb::Add, &conf, &second).await.unwrap());
    assert!(own.iter().all(|address| !others.contains(address)), "{own:?} {others:?}");
    assert_eq!(node.handles().await, ["net.sandbox", "net.sandbox.net1"]);
    assert_eq!(node.endpoints().await.len(), 2);

    // Nothing of one is garbage while the other is there, nor for a GC that keeps both.
    node.later(Duration::from_secs(3600));
    assert_eq!(reconcile(&node, false).await, []);
    let keep = json!([
        { "containerID": "sandbox", "ifname": "eth0" }, { "containerID": "sandbox", "ifname": "net1" },
    ]);
    let collect = with(conf.clone(), "cni.dev/valid-attachments", keep);
    node.call(Verb::Gc, &collect, &Call::default()).await.unwrap();
    assert_eq!(node.handles().await.len(), 2);

    node.call(Verb::Del, &conf, &second).await.unwrap();
    assert_eq!(node.handles().await, ["net.sandbox"]);
    assert_eq!(addresses(&node.call(Verb::Add, &conf, &first).await.unwrap()), own);

    // Upstream had given a further interface the handle of all: its addresses go, ours stay.
    let ipam = node.engine.addresses().ipam();
    let upstreams = calico_ipam::AssignRequest::new("node1").handle("net.sandbox").v4(1);
    ipam.auto_assign(upstreams).await.unwrap();
    node.call(Verb::Del, &conf, &second).await.unwrap();
    assert_eq!(ipam.addresses_by_handle("net.sandbox").await.unwrap().len(), own.len());
    node.call(Verb::Del, &conf, &first).await.unwrap();
    node.assert_clean().await;
}

#[tokio::test]
async fn a_new_sandbox_of_a_pod_takes_over_from_the_old_one() {
    let node = Node::new().await;
    let (old, new) = (node.pod("old", "web"), node.pod("new", "web"));
    let first = node.call(Verb::Add, &config("1.1.0"), &old).await.unwrap();
    let second = node.call(Verb::Add, &config("1.1.0"), &new).await.unwrap();
    assert_ne!(addresses(&first), addresses(&second));
    // The old sandbox goes late, and takes neither endpoint nor interface of the new one along.
    node.call(Verb::Del, &config("1.1.0"), &old).await.unwrap();
    assert_eq!((node.endpoints().await.len(), node.network.names().len()), (1, 1));
    assert_eq!(node.handles().await, ["net.new"]);
    let check = with(config("1.1.0"), "prevResult", second);
    node.call(Verb::Check, &check, &new).await.unwrap();
    node.call(Verb::Del, &config("1.1.0"), &new).await.unwrap();
    node.assert_clean().await;
}

#[tokio::test]
async fn a_container_gets_the_addresses_it_asks_for() {
    let node = Node::new().await;
    let conf = with(
        config("1.1.0"),
        "runtimeConfig",
        json!({
            "ips": ["10.65.7.7/16"], "mac": "02:00:5e:10:00:01",
            "bandwidth": { "ingressRate": 1_000_000, "egressRate": 0 },
        }),
    );
    let one = node.sandbox("one");
    let result = node.call(Verb::Add, &conf, &one).await.unwrap();
    assert_eq!(addresses(&result), ["10.65.7.7/32"]);
    assert_eq!(result["interfaces"][1]["mac"], "02:00:5e:10:00:01");
    assert_eq!(node.call(Verb::Add, &conf, &one).await.unwrap(), result, "a repeated ADD");
    let endpoint: WorkloadEndpoint =
        node.memory.list(&Scope::Kind(Kind::WorkloadEndpoint)).await.unwrap().entries[0]
            .decode()
            .unwrap();
    assert_eq!(endpoint.spec.qos_controls.unwrap().ingress_bandwidth, 1_000_000);
    let check = with(conf.clone(), "prevResult", result);
    node.call(Verb::Check, &check, &one).await.unwrap();
    // Its limits are looked at, those by rules and those by queues.
    *node.policy.limits.lock().unwrap() = Some(calico_core::dataplane::Limits::default());
    let error = node.call(Verb::Check, &check, &one).await.unwrap_err();
    assert!(error.to_string().contains("is unlimited"), "{error}");
    *node.policy.limits.lock().unwrap() = None;
    for spec in node.network.interfaces.lock().unwrap().values_mut() {
        spec.limits = calico_core::dataplane::Limits::default();
    }
    assert_eq!(node.call(Verb::Check, &check, &one).await.unwrap_err()["code"], 102);

    // Somebody else has it: told so, and nothing is left of the attempt.
    let error = node.call(Verb::Add, &conf, &node.sandbox("two")).await.unwrap_err();
    assert_eq!(error["code"], 101, "{error}");
    assert!(error["details"].as_str().unwrap().contains("in use by handle net.one"), "{error}");
    assert_eq!((node.handles().await.len(), node.endpoints().await.len()), (1, 1));

    // Another wish by the same container replaces the address.
    let other = with(conf, "runtimeConfig", json!({ "ips": ["10.65.7.8"] }));
    let result = node.call(Verb::Add, &other, &one).await.unwrap();
    assert_eq!(addresses(&result), ["10.65.7.8/32"]);
    node.call(Verb::Del, &other, &one).await.unwrap();
    node.assert_clean().await;
}
