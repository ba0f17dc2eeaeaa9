//! Limits of a pod's traffic, changed in the datastore while the pod runs, come into force on its
//! node and go again.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::process::Command;

use calico_lab::Lab;
use calico_netlink::netns::Netns;
use common::{assert_gone, eventually, lab_name, topology, turn};
use serde_json::Value;

#[tokio::test]
async fn limits_of_a_pod_follow_its_endpoint() {
    let Some(_turn) = turn() else { return };
    let name = lab_name("limits");
    let (topology, text) = topology("mesh.yaml", &name);
    let lab = Lab::up(topology, &text).await.unwrap();
    let list = lab.calicoctl(&["get", "workloadendpoints", "-A", "-o", "json"]).await.unwrap();
    let list: Value = serde_json::from_str(&list).unwrap();
    let endpoints = list["items"].as_array().unwrap();
    let endpoint = endpoints.iter().find(|one| one["spec"]["node"] == "node1").expect("a pod");
    let part = |path: &str| endpoint.pointer(path).and_then(Value::as_str).unwrap();
    let (pod, namespace) = (part("/metadata/name"), part("/metadata/namespace"));
    let interface = part("/spec/interfaceName");
    let node = Netns::named(&lab.namespace("node1")).unwrap();
    let run = |program: &str, arguments: &[&str]| {
        let work = || Command::new(program).args(arguments).output().unwrap();
        String::from_utf8(node.run(work).unwrap().stdout).unwrap()
    };
    let rules = || run("nft", &["list", "table", "inet", "calico"]);
    let queues = || run("tc", &["qdisc", "show", "dev", interface]);

    let patch = |qos: &'static str| {
        let lab = &lab;
        async move {
            let patch = format!(r#"{{"spec": {{"qosControls": {qos}}}}}"#);
            let command = ["patch", "workloadendpoint", pod, "-n", namespace, "-p", &patch];
            lab.calicoctl(&command).await.unwrap()
        }
    };
    patch(
        r#"{"ingressBandwidth": 8000000, "egressBandwidth": 4000000, "egressPacketRate": 1000,
              "egressMaxConnections": 77}"#,
    )
    .await;
    eventually("the bandwidth is limited", || {
        queues().contains("rate 8Mbit") && queues().contains("ingress")
    });
    eventually("packets and connections are limited", || {
        let rules = rules();
        rules.contains("limit rate over 1000/second") && rules.contains("ct count over 77")
    });
    patch("null").await;
    eventually("nothing is limited", || {
        let (rules, queues) = (rules(), queues());
        !rules.contains("limit rate") && !rules.contains("ct count") && !queues.contains("tbf")
    });
    assert!(!run("ip", &["-brief", "link"]).contains("bwcali"));
    lab.remove().unwrap();
    assert_gone(&name);
}
