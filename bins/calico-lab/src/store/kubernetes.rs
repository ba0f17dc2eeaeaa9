//! Kubernetes as the store of a lab: a real API server, with a real etcd, and the lab as
//! scheduler and kubelet.
//!
//! Agents are the service account of `deploy/kubernetes/calico.yaml`, and may do what it grants.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use calico_test_servers::api::{Api, code_of, words_of};
use calico_test_servers::control_plane::ControlPlane;
use calico_test_servers::programs::{self, Programs};
use calico_test_servers::{ADMIN, workspace};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{Client, Site, run};
use crate::error::LabError;
use crate::netns;
use crate::process::Program;
use crate::record;
use crate::topology::{Node, Pod, Topology};
use crate::wait::{Pending, until};

/// TCP port of the API server.
pub(super) const PORT: u16 = 6443;
/// Time for the API server to answer after it was started, on a busy machine.
const START: Duration = Duration::from_secs(120);
/// What a cluster's operator applies.
const MANIFESTS: &str = include_str!("../../../../deploy/kubernetes/calico.yaml");
/// Where the agents' service account is, and what it is called.
const ACCOUNT: (&str, &str) = ("kube-system", "calico-node");

/// An API server, on a member of its own.
#[derive(Debug)]
pub(crate) struct Kubernetes {
    site: Site,
    lab: String,
    plane: ControlPlane,
}

impl Kubernetes {
    pub(super) fn new(site: Site, directory: PathBuf) -> Self {
        let addresses = site.addresses().iter().map(ipnet::IpNet::addr).collect();
        let plane =
            ControlPlane { dir: directory, addresses, port: PORT, etcd_ports: [2379, 2380] };
        Self { lab: site.lab.clone(), site, plane }
    }

    pub(super) const fn site(&self) -> &Site {
        &self.site
    }

    fn api(&self) -> Api {
        let url = format!("https://127.0.0.1:{PORT}");
        Api { url, ca: self.plane.ca(), token: ADMIN.to_owned() }
    }

    fn admin_kubeconfig(&self) -> PathBuf {
        self.plane.dir.join("kubeconfig")
    }

    /// Starts etcd and the API server; also again, with the data that they had.
    pub(super) fn start(&self) -> Result<Vec<Program>, LabError> {
        let kubeconfig = self.admin_kubeconfig();
        if !kubeconfig.exists() {
            self.plane.prepare().map_err(LabError::Machine)?;
            let text = self.api().kubeconfig();
            fs::write(&kubeconfig, text).map_err(LabError::file("write", &kubeconfig))?;
        }
        let Programs { apiserver, etcd } = programs()?;
        let log = |name: &str| self.plane.dir.join(format!("{name}.log"));
        let args = self.plane.etcd_args();
        let etcd = run(&self.site, "etcd", &etcd, &args, log("etcd"))?;
        let args = self.plane.apiserver_args();
        let server = run(&self.site, "kube-apiserver", &apiserver, &args, log("kube-apiserver"))?;
        Ok(vec![etcd, server])
    }

    /// Makes what a cluster has before its network: Calico's custom resources, what its operator
    /// applies, namespaces and nodes.
    pub(crate) async fn furnish(&self, topology: &Topology) -> Result<(), LabError> {
        self.ask_with(async |api: &Api| {
            let crds = workspace()?.join("deploy/crds/v1");
            api.load_custom_resources(&crds).await
        })?;
        self.apply_text(MANIFESTS)?;
        let namespaces = topology.pods.iter().map(|pod| pod.namespace.as_str());
        for namespace in namespaces.collect::<BTreeSet<_>>() {
            self.apply(&json!({"apiVersion": "v1", "kind": "Namespace",
                "metadata": {"name": namespace}}))?;
        }
        topology.nodes.iter().try_for_each(|node| self.register(node))
    }

    /// Waits until the API server answers.
    pub(crate) async fn wait(&self) -> Result<(), LabError> {
        let answer = until("an answer of kube-apiserver", START, async || {
            let ready = self.ask_with(async |api: &Api| api.ready().await);
            ready.map_err(|error| Pending::NotYet(error.to_string()))
        })
        .await;
        answer.map_err(|error| match error {
            LabError::Timeout { what, limit, last, .. } => {
                let log = self.plane.dir.join("kube-apiserver.log");
                let logs = format!("\nits log:\n{}", crate::process::tail(&log));
                LabError::Timeout { what, limit, last, logs }
            }
            error => error,
        })
    }

    /// The node as a kubelet registers it, and the token that its agent is given.
    fn register(&self, node: &Node) -> Result<(), LabError> {
        let mut labels = node.labels.clone();
        labels.insert("kubernetes.io/hostname".to_owned(), node.name.clone());
        self.apply(&json!({"apiVersion": "v1", "kind": "Node",
            "metadata": {"name": node.name, "labels": labels}}))?;
        let mut addresses = vec![json!({"type": "Hostname", "address": node.name})];
        for net in &node.addresses {
            addresses.push(json!({"type": "InternalIP", "address": net.addr()}));
        }
        let conditions = json!([
            {"type": "Ready", "status": "True", "reason": "KubeletReady"},
            {"type": "NetworkUnavailable", "status": "True", "reason": "NoRouteCreated"},
        ]);
        let status = json!({"status": {"addresses": addresses, "conditions": conditions}});
        self.must("PATCH", &format!("/api/v1/nodes/{}/status", node.name), &status)?;

        let (namespace, account) = ACCOUNT;
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
        let wanted = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"expirationSeconds": 86_400}});
        let made = self.must("POST", &path, &wanted)?;
        let token = made["status"]["token"].as_str().unwrap_or_default();
        let directory = record::directory(&self.lab).join(&node.name);
        fs::create_dir_all(&directory).map_err(LabError::file("make", &directory))?;
        let path = directory.join("token");
        fs::write(&path, token).map_err(LabError::file("write", &path))
    }

    pub(super) fn settings(&self, node: &Node) -> String {
        let endpoint = self.plane.url_at(self.site.address_for(node));
        let token = record::directory(&self.lab).join(&node.name).join("token");
        format!(
            "kubernetes = {{ endpoint = {endpoint:?}, ca = {:?}, tokenFile = {token:?} }}",
            self.plane.ca()
        )
    }

    pub(super) fn client(&self) -> Client {
        Client {
            namespace: Some(self.site.namespace()),
            environment: vec![
                ("DATASTORE_TYPE", "kubernetes".to_owned()),
                ("KUBECONFIG", self.admin_kubeconfig().display().to_string()),
            ],
        }
    }

    /// Makes a pod and binds it to its node, as a scheduler does. Its UID.
    pub(crate) fn schedule(&self, pod: &Pod) -> Result<String, LabError> {
        let ports: Vec<Value> = pod.tcp.iter().map(|port| json!({"containerPort": port})).collect();
        let container = json!({"name": "main", "image": "calico-lab", "ports": ports});
        let made = self.must(
            "POST",
            &format!("/api/v1/namespaces/{}/pods", pod.namespace),
            &json!({"apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": pod.name, "labels": pod.labels},
                "spec": {"containers": [container]}}),
        )?;
        let binding = json!({"apiVersion": "v1", "kind": "Binding",
            "metadata": {"name": pod.name},
            "target": {"apiVersion": "v1", "kind": "Node", "name": pod.node}});
        self.must("POST", &format!("{}/binding", path(pod)), &binding)?;
        Ok(made["metadata"]["uid"].as_str().unwrap_or_default().to_owned())
    }

    /// Says that a pod runs and which addresses it has, as a kubelet does.
    pub(crate) fn report(&self, pod: &Pod, ips: &[std::net::IpAddr]) -> Result<(), LabError> {
        let all: Vec<Value> = ips.iter().map(|ip| json!({"ip": ip})).collect();
        let conditions = json!([{"type": "Ready", "status": "True"}]);
        let status = json!({"phase": "Running", "podIP": ips.first(), "podIPs": all,
            "conditions": conditions});
        self.must("PATCH", &format!("{}/status", path(pod)), &json!({"status": status})).map(drop)
    }

    /// Asks for the end of a pod, as a user does: it stays until its kubelet is done with it.
    pub(crate) fn begin_end(&self, pod: &Pod) -> Result<(), LabError> {
        self.delete(pod, 30)
    }

    /// Says that nothing of a pod is left, as a kubelet does.
    pub(crate) fn finish_end(&self, pod: &Pod) -> Result<(), LabError> {
        self.delete(pod, 0)
    }

    fn delete(&self, pod: &Pod, grace: u32) -> Result<(), LabError> {
        let options = json!({"apiVersion": "v1", "kind": "DeleteOptions",
            "gracePeriodSeconds": grace});
        let gone =
            self.ask_with(async |api: &Api| match api.ask("DELETE", &path(pod), &options).await {
                Err(error) if code_of(&error) != Some(404) => Err(words_of(&error)),
                _ => Ok(()),
            });
        gone.map(drop)
    }

    /// Makes an object or changes it to this, as `kubectl apply` does.
    pub(crate) fn apply(&self, object: &Value) -> Result<(), LabError> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let what = format!("{} {}", text(&object["kind"]), text(&object["metadata"]["name"]));
        self.ask_with(async |api: &Api| {
            let made = api.apply(object).await;
            made.map(drop).map_err(|error| format!("kubectl apply of {what}: {}", words_of(&error)))
        })
    }

    /// Applies every document of a YAML text.
    pub(crate) fn apply_text(&self, yaml: &str) -> Result<(), LabError> {
        documents::<Value>(yaml)?.iter().try_for_each(|object| self.apply(object))
    }

    /// Asks the API server, which must not refuse.
    pub(crate) fn must(&self, method: &str, path: &str, body: &Value) -> Result<Value, LabError> {
        self.ask_with(async |api: &Api| {
            let answer = api.ask(method, path, body).await;
            answer.map_err(|error| format!("{method} {path}: {}", words_of(&error)))
        })
    }

    /// Asks from inside of the store's namespace: from outside nothing leads there.
    fn ask_with<T: Send>(
        &self,
        work: impl AsyncFnOnce(&Api) -> Result<T, String> + Send,
    ) -> Result<T, LabError> {
        let api = self.api();
        let answer = netns::enter(&self.site.namespace(), || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(|error| error.to_string())?;
            runtime.block_on(work(&api))
        })?;
        answer.map_err(LabError::Machine)
    }
}

/// kube-apiserver and its etcd, built if need be.
pub(super) fn programs() -> Result<Programs, LabError> {
    programs::find(|what| eprintln!("calico-lab: {what}")).map_err(LabError::Machine)
}

fn path(pod: &Pod) -> String {
    format!("/api/v1/namespaces/{}/pods/{}", pod.namespace, pod.name)
}

fn documents<T: DeserializeOwned>(yaml: &str) -> Result<Vec<T>, LabError> {
    serde_saphyr::from_multiple(yaml)
        .map_err(|error| LabError::Request(format!("a manifest cannot be understood: {error}")))
}
