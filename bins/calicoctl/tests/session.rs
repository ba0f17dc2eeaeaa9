//! One session at the command line, on every kind of datastore: the answers are the same.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use calico_core::Datastore;
use calico_core::resource::{
    ClusterInformation, ClusterInformationSpec, IpPool, IpPoolSpec, Profile, Resource, Spec, Tier,
};
use calico_datastore::conversion::{self, ApiGroup};
use calico_ipam::{AssignRequest, Ipam, Options};
use calico_test_servers::cluster;
use common::Backend;
use serde_json::Value;

/// Runs one command: the command line, what it prints, and how it ends.
fn run(backend: &Backend, line: &str) -> String {
    let directory = backend.dir.path().to_string_lossy();
    let line = line.replace("DIR", &directory);
    let (words, stdin) = line.split_once(" <<< ").unwrap_or((&line, ""));
    let output = backend.calicoctl(&split(words), stdin);
    let code = output.status.code().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let (out, err) = (text(output.stdout), text(output.stderr));
    let said = format!("$ calicoctl {line}\n{out}{err}[exit code {code}]\n");
    without_chance(&said.replace(&*directory, "DIR"))
}

/// Leaves out what differs from run to run: identities, times, revisions.
fn without_chance(said: &str) -> String {
    let mut lines = Vec::new();
    for line in said.lines() {
        let mut line = line.to_owned();
        for field in [
            "uid",
            "creationTimestamp",
            "resourceVersion",
            "Revision",
            "sequenceNumber",
            "clusterInformationRevision",
        ] {
            for start in [format!("{field}: "), format!("\"{field}\": ")] {
                if let Some(at) = line.find(&start) {
                    let comma = if line.ends_with(',') { "," } else { "" };
                    line.truncate(at + start.len());
                    line = format!("{line}...{comma}");
                }
            }
        }
        for field in ["uid", "creationTimestamp"] {
            // In JSON without spaces.
            let start = format!("\"{field}\":\"");
            while let Some(at) = line.find(&start) {
                let end = line[at + start.len()..].find('"').unwrap();
                line.replace_range(at..at + start.len() + end + 1, &format!("\"{field}\":..."));
            }
        }
        if let Some(at) = line.find("is at resourceVersion") {
            line.truncate(at);
        }
        lines.push(line);
    }
    lines.join("\n") + "\n"
}

/// Words of a command line; quotes hold together.
fn split(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for c in line.chars() {
        match c {
            '\'' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            c => words.last_mut().unwrap().push(c),
        }
    }
    words
}

const NODE: &str =
    r#"{"metadata":{"name":"node1","uid":"u","creationTimestamp":"2026-01-01T00:00:00Z"}}"#;
const POD: &str = r#"{"metadata":{"name":"web-1","namespace":"prod","uid":"u","creationTimestamp":"2026-01-01T00:00:00Z"},
    "spec":{"nodeName":"node1","containers":[{"name":"c","image":"i"}]}}"#;
const POD_STATUS: &str = r#"{"status":{"podIP":"10.99.0.0","podIPs":[{"ip":"10.99.0.0"}]}}"#;

/// What a cluster has before Calico comes: a node, and a pod on it. Returns its namespaces.
async fn prepare(cluster: &cluster::Cluster) -> Vec<Value> {
    let json = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    cluster.must("POST", "/api/v1/nodes", json(NODE)).await;
    const PODS: &str = "/api/v1/namespaces/prod/pods";
    cluster.must("POST", PODS, json(POD)).await;
    cluster.must("PATCH", &format!("{PODS}/web-1/status"), json(POD_STATUS)).await;
    let namespaces = cluster.must("GET", "/api/v1/namespaces", Value::Null).await;
    namespaces["items"].as_array().unwrap().clone()
}

/// The same in other datastores: there, controllers have copied it.
async fn copy(store: &dyn Datastore, namespaces: &[Value]) {
    let node: conversion::KubernetesNode = serde_json::from_str(NODE).unwrap();
    let node = conversion::node(&node, false).resource;
    store.create(node.key(), node.to_json()).await.unwrap();
    let mut pod: Value = serde_json::from_str(POD).unwrap();
    pod["status"] = serde_json::from_str::<Value>(POD_STATUS).unwrap()["status"].clone();
    let pod: conversion::Pod = serde_json::from_value(pod).unwrap();
    let endpoint = conversion::workload_endpoint(&pod, "cali").unwrap().resource;
    store.create(endpoint.key(), endpoint.to_json()).await.unwrap();
    for namespace in namespaces {
        let namespace = serde_json::from_value(namespace.clone()).unwrap();
        let profile = conversion::namespace_profile(&namespace);
        store.create(profile.key(), profile.to_json()).await.unwrap();
    }
    let profile = Profile::default_allow();
    store.create(profile.key(), profile.to_json()).await.unwrap();
}

/// A resource as clients write it.
async fn create<S: Spec>(store: &dyn Datastore, mut resource: Resource<S>) {
    resource.apply_defaults();
    resource.metadata.uid = "u".to_owned();
    resource.metadata.creation_timestamp = Some("2026-01-01T00:00:00Z".to_owned());
    store.create(resource.key(), resource.to_json()).await.unwrap();
}

/// What an agent finds or makes: the cluster's identity, tiers, and some addresses.
async fn fill(store: Arc<dyn Datastore>) {
    let spec = ClusterInformationSpec {
        cluster_guid: "0123456789abcdef".to_owned(),
        cluster_type: "test".to_owned(),
        calico_version: "v3.32.0".to_owned(),
        datastore_ready: Some(true),
        ..ClusterInformationSpec::default()
    };
    create(&*store, ClusterInformation::new("default", spec)).await;
    for tier in Tier::built_in() {
        create(&*store, tier).await;
    }
    let spec = IpPoolSpec::new("10.99.0.0/26".parse().unwrap());
    create(&*store, IpPool::new("small", spec)).await;
    // Times and sequence numbers are the same in every run.
    let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let options = Options { clock: Arc::new(move || start), ..Options::default() };
    let ipam = Ipam::new(store, options);
    for pod in ["web-1", "web-2"] {
        let request = AssignRequest::new("node1").handle(format!("net.{pod}")).v4(1);
        let request = request.attribute("node", "node1").attribute("pod", pod);
        ipam.auto_assign(request.attribute("namespace", "prod")).await.unwrap();
    }
}

const MANIFEST: &str = "{kind: List, apiVersion: v1, items: [\
    {apiVersion: projectcalico.org/v3, kind: IPPool, metadata: {name: main}, spec: {cidr: 10.65.0.0/24}}, \
    {apiVersion: projectcalico.org/v3, kind: Tier, metadata: {name: security}, spec: {order: 5}}, \
    {apiVersion: projectcalico.org/v3, kind: NetworkPolicy, metadata: {name: web, namespace: prod}, \
     spec: {tier: security, order: 1.5, selector: app == 'web', ingress: [{action: Allow}]}}]}";

/// A node that says how it is reached, and what Kubernetes says of it.
const AGENT: &str = "{apiVersion: projectcalico.org/v3, kind: Node, metadata: {name: node1}, \
    spec: {bgp: {ipv4Address: 192.0.2.1/24}, orchRefs: [{nodeName: node1, orchestrator: k8s}], \
    addresses: [{address: 192.0.2.1/24, type: CalicoNodeIP}]}}";

/// A policy for the pod, and another one of its name.
const POLICY: &str = "{apiVersion: projectcalico.org/v3, kind: NetworkPolicy, \
    metadata: {name: ports, namespace: prod}, spec: {selector: all(), ingress: [\
    {action: Allow, protocol: TCP, source: {nets: [203.0.113.0/24]}, destination: {ports: [80]}}]}}";
const WIDER: &str = "{apiVersion: projectcalico.org/v3, kind: NetworkPolicy, \
    metadata: {name: ports, namespace: prod}, spec: {selector: all(), ingress: [\
    {action: Allow, protocol: TCP, source: {nets: [203.0.113.0/24]}, destination: {ports: ['80:90']}}]}}";

/// The session. `<<< MANIFEST` is what comes through the standard input.
const SESSION: &[&str] = &[
    "version",
    "get tiers",
    "diff -f - <<< MANIFEST",
    "apply -f - --dry-run <<< MANIFEST",
    "get ippools",
    "create -f - <<< MANIFEST",
    "create -f - <<< MANIFEST",
    "create -f - --skip-exists <<< MANIFEST",
    "diff -f - <<< MANIFEST",
    "apply -f - <<< MANIFEST",
    "replace -f - <<< MANIFEST",
    "apply -f - <<< AGENT",
    "apply -f - <<< {kind: IPPool, apiVersion: projectcalico.org/v3, metadata: {name: other}, spec: {cidr: 10.65.0.0/16}}",
    "apply -f - <<< {kind: IPPool, apiVersion: projectcalico.org/v3, metadata: {name: main}, spec: {cidr: 10.66.0.0/24}}",
    "apply -f - <<< {kind: NetworkPolicy, apiVersion: projectcalico.org/v3, metadata: {name: x}, spec: {tier: nowhere}}",
    "apply -f - <<< {kind: IPPool, apiVersion: projectcalico.org/v3, metadata: {name: main}, spec: {cidr: 10.65.0.0/24, natOutgoin: true}}",
    "get ippool -o wide",
    "get networkpolicy -A",
    "get np web -n prod -o yaml",
    "get np web -n prod -o yaml --export",
    "get wep -n prod -o json",
    "policy explain --from 203.0.113.5 --to prod/web-1:80",
    "policy diff -f - <<< POLICY",
    "apply -f - <<< POLICY",
    "policy explain --from 203.0.113.5 --to prod/web-1:80 -o json",
    "policy explain --from 203.0.113.5 --to prod/web-1:81",
    "policy explain --from 203.0.113.5 --to prod/wbe-1:81",
    "policy diff -f - -o json <<< WIDER",
    "delete np ports -n prod",
    "get nodes -o wide",
    "get nodes -o custom-columns=NAME,ASN,ADDRESS:.spec.bgp.ipv4Address",
    "get nodes -o 'go-template={{range .}}{{.ObjectMeta.Name}}{{end}}'",
    "get np missing -n prod",
    "patch ippool main -p '{\"spec\":{\"natOutgoing\":true}}'",
    "patch ippool main -t json -p '[{\"op\":\"test\",\"path\":\"/spec/natOutgoing\",\"value\":false}]'",
    "patch ippool main -t merge -p 'metadata: {labels: {a: b}}' --dry-run",
    "label ippool main rack=a",
    "label ippool main rack=b",
    "label ippool main rack=b --overwrite",
    "get ippool main -o yaml",
    "delete tier security",
    "ipam show --show-blocks",
    "ipam show",
    "ipam show --show-borrowed",
    "ipam show --ip 10.99.0.0",
    "ipam show --ip 10.99.0.7",
    "ipam show --ip 192.0.2.1",
    "ipam configure --strictaffinity=true --max-blocks-per-host 4",
    "ipam show --show-configuration",
    "ipam configure --ip-cooldown-seconds 30 --kubevirt-ip-persistence Disabled",
    "ipam configure --strictaffinity=perhaps",
    "ipam configure --ip-cooldown-seconds 0",
    "ipam check --show-all-ips",
    "ipam gc --dry-run --grace 1s",
    "ipam release --ip 10.99.0.7",
    "ipam release --from-report DIR/missing.json",
    "ipam split 3 --name main",
    "ipam split 2 --cidr 10.77.0.0/24",
    "ipam check --show-problem-ips -o DIR/early.json",
    "ipam release --from-report DIR/early.json",
    "ipam split 2 --name main",
    "datastore migrate export",
    "datastore migrate lock",
    "get clusterinformation default -o yaml",
    "ipam check -o DIR/report.json",
    "ipam release --from-report DIR/early.json",
    "ipam release --from-report DIR/report.json --from-report DIR/early.json",
    "ipam show --ip 10.99.0.1",
    "ipam release --ip 10.99.0.1",
    "ipam split 2 --name main",
    "get ippools",
    "datastore migrate export",
    "datastore migrate import -f DIR/early.json",
    "datastore migrate unlock",
    "delete np web -n prod",
    "delete tier security",
    "delete ippool split-main-0 split-main-1",
    "delete ippool split-main-0",
    "delete -s ippool split-main-0",
    "get ippools",
];

/// The end of the session, where nodes are the datastore's own.
const FAREWELL: &[&str] = &["delete node node1", "get wep -A", "get nodes", "ipam show"];

fn session(backend: &Backend, lines: &[&str]) -> Vec<String> {
    let input = |line: &str| {
        let line = line.replace("MANIFEST", MANIFEST).replace("AGENT", AGENT);
        line.replace("POLICY", POLICY).replace("WIDER", WIDER)
    };
    lines.iter().map(|line| run(backend, &input(line))).collect()
}

fn whole_session(backend: &Backend, namespaces: &[Value]) -> Vec<String> {
    backend.with_store(async |store| {
        copy(&*store, namespaces).await;
        fill(store).await;
    });
    [session(backend, SESSION), session(backend, FAREWELL)].concat()
}

#[test]
fn every_datastore_gives_the_same_answers() {
    let cluster = (!common::without_servers())
        .then(|| Arc::new(cluster::Cluster::start(cluster::Etcd::Current)));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let namespaces = match &cluster {
        Some(cluster) => runtime.block_on(prepare(cluster)),
        None => vec![serde_json::json!({"metadata": {"name": "prod"}})],
    };
    let expected = whole_session(&Backend::memory(), &namespaces);
    let all = expected.concat();
    println!("{all}");
    // The session does what it is meant to: else equal answers mean nothing.
    for part in [
        "Successfully created 3 resource(s)",
        "spec.cidr: 10.65.0.0/16 overlaps IP pool main (10.65.0.0/24)",
        "spec.cidr: cannot change from 10.65.0.0/24",
        "there is no tier nowhere",
        "outside -> prod/web-1: allowed by Profile kns.prod ingress rule 0",
        "outside -> prod/web-1: denied by the end of tier default (ingress)",
        "now denied by the end of tier default (ingress)",
        "did you mean prod/web-1?",
        "the tier still has NetworkPolicy prod/web",
        "1 address(es) assigned, but not in use\n  10.99.0.1 not in use; handle net.web-2",
        "none of the reports was made since the datastore was locked",
        "Released 1 address(es) and 0 handle(s)",
        "Successfully split IP pool main",
        "Datastore unlocked.",
    ] {
        assert!(all.contains(part), "{part:?} in:\n{all}");
    }
    compare("embedded", &expected, &whole_session(&Backend::embedded(), &namespaces));
    let Some(cluster) = cluster else { return };
    compare("etcd", &expected, &whole_session(&Backend::etcd(), &namespaces));
    let kubernetes = Backend::kubernetes(&cluster, ApiGroup::Crd);
    kubernetes.with_store(fill);
    compare("kubernetes", &expected[..SESSION.len()], &session(&kubernetes, SESSION));
    let refused = run(&kubernetes, "delete node node1");
    assert!(refused.contains("delete the node in Kubernetes"), "{refused}");
}

#[track_caller]
fn compare(name: &str, expected: &[String], found: &[String]) {
    assert_eq!(expected.len(), found.len());
    for (expected, found) in expected.iter().zip(found) {
        if found != expected {
            let lines = expected.lines().zip(found.lines()).find(|(a, b)| a != b);
            panic!("{name} answers otherwise: {lines:?} in\n{expected}\nand\n{found}");
        }
    }
}
