//! Services of a real Kubernetes API server: those of type `LoadBalancer` get addresses of Calico's
//! pools, and their status says so. And virtual machines, as far as IPAM asks for them.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use calico_agent::load_balancer;
use calico_agent::overlay::addresses::Wanted;
use calico_agent::pods;
use calico_core::datastore::Datastore;
use calico_core::key::Key;
use calico_core::kind::Kind;
use calico_datastore::KubernetesStore;
use calico_datastore::config::{self, DatastoreConfig, KubernetesConfig};
use calico_ipam::Ipam;
use calico_test_servers::ADMIN;
use calico_test_servers::cluster::{Cluster, Etcd, skipped};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;

const SERVICES: &str = "/api/v1/namespaces/prod/services";
const PODS: &str = "/api/v1/namespaces/prod/pods";
const MACHINES: &str = "/apis/kubevirt.io/v1/namespaces/prod/virtualmachines";
const INSTANCES: &str = "/apis/kubevirt.io/v1/namespaces/prod/virtualmachineinstances";
const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// For anything to happen, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

struct Lab {
    cluster: Cluster,
    settings: DatastoreConfig,
    store: Arc<dyn Datastore>,
}

impl Lab {
    fn start() -> Self {
        let cluster = tokio::task::block_in_place(|| Cluster::start(Etcd::Current));
        let kubeconfig = cluster.dir.path().join("kubeconfig");
        std::fs::write(&kubeconfig, cluster.kubeconfig(ADMIN)).unwrap();
        let kubernetes = KubernetesConfig {
            kubeconfig: Some(kubeconfig.display().to_string()),
            ..Default::default()
        };
        let settings = DatastoreConfig::Kubernetes(Box::new(kubernetes));
        let store = config::open(&settings).unwrap();
        Self { cluster, settings, store }
    }

    fn api(&self) -> KubernetesStore {
        pods::api_server(&self.settings, None).unwrap().unwrap()
    }

    fn ipam(&self) -> Ipam {
        Ipam::new(Arc::clone(&self.store), calico_ipam::Options::default())
    }

    async fn pool(&self, name: &str, cidr: &str, more: Value) {
        let mut spec = json!({ "cidr": cidr, "ipipMode": "Never", "vxlanMode": "Never",
            "nodeSelector": "all()", "allowedUses": ["LoadBalancer"] });
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let pool = json!({ "apiVersion": "projectcalico.org/v3", "kind": "IPPool",
            "metadata": { "name": name }, "spec": spec });
        let key = Key::resource(Kind::IpPool, None, name);
        self.store.create(key, pool.to_string().into()).await.unwrap();
    }

    async fn service(&self, name: &str, annotations: Value, more: Value) {
        let mut spec = json!({ "type": "LoadBalancer", "ports": [{ "port": 80 }] });
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let service = json!({ "metadata": { "name": name, "annotations": annotations },
            "spec": spec });
        self.cluster.must("POST", SERVICES, service).await;
    }

    /// Addresses on the status of a service.
    async fn told(&self, name: &str) -> Vec<String> {
        let path = format!("{SERVICES}/{name}");
        let service = self.cluster.must("GET", &path, Value::Null).await;
        let ingress = service["status"]["loadBalancer"]["ingress"].as_array().cloned();
        let ip = |told: &Value| told["ip"].as_str().unwrap().to_owned();
        ingress.unwrap_or_default().iter().map(ip).collect()
    }

    async fn until_told(&self, name: &str, prefixes: &[&str]) {
        let since = Instant::now();
        loop {
            let told = self.told(name).await;
            let fits = |(ip, prefix): (&String, &&str)| ip.starts_with(prefix);
            if told.len() == prefixes.len() && told.iter().zip(prefixes).all(fits) {
                return;
            }
            assert!(since.elapsed() < PATIENCE, "{name}: {told:?} is not {prefixes:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until exactly these services have addresses.
    async fn until_served(&self, services: &[&str]) {
        let since = Instant::now();
        loop {
            let served = self.ipam().served().await.unwrap();
            let of = |a: &calico_ipam::plan::block::Allocation| {
                assert_eq!(a.attributes.secondary["namespace"], "prod");
                a.attributes.secondary["service"].clone()
            };
            let found: BTreeSet<String> = served.iter().map(of).collect();
            if found.iter().eq(services) {
                return;
            }
            assert!(since.elapsed() < PATIENCE, "{found:?} is not {services:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// An agent that gives services their addresses, as the first of all nodes.
struct Controller {
    _nodes: watch::Sender<Wanted>,
    task: JoinHandle<()>,
}

impl Controller {
    fn start(lab: &Lab) -> Self {
        let (nodes, seen) = watch::channel(Wanted::default());
        let task = tokio::spawn(load_balancer::run(Arc::clone(&lab.store), lab.api(), seen));
        nodes.send_replace(Wanted::default());
        Self { _nodes: nodes, task }
    }

    async fn stop(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn services_get_and_lose_addresses_and_machines_are_known() {
    if skipped() {
        return;
    }
    let lab = Lab::start();
    services(&lab).await;
    machines(&lab).await;
}

async fn services(lab: &Lab) {
    let path = |name: &str| format!("{SERVICES}/{name}");
    // Without a pool for services, whatever others say of them stays.
    lab.service("others", json!({}), json!({})).await;
    let told = json!({ "status": { "loadBalancer": { "ingress": [{ "ip": "192.0.2.9" }] } } });
    lab.cluster.must("PATCH", &format!("{}/status", path("others")), told).await;
    let controller = Controller::start(lab);
    lab.pool("pods", "10.80.0.0/24", json!({ "allowedUses": ["Workload"] })).await;
    lab.service("early", json!({}), json!({})).await;
    lab.service("class", json!({}), json!({ "loadBalancerClass": "example.com/other" })).await;
    assert_eq!(lab.told("others").await, ["192.0.2.9"]);

    // A pool comes, and those that waited are served.
    lab.pool("usual", "10.81.0.0/30", json!({ "blockSize": 30 })).await;
    lab.pool("asked", "10.82.0.0/24", json!({ "assignmentMode": "Manual" })).await;
    lab.until_told("early", &["10.81."]).await;
    lab.until_told("others", &["10.81."]).await;
    let key = "projectcalico.org/loadBalancerIPs";
    lab.service("exact", json!({ key: r#"["10.82.0.7"]"# }), json!({})).await;
    lab.until_told("exact", &["10.82.0.7"]).await;
    let named = json!({ "projectcalico.org/ipv4pools": r#"["asked"]"# });
    lab.service("named", named, json!({})).await;
    lab.until_told("named", &["10.82."]).await;
    lab.until_served(&["early", "exact", "named", "others"]).await;
    assert_eq!(lab.told("class").await, [] as [&str; 0]);

    // Wishes change, types change, services go.
    let patch = json!({ "metadata": { "annotations": { key: r#"["10.82.0.9"]"# } } });
    lab.cluster.must("PATCH", &path("exact"), patch).await;
    lab.until_told("exact", &["10.82.0.9"]).await;
    let patch = json!({ "metadata": { "annotations": { key: null } } });
    lab.cluster.must("PATCH", &path("exact"), patch).await;
    lab.until_told("exact", &["10.81."]).await;
    let patch = json!({ "spec": { "type": "ClusterIP" } });
    lab.cluster.must("PATCH", &path("early"), patch).await;
    lab.cluster.must("DELETE", &path("others"), Value::Null).await;
    lab.until_served(&["exact", "named"]).await;
    assert_eq!(lab.told("early").await, [] as [&str; 0]);

    // Only those that ask.
    let only = json!({ "apiVersion": "projectcalico.org/v3", "kind": "KubeControllersConfiguration",
        "metadata": { "name": "default" },
        "spec": { "controllers": { "loadBalancer": { "assignIPs": "RequestedServicesOnly" } } } });
    let setting = Key::resource(Kind::KubeControllersConfiguration, None, "default");
    lab.store.put(setting.clone(), only.to_string().into()).await.unwrap();
    lab.until_told("exact", &[]).await;
    lab.until_served(&["named"]).await;
    lab.store.delete(setting, None).await.unwrap();
    lab.until_told("exact", &["10.81."]).await;

    // What goes while nobody looks is found later.
    controller.stop().await;
    lab.cluster.must("DELETE", &path("named"), Value::Null).await;
    lab.until_served(&["exact", "named"]).await;
    let controller = Controller::start(lab);
    lab.until_served(&["exact"]).await;
    assert_eq!(lab.told("exact").await.len(), 1, "and nothing else");
    lab.cluster.must("DELETE", &path("exact"), Value::Null).await;
    lab.until_served(&[]).await;
    assert_eq!(lab.ipam().check().await.unwrap(), []);
    controller.stop().await;
}

async fn machines(lab: &Lab) {
    let api = lab.api();
    for (kind, plural) in [
        ("VirtualMachine", "virtualmachines"),
        ("VirtualMachineInstance", "virtualmachineinstances"),
    ] {
        let schema = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
        let version = json!({ "name": "v1", "served": true, "storage": true,
            "schema": { "openAPIV3Schema": schema } });
        let definition = json!({
            "metadata": { "name": format!("{plural}.kubevirt.io"),
                "annotations": { "api-approved.kubernetes.io": "unapproved, for a test" } },
            "spec": { "group": "kubevirt.io", "scope": "Namespaced", "versions": [version],
                "names": { "kind": kind, "plural": plural } } });
        lab.cluster.must("POST", CRDS, definition).await;
    }
    let since = Instant::now();
    for path in [MACHINES, INSTANCES] {
        while lab.cluster.ask("GET", path, &Value::Null).await.is_err() {
            assert!(since.elapsed() < PATIENCE, "{path} is not served");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    let owned = |name: &str, kind: &str, by: &str, uid: &Value| {
        let owner = json!({ "apiVersion": "kubevirt.io/v1", "kind": kind, "name": by, "uid": uid,
            "controller": true });
        json!({ "name": name, "ownerReferences": [owner] })
    };
    // Somebody holds on to it, as KubeVirt does while it cleans up.
    let vm = json!({ "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine",
        "metadata": { "name": "vm1", "finalizers": ["example.com/test"] } });
    let vm_uid = lab.cluster.must("POST", MACHINES, vm).await["metadata"]["uid"].clone();
    let vmi = json!({ "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
        "metadata": owned("vm1", "VirtualMachine", "vm1", &vm_uid) });
    let vmi_uid = lab.cluster.must("POST", INSTANCES, vmi).await["metadata"]["uid"].clone();
    for (pod, labels, uid) in [
        ("virt-launcher-vm1-aaaaa", json!({}), &vmi_uid),
        ("virt-launcher-vm1-bbbbb", json!({ "kubevirt.io/migrationJobUID": "move-1" }), &vmi_uid),
        ("virt-launcher-vm1-ccccc", json!({}), &json!("00000000-another")),
    ] {
        let mut metadata = owned(pod, "VirtualMachineInstance", "vm1", uid);
        metadata["labels"] = labels;
        let pod = json!({ "metadata": metadata,
            "spec": { "nodeName": "n-1", "containers": [{ "name": "c", "image": "i" }] } });
        lab.cluster.must("POST", PODS, pod).await;
    }
    let source = api.pod("prod", "virt-launcher-vm1-aaaaa").await.unwrap().unwrap();
    let machine = source.machine.unwrap();
    assert_eq!((&*machine.name, json!(machine.uid)), ("vm1", vmi_uid));
    assert_eq!((machine.vm_uid.map(Value::from), machine.migration), (Some(vm_uid), None));
    let target = api.pod("prod", "virt-launcher-vm1-bbbbb").await.unwrap().unwrap();
    assert_eq!(target.machine.unwrap().migration.as_deref(), Some("move-1"));
    let forged = api.pod("prod", "virt-launcher-vm1-ccccc").await.unwrap_err().to_string();
    assert!(forged.contains("vm1"), "{forged}");

    assert!(!api.machine_ends("prod", "vm1").await.unwrap());
    // Stopped: its instance goes, the machine stays.
    lab.cluster.must("DELETE", &format!("{INSTANCES}/vm1"), Value::Null).await;
    assert!(!api.machine_ends("prod", "vm1").await.unwrap());
    lab.cluster.must("DELETE", &format!("{MACHINES}/vm1"), Value::Null).await;
    assert!(api.machine_ends("prod", "vm1").await.unwrap(), "on its way out");
    assert!(api.machine_ends("prod", "none").await.unwrap(), "never was");
}
