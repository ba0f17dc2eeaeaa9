//! The DaemonSet of `deploy/kubernetes/calico.yaml` under a real kubelet, with the image that
//! `deploy/kubernetes/image.sh` makes: a cluster of one node with API server, controllers,
//! scheduler, proxy and containerd, in namespaces and control groups of its own.
//!
//! `cargo xtask kubelet` runs it: Go builds the programs of Kubernetes for some minutes, once.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
#[path = "kubelet/node.rs"]
mod node;

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use calico_test_servers::api::{Api, code_of};
use common::{Scratch, turn};
use node::{API_SERVICE, Cluster, NODE};
use serde_json::{Value, json};

/// Patience with everything that a cluster does at last.
const LIMIT: Duration = Duration::from_secs(180);
/// What an operator applies.
const MANIFESTS: &str = include_str!("../../../deploy/kubernetes/calico.yaml");
/// The range of the pods' addresses.
const PODS: ([u8; 2], &str) = ([10, 244], "10.244.0.0/16");

impl Cluster {
    fn get(&self, path: &str) -> Result<Value, String> {
        self.ask(async |api: &Api| {
            api.ask("GET", path, &Value::Null).await.map_err(|error| error.to_string())
        })
    }

    fn apply(&self, object: &Value) {
        self.ask(async |api: &Api| api.apply(object).await.map(drop)).unwrap();
    }

    fn delete(&self, path: &str) {
        let gone = self.ask(async |api: &Api| api.ask("DELETE", path, &Value::Null).await);
        assert!(
            gone.as_ref().map_or_else(|error| code_of(error) == Some(404), |_| true),
            "{gone:?}"
        );
    }

    /// Waits until `found` finds something.
    fn until<T>(&self, what: &str, found: impl Fn() -> Result<T, String>) -> T {
        let started = Instant::now();
        loop {
            match found() {
                Ok(found) => {
                    println!("{what}: after {} ms", started.elapsed().as_millis());
                    return found;
                }
                Err(reason) => {
                    assert!(started.elapsed() < LIMIT, "{what}: {reason}");
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
        }
    }

    /// The condition of the node: whether it holds, and why.
    fn condition(&self, kind: &str) -> Result<(String, String), String> {
        let node = self.get(&format!("/api/v1/nodes/{NODE}"))?;
        let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let found = conditions.iter().find(|condition| condition["type"] == kind);
        let found = found.ok_or_else(|| format!("no condition {kind}"))?;
        let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
        Ok((text("status"), format!("{}: {}", text("reason"), text("message"))))
    }

    fn until_condition(&self, kind: &str, status: &str) {
        self.until(&format!("{kind} is {status}"), || {
            let (found, reason) = self.condition(kind)?;
            (found == status).then_some(()).ok_or(reason)
        });
    }

    /// The pods of the DaemonSet that are ready.
    fn agents(&self) -> Result<Vec<String>, String> {
        let path = "/api/v1/namespaces/kube-system/pods?labelSelector=k8s-app%3Dcalico-node";
        let pods = self.get(path)?;
        let all = pods["items"].as_array().cloned().unwrap_or_default();
        let ready = all.iter().filter(|pod| {
            let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let is_ready = |c: &Value| c["type"] == "Ready" && c["status"] == "True";
            pod["metadata"]["deletionTimestamp"].is_null() && conditions.iter().any(is_ready)
        });
        Ok(ready.filter_map(|pod| pod["metadata"]["name"].as_str().map(str::to_owned)).collect())
    }

    fn run_pod(&self, name: &str, script: &str) {
        self.apply(&json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "default", "labels": {"app": name}},
            "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "main",
                "image": common::image::IMAGE, "command": ["/bin/sh", "-c", script]}]}}));
    }

    /// Address and container of a pod that runs.
    fn pod(&self, name: &str) -> (Ipv4Addr, String) {
        self.until(&format!("pod {name} runs"), || {
            let pod = self.get(&format!("/api/v1/namespaces/default/pods/{name}"))?;
            let status = &pod["status"];
            let address = status["podIP"].as_str().and_then(|text| text.parse().ok());
            let container = status["containerStatuses"][0]["containerID"].as_str();
            let id = container.and_then(|id| id.strip_prefix("containerd://"));
            let runs = status["phase"] == "Running";
            let both = address.zip(id.map(str::to_owned)).filter(|_| runs);
            both.ok_or_else(|| status.to_string())
        })
    }

    /// Whether a script in a container ends well, and what it said.
    fn exec(&self, container: &str, script: &str) -> Result<String, String> {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let id = format!("exec{number}");
        let words =
            ["ctr", "-n", "k8s.io", "tasks", "exec", "--exec-id", &id, container, "/bin/sh", "-c"];
        let output = self.on_node(&[&words[..], &[script]].concat());
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let said = text(&output.stdout) + &text(&output.stderr);
        if output.status.success() { Ok(said) } else { Err(said) }
    }

    /// Interfaces of pods on the node.
    fn interfaces(&self) -> Vec<String> {
        let links = self.on_node(&["ip", "-brief", "link"]).stdout;
        let links = String::from_utf8(links).unwrap();
        links.lines().filter(|line| line.starts_with("cali")).map(str::to_owned).collect()
    }
}

fn holds(it: bool, why: &str) -> Result<(), String> {
    it.then_some(()).ok_or_else(|| why.to_owned())
}

#[test]
#[ignore = "builds a kubelet; run by cargo xtask kubelet"]
fn a_kubelet_runs_the_daemon_set_and_pods_over_it() {
    let Some(_turn) = turn() else { return };
    let scratch = Scratch::new(&format!("kubelet-{}", std::process::id()));
    let name = format!("cr-test-{}-kubelet", std::process::id());
    let agent = calico_lab::programs::own("calico-agent").unwrap();
    let mut cluster = Cluster::prepare(&scratch.0, &name, agent.parent().unwrap());
    cluster.start();
    cluster.until("the API server answers", || cluster.ask(async |api: &Api| api.ready().await));
    // A node without a network: the kubelet says what is missing.
    cluster.until("the node waits for a network", || {
        let (ready, reason) = cluster.condition("Ready")?;
        holds(ready == "False" && reason.contains("cni plugin not initialized"), &reason)
    });

    let crds = calico_test_servers::workspace().unwrap().join("deploy/crds/v1");
    cluster.ask(async |api: &Api| api.load_custom_resources(&crds).await).unwrap();
    let mut manifests: Vec<Value> = serde_saphyr::from_multiple(MANIFESTS).unwrap();
    let settings = manifests.iter_mut().find(|object| object["kind"] == "ConfigMap").unwrap();
    // A new cluster; this kernel may have no IP-in-IP.
    settings["data"]["NO_DEFAULT_POOLS"] = "false".into();
    settings["data"]["CALICO_IPV4POOL_CIDR"] = PODS.1.into();
    settings["data"]["CALICO_IPV4POOL_IPIP"] = "Never".into();
    manifests.iter().for_each(|object| cluster.apply(object));
    let agent = cluster.until("the agent is ready", || {
        let agents = cluster.agents()?;
        agents.first().cloned().ok_or_else(|| "no pod is ready".to_owned())
    });
    cluster.until_condition("Ready", "True");
    cluster.until_condition("NetworkUnavailable", "False");

    cluster.run_pod("web", "while true; do nc -l -p 8080 -e /bin/echo hello; done");
    cluster.run_pod("client", "busybox sleep 100000");
    let ((web, _), (client, container)) = (cluster.pod("web"), cluster.pod("client"));
    for address in [web, client] {
        assert_eq!(address.octets()[..2], PODS.0, "an address of the pool");
    }
    let ping = format!("busybox ping -c 1 -W 1 {web}");
    let fetch = format!("nc -w 2 {web} 8080 </dev/null");
    cluster.until("the client reaches the other pod", || cluster.exec(&container, &ping));
    cluster.until("its port, too", || cluster.exec(&container, &fetch));
    // Through the proxy's translation, to the node that the pod is on.
    let service = format!("nc -w 2 {API_SERVICE} 443 </dev/null");
    cluster.until("and a service", || cluster.exec(&container, &service));

    let policies = "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies";
    cluster.apply(&json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "closed", "namespace": "default"},
        "spec": {"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Ingress"]}}));
    cluster.until("a policy stops it", || {
        let stopped = [&ping, &fetch].map(|script| cluster.exec(&container, script).is_err());
        holds(stopped == [true, true], "it still passes")
    });
    assert!(cluster.exec(&container, &service).is_ok(), "the client's own is not concerned");

    // Another agent takes over what is there.
    cluster.delete(&format!("/api/v1/namespaces/kube-system/pods/{agent}"));
    cluster.until("another agent is ready", || {
        let agents = cluster.agents()?;
        holds(agents.iter().any(|name| *name != agent), "none yet")
    });
    assert!(cluster.exec(&container, &ping).is_err(), "the policy stays in force");
    cluster.delete(&format!("{policies}/closed"));
    cluster.until("without the policy it passes", || cluster.exec(&container, &ping));

    assert_eq!(cluster.interfaces().len(), 2);
    for name in ["web", "client"] {
        cluster.delete(&format!("/api/v1/namespaces/default/pods/{name}"));
    }
    cluster.until("nothing of the pods is left", || {
        let handles = cluster.get("/apis/crd.projectcalico.org/v1/ipamhandles")?;
        let handles = handles["items"].as_array().map_or(0, Vec::len);
        let namespaces = cluster.on_node(&["ls", "/run/netns"]).stdout;
        let left =
            (cluster.interfaces(), handles, String::from_utf8_lossy(&namespaces).into_owned());
        holds(left == (Vec::new(), 0, String::new()), &format!("{left:?}"))
    });
    // An agent that ends says that the node's network is not kept any more.
    cluster.delete("/apis/apps/v1/namespaces/kube-system/daemonsets/calico-node");
    cluster.until_condition("NetworkUnavailable", "True");
}
