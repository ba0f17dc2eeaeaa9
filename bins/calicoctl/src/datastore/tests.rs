use std::collections::BTreeMap;
use std::sync::Arc;

use calico_core::key::{Key, Scope};
use calico_core::kind::Kind;
use calico_core::memory::MemoryStore;
use calico_ipam::{AssignRequest, Ipam, Options};
use serde_json::{Value, json};

use super::*;

/// A cluster of two nodes, one of which has another name in Kubernetes.
async fn cluster() -> Arc<dyn Datastore> {
    let store: Arc<dyn Datastore> = Arc::new(MemoryStore::new());
    let put = async |kind: Kind, name: &str, spec: Value| {
        let namespace = if kind.is_namespaced() { "default" } else { "" };
        let mut metadata = json!({"name": name, "uid": "u"});
        if kind.is_namespaced() {
            metadata["namespace"] = namespace.into();
        }
        let value = json!({"kind": kind, "apiVersion": "projectcalico.org/v3",
            "metadata": metadata, "spec": spec, "later": {"kept": true}});
        let key = Key::resource(kind, Some(namespace), name);
        store.put(key, value.to_string().into()).await.unwrap();
    };
    put(Kind::ClusterInformation, "default", json!({"clusterGUID": "g", "datastoreReady": true}))
        .await;
    put(Kind::IpPool, "main", json!({"cidr": "10.0.0.0/16"})).await;
    put(Kind::Tier, "default", json!({"order": 1_000_000})).await;
    let known = json!([{"nodeName": "k1", "orchestrator": "k8s"}]);
    put(Kind::Node, "n1", json!({"orchRefs": known})).await;
    put(Kind::Node, "n2", json!({})).await;
    put(Kind::BgpPeer, "p", json!({"node": "n1", "peerIP": "192.0.2.1"})).await;
    put(Kind::FelixConfiguration, "node.n1", json!({"bpfLogLevel": "Off"})).await;
    put(Kind::NetworkPolicy, "knp.default.x", json!({"order": 1})).await;
    put(Kind::NetworkPolicy, "web", json!({"order": 1.5, "selector": "a == '===\\n'"})).await;
    put(Kind::WorkloadEndpoint, "w", json!({"node": "n1"})).await;
    let ipam = Ipam::new(Arc::clone(&store), Options::default());
    for (node, handle) in [("n1", "vxlan-tunnel-addr-n1"), ("n2", "net.pod")] {
        let request = AssignRequest::new(node).handle(handle).v4(1).attribute("node", node);
        ipam.auto_assign(request).await.unwrap();
    }
    store.put(Key::IpamConfig, r#"{"strict_affinity":false}"#.into()).await.unwrap();
    store.put(Key::IpamHost("n1".into()), "{}".into()).await.unwrap();
    store
}

async fn contents(store: &dyn Datastore) -> BTreeMap<String, Value> {
    let entries = store.list(&Scope::All).await.unwrap().entries;
    entries.iter().map(|e| (e.key.to_string(), e.decode().unwrap())).collect()
}

async fn exported(store: &dyn Datastore, kubernetes: bool) -> tempfile::NamedTempFile {
    let text = export(store, kubernetes).await.unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

#[tokio::test]
async fn everything_arrives_as_it_left() {
    let store = cluster().await;
    let error = export(&*store, false).await.unwrap_err().to_string();
    assert!(error.contains("not locked"), "{error}");
    lock(&*store).await.unwrap();
    let file = exported(&*store, false).await;

    let target = MemoryStore::new();
    let tier = Key::resource(Kind::Tier, None, "kube-admin");
    target
        .put(tier.clone(), r#"{"kind":"Tier","metadata":{"name":"kube-admin"}}"#.into())
        .await
        .unwrap();
    let said = import(&target, file.path(), false).await.unwrap();
    assert!(
        said.starts_with("Successfully imported 18 objects. The datastore is locked"),
        "{said}"
    );
    let mut found = contents(&target).await;
    found.remove(&tier.to_string());
    assert_eq!(found, contents(&*store).await);
    let again = import(&target, file.path(), false).await.unwrap();
    assert_eq!(again, said, "it can be repeated");
    unlock(&target).await.unwrap();
    let key = cluster::Cluster::key();
    assert!(target.get(&key).await.unwrap().value.contains(r#""datastoreReady":true"#));
}

#[tokio::test]
async fn what_orchestrators_say_of_themselves_stays_behind() {
    let store = cluster().await;
    lock(&*store).await.unwrap();
    let before = exported(&*store, false).await;
    let key = Key::resource(Kind::KubernetesService, Some("default"), "web");
    store.create(key, r#"{"metadata": {"name": "web"}}"#.into()).await.unwrap();
    let after = exported(&*store, false).await;
    assert_eq!(
        std::fs::read_to_string(before.path()).unwrap(),
        std::fs::read_to_string(after.path()).unwrap()
    );
}

#[tokio::test]
async fn for_kubernetes_nodes_get_their_names_there() {
    let store = cluster().await;
    lock(&*store).await.unwrap();
    let file = exported(&*store, true).await;
    let target = MemoryStore::new();
    import(&target, file.path(), false).await.unwrap();
    let found = contents(&target).await;
    let text = format!("{found:?}");
    for part in ["nodes/k1", "nodes/n2", "node.k1", "vxlan-tunnel-addr-k1", "host/k1/", "host:k1"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    for gone in ["n1", "knp.default", "workloadendpoints"] {
        assert!(!text.contains(gone), "{gone} in {text}");
    }
}

#[tokio::test]
async fn a_datastore_in_use_is_left_alone() {
    let store = cluster().await;
    lock(&*store).await.unwrap();
    let file = exported(&*store, false).await;
    let target = MemoryStore::new();
    target.put(Key::resource(Kind::IpPool, None, "mine"), "{}".into()).await.unwrap();
    let error = import(&target, file.path(), false).await.unwrap_err().to_string();
    assert!(error.contains("1 other object(s) (IPPool mine)"), "{error}");
    assert_eq!(contents(&target).await.len(), 1);
}

#[tokio::test]
async fn broken_files_are_refused_as_a_whole() {
    let store = cluster().await;
    lock(&*store).await.unwrap();
    let text = export(&*store, false).await.unwrap();
    let target = MemoryStore::new();
    let cut = text.rfind("===").unwrap();
    for (text, part) in [
        (&text[..cut], "2 section(s) instead of 3"),
        (&text[..text.len() - 20], "section 3 (IPAM)"),
        (&*text.replace("kind: IPPool", "kind: Pool"), "section 1 (resources)"),
        ("===\n===\n", "no ClusterInformation"),
    ] {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let error = import(&target, file.path(), false).await.unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(contents(&target).await.len(), 0);
}
