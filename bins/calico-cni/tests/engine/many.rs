//! Many calls at once, and whether calls are served.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use calico_cni::protocol::{PROTOCOL, Plugin, Request};
use calico_cni::spec::Verb;
use calico_core::key::Key;
use calico_core::memory::MemoryStore;
use calico_core::testing::{Call as StoreCall, Fault, FaultyStore};
use calico_core::{Datastore, Kind};
use serde_json::Value;

use super::common::{Node, addresses, config};
use super::failures::fragile;

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
