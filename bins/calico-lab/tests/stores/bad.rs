//! Objects that somebody has written past every check: each is named in the agents' logs, the last
//! good state stays in force, and everything else goes on.

use std::sync::Arc;
use std::time::Duration;

use calico_core::Datastore;
use calico_core::key::Key;
use calico_core::kind::Kind;
use calico_datastore::config::EtcdConfig;
use calico_datastore::etcd::EtcdStore;
use calico_datastore::remote::RemoteStore;
use calico_lab::Lab;
use calico_lab::topology::StoreKind;
use calico_lab::wait::{Pending, until};
use calico_netlink::netns::Netns;
use serde_json::{Value, json};

use crate::common::traffic::{SILENCE, addresses, tcp, until_tcp};

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
            let found = log.lines().any(|line| named(line) && line.contains("ignored"));
            if found { Ok(()) } else { Err(Pending::NotYet(log)) }
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
    lab.apply_text(crate::ONE_PORT).await.unwrap();
    until_tcp(lab, "client", (web, 8080).into(), false).await;
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
