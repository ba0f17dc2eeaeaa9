//! Resources as custom resources, in both API groups that clusters use.
//!
//! In `projectcalico.org/v3` a custom resource *is* the resource. In `crd.projectcalico.org/v1`
//! its own metadata is Kubernetes' business; the resource's stands in an annotation, and its UID
//! is made from the custom resource's.

mod group;
mod older;

use std::sync::Arc;

use calico_core::key::Key;
use calico_core::kind::{API_VERSION, Kind};
use calico_core::resource::AnyResource;
use serde_json::{Map, Value};

pub use self::group::{ApiGroup, UnknownGroup};
pub use self::older::{METADATA_ANNOTATION, OLDER_POLICY_PREFIX};
use self::older::{from_annotation, under_annotation};

/// Whether custom resources hold objects of `kind`; the others are views of Kubernetes' own.
#[must_use]
pub const fn is_custom(kind: Kind) -> bool {
    !kind.is_internal() && !matches!(kind, Kind::Node | Kind::Profile | Kind::WorkloadEndpoint)
}

/// Whether `kind` is one of the policies, whose stored name may be another than their own.
#[must_use]
pub const fn is_policy(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::NetworkPolicy
            | Kind::GlobalNetworkPolicy
            | Kind::StagedNetworkPolicy
            | Kind::StagedGlobalNetworkPolicy
    )
}

/// The custom resource that holds a resource's JSON text.
///
/// `stored_name` is the name of the custom resource, if it is another than the resource's.
/// The resource's own `resourceVersion` is left out: set the one that is expected.
///
/// # Errors
///
/// The text is no JSON object.
pub fn to_custom(
    group: ApiGroup,
    key: &Key,
    stored_name: Option<&str>,
    value: &str,
) -> Result<Value, String> {
    let Key::Resource { kind, namespace, name } = key else {
        return Err(format!("{key} is no resource"));
    };
    let value: Value = serde_json::from_str(value).map_err(|error| error.to_string())?;
    let Value::Object(fields) = value else { return Err("it is no JSON object".to_owned()) };
    let mut given = Map::new();
    let mut rest = Map::new();
    for (field, value) in fields {
        match (field.as_str(), value) {
            ("metadata", Value::Object(metadata)) => given = metadata,
            ("metadata" | "kind" | "apiVersion", _) => {}
            (_, value) => drop(rest.insert(field, value)),
        }
    }
    // What Kubernetes knows better.
    given.retain(|field, value| {
        let own = ["namespace", "resourceVersion", "selfLink", "uid", "managedFields", "name"];
        !own.contains(&field.as_str()) && !value.is_null()
    });
    let mut metadata = match group {
        ApiGroup::Crd => under_annotation(*kind, name, given),
        ApiGroup::V3 => {
            given.retain(|field, _| !SERVERS.contains(&field.as_str()));
            given
        }
    };
    metadata.insert("name".to_owned(), stored_name.unwrap_or(name).into());
    if let Some(namespace) = namespace {
        metadata.insert("namespace".to_owned(), namespace.as_str().into());
    }
    let mut out = Map::new();
    out.insert("apiVersion".to_owned(), group.api_version().into());
    out.insert("kind".to_owned(), group.kind(*kind).into());
    out.insert("metadata".to_owned(), metadata.into());
    if *kind == Kind::BlockAffinity
        && group == ApiGroup::Crd
        && let Some(spec) = rest.get_mut("spec").and_then(Value::as_object_mut)
    {
        // A word there.
        let deleted = spec.get("deleted").and_then(Value::as_bool).unwrap_or_default();
        spec.insert("deleted".to_owned(), deleted.to_string().into());
    }
    out.extend(rest);
    Ok(out.into())
}

/// Members of metadata that only the API server writes.
const SERVERS: [&str; 5] = [
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
    "generateName",
];

/// The resource that a custom resource holds: its name, and its JSON text.
///
/// # Errors
///
/// What is wrong with the object.
pub fn from_custom(group: ApiGroup, kind: Kind, object: Value) -> Result<(Key, Arc<str>), String> {
    let Value::Object(fields) = object else { return Err("it is no JSON object".to_owned()) };
    let mut outer = Map::new();
    let mut rest = Map::new();
    for (field, value) in fields {
        match (field.as_str(), value) {
            ("metadata", Value::Object(metadata)) => outer = metadata,
            ("metadata" | "kind" | "apiVersion", _) => {}
            (_, value) => drop(rest.insert(field, value)),
        }
    }
    let mut metadata = match group {
        ApiGroup::Crd => from_annotation(kind, outer)?,
        ApiGroup::V3 => outer,
    };
    metadata.retain(|field, value| field != "managedFields" && !value.is_null());
    let text = |field: &str| metadata.get(field).and_then(Value::as_str).unwrap_or_default();
    let (namespace, name) = (text("namespace"), text("name"));
    if name.is_empty() {
        return Err("it has no name".to_owned());
    }
    let key = Key::resource(kind, Some(namespace), name);
    if kind == Kind::BlockAffinity
        && let Some(deleted) = rest.get_mut("spec").and_then(|spec| spec.get_mut("deleted"))
        && let Some(word) = deleted.as_str()
    {
        *deleted = (word == "true").into();
    }
    let mut out = Map::new();
    out.insert("kind".to_owned(), kind.as_str().into());
    out.insert("apiVersion".to_owned(), API_VERSION.into());
    out.insert("metadata".to_owned(), metadata.into());
    out.extend(rest);
    // In the order and spelling that every other store has: the API server sorts fields by their
    // names. What its type cannot hold stays as it is, for readers to report.
    let text = AnyResource::canonical_json(kind, &out);
    Ok((key, text.unwrap_or_else(|_unreadable| Value::Object(out).to_string().into())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const UID: &str = "30316465-6365-4463-ad63-3564622d3638";
    const SHOWN: &str = "0c8c26a6-c6a6-44c6-adc6-ac2646b46c1c";

    fn policy() -> Value {
        json!({
            "kind": "NetworkPolicy", "apiVersion": "projectcalico.org/v3",
            "metadata": {
                "name": "web", "namespace": "prod", "uid": SHOWN, "resourceVersion": "7",
                "creationTimestamp": "2026-01-01T00:00:00Z",
                "labels": {"a": "b", "projectcalico.org/tier": "default"},
                "annotations": {"note": "x", "operator.tigera.io/y": "z"},
                "ownerReferences": [{"kind": "Pod", "name": "p", "uid": SHOWN}],
            },
            "spec": {"selector": "all()"},
        })
    }

    fn key() -> Key {
        Key::resource(Kind::NetworkPolicy, Some("prod"), "web")
    }

    #[test]
    fn the_older_group_keeps_metadata_in_an_annotation() {
        let stored = to_custom(ApiGroup::Crd, &key(), None, &policy().to_string()).unwrap();
        let annotation = stored["metadata"]["annotations"][METADATA_ANNOTATION].as_str().unwrap();
        assert_eq!(
            serde_json::from_str::<Value>(annotation).unwrap(),
            json!({"name": "web", "creationTimestamp": "2026-01-01T00:00:00Z",
                "labels": {"a": "b", "projectcalico.org/tier": "default"},
                "annotations": {"note": "x", "operator.tigera.io/y": "z"}})
        );
        assert_eq!(
            stored,
            json!({
                "apiVersion": "crd.projectcalico.org/v1", "kind": "NetworkPolicy",
                "metadata": {
                    "name": "web", "namespace": "prod",
                    "labels": {"projectcalico.org/tier": "default"},
                    "annotations": {"operator.tigera.io/y": "z", METADATA_ANNOTATION: annotation},
                    "ownerReferences": [{"kind": "Pod", "name": "p", "uid": UID}],
                },
                "spec": {"selector": "all()"},
            })
        );
        let mut stored = stored;
        stored["metadata"]["uid"] = UID.into();
        stored["metadata"]["resourceVersion"] = "7".into();
        stored["metadata"]["creationTimestamp"] = "2026-02-02T00:00:00Z".into();
        stored["metadata"]["managedFields"] = json!([{}]);
        let (found, text) = from_custom(ApiGroup::Crd, Kind::NetworkPolicy, stored).unwrap();
        assert_eq!(found, key());
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), policy());
    }

    #[test]
    fn the_newer_group_is_the_resource_itself() {
        let stored = to_custom(ApiGroup::V3, &key(), None, &policy().to_string()).unwrap();
        let mut expected = policy();
        for own in ["uid", "resourceVersion", "creationTimestamp"] {
            expected["metadata"].as_object_mut().unwrap().remove(own);
        }
        assert_eq!(stored, expected);
        let (found, text) = from_custom(ApiGroup::V3, Kind::NetworkPolicy, policy()).unwrap();
        assert_eq!(found, key());
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), policy());
    }

    #[test]
    fn other_kinds_keep_their_name_outside_only() {
        let key = Key::resource(Kind::IpPool, None, "main");
        let pool = r#"{"metadata": {"name": "main"}, "spec": {"cidr": "10.0.0.0/8"}}"#;
        let stored = to_custom(ApiGroup::Crd, &key, None, pool).unwrap();
        let annotation = &stored["metadata"]["annotations"][METADATA_ANNOTATION];
        assert_eq!(annotation, r#"{"creationTimestamp":null}"#);
        assert_eq!(from_custom(ApiGroup::Crd, Kind::IpPool, stored).unwrap().0, key);
        let config = Key::resource(Kind::IpamConfiguration, None, "default");
        let stored = to_custom(ApiGroup::Crd, &config, None, r#"{"spec": {}}"#).unwrap();
        assert_eq!(stored["kind"], "IPAMConfig");
    }

    #[test]
    fn policies_of_before_are_found_under_their_name_of_today() {
        let name = |object: Value| from_custom(ApiGroup::Crd, Kind::GlobalNetworkPolicy, object);
        let named = |name: &str| Key::resource(Kind::GlobalNetworkPolicy, None, name);
        let bare = json!({"metadata": {"name": "default.web", "labels": {"a": "b"}}, "spec": {}});
        let (key, text) = name(bare).unwrap();
        assert_eq!(key, named("web"));
        assert!(text.contains(r#""labels":{"a":"b"}"#), "{text}");
        let annotated = |inner: &str| json!({"metadata": {"name": "default.web", "annotations": {METADATA_ANNOTATION: inner}}});
        assert_eq!(name(annotated(r#"{"name":"web"}"#)).unwrap().0, named("web"));
        assert_eq!(name(annotated("{}")).unwrap().0, named("default.web"));
        assert!(name(annotated("{")).unwrap_err().contains(METADATA_ANNOTATION));
    }

    #[test]
    fn groups_are_named_with_or_without_their_version() {
        assert_eq!("projectcalico.org".parse(), Ok(ApiGroup::V3));
        assert_eq!("crd.projectcalico.org/v1".parse(), Ok(ApiGroup::Crd));
        assert!("calico.org".parse::<ApiGroup>().is_err());
    }
}
