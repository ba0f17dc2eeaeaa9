//! Containers that went without a DEL.

use std::time::Duration;

use calico_cni::engine::{Evidence, PodNetwork as _, Verdict};
use calico_cni::spec::Verb;
use serde_json::{Value, json};

use super::common::{NODE, Node, config, with};

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

/// Frees what two sources say is gone; the clock goes on by an hour first.
pub(super) async fn reconcile(node: &Node, dry_run: bool) -> Vec<(Verdict, Evidence)> {
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
