//! Many pods at once: written into etcd as the API server has stored one of them, since the API
//! itself takes minutes for as many as a large cluster has.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use http::Request;
use k8s_openapi::ByteString;
use serde_json::{Value, json};

use crate::api::START;
use crate::cluster::Cluster;

/// What etcd takes in one transaction is 128 operations.
const BATCH: usize = 100;

/// Label of its pods whose value tells how often they were written.
pub const TURN: &str = "turn";

/// Pods of one namespace, all alike but for name, UID and address. They end with [`Crowd::leave`].
#[derive(Debug)]
pub struct Crowd<'a> {
    cluster: &'a Cluster,
    namespace: String,
    /// The first one, as the API server stores it.
    model: Vec<u8>,
    uid: String,
    /// How many there are.
    pub pods: usize,
    /// Bytes of one in JSON, as the API server tells it.
    pub json: usize,
}

impl<'a> Crowd<'a> {
    /// Fills a namespace, which must exist, with `pods` running pods on 100 nodes that do not.
    ///
    /// # Panics
    ///
    /// If a server refuses.
    pub async fn fill(cluster: &'a Cluster, namespace: &str, pods: usize) -> Self {
        let path = format!("/api/v1/namespaces/{namespace}/pods");
        let first = name(0);
        cluster.must("POST", &path, pod(&first)).await;
        let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": first},
            "target": {"apiVersion": "v1", "kind": "Node", "name": NODE}});
        cluster.must("POST", &format!("{path}/{first}/binding"), binding).await;
        let told = json!({"status": status(address(0))});
        let made = cluster.must("PATCH", &format!("{path}/{first}/status"), told).await;
        let uid = made["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        let mut crowd = Self {
            cluster,
            namespace: namespace.to_owned(),
            model: Vec::new(),
            uid,
            pods,
            json: made.to_string().len(),
        };
        let found = json!({"key": bytes(crowd.key(0).into_bytes())});
        let found = crowd.etcd("/v3/kv/range", &found).await;
        let stored: ByteString = serde_json::from_value(found["kvs"][0]["value"].clone())
            .expect("the pod that was made is in etcd");
        crowd.model = stored.0;
        crowd.write(1..pods, 0).await;
        crowd
    }

    /// Writes some of the pods again, all in all for the `turn`th time (0 to 9).
    ///
    /// # Panics
    ///
    /// If etcd refuses.
    pub async fn write(&self, pods: std::ops::Range<usize>, turn: u8) {
        let all: Vec<usize> = pods.collect();
        // Objects of one transaction have one version, which Kubernetes never has: who follows and is
        // cut off in the middle of them would miss the rest.
        let size = if turn == 0 { BATCH } else { 1 };
        for batch in all.chunks(size) {
            let put = |pod: &usize| {
                let key = bytes(self.key(*pod).into_bytes());
                json!({"requestPut": {"key": key, "value": bytes(self.stored(*pod, turn))}})
            };
            let puts: Vec<Value> = batch.iter().map(put).collect();
            let done = self.etcd("/v3/kv/txn", &json!({"success": puts})).await;
            assert_eq!(done["succeeded"], true, "{done}");
        }
    }

    /// Deletes them, and waits until the API server knows.
    ///
    /// # Panics
    ///
    /// If a server refuses.
    pub async fn leave(self) {
        // Up to what comes after the slash.
        let end = format!("/registry/pods/{}0", self.namespace);
        let start = format!("/registry/pods/{}/", self.namespace);
        let range = json!({"key": bytes(start.into_bytes()), "rangeEnd": bytes(end.into_bytes())});
        self.etcd("/v3/kv/deleterange", &range).await;
        let path = format!("/api/v1/namespaces/{}/pods?limit=1", self.namespace);
        let deadline = Instant::now() + START;
        loop {
            let left = self.cluster.must("GET", &path, Value::Null).await;
            if left["items"].as_array().is_some_and(Vec::is_empty) {
                return;
            }
            assert!(Instant::now() < deadline, "pods that were deleted are still told: {left}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn key(&self, pod: usize) -> String {
        format!("/registry/pods/{}/{}", self.namespace, name(pod))
    }

    /// Every text that is replaced has the same length in all pods: the encoding counts bytes.
    fn stored(&self, pod: usize, turn: u8) -> Vec<u8> {
        let mut stored = self.model.clone();
        let node = format!("{}{:02}", &NODE[..NODE.len() - 2], pod % 100);
        let uid = format!("{:08}{}", pod, &self.uid[8..]);
        for (from, to) in [
            (name(0), name(pod)),
            (address(0).to_string(), address(pod).to_string()),
            (NODE.to_owned(), node),
            (self.uid.clone(), uid),
            (format!("{TURN}-0"), format!("{TURN}-{turn}")),
        ] {
            replace(&mut stored, from.as_bytes(), to.as_bytes());
        }
        stored
    }

    async fn etcd(&self, path: &str, body: &Value) -> Value {
        let config = kube::Config::new(self.cluster.etcd_url().parse().expect("a URL"));
        let client = kube::Client::try_from(config).expect("a client of etcd");
        let request = Request::post(path).body(body.to_string().into_bytes()).expect("a request");
        let answer = client.request(request).await;
        answer.unwrap_or_else(|error| panic!("etcd, {path}: {error}"))
    }
}

const NODE: &str = "node-of-the-crowd-00";

fn name(pod: usize) -> String {
    format!("crowd-7d4b9c6f5-{pod:05}")
}

/// Addresses of which each has the same length.
fn address(pod: usize) -> Ipv4Addr {
    let digit = |n: usize| u8::try_from(100 + n % 100).unwrap_or(100);
    Ipv4Addr::new(100, digit(pod / 10_000), digit(pod / 100), digit(pod))
}

/// A pod of a deployment, as large as such pods are.
fn pod(name: &str) -> Value {
    let environment: Vec<Value> =
        (0..12).map(|n| json!({"name": format!("SETTING_{n}"), "value": "x".repeat(40)})).collect();
    let probe = json!({"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 10});
    let container = |name: &str| {
        json!({"name": name, "image": "registry.example.com/team/shop/server:1.27.3",
            "env": environment, "livenessProbe": probe, "readinessProbe": probe,
            "ports": [{"name": format!("{name}-web"), "containerPort": 8080}],
            "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}},
            "volumeMounts": [{"name": "data", "mountPath": "/data"}]})
    };
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name,
            "labels": {"app": "shop", "pod-template-hash": "7d4b9c6f5", TURN: format!("{TURN}-0"),
                "app.kubernetes.io/managed-by": "Helm", "app.kubernetes.io/part-of": "shop"},
            "annotations": {"prometheus.io/scrape": "true", "prometheus.io/port": "8080"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet",
                "name": "crowd-7d4b9c6f5", "controller": true, "blockOwnerDeletion": true,
                "uid": "3f0c4b7e-58c5-4d24-9b2a-0f1de54d41a7"}],
        },
        "spec": {"containers": [container("main"), container("side")],
            "volumes": [{"name": "data", "emptyDir": {}}]},
    })
}

fn status(address: Ipv4Addr) -> Value {
    let time = "2026-01-01T00:00:00Z";
    let condition =
        |kind: &str| json!({"type": kind, "status": "True", "lastTransitionTime": time});
    let kinds = ["Initialized", "Ready", "ContainersReady", "PodScheduled"];
    let running = |name: &str| {
        json!({"name": name, "ready": true, "restartCount": 0, "started": true,
            "image": "registry.example.com/team/shop/server:1.27.3",
            "imageID": format!("registry.example.com/team/shop/server@sha256:{}", "a".repeat(64)),
            "containerID": format!("containerd://{}", "b".repeat(64)),
            "state": {"running": {"startedAt": time}}})
    };
    json!({"phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
        "hostIP": "192.0.2.1", "startTime": time, "conditions": kinds.map(condition),
        "containerStatuses": [running("main"), running("side")]})
}

fn bytes(bytes: Vec<u8>) -> Value {
    serde_json::to_value(ByteString(bytes)).expect("base64")
}

fn replace(text: &mut [u8], from: &[u8], to: &[u8]) {
    assert_eq!(from.len(), to.len(), "the encoding counts bytes");
    let mut at = 0;
    while let Some(found) = text[at..].windows(from.len()).position(|window| window == from) {
        at += found;
        text[at..at + to.len()].copy_from_slice(to);
        at += to.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_keep_their_length() {
        assert_eq!(name(0).len(), name(24_999).len());
        assert_eq!(address(0).to_string().len(), address(24_999).to_string().len());
        assert_ne!(address(1), address(10_001));
        let mut text = *b"one two one";
        replace(&mut text, b"one", b"six");
        assert_eq!(&text, b"six two six");
    }
}
