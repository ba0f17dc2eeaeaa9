//! What is written has exactly upstream's shape, and what upstream wrote is read.

use calico_core::Datastore as _;
use calico_core::datastore::StoreError;
use calico_core::key::{Key, Scope};
use calico_core::kind::Kind;
use calico_datastore::conversion::{ApiGroup, calico_uid};
use serde_json::{Value, json};

use super::{Etcd, Turn};

fn pool(name: &str) -> Key {
    Key::resource(Kind::IpPool, None, name)
}

/// What the server keeps, without what it adds itself.
async fn raw(turn: &Turn, path: &str) -> Value {
    let mut object = turn.cluster.must("GET", path, Value::Null).await;
    let metadata = object["metadata"].as_object_mut().unwrap();
    for own in ["uid", "resourceVersion", "creationTimestamp", "generation", "managedFields"] {
        assert!(metadata.remove(own).is_some(), "{own}");
    }
    object
}

const POOL: &str = r#"{"kind":"IPPool","apiVersion":"projectcalico.org/v3","metadata":{"name":"main","uid":"u","creationTimestamp":"2026-01-02T03:04:05Z","labels":{"a":"b"},"annotations":{"projectcalico.org/x":"y"}},"spec":{"cidr":"10.65.0.0/16","blockSize":26,"nodeSelector":"all()","assignmentMode":"Automatic"},"status":{"conditions":[{"type":"Allocatable","status":"True","reason":"OK","message":"","lastTransitionTime":"2026-01-02T03:04:05Z"}]}}"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_in_the_older_group() {
    let Some(turn) = Turn::take(Etcd::Debian) else { return };
    turn.clear().await;
    let store = turn.store(ApiGroup::Crd);
    let revision = store.create(pool("main"), POOL.into()).await.unwrap();
    const PATH: &str = "/apis/crd.projectcalico.org/v1/ippools/main";
    let given: Value = serde_json::from_str(POOL).unwrap();
    let annotation = r#"{"creationTimestamp":"2026-01-02T03:04:05Z","labels":{"a":"b"},"annotations":{"projectcalico.org/x":"y"}}"#;
    let found = raw(&turn, PATH).await;
    assert_eq!(
        found,
        json!({"apiVersion": "crd.projectcalico.org/v1", "kind": "IPPool",
            "metadata": {"name": "main",
                "annotations": {"projectcalico.org/x": "y", "projectcalico.org/metadata": annotation}},
            "spec": given["spec"], "status": given["status"]})
    );
    // Read back, it is what was written; identity and version are the server's.
    let entry = store.get(&pool("main")).await.unwrap();
    assert_eq!(entry.revision, revision);
    let object = turn.cluster.must("GET", PATH, Value::Null).await;
    let mut expected = given;
    expected["metadata"]["uid"] = calico_uid(object["metadata"]["uid"].as_str().unwrap()).into();
    expected["metadata"]["resourceVersion"] = revision.to_string().into();
    assert_eq!(entry.decode::<Value>().unwrap(), expected);
    turn.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_in_the_newer_group() {
    let Some(turn) = Turn::take(Etcd::Debian) else { return };
    turn.clear().await;
    let store = turn.store(ApiGroup::V3);
    store.create(pool("main"), POOL.into()).await.unwrap();
    let given: Value = serde_json::from_str(POOL).unwrap();
    let found = raw(&turn, "/apis/projectcalico.org/v3/ippools/main").await;
    let spec = &found["spec"];
    for (field, value) in given["spec"].as_object().unwrap() {
        assert_eq!(&spec[field], value, "{field}");
    }
    assert_eq!(found["status"], given["status"]);
    assert_eq!(
        found["metadata"],
        json!({"name": "main", "labels": {"a": "b"}, "annotations": {"projectcalico.org/x": "y"}})
    );
    let read: Value = store.get(&pool("main")).await.unwrap().decode().unwrap();
    let object = turn.cluster.must("GET", "/apis/projectcalico.org/v3/ippools/main", Value::Null);
    assert_eq!(read["metadata"]["uid"], object.await["metadata"]["uid"]);
    turn.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ipam_in_both_groups() {
    let Some(turn) = Turn::take(Etcd::Debian) else { return };
    turn.clear().await;
    let block: Key = "/calico/ipam/v2/assignment/ipv4/block/10.65.0.0-30".parse().unwrap();
    let affinity: Key = "/calico/ipam/v2/host/n1/ipv4/block/10.65.0.0-30".parse().unwrap();
    let handle = Key::Handle("k8s-pod-network.AbC".to_owned());
    let block_text = r#"{"cidr":"10.65.0.0/30","affinity":"host:n1","allocations":[0,null,null,null],"unallocated":[1,2,3],"attributes":[{"handle_id":"k8s-pod-network.AbC","secondary":{"node":"n1"}}],"sequenceNumber":1700000000000000001,"sequenceNumberForAllocation":{"0":1700000000000000000},"deleted":false}"#;
    let affinity_text = r#"{"state":"confirmed","deleted":false}"#;
    let handle_text = r#"{"block":{"10.65.0.0/30":1},"deleted":false}"#;
    let config_text =
        r#"{"strict_affinity":true,"auto_allocate_blocks":false,"maxBlocksPerHost":3}"#;
    for group in ApiGroup::ALL {
        let store = turn.store(group);
        for (key, text) in [
            (&block, block_text),
            (&affinity, affinity_text),
            (&handle, handle_text),
            (&Key::IpamConfig, config_text),
        ] {
            let revision = store.create(key.clone(), text.into()).await.unwrap();
            let read = store.get(key).await.unwrap();
            assert_eq!(read.revision, revision);
            // The newer group's server adds what is unset.
            let (read, text): (Value, Value) =
                (read.decode().unwrap(), serde_json::from_str(text).unwrap());
            for (field, value) in text.as_object().unwrap() {
                assert_eq!(&read[field], value, "{key}: {field}");
            }
        }
        let base = format!("/apis/{group}");
        let found = raw(&turn, &format!("{base}/ipamblocks/10-65-0-0-30")).await;
        assert_eq!(found["metadata"], json!({"name": "10-65-0-0-30"}));
        let spec = &found["spec"];
        assert_eq!(spec["affinity"], "host:n1");
        assert_eq!(spec["allocations"], json!([0, null, null, null]));
        assert_eq!(spec["sequenceNumber"], 1_700_000_000_000_000_001_u64);
        assert_eq!(spec["strictAffinity"], false);
        let found = raw(&turn, &format!("{base}/blockaffinities/n1-10-65-0-0-30")).await;
        assert_eq!(found["metadata"]["labels"]["projectcalico.org/affinity-type"], "host");
        let deleted = if group == ApiGroup::Crd { json!("false") } else { json!(false) };
        assert_eq!(
            found["spec"],
            json!({"cidr": "10.65.0.0/30", "deleted": deleted, "node": "n1", "state": "confirmed",
                "type": "host"})
        );
        let found = raw(&turn, &format!("{base}/ipamhandles/k8s-pod-network.abc")).await;
        assert_eq!(found["spec"]["handleID"], "k8s-pod-network.AbC");
        let plural = if group == ApiGroup::Crd { "ipamconfigs" } else { "ipamconfigurations" };
        let found = raw(&turn, &format!("{base}/{plural}/default")).await;
        assert_eq!(found["spec"]["maxBlocksPerHost"], 3);

        // What another began to delete is gone, and whoever finds it finishes that.
        let path = format!("{base}/ipamblocks/10-65-0-0-30");
        let begun = json!({"spec": {"deleted": true}});
        turn.cluster.must("PATCH", &path, begun).await;
        assert_eq!(store.list(&Scope::Blocks).await.unwrap().entries, []);
        let error = store.get(&block).await.unwrap_err();
        assert_eq!(error, StoreError::NotFound { key: block.clone() });
        assert!(turn.cluster.ask("GET", &path, &Value::Null).await.is_err(), "it is finished");
        for key in [&affinity, &handle, &Key::IpamConfig] {
            store.delete(key.clone(), None).await.unwrap();
        }
        assert_eq!(store.list(&Scope::Affinities).await.unwrap().entries, []);
    }
    turn.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_that_upstream_stored_before() {
    let Some(turn) = Turn::take(Etcd::Debian) else { return };
    turn.clear().await;
    let store = turn.store(ApiGroup::Crd);
    const BASE: &str = "/apis/crd.projectcalico.org/v1/namespaces/prod/networkpolicies";
    let body = json!({"apiVersion": "crd.projectcalico.org/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "default.web"}, "spec": {"selector": "all()"}});
    turn.cluster.must("POST", BASE, body).await;
    let key = Key::resource(Kind::NetworkPolicy, Some("prod"), "web");
    let entry = store.get(&key).await.unwrap();
    let listed = store.list(&Scope::Kind(Kind::NetworkPolicy)).await.unwrap().entries;
    assert_eq!(listed, std::slice::from_ref(&entry));
    let text = entry.value.replace("all()", "has(x)");
    let revision = store.update(key.clone(), text.into(), entry.revision).await.unwrap();
    let found = raw(&turn, &format!("{BASE}/default.web")).await;
    assert_eq!(found["spec"]["selector"], "has(x)");
    assert_eq!(store.get(&key).await.unwrap().revision, revision);
    store.delete(key.clone(), Some(revision)).await.unwrap();
    assert_eq!(store.get(&key).await, Err(StoreError::NotFound { key }));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_refuses_is_told_with_its_reason() {
    let Some(turn) = Turn::take(Etcd::Debian) else { return };
    turn.clear().await;
    let bad = |text: &str, key: Key| (text.to_owned(), key);
    let policy = Key::resource(Kind::NetworkPolicy, Some("nowhere"), "web");
    for group in ApiGroup::ALL {
        let store = turn.store(group);
        for ((text, key), word) in [
            (bad("{", pool("a")), "EOF"),
            (
                bad(r#"{"spec":{"cidr":"10.0.0.0/8","ipipMode":"Sometimes"}}"#, pool("a")),
                "ipipMode",
            ),
            (bad(r#"{"spec":{}}"#, pool("a")), "cidr"),
            // Dropped silently, it would be lost.
            (bad(r#"{"spec":{"cidr":"10.0.0.0/8","zzLater":1}}"#, pool("a")), "zzLater"),
            (bad(r#"{"spec":{"cidr":"10.0.0.0/8"}}"#, pool("UPPER")), "lower case"),
            (bad(r#"{"spec":{"selector":"all()"}}"#, policy.clone()), "create the namespace first"),
        ] {
            let error = store.create(key.clone(), text.as_str().into()).await.unwrap_err();
            assert!(matches!(&error, StoreError::BadObject { .. }), "{text}: {error:?}");
            let line = error.to_string();
            assert!(line.contains(word) && line.contains(&key.to_string()), "{line}");
            assert!(!line.contains('\n'), "{line}");
        }
        let nets: Vec<String> =
            (0..30_000).map(|n| format!("10.{}.{}.0/24", n / 256, n % 256)).collect();
        let large = Key::resource(Kind::GlobalNetworkSet, None, "large");
        let text = json!({"spec": {"nets": nets}}).to_string();
        assert!(text.len() > 400_000);
        store.create(large.clone(), text.into()).await.unwrap();
        let read: Value = store.get(&large).await.unwrap().decode().unwrap();
        assert_eq!(read["spec"]["nets"].as_array().unwrap().len(), nets.len());
        store.delete(large, None).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_may_lack_a_kind() {
    let Some(turn) = Turn::take(Etcd::Debian) else { return };
    turn.clear().await;
    const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let name = "bgpfilters.crd.projectcalico.org";
    let crd = turn.cluster.must("GET", &format!("{CRDS}/{name}"), Value::Null).await;
    turn.cluster.must("DELETE", &format!("{CRDS}/{name}"), Value::Null).await;
    let all = "/apis/crd.projectcalico.org/v1/bgpfilters";
    turn.until(async || turn.cluster.ask("GET", all, &Value::Null).await.is_err()).await;
    let store = turn.store(ApiGroup::Crd);
    let filter = Key::resource(Kind::BgpFilter, None, "f");
    assert_eq!(store.list(&Scope::Kind(Kind::BgpFilter)).await.unwrap().entries, []);
    assert_eq!(store.find(&filter).await, Ok(None));
    let error = store.create(filter.clone(), r#"{"spec":{}}"#.into()).await.unwrap_err();
    assert!(error.to_string().contains("no bgpfilters"), "{error}");
    // Everything else works.
    store.create(pool("a"), r#"{"spec":{"cidr":"10.0.0.0/8"}}"#.into()).await.unwrap();
    let listed = store.list(&Scope::All).await.unwrap().entries;
    assert!(listed.iter().any(|entry| entry.key == pool("a")));
    let body = json!({"apiVersion": crd["apiVersion"], "kind": crd["kind"],
        "metadata": {"name": name}, "spec": crd["spec"]});
    turn.cluster.must("POST", CRDS, body).await;
    turn.until(async || store.create(filter.clone(), r#"{"spec":{}}"#.into()).await.is_ok()).await;
    turn.clear().await;
}
