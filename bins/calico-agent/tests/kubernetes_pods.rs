//! Pods of a real Kubernetes API server, connected by the engine that the agent runs: what their
//! annotations and those of their namespace ask for is given, in the kernel and in what the API
//! server keeps.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use calico_agent::pods;
use calico_cni::engine::{
    Engine, Journal, NetlinkPods, NetworkError, NoPolicy, Options, Parts, PodNetwork,
};
use calico_cni::protocol::{PROTOCOL, Plugin, Request};
use calico_cni::spec::{Call, Verb};
use calico_core::datastore::Datastore;
use calico_core::key::Key;
use calico_core::kind::Kind;
use calico_core::resource::WorkloadEndpoint;
use calico_datastore::config::{self, DatastoreConfig, KubernetesConfig};
use calico_ipam::Ipam;
use calico_netlink::pod::{PodInterfaces, PodSpec};
use calico_netlink::testing::TestNet;
use calico_test_servers::ADMIN;
use calico_test_servers::cluster::{Cluster, Etcd, skipped};
use serde_json::{Value, json};
use tempfile::TempDir;

const NODE: &str = "n-1";
const NAMESPACE: &str = "/api/v1/namespaces/prod";

/// The kernel, in the namespace of a test instead of the host's.
#[derive(Debug)]
struct InNet(Arc<TestNet>);

impl InNet {
    fn run<T: Send>(&self, work: impl Future<Output = T> + Send) -> T {
        self.0.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(work)
        })
    }
}

#[async_trait]
impl PodNetwork for InNet {
    async fn setup(&self, spec: PodSpec) -> Result<PodInterfaces, NetworkError> {
        tokio::task::block_in_place(|| self.run(NetlinkPods.setup(spec)))
    }

    async fn teardown(
        &self,
        host_interface: Option<&str>,
        netns: Option<&Path>,
        ifname: &str,
    ) -> Result<(), NetworkError> {
        tokio::task::block_in_place(|| {
            self.run(NetlinkPods.teardown(host_interface, netns, ifname))
        })
    }

    async fn check(&self, spec: PodSpec) -> Result<(), NetworkError> {
        tokio::task::block_in_place(|| self.run(NetlinkPods.check(spec)))
    }
}

struct Lab {
    cluster: Cluster,
    store: Arc<dyn Datastore>,
    engine: Engine,
    net: Arc<TestNet>,
    _journal: TempDir,
}

impl Lab {
    async fn start() -> Option<Self> {
        if skipped() {
            return None;
        }
        let net = Arc::new(TestNet::new("node")?);
        let cluster = tokio::task::block_in_place(|| Cluster::start(Etcd::Current));
        let kubeconfig = cluster.dir.path().join("kubeconfig");
        std::fs::write(&kubeconfig, cluster.kubeconfig(ADMIN)).unwrap();
        let settings = DatastoreConfig::Kubernetes(Box::new(settings_of(&cluster)));
        let store = config::open(&settings).unwrap();
        let journal = tempfile::tempdir().unwrap();
        let engine = Engine::new(Parts {
            node: NODE.into(),
            ipam: Ipam::new(Arc::clone(&store), calico_ipam::Options::default()),
            store: Arc::clone(&store),
            network: Arc::new(InNet(Arc::clone(&net))),
            policy: Arc::new(NoPolicy),
            journal: Journal::new(journal.path()),
            options: Options {
                pods: pods::source(&settings, None).unwrap(),
                store_patience: std::time::Duration::from_secs(30),
                ..Options::default()
            },
        });
        let lab = Self { cluster, store, engine, net, _journal: journal };
        lab.fill().await;
        Some(lab)
    }

    async fn fill(&self) {
        let cidrs = json!(["10.99.1.0/24", "fd99:1::/64"]);
        let node = json!({ "metadata": { "name": NODE },
            "spec": { "podCIDR": "10.99.1.0/24", "podCIDRs": cidrs } });
        self.cluster.must("POST", "/api/v1/nodes", node).await;
        let pools = [("usual", "10.65.0.0/24"), ("special", "10.66.0.0/24"), ("six", "fd65::/112")];
        for (name, cidr) in pools {
            let pool = json!({ "apiVersion": "projectcalico.org/v3", "kind": "IPPool",
                "metadata": { "name": name }, "spec": { "cidr": cidr, "ipipMode": "Never",
                "vxlanMode": "Never", "nodeSelector": "all()" } });
            let key = Key::resource(Kind::IpPool, None, name);
            self.store.create(key, pool.to_string().into()).await.unwrap();
        }
        let annotations = json!({ "cni.projectcalico.org/ipv4pools": r#"["special"]"# });
        let namespace = self.cluster.must("GET", NAMESPACE, Value::Null).await;
        let mut changed = namespace.clone();
        changed["metadata"]["annotations"] = annotations;
        self.cluster.must("PUT", NAMESPACE, changed).await;
    }

    /// Makes a pod with these annotations.
    async fn pod(&self, name: &str, annotations: Value) {
        let pod = json!({ "metadata": { "name": name, "annotations": annotations },
            "spec": { "nodeName": NODE, "containers": [{ "name": "c", "image": "i" }] } });
        self.cluster.must("POST", &format!("{NAMESPACE}/pods"), pod).await;
    }

    async fn annotation(&self, pod: &str, name: &str) -> Value {
        let pod = self.cluster.must("GET", &format!("{NAMESPACE}/pods/{pod}"), Value::Null).await;
        pod["metadata"]["annotations"][format!("cni.projectcalico.org/{name}")].clone()
    }

    async fn endpoint(&self, pod: &str) -> WorkloadEndpoint {
        let name = format!("n--1-k8s-{}-eth0", pod.replace('-', "--"));
        let key = Key::resource(Kind::WorkloadEndpoint, Some("prod"), &name);
        self.store.get(&key).await.unwrap().decode().unwrap()
    }

    async fn cni(
        &self,
        verb: Verb,
        pod: &str,
        netns: &TestNet,
        config: &Value,
    ) -> Result<Value, Value> {
        let request = request(pod, verb, netns, config);
        let response = self.engine.handle(&request).await;
        let value = serde_json::from_str(&response.output).unwrap_or_default();
        if response.failed { Err(value) } else { Ok(value) }
    }

    fn interfaces(&self) -> Vec<String> {
        let text = self.net.output("ip", &["-o", "link"]);
        let name = |line: &str| line.split([':', '@']).nth(1).unwrap().trim().to_owned();
        text.lines()
            .map(name)
            .filter(|name| name.starts_with("cali") || name.starts_with("bw"))
            .collect()
    }
}

fn request(pod: &str, verb: Verb, netns: &TestNet, config: &Value) -> Request {
    let call = Call::new(Verb::Add, |variable| match variable {
        "CNI_CONTAINERID" => Some(format!("sandbox-of-{pod}")),
        "CNI_NETNS" => Some(netns.netns().path().display().to_string()),
        "CNI_IFNAME" => Some("eth0".to_owned()),
        "CNI_ARGS" => Some(format!("K8S_POD_NAMESPACE=prod;K8S_POD_NAME={pod}")),
        _ => None,
    });
    Request {
        protocol: PROTOCOL,
        plugin: Plugin::Main,
        verb,
        call: call.unwrap(),
        config: config.to_string(),
    }
}

fn config() -> Value {
    json!({
        "cniVersion": "1.0.0", "name": "k8s-pod-network", "type": "calico",
        "ipam": { "type": "calico-ipam" }, "policy": { "type": "k8s" },
        "feature_control": { "ip_addrs_no_ipam": true, "floating_ips": true },
    })
}

fn addresses(result: &Value) -> Vec<&str> {
    result["ips"].as_array().into_iter().flatten().filter_map(|ip| ip["address"].as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_get_what_they_and_their_namespace_ask_for() {
    let Some(lab) = Lab::start().await else { return };
    let key = |name: &str| format!("cni.projectcalico.org/{name}");
    let config = config();

    // The namespace's pool, and no other wish.
    lab.pod("plain", json!({})).await;
    let plain = TestNet::new("plain").unwrap();
    let result = lab.cni(Verb::Add, "plain", &plain, &config).await.unwrap();
    let address = addresses(&result)[0].to_owned();
    assert!(address.starts_with("10.66.0."), "{result}");
    assert_eq!(lab.annotation("plain", "podIP").await, address);
    assert_eq!(lab.annotation("plain", "podIPs").await, address);
    assert_eq!(lab.annotation("plain", "containerID").await, "sandbox-of-plain");
    let spec = lab.endpoint("plain").await.spec;
    assert_eq!(spec.ip_networks[0].to_string(), address);
    assert_eq!(spec.interface_name, result["interfaces"][0]["name"]);
    let again = lab.cni(Verb::Add, "plain", &plain, &config).await.unwrap();
    assert_eq!(again, result, "a repeated ADD");

    // An address, a hardware address, and limits.
    let annotations = json!({
        key("ipAddrs"): r#"["10.65.0.77"]"#, key("hwAddr"): "02:00:5e:10:00:07",
        "kubernetes.io/ingress-bandwidth": "8M", "qos.projectcalico.org/egressBandwidth": "4M",
    });
    lab.pod("exact", annotations).await;
    let exact = TestNet::new("exact").unwrap();
    let result = lab.cni(Verb::Add, "exact", &exact, &config).await.unwrap();
    assert_eq!(addresses(&result), ["10.65.0.77/32"]);
    assert_eq!(result["interfaces"][1]["mac"], "02:00:5e:10:00:07");
    assert!(exact.output("ip", &["link", "show", "eth0"]).contains("02:00:5e:10:00:07"));
    let queues = lab.net.output("tc", &["qdisc", "show"]);
    assert!(queues.contains("rate 8Mbit") && queues.contains("rate 4Mbit"), "{queues}");
    let qos = lab.endpoint("exact").await.spec.qos_controls.unwrap();
    assert_eq!((qos.ingress_bandwidth, qos.egress_bandwidth), (8_000_000, 4_000_000));

    // Its own pools win over its namespace's; a floating address; IPv6 by its families.
    let annotations = json!({
        key("ipv4pools"): r#"["usual"]"#, key("ipv6pools"): r#"["six"]"#,
        key("ipFamilies"): r#"["IPv4", "IPv6"]"#, key("floatingIPs"): r#"["192.0.2.50"]"#,
    });
    lab.pod("both", annotations).await;
    let both = TestNet::new("both").unwrap();
    let result = lab.cni(Verb::Add, "both", &both, &config).await.unwrap();
    let found = addresses(&result);
    assert!(found[0].starts_with("10.65.0.") && found[1].starts_with("fd65::"), "{result}");
    let nat = lab.endpoint("both").await.spec.ip_nats;
    assert_eq!(nat[0].external_ip, Some("192.0.2.50".parse().unwrap()));

    // An address that IPAM knows nothing of.
    lab.pod("foreign", json!({ key("ipAddrsNoIpam"): r#"["172.31.0.9"]"# })).await;
    let foreign = TestNet::new("foreign").unwrap();
    let result = lab.cni(Verb::Add, "foreign", &foreign, &config).await.unwrap();
    assert_eq!(addresses(&result), ["172.31.0.9/32"]);

    // What makes no sense, or is of nobody, leaves nothing behind.
    lab.pod("wrong", json!({ key("ipAddrs"): "10.65.0.78" })).await;
    let wrong = TestNet::new("wrong").unwrap();
    let error = lab.cni(Verb::Add, "wrong", &wrong, &config).await.unwrap_err();
    assert!(error["code"] == 7 && error.to_string().contains("ipAddrs"), "{error}");
    let error = lab.cni(Verb::Add, "nobody", &wrong, &config).await.unwrap_err();
    assert!(error["code"] == 3 && error.to_string().contains("prod/nobody"), "{error}");

    with_another_datastore(&lab, &settings_of(&lab.cluster)).await;
    let mut ranges = request_of_ranges(&lab).await;
    ranges.sort();
    assert_eq!(ranges, ["10.99.1.0/24", "fd99:1::/64"], "for host-local's usePodCidr");

    let pods = [("plain", &plain), ("exact", &exact), ("both", &both), ("foreign", &foreign)];
    for (pod, netns) in pods {
        lab.cni(Verb::Del, pod, netns, &config).await.unwrap();
        lab.cni(Verb::Del, pod, netns, &config).await.unwrap();
        assert_eq!(lab.annotation(pod, "podIP").await, "", "{pod}");
        assert_eq!(lab.endpoint(pod).await.spec.ip_networks, [], "{pod}");
    }
    assert_eq!(lab.interfaces(), [] as [&str; 0]);
    let left = lab.engine.addresses().ipam().addresses_of_host(NODE).await.unwrap();
    assert!(left.is_empty(), "{left:?}");
}

fn settings_of(cluster: &Cluster) -> KubernetesConfig {
    let kubeconfig = cluster.dir.path().join("kubeconfig");
    serde_json::from_value(json!({ "kubeconfig": kubeconfig })).unwrap()
}

/// Kubernetes knows the pods, and another store keeps the endpoints: those say what a view of a pod
/// would say.
async fn with_another_datastore(lab: &Lab, kubernetes: &KubernetesConfig) {
    let directory = tempfile::tempdir().unwrap();
    let settings = DatastoreConfig::Embedded {
        path: directory.path().join("store"),
        durability: Default::default(),
    };
    let store = config::open(&settings).unwrap();
    let pool = json!({ "metadata": { "name": "special" }, "spec": { "cidr": "10.67.0.0/24" } });
    let key = Key::resource(Kind::IpPool, None, "special");
    store.create(key, pool.to_string().into()).await.unwrap();
    let engine = Engine::new(Parts {
        node: NODE.into(),
        ipam: Ipam::new(Arc::clone(&store), calico_ipam::Options::default()),
        store: Arc::clone(&store),
        network: Arc::new(InNet(Arc::clone(&lab.net))),
        policy: Arc::new(NoPolicy),
        journal: Journal::new(directory.path().join("journal")),
        options: Options {
            pods: pods::source(&settings, Some(kubernetes)).unwrap(),
            ..Options::default()
        },
    });
    let container = json!({ "name": "c", "image": "i",
        "ports": [{ "name": "web", "containerPort": 8080 }] });
    let pod = json!({ "metadata": { "name": "served", "labels": { "app": "web" } },
        "spec": { "nodeName": NODE, "serviceAccountName": "sa", "containers": [container] } });
    lab.cluster.must("POST", &format!("{NAMESPACE}/pods"), pod).await;
    let netns = TestNet::new("served").unwrap();
    let request = |verb| request("served", verb, &netns, &config());
    let response = engine.handle(&request(Verb::Add)).await;
    assert!(!response.failed, "{}", response.output);
    let key = Key::resource(Kind::WorkloadEndpoint, Some("prod"), "n--1-k8s-served-eth0");
    let endpoint: WorkloadEndpoint = store.get(&key).await.unwrap().decode().unwrap();
    let spec = &endpoint.spec;
    assert!(spec.ip_networks[0].to_string().starts_with("10.67.0."), "the namespace's pool");
    assert_eq!(endpoint.metadata.labels["app"], "web");
    assert_eq!(endpoint.metadata.labels["projectcalico.org/serviceaccount"], "sa");
    assert_eq!(spec.profiles, ["kns.prod", "ksa.prod.sa"]);
    assert_eq!(spec.service_account_name, "sa");
    assert_eq!((spec.ports[0].name.as_str(), spec.ports[0].port), ("web", 8080));
    let response = engine.handle(&request(Verb::Del)).await;
    assert!(!response.failed, "{}", response.output);
    assert_eq!(store.find(&key).await.unwrap(), None);
}

async fn request_of_ranges(lab: &Lab) -> Vec<String> {
    let request = Request {
        protocol: PROTOCOL,
        plugin: Plugin::Ranges,
        verb: Verb::Add,
        call: Call::default(),
        config: config().to_string(),
    };
    let response = lab.engine.handle(&request).await;
    assert!(!response.failed, "{}", response.output);
    serde_json::from_str(&response.output).unwrap()
}
