//! Metadata in the older group, which keeps them in an annotation.

use calico_core::kind::Kind;
use serde_json::{Map, Value};

use super::super::calico_uid;
use super::is_policy;

/// Where `crd.projectcalico.org/v1` keeps a resource's metadata.
pub const METADATA_ANNOTATION: &str = "projectcalico.org/metadata";

/// Before the name of policies of tier `default` that upstream stored before v3.32.
pub const OLDER_POLICY_PREFIX: &str = "default.";

/// The metadata of a custom resource of the older group.
pub(super) fn under_annotation(
    kind: Kind,
    name: &str,
    mut given: Map<String, Value>,
) -> Map<String, Value> {
    let mut out = Map::new();
    for field in ["labels", "annotations"] {
        let kept: Map<String, Value> = given
            .get(field)
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .filter(|(key, _)| is_own(key))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        if !kept.is_empty() {
            out.insert(field.to_owned(), kept.into());
        }
    }
    if let Some(Value::Array(owners)) = given.get("ownerReferences") {
        out.insert("ownerReferences".to_owned(), owners.iter().map(other_uid).collect());
    }
    let mut kept = Map::new();
    if is_policy(kind) {
        kept.insert("name".to_owned(), name.into());
    }
    given.retain(|field, _| field != "ownerReferences");
    kept.extend(given);
    kept.entry("creationTimestamp").or_insert(Value::Null);
    let annotations = out.entry("annotations").or_insert_with(|| Map::new().into());
    if let Some(annotations) = annotations.as_object_mut() {
        annotations.insert(METADATA_ANNOTATION.to_owned(), Value::Object(kept).to_string().into());
    }
    out
}

/// Whether a label or an annotation stays visible on the custom resource.
fn is_own(key: &str) -> bool {
    (key.contains("projectcalico.org/") || key.contains("operator.tigera.io/"))
        && key != METADATA_ANNOTATION
}

fn other_uid(owner: &Value) -> Value {
    let mut owner = owner.clone();
    if let Some(Value::String(uid)) = owner.get_mut("uid") {
        *uid = calico_uid(uid);
    }
    owner
}

/// The metadata of a resource in the older group.
pub(super) fn from_annotation(
    kind: Kind,
    mut outer: Map<String, Value>,
) -> Result<Map<String, Value>, String> {
    let take = |map: &mut Map<String, Value>, field: &str| {
        map.get_mut(field).map(Value::take).unwrap_or_default()
    };
    let mut labels = take(&mut outer, "labels");
    let mut annotations = take(&mut outer, "annotations");
    let stored = annotations.get_mut(METADATA_ANNOTATION).map(Value::take);
    let text = |field: &str| outer.get(field).and_then(Value::as_str).unwrap_or_default();
    let own_name = text("name");
    let mut inner = match &stored {
        Some(Value::String(stored)) => match serde_json::from_str(stored) {
            Ok(Value::Object(inner)) => inner,
            Ok(_) => return Err(format!("annotation {METADATA_ANNOTATION} is no JSON object")),
            Err(error) => return Err(format!("annotation {METADATA_ANNOTATION}: {error}")),
        },
        _ => Map::new(),
    };
    let older = || match (is_policy(kind), &stored) {
        (true, None) => own_name.strip_prefix(OLDER_POLICY_PREFIX).unwrap_or(own_name),
        _ => own_name,
    };
    let inner_name = inner.get("name").and_then(Value::as_str).filter(|name| !name.is_empty());
    let name = inner_name.filter(|_| is_policy(kind)).unwrap_or_else(older).to_owned();
    let mut out = Map::new();
    out.insert("name".to_owned(), name.into());
    if !text("namespace").is_empty() {
        out.insert("namespace".to_owned(), text("namespace").into());
    }
    out.insert("uid".to_owned(), calico_uid(text("uid")).into());
    out.insert("resourceVersion".to_owned(), text("resourceVersion").into());
    let made = inner.get_mut("creationTimestamp").map(Value::take).filter(Value::is_string);
    let made = made.or_else(|| outer.get("creationTimestamp").cloned());
    out.insert("creationTimestamp".to_owned(), made.unwrap_or_default());
    if let Some(when) = outer.get("deletionTimestamp") {
        out.insert("deletionTimestamp".to_owned(), when.clone());
    }
    for (field, outer) in [("labels", &mut labels), ("annotations", &mut annotations)] {
        let mut all = inner.get_mut(field).map(Value::take).unwrap_or_default();
        let outer = outer.as_object_mut().into_iter().flatten();
        // Without the annotation, nobody but Kubernetes' users named them.
        let visible =
            outer.filter(|(key, value)| !value.is_null() && (stored.is_none() || is_own(key)));
        for (key, value) in visible {
            if !all.is_object() {
                all = Map::new().into();
            }
            all[key] = value.take();
        }
        if all.as_object().is_some_and(|all| !all.is_empty()) {
            out.insert(field.to_owned(), all);
        }
    }
    if let Some(Value::Array(owners)) = outer.get("ownerReferences") {
        out.insert("ownerReferences".to_owned(), owners.iter().map(other_uid).collect());
    }
    for (field, value) in inner {
        if !out.contains_key(&field) && !value.is_null() && field != "namespace" {
            out.insert(field, value);
        }
    }
    Ok(out)
}
