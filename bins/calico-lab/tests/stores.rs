//! The whole main job with etcd and with Kubernetes as the datastore: nodes, sessions, pods,
//! routes, traffic and policy; and what happens when the datastore dies under it.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;
mod stores {
    pub(crate) mod bad;
}

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use calico_lab::topology::{StoreKind, Topology};
use calico_lab::{Lab, netns};
use common::continuity::{Monitor, Stream};
use common::inside::{nft, nft_file, packets};
use common::traffic::{
    SILENCE, addresses, assert_reaches, assert_routes, sessions, tcp, until_tcp,
};
use common::{assert_gone, eventually, host_links, lab_name, turn};
use serde_json::{Value, json};
use stores::bad;

const TOPOLOGY: &str = r#"
nodes:
  - { name: node1, addresses: [172.30.0.11/24, "fd30::11/64"] }
  - { name: node2, addresses: [172.30.0.12/24, "fd30::12/64"] }
pools:
  - { name: pods-v4, cidr: 10.244.0.0/16, blockSize: 26, natOutgoing: true }
  - { name: pods-v6, cidr: "fd00:244::/64", blockSize: 122 }
pods:
  - { name: client, node: node1, labels: { role: client } }
  - { name: web, node: node2, labels: { role: web }, tcp: [80, 8080], udp: [53] }
  - { name: near, node: node1, labels: { role: near }, tcp: [80] }
"#;

/// The pod that is made while the datastore is away.
const LATE: &str = r#"{ "name": "late", "namespace": "default", "node": "node2",
    "labels": { "role": "client" }, "tcp": [80] }"#;

const ONE_PORT: &str = "
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: { name: protect-web, namespace: default }
spec:
  selector: role == 'web'
  types: [Ingress]
  ingress:
  - { action: Allow, protocol: TCP, source: { selector: role == 'client' }, destination: { ports: [80] } }
  - { action: Allow, protocol: ICMP }
  - { action: Allow, protocol: ICMPv6 }
";

/// Says of itself what it lets in, as Kubernetes' own users do.
const KUBERNETES_POLICY: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: protect-near, namespace: default }
spec:
  podSelector: { matchLabels: { role: near } }
  policyTypes: [Ingress]
  ingress:
  - from: [{ podSelector: { matchLabels: { role: client } } }]
    ports: [{ port: 80 }]
";

#[tokio::test]
async fn the_main_job_on_etcd() {
    let Some(_turn) = turn() else { return };
    let name = lab_name("etcd");
    let links = host_links();
    let mut lab = up(&name, StoreKind::Etcd).await;
    works(&lab).await;
    bad::change_nothing(&lab, StoreKind::Etcd).await;
    outlives_its_datastore(&mut lab).await;
    lab.remove().unwrap();
    assert_gone(&name);
    assert_eq!(host_links(), links, "the machine's own interfaces");
}

#[tokio::test]
async fn the_main_job_on_kubernetes() {
    let Some(_turn) = turn() else { return };
    let name = lab_name("kube");
    let mut lab = up(&name, StoreKind::Kubernetes).await;
    works(&lab).await;
    bad::change_nothing(&lab, StoreKind::Kubernetes).await;
    kubernetes_sees_its_pods(&lab);
    kubernetes_knows_its_nodes(&lab).await;
    kubernetes_marks_packets(&lab).await;
    kubernetes_decides_by_its_own_policy(&lab).await;
    outlives_its_datastore(&mut lab).await;
    lab.remove().unwrap();
    assert_gone(&name);
}

#[tokio::test]
async fn bad_objects_in_an_embedded_store() {
    let Some(_turn) = turn() else { return };
    let name = lab_name("bad");
    let mut lab = up(&name, StoreKind::Embedded).await;
    works(&lab).await;
    bad::change_nothing(&lab, StoreKind::Embedded).await;
    bad::open_nothing_at_a_restart(&mut lab).await;
    lab.remove().unwrap();
    assert_gone(&name);
}

async fn up(name: &str, store: StoreKind) -> Lab {
    let text = format!("name: {name}\n{TOPOLOGY}");
    let mut topology = Topology::parse("stores.yaml", &text).unwrap();
    topology.store = store;
    Lab::up(topology, &text).await.unwrap()
}

async fn works(lab: &Lab) {
    for (node, other) in [("node1", 12), ("node2", 11)] {
        let mesh = |address: String| (address, "NodeMesh".to_owned());
        let expected = [mesh(format!("172.30.0.{other}")), mesh(format!("fd30::{other}"))];
        assert_eq!(sessions(lab, node).await, expected, "{node}");
    }
    assert_routes(lab, false);
    assert_routes(lab, true);
    assert_reaches(lab, "client", "web").await;
    assert_reaches(lab, "web", "near").await;
    let weps = lab.calicoctl(&["get", "workloadendpoints", "--all-namespaces"]).await.unwrap();
    for pod in ["client", "web", "near"] {
        assert!(weps.contains(pod), "{pod}: {weps}");
    }

    lab.apply_text(ONE_PORT).await.unwrap();
    let [v4, v6] = addresses(lab, "web");
    until_tcp(lab, "near", (v4, 80).into(), false).await;
    for address in [v4, v6] {
        let answers = async |from: &str, port: u16| {
            tcp(lab, from, (address, port).into(), SILENCE).await.is_answered()
        };
        assert!(answers("client", 80).await, "{address}");
        assert!(!answers("client", 8080).await, "{address}");
        assert!(!answers("near", 80).await, "{address}");
    }
}

/// The datastore dies and comes back while pods talk, come and go.
async fn outlives_its_datastore(lab: &mut Lab) {
    let web = lab.pod("web").unwrap().address(false).unwrap();
    let monitors = ["node1", "node2"].map(|node| Monitor::start(lab, node));
    let late = serde_json::from_str(LATE).unwrap();
    lab.schedule_pod(&late).unwrap();
    let pings = Stream::start(lab, "client", &web.to_string());
    lab.kill("store").unwrap();

    let started = Instant::now();
    let refused = lab.add_pod(late.clone()).await.unwrap_err().to_string();
    let waited = started.elapsed();
    println!("an ADD without a datastore, after {waited:?}: {refused}");
    assert!(waited < Duration::from_secs(20), "{waited:?}");
    assert!(refused.contains("datastore") && refused.contains("unavailable"), "{refused}");

    let started = Instant::now();
    let near = lab.stop_pod("default/near").await.unwrap();
    println!("a DEL without a datastore took {:?}", started.elapsed());
    // An agent that starts without a datastore leaves what is in force as it is.
    lab.crash_agent("node2").unwrap();
    holds(lab, (web, 80).into()).await;

    lab.start_store().await.unwrap();
    let started = Instant::now();
    lab.wait_for_sessions().await.unwrap();
    println!("agents are ready {:?} after the datastore", started.elapsed());
    lab.add_pod(late).await.unwrap();
    assert_reaches(lab, "client", "late").await;
    until_tcp(lab, "late", (web, 80).into(), true).await;
    assert!(!tcp(lab, "late", (web, 8080).into(), SILENCE).await.is_answered());
    lab.calicoctl(&["delete", "networkpolicy", "protect-web", "-n", "default"]).await.unwrap();
    until_tcp(lab, "late", (web, 8080).into(), true).await;
    assert_eq!(pings.lost(), 0, "packets were lost");
    for monitor in monitors {
        let gone = monitor.stop();
        let others: Vec<&String> =
            gone.iter().filter(|it| !it.contains(&near.attachment.host_interface)).collect();
        assert!(others.is_empty(), "routes went: {others:?}");
    }
    // What the DEL could not tell the datastore is told later.
    lab.forget_pod(&near.pod).unwrap();
    for address in &near.attachment.addresses {
        until_released(lab, &address.to_string()).await;
    }
}

/// Policy is in force, and what it allows arrives.
async fn holds(lab: &Lab, open: SocketAddr) {
    for _ in 0..5 {
        assert!(tcp(lab, "client", open, SILENCE).await.is_answered());
        let shut = (open.ip(), 8080).into();
        assert!(!tcp(lab, "client", shut, SILENCE / 4).await.is_answered());
    }
}

async fn until_released(lab: &Lab, address: &str) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let ip = format!("--ip={address}");
        let text = lab.calicoctl(&["ipam", "show", &ip]).await.unwrap();
        if text.contains("is not assigned") {
            return;
        }
        assert!(Instant::now() < deadline, "{address} is not released: {text}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// What upstream's other programs read of a pod is written where they look.
fn kubernetes_sees_its_pods(lab: &Lab) {
    let path = "/api/v1/namespaces/default/pods/web";
    let pod = lab.ask_kubernetes("GET", path, &Value::Null).unwrap();
    let web = lab.pod("web").unwrap();
    let annotation = |name: &str| {
        pod["metadata"]["annotations"][format!("cni.projectcalico.org/{name}")]
            .as_str()
            .unwrap_or_else(|| panic!("{name}: {pod}"))
            .to_owned()
    };
    let [v4, v6] = addresses(lab, "web");
    assert_eq!(annotation("podIP"), format!("{v4}/32"));
    assert_eq!(annotation("podIPs"), format!("{v4}/32,{v6}/128"));
    assert_eq!(annotation("containerID").len(), 64);
    let interface = &web.attachment.host_interface;
    assert!(interface.starts_with("cali") && interface.len() == 15, "{interface}");
}

/// Agents say of themselves what upstream's nodes read, and that pods may come.
async fn kubernetes_knows_its_nodes(lab: &Lab) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let node = lab.ask_kubernetes("GET", "/api/v1/nodes/node1", &Value::Null).unwrap();
        let conditions = node["status"]["conditions"].as_array().unwrap();
        let up = |it: &&Value| {
            it["type"] == "NetworkUnavailable"
                && it["status"] == "False"
                && it["reason"] == "CalicoIsUp"
        };
        let annotation = |name: &str| {
            let name = format!("projectcalico.org/{name}");
            node["metadata"]["annotations"][name].as_str().unwrap_or_default().to_owned()
        };
        let found = [annotation("IPv4Address"), annotation("IPv6Address")];
        if conditions.iter().any(|it| up(&it)) && found == ["172.30.0.11/24", "fd30::11/64"] {
            assert_eq!(conditions.len(), 2, "the kubelet's conditions stay: {node}");
            break;
        }
        assert!(Instant::now() < deadline, "{node}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let of_calico = |path: &str| {
        let path = format!("/apis/crd.projectcalico.org/v1/{path}");
        lab.ask_kubernetes("GET", &path, &Value::Null).unwrap()
    };
    let cluster = of_calico("clusterinformations/default");
    assert_eq!(cluster["spec"]["clusterType"], "kdd", "{cluster}");
    let felix = of_calico("felixconfigurations/default");
    assert_eq!(felix["spec"]["reportingInterval"], "0s", "{felix}");
    let affinities = of_calico("blockaffinities");
    for affinity in affinities["items"].as_array().unwrap() {
        let (spec, labels) = (&affinity["spec"], &affinity["metadata"]["labels"]);
        assert_eq!((&spec["state"], &spec["type"]), (&"confirmed".into(), &"host".into()));
        assert!(labels["projectcalico.org/hostname-hash"].is_string(), "{affinity}");
    }
}

/// The annotation of a pod is in the header of what it sends out of the cluster, as it comes to
/// another machine, and in nothing that it sends to a pod of another node.
async fn kubernetes_marks_packets(lab: &Lab) {
    let annotate = |value: Value| {
        let annotations = json!({"qos.projectcalico.org/dscp": value});
        let body = json!({"metadata": {"annotations": annotations}});
        lab.ask_kubernetes("PATCH", "/api/v1/namespaces/default/pods/client", &body).unwrap();
    };
    let store = lab.store_addresses()[0].addr();
    let [web, _] = addresses(lab, "web");
    for member in ["store", "node2"] {
        // Who is counted by the second chain was looked at by the first.
        let seen = "table ip seen {
            chain marked { type filter hook prerouting priority -301; udp dport 5555 ip dscp ef counter; }
            chain every { type filter hook prerouting priority -300; udp dport 5555 counter; }
        }";
        nft_file(lab, member, seen);
    }
    let counted = |member: &str, chain: &str| {
        packets(&nft(lab, member, &["list", "chain", "ip", "seen", chain]))
    };
    let send = |to: std::net::IpAddr| {
        let member = if to == store { "store" } else { "node2" };
        let before = (counted(member, "every"), counted(member, "marked"));
        let client = lab.pod("client").unwrap().namespace();
        netns::enter(client, || {
            let socket = std::net::UdpSocket::bind(("0.0.0.0", 0)).unwrap();
            socket.send_to(b"x", (to, 5555)).unwrap();
        })
        .unwrap();
        eventually("the packet is on the fabric", || counted(member, "every") > before.0);
        counted(member, "marked") - before.1
    };
    assert_eq!((send(store), send(web)), (0, 0), "nothing is said of it");
    annotate(json!("EF"));
    eventually("packets carry the code point", || send(store) == 1);
    assert_eq!(send(web), 0, "within the cluster");
    annotate(Value::Null);
    eventually("packets carry none any more", || send(store) == 0);
    for member in ["store", "node2"] {
        nft(lab, member, &["delete", "table", "ip", "seen"]);
    }
}

async fn kubernetes_decides_by_its_own_policy(lab: &Lab) {
    lab.kubectl_apply(KUBERNETES_POLICY).unwrap();
    let near = lab.pod("near").unwrap().address(false).unwrap();
    until_tcp(lab, "web", (near, 80).into(), false).await;
    assert!(tcp(lab, "client", (near, 80).into(), SILENCE).await.is_answered());
    let path = "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies/protect-near";
    lab.ask_kubernetes("DELETE", path, &Value::Null).unwrap();
    until_tcp(lab, "web", (near, 80).into(), true).await;
}
