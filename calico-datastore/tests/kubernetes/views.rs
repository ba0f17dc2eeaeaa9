//! Kubernetes' own objects, seen as Calico's.

use calico_core::Datastore as _;
use calico_core::datastore::{Entry, StoreError, WatchEvent, WatchStream};
use calico_core::key::{Key, Scope};
use calico_core::kind::Kind;
use calico_core::resource::{
    GlobalNetworkPolicy, KubernetesEndpointSlice, KubernetesService, LiveMigration, NetworkPolicy,
    Node, Profile, WorkloadEndpoint,
};
use calico_datastore::conversion::{ApiGroup, calico_uid};
use serde_json::{Value, json};

use super::{Etcd, Turn, next};

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// A definition of custom resources of any shape.
fn definition(group: &str, version: &str, scope: &str, kind: &str) -> Value {
    let lower = kind.to_lowercase();
    let plural = lower.strip_suffix('y').map_or_else(|| format!("{lower}s"), |y| format!("{y}ies"));
    let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let version = json!({"name": version, "served": true, "storage": true,
        "schema": {"openAPIV3Schema": schema}});
    json!({
        "metadata": {"name": format!("{plural}.{group}"),
            "annotations": {"api-approved.kubernetes.io": "unapproved, for a test"}},
        "spec": {"group": group, "scope": scope, "versions": [version],
            "names": {"kind": kind, "plural": plural}}})
}

const PODS: &str = "/api/v1/namespaces/prod/pods";

/// The next event about `key`.
async fn about(watch: &mut WatchStream, key: &Key) -> WatchEvent {
    loop {
        let event = next(watch).await;
        match &event {
            WatchEvent::Put(Entry { key: of, .. }) | WatchEvent::Gone { key: of, .. }
                if of == key =>
            {
                return event;
            }
            _ => {}
        }
    }
}

async fn ready(watch: &mut WatchStream) -> Vec<Entry> {
    let mut entries = Vec::new();
    loop {
        match next(watch).await {
            WatchEvent::Item(entry) => entries.push(entry),
            WatchEvent::Ready(_) => return entries,
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_are_endpoints() {
    let Some(turn) = Turn::take(Etcd::Current) else { return };
    let (cluster, store) = (turn.cluster, turn.store(ApiGroup::Crd));
    let mut watch = store.watch(Scope::Kind(Kind::WorkloadEndpoint), None);
    ready(&mut watch).await;

    let container =
        json!({"name": "c", "image": "i", "ports": [{"name": "http", "containerPort": 80}]});
    let pod = |name: &str, spec: Value| {
        let mut pod = json!({"metadata": {"name": name, "labels": {"app": "web"}},
            "spec": {"containers": [container.clone()], "serviceAccountName": "web"}});
        for (field, value) in spec.as_object().unwrap() {
            pod["spec"][field] = value.clone();
        }
        pod
    };
    cluster.must("POST", PODS, pod("unscheduled", json!({}))).await;
    cluster.must("POST", PODS, pod("host", json!({"nodeName": "n-1", "hostNetwork": true}))).await;
    let made = cluster.must("POST", PODS, pod("web-0", json!({"nodeName": "n-1"}))).await;

    let key = Key::resource(Kind::WorkloadEndpoint, Some("prod"), "n--1-k8s-web--0-eth0");
    let WatchEvent::Put(entry) = about(&mut watch, &key).await else { panic!("a new endpoint") };
    assert_eq!(store.get(&key).await, Ok(entry.clone()));
    let listed = store.list(&Scope::Kind(Kind::WorkloadEndpoint)).await.unwrap();
    assert_eq!(listed.entries, std::slice::from_ref(&entry));
    let wep: WorkloadEndpoint = entry.decode().unwrap();
    assert_eq!(wep.metadata.uid, made["metadata"]["uid"].as_str().unwrap());
    assert_eq!(wep.spec.profiles, ["kns.prod", "ksa.prod.web"]);
    assert!(wep.spec.ip_networks.is_empty());

    // The plugin writes addresses; they become annotations of the pod.
    let mut written = wep.clone();
    written.spec.ip_networks = vec!["10.65.0.2/32".parse().unwrap()];
    written.spec.container_id = "c0ffee".to_owned();
    let stale = calico_core::datastore::Revision(entry.revision.0 - 1);
    let conflict = store.update(key.clone(), written.to_json(), stale).await.unwrap_err();
    assert_eq!(
        conflict,
        StoreError::Conflict { key: key.clone(), expected: stale, found: entry.revision }
    );
    let revision = store.update(key.clone(), written.to_json(), entry.revision).await.unwrap();
    assert!(revision > entry.revision);
    let raw = cluster.must("GET", &format!("{PODS}/web-0"), Value::Null).await;
    let annotations = json!({"cni.projectcalico.org/containerID": "c0ffee",
        "cni.projectcalico.org/podIP": "10.65.0.2/32", "cni.projectcalico.org/podIPs": "10.65.0.2/32"});
    assert_eq!(raw["metadata"]["annotations"], annotations);
    let WatchEvent::Put(entry) = about(&mut watch, &key).await else { panic!("a change") };
    assert_eq!(entry.revision, revision);
    let wep: WorkloadEndpoint = entry.decode().unwrap();
    assert_eq!(wep.spec.ip_networks, written.spec.ip_networks);

    // Deleting the endpoint releases them, and leaves the pod to Kubernetes.
    store.delete(key.clone(), Some(revision)).await.unwrap();
    let raw = cluster.must("GET", &format!("{PODS}/web-0"), Value::Null).await;
    assert_eq!(raw["metadata"]["annotations"]["cni.projectcalico.org/podIPs"], "");
    assert!(matches!(about(&mut watch, &key).await, WatchEvent::Put(_)));

    for name in ["web-0", "host", "unscheduled"] {
        let now = json!({"gracePeriodSeconds": 0});
        cluster.must("DELETE", &format!("{PODS}/{name}"), now).await;
    }
    while !matches!(about(&mut watch, &key).await, WatchEvent::Gone { .. }) {}
    let error = store.get(&key).await.unwrap_err();
    assert_eq!(error, StoreError::NotFound { key: key.clone() });
    let error = store.put(key, wep.to_json()).await.unwrap_err();
    assert!(matches!(error, StoreError::Unsupported { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_are_nodes() {
    let Some(turn) = Turn::take(Etcd::Current) else { return };
    let (cluster, store) = (turn.cluster, turn.store(ApiGroup::V3));
    let body = json!({"metadata": {"name": "n-2", "labels": {"zone": "a"}},
        "spec": {"podCIDR": "10.244.1.0/24"}});
    cluster.must("POST", "/api/v1/nodes", body).await;
    let key = Key::resource(Kind::Node, None, "n-2");
    let entry = store.get(&key).await.unwrap();
    let mut node: Node = entry.decode().unwrap();
    assert_eq!(node.spec.bgp, None);
    assert_eq!(node.status.as_ref().unwrap().pod_cidrs, ["10.244.1.0/24".parse().unwrap()]);

    let bgp = r#"{"ipv4Address": "192.0.2.1/24", "asNumber": 64513}"#;
    node.spec.bgp = Some(serde_json::from_str(bgp).unwrap());
    node.metadata.labels.insert("rack".to_owned(), "r1".to_owned());
    let revision = store.update(key.clone(), node.to_json(), entry.revision).await.unwrap();
    let raw = cluster.must("GET", "/api/v1/nodes/n-2", Value::Null).await;
    let annotations = raw["metadata"]["annotations"].as_object().unwrap();
    let own: Vec<(&str, &str)> = annotations
        .iter()
        .filter(|(name, _)| name.starts_with("projectcalico.org/"))
        .map(|(name, value)| (name.as_str(), value.as_str().unwrap()))
        .collect();
    assert_eq!(
        own,
        [
            ("projectcalico.org/ASNumber", "64513"),
            ("projectcalico.org/IPv4Address", "192.0.2.1/24"),
            ("projectcalico.org/labels", r#"{"rack":"r1"}"#),
        ]
    );
    assert_eq!(raw["metadata"]["labels"], json!({"zone": "a"}));
    let entry = store.get(&key).await.unwrap();
    assert_eq!(entry.revision, revision);
    let mut read: Node = entry.decode().unwrap();
    assert_eq!(read.spec.bgp, node.spec.bgp);
    assert_eq!(read.metadata.labels["rack"], "r1");

    // Without the fields, the annotations go.
    read.spec.bgp = None;
    read.metadata.labels.remove("rack");
    store.update(key.clone(), read.to_json(), entry.revision).await.unwrap();
    let raw = cluster.must("GET", "/api/v1/nodes/n-2", Value::Null).await;
    assert!(!raw.to_string().contains("projectcalico.org/"), "{raw}");

    for (error, word) in [
        (store.delete(key.clone(), None).await.unwrap_err(), "delete the node in Kubernetes"),
        (
            store.put(Key::resource(Kind::Node, None, "n-9"), node.to_json()).await.unwrap_err(),
            "it must be there first",
        ),
    ] {
        assert!(
            matches!(&error, StoreError::Unsupported { what } if what.contains(word)),
            "{error}"
        );
    }
    let error = store.create(key.clone(), node.to_json()).await.unwrap_err();
    assert_eq!(error, StoreError::AlreadyExists { key });
    cluster.must("DELETE", "/api/v1/nodes/n-2", Value::Null).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_and_accounts_are_profiles() {
    let Some(turn) = Turn::take(Etcd::Current) else { return };
    let (cluster, store) = (turn.cluster, turn.store(ApiGroup::Crd));
    let mut watch = store.watch(Scope::Kind(Kind::Profile), None);
    let listed = ready(&mut watch).await;
    let named = |name: &str| Key::resource(Kind::Profile, None, name);
    for name in ["kns.prod", "kns.kube-system", "projectcalico-default-allow"] {
        assert!(listed.iter().any(|entry| entry.key == named(name)), "{name}");
        assert!(store.get(&named(name)).await.is_ok(), "{name}");
    }

    const ACCOUNTS: &str = "/api/v1/namespaces/prod/serviceaccounts";
    let body = json!({"metadata": {"name": "build.er", "labels": {"team": "x"}}});
    let made = cluster.must("POST", ACCOUNTS, body).await;
    let key = named("ksa.prod.build.er");
    let WatchEvent::Put(entry) = about(&mut watch, &key).await else { panic!("a new profile") };
    let profile: Profile = entry.decode().unwrap();
    assert_eq!(profile.spec.labels_to_apply["pcsa.team"], "x");
    assert_eq!(profile.metadata.uid, calico_uid(made["metadata"]["uid"].as_str().unwrap()));
    assert_eq!(store.get(&key).await, Ok(entry.clone()));
    let only = store.list(&Scope::One(key.clone())).await.unwrap().entries;
    assert_eq!(only, std::slice::from_ref(&entry));

    let labels = json!({"metadata": {"labels": {"stage": "live"}}});
    cluster.must("PATCH", "/api/v1/namespaces/prod", labels).await;
    let WatchEvent::Put(changed) = about(&mut watch, &named("kns.prod")).await else {
        panic!("a change")
    };
    let profile: Profile = changed.decode().unwrap();
    assert_eq!(profile.spec.labels_to_apply["pcns.stage"], "live");

    let error = store.put(key.clone(), entry.value).await.unwrap_err();
    assert!(matches!(error, StoreError::Unsupported { .. }), "{error}");
    cluster.must("DELETE", &format!("{ACCOUNTS}/build.er"), Value::Null).await;
    assert!(matches!(about(&mut watch, &key).await, WatchEvent::Gone { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_stand_among_calicos_own() {
    let Some(turn) = Turn::take(Etcd::Current) else { return };
    turn.clear().await;
    let (cluster, store) = (turn.cluster, turn.store(ApiGroup::Crd));
    let scope = Scope::Namespace(Kind::NetworkPolicy, "prod".into());
    let mut watch = store.watch(scope.clone(), None);
    assert_eq!(ready(&mut watch).await, []);

    const POLICIES: &str = "/apis/networking.k8s.io/v1/namespaces/prod/networkpolicies";
    let rule = json!({"from": [{"podSelector": {}}], "ports": [{"port": 80}]});
    let body = json!({"metadata": {"name": "web"},
        "spec": {"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [rule]}});
    cluster.must("POST", POLICIES, body).await;
    let own = Key::resource(Kind::NetworkPolicy, Some("prod"), "web");
    let text = json!({"kind": "NetworkPolicy", "apiVersion": "projectcalico.org/v3",
        "metadata": {"name": "web", "namespace": "prod"}, "spec": {"selector": "all()"}});
    store.create(own.clone(), text.to_string().into()).await.unwrap();

    let key = Key::resource(Kind::NetworkPolicy, Some("prod"), "knp.default.web");
    let (mut seen, mut seen_own) = (None, false);
    while seen.is_none() || !seen_own {
        match next(&mut watch).await {
            WatchEvent::Put(entry) if entry.key == key => seen = Some(entry),
            WatchEvent::Put(entry) if entry.key == own => seen_own = true,
            other => panic!("{other:?}"),
        }
    }
    let entry = seen.unwrap();
    assert_eq!(store.get(&key).await, Ok(entry.clone()));
    let policy: NetworkPolicy = entry.decode().unwrap();
    assert_eq!(policy.spec.order, Some(1000.0));
    assert_eq!(policy.spec.ingress.len(), 1);
    let all: Vec<Key> =
        store.list(&scope).await.unwrap().entries.into_iter().map(|entry| entry.key).collect();
    assert_eq!(all, [key.clone(), own]);
    let error = store.delete(key.clone(), None).await.unwrap_err();
    assert!(matches!(error, StoreError::Unsupported { .. }), "{error}");
    cluster.must("DELETE", &format!("{POLICIES}/web"), Value::Null).await;
    assert!(matches!(about(&mut watch, &key).await, WatchEvent::Gone { .. }));
    turn.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cluster_policies_are_seen_where_the_cluster_has_them() {
    let Some(turn) = Turn::take(Etcd::Current) else { return };
    turn.clear().await;
    let (cluster, before) = (turn.cluster, turn.store(ApiGroup::Crd));
    let scope = Scope::Kind(Kind::GlobalNetworkPolicy);
    assert_eq!(before.list(&scope).await.unwrap().entries, []);

    let body =
        definition("policy.networking.k8s.io", "v1alpha2", "Cluster", "ClusterNetworkPolicy");
    cluster.must("POST", CRDS, body).await;
    const POLICIES: &str = "/apis/policy.networking.k8s.io/v1alpha2/clusternetworkpolicies";
    turn.until(async || cluster.ask("GET", POLICIES, &Value::Null).await.is_ok()).await;

    let store = turn.store(ApiGroup::Crd);
    let mut watch = store.watch(scope, None);
    assert_eq!(ready(&mut watch).await, []);
    let policy = |spec: Value| {
        json!({"apiVersion": "policy.networking.k8s.io/v1alpha2",
        "kind": "ClusterNetworkPolicy", "metadata": {"name": "a"}, "spec": spec})
    };
    let good = json!({"tier": "Admin", "priority": 7, "subject": {"namespaces": {}},
        "egress": [{"action": "Deny", "to": [{"networks": ["10.0.0.0/8"]}]}]});
    cluster.must("POST", POLICIES, policy(good)).await;
    let key = Key::resource(Kind::GlobalNetworkPolicy, None, "kcnp.a");
    let WatchEvent::Put(entry) = about(&mut watch, &key).await else { panic!("a new policy") };
    let read: GlobalNetworkPolicy = entry.decode().unwrap();
    assert_eq!((read.spec.tier(), read.spec.order), ("kube-admin", Some(7.0)));

    // Malformed, it is as if deleted, and that is told once.
    let worse = json!({"spec": {"tier": "Other"}});
    cluster.must("PATCH", &format!("{POLICIES}/a"), worse).await;
    assert!(matches!(next(&mut watch).await, WatchEvent::Gone { key: gone, .. } if gone == key));
    match next(&mut watch).await {
        WatchEvent::Bad { path, reason } => {
            assert_eq!(path, format!("{POLICIES}/a"));
            assert!(reason.contains("Other"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    let error = store.get(&key).await.unwrap_err();
    assert!(matches!(error, StoreError::BadObject { .. }), "{error}");
    let name = "clusternetworkpolicies.policy.networking.k8s.io";
    cluster.must("DELETE", &format!("{CRDS}/{name}"), Value::Null).await;
    turn.until(async || cluster.ask("GET", POLICIES, &Value::Null).await.is_err()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn services_and_their_slices_are_seen() {
    let Some(turn) = Turn::take(Etcd::Current) else { return };
    let (cluster, store) = (turn.cluster, turn.store(ApiGroup::Crd));
    const SERVICES: &str = "/api/v1/namespaces/prod/services";
    const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/prod/endpointslices";
    let (web, slice) = (
        Key::resource(Kind::KubernetesService, Some("prod"), "web"),
        Key::resource(Kind::KubernetesEndpointSlice, Some("prod"), "web-x"),
    );
    let mut services = store.watch(Scope::Kind(Kind::KubernetesService), None);
    // The API server's own is there from the start.
    let own = Key::resource(Kind::KubernetesService, Some("default"), "kubernetes");
    assert!(ready(&mut services).await.iter().any(|entry| entry.key == own));
    let mut slices =
        store.watch(Scope::Namespace(Kind::KubernetesEndpointSlice, "prod".into()), None);
    assert_eq!(ready(&mut slices).await, []);

    let body = json!({"metadata": {"name": "web"}, "spec": {"type": "LoadBalancer",
        "externalTrafficPolicy": "Local", "externalIPs": ["192.0.2.9"],
        "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}});
    cluster.must("POST", SERVICES, body).await;
    let WatchEvent::Put(entry) = about(&mut services, &web).await else { panic!("a new service") };
    let service: KubernetesService = entry.decode().unwrap();
    assert_eq!(service.spec.cluster_addresses().count(), 1);
    assert_eq!(service.spec.external_ips, ["192.0.2.9"]);
    assert_eq!(store.get(&web).await, Ok(entry));
    let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.10"}]}}});
    cluster.must("PATCH", &format!("{SERVICES}/web/status"), status).await;
    let WatchEvent::Put(entry) = about(&mut services, &web).await else { panic!("a change") };
    let service: KubernetesService = entry.decode().unwrap();
    assert_eq!(service.status.unwrap().load_balancer.ingress[0].ip, "192.0.2.10");

    let body = json!({
        "metadata": {"name": "web-x", "labels": {"kubernetes.io/service-name": "web", "a": "b"}},
        "addressType": "IPv4", "ports": [{"port": 8080}],
        "endpoints": [{"addresses": ["10.65.0.2"], "nodeName": "n-1", "conditions": {"ready": true}}]});
    cluster.must("POST", SLICES, body).await;
    let WatchEvent::Put(entry) = about(&mut slices, &slice).await else { panic!("a new slice") };
    let read: KubernetesEndpointSlice = entry.decode().unwrap();
    assert_eq!(read.service(), Some("web"));
    assert_eq!(read.addresses_and_ports().count(), 1);
    assert_eq!(store.get(&slice).await, Ok(entry.clone()));
    let all = store.list(&Scope::All).await.unwrap().entries;
    for key in [&web, &slice, &own] {
        assert!(all.iter().any(|entry| entry.key == *key), "{key}");
    }

    for error in [
        store.put(slice.clone(), entry.value).await.unwrap_err(),
        store.delete(web.clone(), None).await.unwrap_err(),
    ] {
        assert!(
            matches!(&error, StoreError::Unsupported { what } if what.contains("the service in Kubernetes")),
            "{error}"
        );
    }
    cluster.must("DELETE", &format!("{SLICES}/web-x"), Value::Null).await;
    assert!(matches!(about(&mut slices, &slice).await, WatchEvent::Gone { .. }));
    cluster.must("DELETE", &format!("{SERVICES}/web"), Value::Null).await;
    assert!(matches!(about(&mut services, &web).await, WatchEvent::Gone { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn migrations_are_seen_where_the_cluster_has_them() {
    let Some(turn) = Turn::take(Etcd::Current) else { return };
    let cluster = turn.cluster;
    let scope = Scope::Kind(Kind::LiveMigration);
    assert_eq!(turn.store(ApiGroup::V3).list(&scope).await.unwrap().entries, []);

    let definition =
        definition("kubevirt.io", "v1", "Namespaced", "VirtualMachineInstanceMigration");
    let name = definition["metadata"]["name"].as_str().unwrap().to_owned();
    cluster.must("POST", CRDS, definition).await;
    const MIGRATIONS: &str =
        "/apis/kubevirt.io/v1/namespaces/prod/virtualmachineinstancemigrations";
    turn.until(async || cluster.ask("GET", MIGRATIONS, &Value::Null).await.is_ok()).await;
    let store = turn.store(ApiGroup::V3);
    let mut watch = store.watch(scope, None);
    assert_eq!(ready(&mut watch).await, []);

    let object = json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstanceMigration",
        "metadata": {"name": "move"}, "spec": {"vmiName": "vm"}, "status": {"phase": "Pending"}});
    cluster.must("POST", MIGRATIONS, object).await;
    let key = Key::resource(Kind::LiveMigration, Some("prod"), "move");
    assert_eq!(store.get(&key).await.unwrap_err(), StoreError::NotFound { key: key.clone() });
    let path = format!("{MIGRATIONS}/move");
    let running = json!({"phase": "Running", "migrationState": {"sourcePod": "launcher-a"}});
    cluster.must("PATCH", &path, json!({"status": running})).await;
    // That it is not there yet may be told, too.
    let entry = loop {
        if let WatchEvent::Put(entry) = about(&mut watch, &key).await {
            break entry;
        }
    };
    let read: LiveMigration = entry.decode().unwrap();
    let source = read.spec.source.unwrap().workload.unwrap();
    assert_eq!(source.workload_id, "prod/launcher-a");
    assert_eq!(store.get(&key).await, Ok(entry));
    cluster.must("PATCH", &path, json!({"status": {"phase": "Succeeded"}})).await;
    assert!(matches!(about(&mut watch, &key).await, WatchEvent::Gone { .. }));
    assert_eq!(
        store.list(&Scope::All).await.unwrap().entries.iter().filter(|e| e.key == key).count(),
        0
    );
    cluster.must("DELETE", &format!("{CRDS}/{name}"), Value::Null).await;
    turn.until(async || cluster.ask("GET", MIGRATIONS, &Value::Null).await.is_err()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn admin_policies_of_older_clusters_are_seen() {
    let Some(turn) = Turn::take(Etcd::Current) else { return };
    turn.clear().await;
    let cluster = turn.cluster;
    const GROUP: &str = "policy.networking.k8s.io";
    // One of the two kinds is enough for the version to be there.
    let admin = definition(GROUP, "v1alpha1", "Cluster", "AdminNetworkPolicy");
    let name = admin["metadata"]["name"].as_str().unwrap().to_owned();
    cluster.must("POST", CRDS, admin).await;
    const POLICIES: &str = "/apis/policy.networking.k8s.io/v1alpha1/adminnetworkpolicies";
    turn.until(async || cluster.ask("GET", POLICIES, &Value::Null).await.is_ok()).await;
    let store = turn.store(ApiGroup::Crd);
    let mut watch = store.watch(Scope::Kind(Kind::GlobalNetworkPolicy), None);
    assert_eq!(ready(&mut watch).await, []);
    let rule = json!({"action": "Pass", "from": [{"namespaces": {}}]});
    let body = json!({"apiVersion": format!("{GROUP}/v1alpha1"), "kind": "AdminNetworkPolicy",
        "metadata": {"name": "a"},
        "spec": {"priority": 7, "subject": {"namespaces": {}}, "ingress": [rule]}});
    cluster.must("POST", POLICIES, body).await;
    let key = Key::resource(Kind::GlobalNetworkPolicy, None, "kanp.adminnetworkpolicy.a");
    let WatchEvent::Put(entry) = about(&mut watch, &key).await else { panic!("a new policy") };
    let read: GlobalNetworkPolicy = entry.decode().unwrap();
    assert_eq!((read.spec.tier(), read.spec.order), ("adminnetworkpolicy", Some(7.0)));
    assert_eq!(store.get(&key).await, Ok(entry));
    let error = store.delete(key.clone(), None).await.unwrap_err();
    assert!(
        matches!(&error, StoreError::Unsupported { what } if what.contains("policy in Kubernetes")),
        "{error}"
    );
    cluster.must("DELETE", &format!("{CRDS}/{name}"), Value::Null).await;
    turn.until(async || cluster.ask("GET", POLICIES, &Value::Null).await.is_err()).await;
}
