//! What each verb does, and what is left after each failure.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use calico_cni::engine::{Evidence, NetworkError, PodNetwork as _, Verdict};
use calico_cni::protocol::{PROTOCOL, Plugin, Request};
use calico_cni::spec::{Call, Verb};
use calico_core::datastore::StoreError;
use calico_core::key::{Key, Scope};
use calico_core::memory::MemoryStore;
use calico_core::resource::WorkloadEndpoint;
use calico_core::testing::{Call as StoreCall, Fault, FaultyStore};
use calico_core::{Datastore, Kind};
use common::{NODE, Node, addresses, config, pool, with};
use serde_json::{Value, json};

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
async fn every_failure_of_an_add_has_its_code_and_leaves_nothing() {
    let node = Node::new().await;
    let base = config("1.1.0");
    let sandbox = node.sandbox("c");
    let mut vanished = sandbox.clone();
    vanished.netns = "/nowhere/at/all".into();
    let manual = r#"{"cidr":"10.99.0.0/30","blockSize":30,"assignmentMode":"Manual"}"#;
    pool(&node.memory, "small", manual).await;
    let mut small = base.clone();
    small["ipam"]["ipv4_pools"] = json!(["small"]);
    for n in 0..4 {
        node.call(Verb::Add, &small, &node.sandbox(&format!("fill{n}"))).await.unwrap();
    }
    let before = (node.endpoints().await, node.handles().await, node.network.names());

    let mut nowhere = base.clone();
    nowhere["ipam"]["ipv4_pools"] = json!(["10.200.0.0/16"]);
    let mut delegate = base.clone();
    delegate["ipam"]["type"] = "host-local".into();
    for (conf, call, code, words) in [
        (with(base.clone(), "cniVersion", json!("7.0.0")), &sandbox, 1, "7.0.0"),
        (delegate, &sandbox, 2, "host-local"),
        (base.clone(), &vanished, 3, "/nowhere/at/all"),
        (with(base.clone(), "mtu", json!("much")), &sandbox, 6, "mtu"),
        (with(base.clone(), "nodename", json!("other")), &sandbox, 7, "this is node node1"),
        (small, &sandbox, 101, "IP pool small (10.99.0.0/30, 4 of 4 used)"),
        (nowhere, &sandbox, 101, "no IPv4 pool 10.200.0.0/16"),
    ] {
        let error = node.call(Verb::Add, &conf, call).await.unwrap_err();
        assert_eq!(error["code"], code, "{error}");
        assert!(error.to_string().contains(words), "{error}");
        let after = (node.endpoints().await, node.handles().await, node.network.names());
        assert_eq!(after, before, "{error}");
    }

    *node.network.refuse.lock().unwrap() = Some(NetworkError::Failed("no veth".into()));
    let error = node.call(Verb::Add, &base, &sandbox).await.unwrap_err();
    assert_eq!((&error["code"], &error["details"]), (&json!(102), &json!("no veth")));
    *node.network.refuse.lock().unwrap() = Some(NetworkError::NetnsGone("gone".into()));
    assert_eq!(node.call(Verb::Add, &base, &sandbox).await.unwrap_err()["code"], 3);
    *node.network.refuse.lock().unwrap() = None;
    *node.policy.refuse.lock().unwrap() = Some("not in force after 20s".into());
    let error = node.call(Verb::Add, &base, &sandbox).await.unwrap_err();
    assert_eq!(error["code"], 103);
    let after = (node.endpoints().await, node.handles().await, node.network.names());
    assert_eq!(after, before);

    let locked = r#"{"metadata":{"name":"default"},"spec":{"datastoreReady":false}}"#;
    let key = Key::resource(Kind::ClusterInformation, None, "default");
    node.memory.put(key, locked.into()).await.unwrap();
    let error = node.call(Verb::Add, &base, &sandbox).await.unwrap_err();
    assert_eq!(error["code"], 11);
    assert_eq!(node.call(Verb::Status, &base, &sandbox).await.unwrap_err()["code"], 50);
}

/// A node whose store can be cut off.
async fn fragile() -> (Node, Arc<AtomicBool>) {
    let memory = MemoryStore::new();
    let cut = Arc::new(AtomicBool::new(false));
    let is_cut = Arc::clone(&cut);
    let store = FaultyStore::new(Arc::new(memory.clone()), move |_, call| match call {
        StoreCall::Watch(_) => Fault::None,
        _ if is_cut.load(Ordering::Relaxed) => {
            Fault::Fail(StoreError::Unavailable { reason: "cut off".into() })
        }
        _ => Fault::None,
    });
    (Node::on(memory, Arc::new(store)).await, cut)
}

#[tokio::test]
async fn a_del_works_without_the_datastore_and_is_finished_later() {
    let (node, cut) = fragile().await;
    let pod = node.pod("a", "web");
    node.call(Verb::Add, &config("1.1.0"), &pod).await.unwrap();
    cut.store(true, Ordering::Relaxed);
    let error = node.call(Verb::Add, &config("1.1.0"), &node.pod("b", "db")).await.unwrap_err();
    assert_eq!(error["code"], 11, "{error}");

    assert_eq!(node.call(Verb::Del, &config("1.1.0"), &pod).await, Ok(Value::Null));
    assert!(node.network.names().is_empty(), "the interface goes at once");
    assert_eq!(node.endpoints().await.len(), 1);
    let replayed = node.engine.replay().await.unwrap();
    assert_eq!((replayed.done, replayed.left), (0, 1));

    cut.store(false, Ordering::Relaxed);
    let replayed = node.engine.replay().await.unwrap();
    assert_eq!((replayed.done, replayed.left), (1, 0));
    node.assert_clean().await;
}

#[tokio::test]
async fn a_noted_deletion_spares_the_successor() {
    let (node, cut) = fragile().await;
    let (old, new) = (node.pod("old", "web"), node.pod("new", "web"));
    node.call(Verb::Add, &config("1.1.0"), &old).await.unwrap();
    cut.store(true, Ordering::Relaxed);
    node.call(Verb::Del, &config("1.1.0"), &old).await.unwrap();
    cut.store(false, Ordering::Relaxed);
    node.call(Verb::Add, &config("1.1.0"), &new).await.unwrap();
    assert_eq!(node.engine.replay().await.unwrap().done, 1);
    assert_eq!((node.endpoints().await.len(), node.network.names().len()), (1, 1));
    assert_eq!(node.handles().await, ["net.new"]);
}

#[tokio::test]
async fn a_del_does_not_wait_for_a_store_that_hangs() {
    let memory = MemoryStore::new();
    let hang = Arc::new(AtomicBool::new(false));
    let hangs = Arc::clone(&hang);
    let store = FaultyStore::new(Arc::new(memory.clone()), move |_, call| match call {
        StoreCall::Watch(_) => Fault::None,
        _ if hangs.load(Ordering::Relaxed) => Fault::after(std::future::pending()),
        _ => Fault::None,
    });
    let node = Node::on(memory, Arc::new(store)).await;
    let sandbox = node.sandbox("c");
    node.call(Verb::Add, &config("1.1.0"), &sandbox).await.unwrap();
    hang.store(true, Ordering::Relaxed);
    let conf = config("1.1.0");
    let del = node.call(Verb::Del, &conf, &sandbox);
    let done = tokio::time::timeout(Duration::from_secs(5), del).await;
    assert_eq!(done.expect("a DEL that waits"), Ok(Value::Null));
    hang.store(false, Ordering::Relaxed);
    assert_eq!(node.engine.replay().await.unwrap().done, 1);
    node.assert_clean().await;
}

#[tokio::test]
async fn an_add_that_fails_at_any_call_of_the_store_leaves_nothing() {
    let mut failed = 0;
    for nth in 0.. {
        let memory = MemoryStore::new();
        let armed = Arc::new(AtomicBool::new(false));
        let is_armed = Arc::clone(&armed);
        let mut left = nth;
        let store = FaultyStore::new(Arc::new(memory.clone()), move |_, call| {
            if matches!(call, StoreCall::Watch(_)) || !is_armed.load(Ordering::Relaxed) {
                return Fault::None;
            }
            left -= 1;
            match (left + 1, call) {
                (0, StoreCall::Write(_)) => Fault::LoseReply,
                (0, _) => Fault::unavailable(),
                _ => Fault::None,
            }
        });
        let node = Node::on(memory, Arc::new(store)).await;
        // The node has its blocks and its profile already.
        let first = node.sandbox("first");
        node.call(Verb::Add, &config("1.1.0"), &first).await.unwrap();
        armed.store(true, Ordering::Relaxed);
        let outcome = node.call(Verb::Add, &config("1.1.0"), &node.sandbox("second")).await;
        armed.store(false, Ordering::Relaxed);
        if outcome.is_err() {
            failed += 1;
            // What a lost reply hides, the runtime's DEL finds.
            node.call(Verb::Del, &config("1.1.0"), &node.sandbox("second")).await.unwrap();
        }
        node.call(Verb::Del, &config("1.1.0"), &first).await.unwrap();
        if outcome.is_ok() {
            assert!(failed >= 3, "only {failed} calls of the store were tried");
            break;
        }
        node.engine.replay().await.unwrap();
        node.assert_clean().await;
    }
}

#[tokio::test]
async fn gc_takes_what_the_runtime_no_longer_knows() {
    let node = Node::new().await;
    let (kept, lost) = (node.pod("kept", "web"), node.sandbox("lost"));
    node.call(Verb::Add, &config("1.1.0"), &kept).await.unwrap();
    node.call(Verb::Add, &config("1.1.0"), &lost).await.unwrap();
    // Another network, and another node, are none of its business.
    let other = with(config("1.1.0"), "name", json!("other"));
    node.call(Verb::Add, &other, &node.sandbox("third")).await.unwrap();
    let orphan = calico_ipam::AssignRequest::new(NODE).handle("net.orphan").attribute("node", NODE);
    node.engine.addresses().auto_assign(orphan.v4(1)).await.unwrap();
    let remote = calico_ipam::AssignRequest::new("far").handle("net.far").attribute("node", "far");
    node.engine.addresses().ipam().auto_assign(remote.v4(1)).await.unwrap();

    let gc = with(
        config("1.1.0"),
        "cni.dev/valid-attachments",
        json!([{ "containerID": "kept", "ifname": "eth0" }]),
    );
    assert_eq!(node.call(Verb::Gc, &gc, &kept).await, Ok(Value::Null));
    assert_eq!(node.endpoints().await, ["node1-cni-third-eth0", "node1-k8s-web-eth0"]);
    assert_eq!(node.handles().await, ["net.far", "net.kept", "other.third"]);
    assert_eq!(node.network.names().len(), 2);
    let error = node.call(Verb::Gc, &config("1.1.0"), &kept).await.unwrap_err();
    assert_eq!(error["code"], 7);
}

#[tokio::test]
async fn status_says_whether_an_add_can_be_served() {
    let (node, cut) = fragile().await;
    let call = node.sandbox("c");
    assert_eq!(node.call(Verb::Status, &config("1.1.0"), &call).await, Ok(Value::Null));
    cut.store(true, Ordering::Relaxed);
    let error = node.call(Verb::Status, &config("1.1.0"), &call).await.unwrap_err();
    assert_eq!(error["code"], 50);
    cut.store(false, Ordering::Relaxed);
    for name in ["four", "six"] {
        node.memory.delete(Key::resource(Kind::IpPool, None, name), None).await.unwrap();
    }
    let error = node.call(Verb::Status, &config("1.1.0"), &call).await.unwrap_err();
    assert!(error.to_string().contains("create one"), "{error}");
}

#[tokio::test]
async fn many_adds_at_once_get_different_addresses() {
    let node = Node::new().await;
    let conf = config("1.1.0");
    let calls: Vec<_> = (0..100).map(|n| node.pod(&format!("c{n}"), &format!("p{n}"))).collect();
    let adds = calls.iter().map(|call| node.call(Verb::Add, &conf, call));
    let results = futures_util::future::join_all(adds).await;
    let all: std::collections::BTreeSet<_> =
        results.iter().flat_map(|result| addresses(result.as_ref().unwrap())).collect();
    assert_eq!(all.len(), 200);
    let dels = calls.iter().map(|call| node.call(Verb::Del, &conf, call));
    assert!(futures_util::future::join_all(dels).await.iter().all(Result::is_ok));
    node.assert_clean().await;
}

#[tokio::test]
async fn an_add_is_one_write_and_a_burst_is_few() {
    let memory = MemoryStore::new();
    let writes = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counted = Arc::clone(&writes);
    let store = FaultyStore::new(Arc::new(memory.clone()), move |_, call| {
        if matches!(call, StoreCall::Write(_)) {
            counted.fetch_add(1, Ordering::Relaxed);
        }
        // Others get to run, as they do while a real store works.
        Fault::after(tokio::task::yield_now())
    });
    let node = Node::on(memory, Arc::new(store)).await;
    let conf = config("1.1.0");
    // The first claims blocks and makes the profile.
    node.call(Verb::Add, &conf, &node.pod("first", "first")).await.unwrap();
    writes.store(0, Ordering::Relaxed);
    node.call(Verb::Add, &conf, &node.pod("second", "second")).await.unwrap();
    assert_eq!(writes.swap(0, Ordering::Relaxed), 1, "handle, blocks and endpoint together");

    let calls: Vec<_> = (0..50).map(|n| node.pod(&format!("c{n}"), &format!("p{n}"))).collect();
    let adds = calls.iter().map(|call| node.call(Verb::Add, &conf, call));
    let results = futures_util::future::join_all(adds).await;
    assert!(results.iter().all(Result::is_ok));
    let adds = writes.load(Ordering::Relaxed);
    assert!(adds <= 5, "{adds} writes for 50 ADDs at once");
    assert_eq!(node.endpoints().await.len(), 52);

    writes.store(0, Ordering::Relaxed);
    node.call(Verb::Del, &conf, &node.pod("second", "second")).await.unwrap();
    assert_eq!(writes.swap(0, Ordering::Relaxed), 1, "endpoint, blocks and handle together");
    let dels = calls.iter().map(|call| node.call(Verb::Del, &conf, call));
    assert!(futures_util::future::join_all(dels).await.iter().all(Result::is_ok));
    let writes = writes.swap(0, Ordering::Relaxed);
    assert!(writes <= 5, "{writes} writes for 50 DELs at once");
    node.call(Verb::Del, &conf, &node.pod("first", "first")).await.unwrap();
    node.assert_clean().await;
}

#[tokio::test]
async fn a_caller_that_is_gone_before_its_turn_gets_nothing() {
    let node = Node::new().await;
    for plugin in [Plugin::Main, Plugin::Ipam] {
        let request = Request {
            protocol: PROTOCOL,
            plugin,
            verb: Verb::Add,
            call: node.sandbox("a"),
            config: config("1.1.0").to_string(),
        };
        let response = node.engine.handle_for(&request, &|| true).await;
        assert!(response.failed, "{response:?}");
        node.assert_clean().await;
    }
}

#[tokio::test]
async fn an_old_deletion_does_not_hit_a_container_that_started_again() {
    let node = Node::new().await;
    let call = node.sandbox("a");
    let config = config("1.1.0");
    node.call(Verb::Add, &config, &call).await.unwrap();
    // Its DEL could only be noted; then the container starts again, under its old id.
    let request = Request {
        protocol: PROTOCOL,
        plugin: Plugin::Main,
        verb: Verb::Del,
        call: call.clone(),
        config: config.to_string(),
    };
    node.journal().note("net", &request).unwrap();
    node.call(Verb::Add, &config, &call).await.unwrap();
    assert_eq!(node.engine.replay().await.unwrap().done, 0);
    assert_eq!((node.network.names().len(), node.endpoints().await.len()), (1, 1));
    node.call(Verb::Del, &config, &call).await.unwrap();
    node.assert_clean().await;
}

/// Frees what two sources say is gone; the clock goes on by an hour first.
async fn reconcile(node: &Node, dry_run: bool) -> Vec<(Verdict, Evidence)> {
    let found = node.engine.reconcile(dry_run).await.unwrap();
    assert!(!found.busy);
    found.suspects.into_iter().map(|suspect| (suspect.verdict, suspect.evidence)).collect()
}

#[tokio::test]
async fn addresses_whose_container_is_gone_are_freed_and_others_stay() {
    let node = Node::new().await;
    let config = config("1.1.0");
    let (lost, alive, young) = (node.pod("lost", "a"), node.sandbox("alive"), node.sandbox("b"));
    for call in [&lost, &alive] {
        node.call(Verb::Add, &config, call).await.unwrap();
    }
    assert_eq!(reconcile(&node, false).await, []);
    node.later(Duration::from_secs(3600));
    node.call(Verb::Add, &config, &young).await.unwrap();
    // A reboot, or a runtime that forgot: interface and namespace are gone, the rest is not.
    for call in [&lost, &young] {
        node.network.teardown(None, Some(&call.netns), "eth0").await.unwrap();
        std::fs::remove_file(&call.netns).unwrap();
    }
    let evidence = |age| Evidence {
        endpoint: true,
        interface: false,
        namespace: Some(false),
        age: Some(Duration::from_secs(age)),
    };
    let kept = (Verdict::Kept, evidence(0));
    assert_eq!(reconcile(&node, true).await, [kept.clone(), (Verdict::WouldFree, evidence(3600))]);
    assert_eq!(node.endpoints().await.len(), 3, "a dry run changes nothing");
    assert_eq!(reconcile(&node, false).await, [kept.clone(), (Verdict::Freed, evidence(3600))]);
    assert_eq!(reconcile(&node, false).await, [kept]);
    node.later(Duration::from_secs(61));
    assert_eq!(reconcile(&node, false).await, [(Verdict::Freed, evidence(61))]);

    // The container that is there is so in every respect.
    let after = with(config.clone(), "prevResult", json!({ "ips": [] }));
    node.call(Verb::Check, &after, &alive).await.unwrap();
    node.call(Verb::Del, &config, &alive).await.unwrap();
    node.assert_clean().await;
}

#[tokio::test]
async fn a_successor_is_not_taken_for_its_predecessor() {
    let node = Node::new().await;
    let config = config("1.1.0");
    let (old, new) = (node.pod("old", "web-0"), node.pod("new", "web-0"));
    node.call(Verb::Add, &config, &old).await.unwrap();
    node.call(Verb::Add, &config, &new).await.unwrap();
    std::fs::remove_file(&old.netns).unwrap();
    node.later(Duration::from_secs(3600));
    let found = reconcile(&node, false).await;
    assert_eq!(found.iter().map(|(verdict, _)| verdict).collect::<Vec<_>>(), [&Verdict::Freed]);
    let handles = node.handles().await;
    assert_eq!(handles, ["net.new"]);
    node.call(Verb::Del, &config, &new).await.unwrap();
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
    node.call(Verb::Check, &with(conf.clone(), "prevResult", result), &one).await.unwrap();

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
