use std::sync::Arc;
use std::time::UNIX_EPOCH;

use calico_core::datastore::Revision;
use calico_core::memory::MemoryStore;
use calico_core::testing::{Call, Fault, FaultyStore};
use serde_json::json;

use super::*;
use crate::stored::from_entry;

fn stamp() -> Stamp {
    Stamp { now: UNIX_EPOCH, uid: || "uid-1".to_owned() }
}

fn pool(name: &str, cidr: &str) -> AnyResource {
    serde_json::from_value(json!({
        "apiVersion": "projectcalico.org/v3",
        "kind": "IPPool",
        "metadata": {"name": name},
        "spec": {"cidr": cidr},
    }))
    .unwrap()
}

fn pools(names: &[&str]) -> Vec<AnyResource> {
    // A name always means the same range: that of a pool never changes.
    let cidr = |name: &str| format!("10.{}.0.0/16", name.as_bytes()[0] - b'a');
    names.iter().map(|name| pool(name, &cidr(name))).collect()
}

async fn run(
    store: &dyn Datastore,
    verb: Verb,
    resources: Vec<AnyResource>,
) -> Result<String, String> {
    let items = prepare(verb, resources, None).map_err(|error| error.to_string())?;
    carry_out(store, verb, &items, &stamp()).await.map_err(|error| error.to_string())
}

async fn get(store: &dyn Datastore, name: &str) -> AnyResource {
    let key = Key::resource(Kind::IpPool, None, name);
    from_entry(&store.get(&key).await.unwrap()).unwrap()
}

const CREATE: Verb = Verb::Create { skip_exists: false };
const DELETE: Verb = Verb::Delete { skip_missing: false };

#[tokio::test]
async fn an_object_keeps_its_identity_when_it_is_applied_again() {
    let store = MemoryStore::new();
    let said = run(&store, Verb::Apply, pools(&["a"])).await.unwrap();
    assert_eq!(said, "Successfully applied 1 'IPPool' resource(s)");
    let first = get(&store, "a").await;
    assert_eq!(first.metadata.uid, "uid-1");
    assert_eq!(first.metadata.creation_timestamp.as_deref(), Some("1970-01-01T00:00:00Z"));
    assert_eq!(first.fields["spec"]["blockSize"], 26, "with defaults");

    let mut changed = pool("a", "10.0.0.0/16");
    changed.fields["spec"]["natOutgoing"] = true.into();
    let later = Stamp { now: UNIX_EPOCH + Duration::from_secs(9), uid: || "uid-2".to_owned() };
    let items = prepare(Verb::Apply, vec![changed], None).unwrap();
    carry_out(&store, Verb::Apply, &items, &later).await.unwrap();
    let second = get(&store, "a").await;
    assert_eq!(second.metadata.uid, "uid-1");
    assert_eq!(second.metadata.creation_timestamp, first.metadata.creation_timestamp);
    assert_eq!(second.fields["spec"]["natOutgoing"], true);

    let stored = store.get(&Key::resource(Kind::IpPool, None, "a")).await.unwrap();
    assert!(!stored.value.contains("resourceVersion"), "{}", stored.value);
}

#[tokio::test]
async fn each_verb_has_its_condition() {
    let store = MemoryStore::new();
    let missing = "IPPool a does not exist";
    assert_eq!(run(&store, Verb::Replace, pools(&["a"])).await.unwrap_err(), missing);
    assert_eq!(run(&store, DELETE, pools(&["a"])).await.unwrap_err(), missing);
    let skip = Verb::Delete { skip_missing: true };
    assert_eq!(
        run(&store, skip, pools(&["a"])).await.unwrap(),
        "Successfully deleted 0 'IPPool' resource(s)"
    );
    run(&store, CREATE, pools(&["a"])).await.unwrap();
    let error = run(&store, CREATE, pools(&["a"])).await.unwrap_err();
    assert!(error.starts_with("IPPool a exists already"), "{error}");
    let skip = Verb::Create { skip_exists: true };
    assert_eq!(
        run(&store, skip, pools(&["a", "b"])).await.unwrap(),
        "Successfully created 1 'IPPool' resource(s)"
    );
    run(&store, Verb::Replace, pools(&["a", "b"])).await.unwrap();
    run(&store, DELETE, pools(&["a", "b"])).await.unwrap();
}

#[tokio::test]
async fn a_resource_version_is_insisted_on() {
    let store = MemoryStore::new();
    run(&store, CREATE, pools(&["a"])).await.unwrap();
    let mut stale = get(&store, "a").await;
    run(&store, Verb::Apply, pools(&["a"])).await.unwrap();
    for verb in [Verb::Apply, Verb::Replace] {
        let error = run(&store, verb, vec![stale.clone()]).await.unwrap_err();
        assert!(error.contains("IPPool a was changed in the meantime"), "{error}");
    }
    stale.metadata.resource_version = "seven".into();
    let error = run(&store, Verb::Apply, vec![stale]).await.unwrap_err();
    assert!(error.contains("metadata.resourceVersion"), "{error}");
}

#[tokio::test]
async fn what_came_before_a_failure_is_told() {
    let store = MemoryStore::new();
    run(&store, CREATE, pools(&["c"])).await.unwrap();
    let error = run(&store, CREATE, pools(&["a", "b", "c", "d"])).await.unwrap_err();
    let expected = "Partial success: created the first 2 out of 4 'IPPool' resource(s)\n\
                    Hit error: IPPool c exists already; use apply or replace to change it";
    assert_eq!(error, expected);
    assert!(store.find(&Key::resource(Kind::IpPool, None, "d")).await.unwrap().is_none());
}

#[tokio::test]
async fn one_wrong_resource_stops_all_before_anything_is_done() {
    let store = MemoryStore::new();
    let mut resources = pools(&["a", "b"]);
    resources[1].fields["spec"]["blockSize"] = 7.into();
    resources[1].fields["spec"]["nodeSelector"] = "zone == ".into();
    let error = run(&store, Verb::Apply, resources).await.unwrap_err();
    assert!(error.contains("IPPool b: spec.blockSize"), "{error}");
    assert!(error.contains("IPPool b: spec.nodeSelector"), "{error}");
    assert_eq!(store.list(&calico_core::key::Scope::All).await.unwrap().revision, Revision(0));

    let mut placed = pool("a", "10.0.0.0/16");
    placed.metadata.namespace = "x".into();
    let error = run(&store, Verb::Apply, vec![placed]).await.unwrap_err();
    assert!(error.contains("has no namespace"), "{error}");
}

#[tokio::test]
async fn the_same_object_twice_is_written_twice() {
    let store = MemoryStore::new();
    let mut resources = pools(&["a", "b", "a"]);
    resources[2].fields["spec"]["natOutgoing"] = true.into();
    let said = run(&store, Verb::Apply, resources).await.unwrap();
    assert_eq!(said, "Successfully applied 3 'IPPool' resource(s)");
    assert_eq!(get(&store, "a").await.fields["spec"]["natOutgoing"], true);
}

#[tokio::test]
async fn another_writer_in_between_is_no_failure_of_apply() {
    let inner: Arc<dyn Datastore> = Arc::new(MemoryStore::new());
    let other = Arc::clone(&inner);
    let mut raced = false;
    let store = FaultyStore::new(inner, move |_, call| match call {
        Call::Write(_) if !std::mem::replace(&mut raced, true) => {
            let other = Arc::clone(&other);
            Fault::after(async move {
                let key = Key::resource(Kind::IpPool, None, "b");
                let mut theirs = pool("b", "10.1.0.0/16");
                theirs.fields["spec"]["natOutgoing"] = true.into();
                other.put(key, theirs.to_json()).await.unwrap();
            })
        }
        _ => Fault::None,
    });
    let said = run(&store, Verb::Apply, pools(&["a", "b", "c"])).await.unwrap();
    assert_eq!(said, "Successfully applied 3 'IPPool' resource(s)");
    assert!(get(&store, "b").await.fields["spec"].get("natOutgoing").is_none());
}

#[tokio::test]
async fn many_resources_go_in_few_calls() {
    let inner = Arc::new(MemoryStore::new());
    let calls = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = Arc::clone(&calls);
    let store = FaultyStore::new(inner, move |_, call| {
        if matches!(call, Call::Write(_)) {
            count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
        Fault::None
    });
    let resources =
        (0..300).map(|n| pool(&format!("p{n}"), &format!("10.{}.{}.0/24", n / 256, n % 256)));
    run(&store, CREATE, resources.collect()).await.unwrap();
    assert_eq!(calls.load(std::sync::atomic::Ordering::Relaxed), 3);
}

#[test]
fn what_belongs_to_the_system_is_left_alone() {
    let any = |kind: &str, name: &str| -> AnyResource {
        serde_json::from_value(json!({"kind": kind, "metadata": {"name": name}})).unwrap()
    };
    assert!(prepare(Verb::Apply, vec![any("ClusterInformation", "default")], None).is_err());
    assert!(prepare(DELETE, vec![any("Tier", "default")], None).is_err());
    assert!(prepare(DELETE, vec![any("Tier", "mine")], None).is_ok());
    for verb in [Verb::Create { skip_exists: false }, Verb::Apply, Verb::Replace, DELETE] {
        let refused = prepare(verb, vec![any("KubernetesService", "web")], None).unwrap_err();
        assert!(refused.to_string().contains("says of itself; change it there"), "{refused}");
    }
}
