//! What is left after each failure.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use calico_cni::engine::NetworkError;
use calico_cni::protocol::{PROTOCOL, Plugin, Request};
use calico_cni::spec::Verb;
use calico_core::datastore::StoreError;
use calico_core::key::Key;
use calico_core::memory::MemoryStore;
use calico_core::testing::{Call as StoreCall, Fault, FaultyStore};
use calico_core::{Datastore, Kind};
use serde_json::{Value, json};

use super::common::{Node, config, pool, with};

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
pub(super) async fn fragile() -> (Node, Arc<AtomicBool>) {
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
