//! Objects that somebody has written past every check: each is named in the agents' logs, the last
//! good state stays in force, and everything else goes on.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use calico_core::Datastore;
use calico_core::key::Key;
use calico_core::kind::Kind;
use calico_datastore::config::EtcdConfig;
use calico_datastore::etcd::EtcdStore;
use calico_datastore::remote::RemoteStore;
use calico_lab::topology::StoreKind;
use calico_lab::wait::{Pending, until};
use calico_lab::{Lab, netns};
use calico_netlink::netns::Netns;
use serde_json::{Value, json};

use crate::common::traffic::{SILENCE, addresses, assert_pings, programmed, tcp, until_tcp};

/// Below what Calico's own resources are in Kubernetes.
const POLICIES: &str = "/apis/crd.projectcalico.org/v1/namespaces/default/networkpolicies";

/// For `near`, which nothing else is said of.
const SHUT: &str = "
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: { name: shut-near, namespace: default }
spec: { selector: role == 'near', types: [Ingress] }
";

/// `protect-web` is in force, which lets `client` in on port 80. What is written here says otherwise,
/// but makes no sense.
pub(crate) async fn change_nothing(lab: &Lab, store: StoreKind) {
    let selector = json!({"selector": "role == ", "types": ["Ingress"]});
    let net = json!({
        "selector": "all()", "order": 1, "types": ["Ingress"],
        "ingress": [{"action": "Deny", "source": {"nets": ["10.0.0.0/99"]}}, {"action": "Deny"}],
    });
    let mut said = vec![("protect-web", "selector"), ("wild", "10.0.0.0/99")];
    match store {
        StoreKind::Kubernetes => {
            let list = lab.ask_kubernetes("GET", POLICIES, &Value::Null).unwrap();
            let mut object = list["items"][0].clone();
            let name = object["metadata"]["name"].as_str().unwrap().to_owned();
            assert!(name.ends_with("protect-web"), "{list}");
            object["spec"] = selector;
            lab.ask_kubernetes("PUT", &format!("{POLICIES}/{name}"), &object).unwrap();
            object["metadata"] = json!({"name": name.replace("protect-web", "wild")});
            object["spec"] = net;
            lab.ask_kubernetes("POST", POLICIES, &object).unwrap();
        }
        _ => {
            let object = |name: &str, spec: &Value| {
                let metadata = json!({"name": name, "namespace": "default"});
                let version = "projectcalico.org/v3";
                json!({"apiVersion": version, "kind": "NetworkPolicy", "metadata": metadata, "spec": spec})
                    .to_string()
            };
            let key = |name: &str| Key::resource(Kind::NetworkPolicy, Some("default"), name);
            let (web, wild) = (object("protect-web", &selector), object("wild", &net));
            let garbage = "{ this is no JSON".to_owned();
            let writes =
                [(key("protect-web"), web), (key("wild"), wild), (key("garbage"), garbage)];
            write(lab, store, &writes);
            said.push(("garbage", "malformed"));
        }
    }
    // Where the pods are that it is about.
    for (name, part) in said {
        let path = lab.run_dir("node2").join("agent.log");
        until(&format!("{name} in the log"), Duration::from_secs(30), async || {
            let log = std::fs::read_to_string(&path).unwrap();
            let named = |line: &str| line.contains(name) && line.contains(part);
            if log.lines().any(named) { Ok(()) } else { Err(Pending::NotYet(log)) }
        })
        .await
        .unwrap();
    }
    let [web, _] = addresses(lab, "web");
    let [near, _] = addresses(lab, "near");
    let answers = async |from: &str, port: u16| {
        tcp(lab, from, (web, port).into(), SILENCE).await.is_answered()
    };
    assert!(answers("client", 80).await, "what the last good policy allows");
    assert!(!answers("client", 8080).await && !answers("near", 80).await, "what it denies");

    // Other policies come and go.
    lab.apply_text(SHUT).await.unwrap();
    until_tcp(lab, "client", (near, 80).into(), false).await;
    lab.calicoctl(&["delete", "networkpolicy", "shut-near", "-n", "default"]).await.unwrap();
    until_tcp(lab, "client", (near, 80).into(), true).await;

    // What is mended counts at once.
    lab.apply_text(&crate::ONE_PORT.replace("[80]", "[8080]")).await.unwrap();
    until_tcp(lab, "client", (web, 8080).into(), true).await;
    assert!(!answers("client", 80).await);
    lab.calicoctl(&["delete", "networkpolicy", "wild", "-n", "default"]).await.unwrap();
    if store != StoreKind::Kubernetes {
        lab.calicoctl(&["delete", "networkpolicy", "garbage", "-n", "default"]).await.unwrap();
    }
    lab.apply_text(crate::ONE_PORT).await.unwrap();
    until_tcp(lab, "client", (web, 8080).into(), false).await;
}

/// Agents that start know no last good state but that of the kernel. What a policy has said that has
/// mistakes by now nobody knows any more: whom it was for stays closed, and everything else is as it
/// was.
pub(crate) async fn open_nothing_at_a_restart(lab: &mut Lab) {
    lab.apply_text(crate::ONE_PORT).await.unwrap();
    lab.apply_text(SHUT).await.unwrap();
    let [web, web6] = addresses(lab, "web");
    let [near, _] = addresses(lab, "near");
    let [client, _] = addresses(lab, "client");
    until_tcp(lab, "near", (web, 80).into(), false).await;
    until_tcp(lab, "web", (near, 80).into(), false).await;
    until_tcp(lab, "client", (web, 80).into(), true).await;

    let object = |kind: Kind, namespace: Option<&str>, name: &str, spec: Value| {
        let mut metadata = json!({"name": name});
        if let Some(namespace) = namespace {
            metadata["namespace"] = json!(namespace);
        }
        let version = "projectcalico.org/v3";
        let object = json!({"apiVersion": version, "kind": kind.as_str(), "metadata": metadata, "spec": spec});
        (Key::resource(kind, namespace, name), object.to_string())
    };
    let namespace = Some("default");
    let rules = json!([{"action": "Allow", "source": {"nets": ["10.0.0.0/99"]}}]);
    let policy = json!({"selector": "role == 'web'", "types": ["Ingress"], "ingress": rules});
    let endpoint = json!({"node": "node2", "orchestrator": "k8s", "endpoint": "eth0", "pod": "odd",
        "interfaceName": 5, "ipNetworks": ["here"]});
    let (odd_endpoint, odd_host) = ("node2-k8s-odd-eth0", json!({"node": "node2", "ports": 7}));
    let bad = [
        object(Kind::NetworkPolicy, namespace, "protect-web", policy),
        object(Kind::Tier, None, "odd-tier", json!({"order": "first", "defaultAction": "Deny"})),
        object(Kind::NetworkSet, namespace, "odd-set", json!({"nets": ["everywhere"]})),
        object(Kind::GlobalNetworkSet, None, "odd-sets", json!({"nets": 5})),
        object(Kind::WorkloadEndpoint, namespace, odd_endpoint, endpoint),
        object(Kind::HostEndpoint, None, "odd-host", odd_host),
        (Key::resource(Kind::Profile, None, "odd-profile"), "[]".to_owned()),
    ];
    write(lab, StoreKind::Embedded, &bad);
    let path = lab.run_dir("node2").join("agent.log");
    let before = std::fs::read_to_string(&path).unwrap().len();
    let intruder = Intruder::start(lab, &[("client", (web, 8080)), ("near", (web6, 80))]);
    for node in ["node2", "node1"] {
        lab.crash_agent(node).unwrap();
        lab.wait_for_sessions().await.unwrap();
    }
    for (key, _) in &bad {
        let name = key.to_string();
        let name = name.rsplit('/').next().unwrap();
        until(&format!("{key} in the log"), Duration::from_secs(30), async || {
            let log = std::fs::read_to_string(&path).unwrap();
            let named = log[before..].lines().any(|it| it.contains(name) && it.contains("WARN"));
            if named { Ok(()) } else { Err(Pending::NotYet(log[before..].to_owned())) }
        })
        .await
        .unwrap();
    }
    // The last of it is in force.
    for (node, pod) in [("node1", "near"), ("node1", "client")] {
        programmed(lab, node, pod).await;
    }
    let (tried, entered) = intruder.stop();
    assert!(tried > 10 && entered == 0, "{entered} of {tried} forbidden connections");
    let answers = async |from: &str, to| tcp(lab, from, to, SILENCE).await.is_answered();
    assert!(!answers("web", (near, 80).into()).await, "another policy stays in force");
    assert_pings(lab.pod("web").unwrap().namespace(), client).await;

    lab.apply_text(crate::ONE_PORT).await.unwrap();
    until_tcp(lab, "client", (web, 80).into(), true).await;
    assert!(!answers("client", (web, 8080).into()).await);
    lab.calicoctl(&["delete", "networkpolicy", "shut-near", "-n", "default"]).await.unwrap();
    until_tcp(lab, "web", (near, 80).into(), true).await;
}

/// Tries what policy forbids, all the time.
struct Intruder {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<(u64, u64)>>,
}

impl Intruder {
    fn start(lab: &Lab, ways: &[(&str, (IpAddr, u16))]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let of = |(from, to): &(&str, (IpAddr, u16))| {
            let namespace = lab.pod(from).unwrap().namespace().to_owned();
            let (stopped, to) = (Arc::clone(&stop), SocketAddr::from(*to));
            std::thread::spawn(move || {
                let (mut tried, mut entered) = (0, 0);
                netns::enter(&namespace, || {
                    while !stopped.load(Ordering::Relaxed) {
                        let limit = Duration::from_millis(50);
                        entered += u64::from(TcpStream::connect_timeout(&to, limit).is_ok());
                        tried += 1;
                    }
                })
                .unwrap();
                (tried, entered)
            })
        };
        Self { threads: ways.iter().map(of).collect(), stop }
    }

    /// How often they tried, and how often they were let in.
    fn stop(self) -> (u64, u64) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.threads.into_iter().map(|thread| thread.join().unwrap());
        ended.fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1))
    }
}

/// Writes to a datastore what a client of ours never would.
fn write(lab: &Lab, store: StoreKind, writes: &[(Key, String)]) {
    let socket = lab.run_dir("node1").join("datastore.sock");
    let work = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let store: Arc<dyn Datastore> = match store {
                StoreKind::Etcd => {
                    let config = EtcdConfig::new(["http://127.0.0.1:2379"]);
                    Arc::new(EtcdStore::connect(config).unwrap())
                }
                _ => Arc::new(RemoteStore::connect(&socket)),
            };
            for (key, text) in writes {
                store.put(key.clone(), text.as_str().into()).await.unwrap();
            }
        });
    };
    match store {
        StoreKind::Etcd => Netns::named(&lab.namespace("store")).unwrap().run(work).unwrap(),
        _ => std::thread::scope(|scope| scope.spawn(work).join().unwrap()),
    }
}
