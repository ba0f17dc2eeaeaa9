//! `patch`: a part of a resource in place of what is stored.

mod json;

use std::sync::Arc;

use calico_core::Datastore;
use calico_core::key::Key;
use calico_core::resource::{AnyResource, Mode};
use clap::ValueEnum;
use serde_json::{Map, Value};

use crate::admit::Admission;
use crate::failure::{Failure, name_of};
use crate::stored::{Stamp, complete, from_entry, next_text};

/// Attempts at a resource that others write at the same time.
const TRIES: u32 = 5;

/// How a patch is to be read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum PatchType {
    /// Kubernetes' strategic merge: maps are merged, lists replaced
    #[default]
    Strategic,
    /// A list of operations (RFC 6902)
    Json,
    /// Maps are merged, everything else replaced (RFC 7386)
    Merge,
}

/// Reads a patch from the command line: JSON or YAML.
pub(crate) fn parse(text: &str) -> Result<Value, Failure> {
    let patch: Value = serde_saphyr::from_str(text).map_err(|error| {
        Failure::Usage(format!("the patch is neither JSON nor YAML: {}", error.without_snippet()))
    })?;
    match patch {
        Value::Object(_) | Value::Array(_) => Ok(patch),
        _ => Err(Failure::Usage("the patch is neither a map nor a list of operations".into())),
    }
}

/// Patches the resource at `key`, over again if somebody else writes it meanwhile.
pub(crate) async fn carry_out(
    store: &dyn Datastore,
    key: &Key,
    how: PatchType,
    patch: &Value,
    stamp: &Stamp,
) -> Result<String, Failure> {
    let name = name_of(key);
    let mut tries = 1;
    loop {
        let entry = store.get(key).await?;
        let resource = patched(&name, &from_entry(&entry)?, how, patch)?;
        let resource = complete(key, resource)?;
        let text: Arc<str> = next_text(resource.clone(), &entry, stamp).into();
        let new = Some((&resource, Arc::clone(&text)));
        Admission::new(store).check(key, Some(&entry), new).await?;
        match store.update(key.clone(), text, entry.revision).await {
            Ok(_) => {
                return Ok(format!("Successfully patched 1 '{}' resource", resource.kind));
            }
            Err(error) if error.is_conflict() && tries < TRIES => tries += 1,
            Err(error) => return Err(error.into()),
        }
    }
}

/// The resource with the patch applied; it must still be the same resource.
fn patched(
    name: &str,
    resource: &AnyResource,
    how: PatchType,
    patch: &Value,
) -> Result<AnyResource, Failure> {
    let mut value = resource.to_value();
    match how {
        PatchType::Json => json::apply(&mut value, patch).map_err(Failure::Usage)?,
        PatchType::Merge => merge(&mut value, patch),
        PatchType::Strategic => strategic(&mut value, patch, "").map_err(Failure::Usage)?,
    }
    let invalid = |errors| Failure::Invalid { name: name.to_owned(), errors };
    // Fields that a later version wrote were not given by a person, and may stay.
    let known = AnyResource::from_value(resource.to_value(), Mode::Strict).is_ok();
    let mode = if known { Mode::Strict } else { Mode::Tolerant };
    let new = AnyResource::from_value(value, mode).map_err(invalid)?;
    if new.key() != resource.key() {
        return Err(Failure::Usage(format!(
            "a patch cannot change kind, name or namespace of {name}"
        )));
    }
    let wanted = &new.metadata.resource_version;
    if !wanted.is_empty() && *wanted != resource.metadata.resource_version {
        return Err(Failure::Usage(format!(
            "{name} is at resourceVersion {}, not {wanted}; get it again",
            resource.metadata.resource_version
        )));
    }
    Ok(new)
}

/// RFC 7386: `null` removes, maps are merged, everything else is replaced.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(fields) = target else { return };
    for (key, value) in patch {
        if value.is_null() {
            fields.shift_remove(key);
        } else {
            merge(fields.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

/// Kubernetes' strategic merge. Of the lists in Calico's resources only two are not replaced as a
/// whole: finalizers are a set, and owner references are merged by their `uid`.
fn strategic(target: &mut Value, patch: &Value, field: &str) -> Result<(), String> {
    match patch {
        Value::Object(patch) => strategic_map(target, patch),
        Value::Array(items) if field == "finalizers" => {
            let Value::Array(found) = target else {
                *target = patch.clone();
                return Ok(());
            };
            for item in items.iter().filter(|item| !item.is_null()) {
                if !found.contains(item) {
                    found.push(item.clone());
                }
            }
            Ok(())
        }
        Value::Array(items) if field == "ownerReferences" => strategic_list(target, items, "uid"),
        _ => {
            *target = patch.clone();
            Ok(())
        }
    }
}

fn strategic_map(target: &mut Value, patch: &Map<String, Value>) -> Result<(), String> {
    const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
    match patch.get("$patch").and_then(Value::as_str) {
        Some("replace") => {
            let mut patch = patch.clone();
            patch.shift_remove("$patch");
            *target = Value::Object(patch);
            return Ok(());
        }
        Some("delete") => {
            *target = Value::Object(Map::new());
            return Ok(());
        }
        Some("merge") | None => {}
        Some(other) => {
            return Err(format!("$patch: {other} is none of merge, replace, delete"));
        }
    }
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(fields) = target else { return Ok(()) };
    for (key, value) in patch {
        if let Some(list) = key.strip_prefix(DELETE_FROM) {
            if let (Some(Value::Array(found)), Value::Array(gone)) = (fields.get_mut(list), value) {
                found.retain(|item| !gone.contains(item));
            }
        } else if key == "$retainKeys" {
            let keep = value.as_array().ok_or("$retainKeys takes a list of field names")?;
            fields.retain(|field, _| keep.iter().any(|name| name == field));
        } else if key == "$patch" || key.starts_with("$setElementOrder/") {
            // Done above; and lists keep their order.
        } else if key.starts_with('$') {
            return Err(format!("{key} is no directive of strategic merge patches"));
        } else if value.is_null() {
            fields.shift_remove(key);
        } else {
            strategic(fields.entry(key.clone()).or_insert(Value::Null), value, key)?;
        }
    }
    Ok(())
}

/// Merges maps that are told apart by the field `by`.
fn strategic_list(target: &mut Value, patch: &[Value], by: &str) -> Result<(), String> {
    if !target.is_array() {
        *target = Value::Array(Vec::new());
    }
    let Value::Array(found) = target else { return Ok(()) };
    for item in patch {
        let at = found.iter().position(|other| other[by] == item[by] && !item[by].is_null());
        match (at, item["$patch"].as_str()) {
            (Some(at), Some("delete")) => {
                found.remove(at);
            }
            (None, Some("delete")) => {}
            (Some(at), _) => strategic(&mut found[at], item, "")?,
            (None, _) => found.push(item.clone()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use calico_core::kind::Kind;
    use calico_core::memory::MemoryStore;
    use serde_json::json;

    #[track_caller]
    fn check(how: PatchType, target: Value, patch: Value, expected: Value) {
        let mut found = target;
        match how {
            PatchType::Merge => merge(&mut found, &patch),
            PatchType::Strategic => strategic(&mut found, &patch, "").unwrap(),
            PatchType::Json => json::apply(&mut found, &patch).unwrap(),
        }
        assert_eq!(found, expected);
    }

    #[test]
    fn maps_are_merged_and_lists_replaced() {
        for how in [PatchType::Merge, PatchType::Strategic] {
            check(
                how,
                json!({"a": {"b": 1, "c": 2}, "l": [1, 2]}),
                json!({"a": {"b": null, "d": {"e": 3}}, "l": [3]}),
                json!({"a": {"c": 2, "d": {"e": 3}}, "l": [3]}),
            );
        }
    }

    #[test]
    fn directives_of_strategic_merges() {
        let strategic =
            |target, patch, expected| check(PatchType::Strategic, target, patch, expected);
        strategic(
            json!({"a": {"b": 1}, "c": 1}),
            json!({"a": {"$patch": "replace", "x": 1}}),
            json!({"a": {"x": 1}, "c": 1}),
        );
        strategic(json!({"a": {"b": 1}}), json!({"a": {"$patch": "delete"}}), json!({"a": {}}));
        strategic(json!({"a": 1, "b": 2}), json!({"$retainKeys": ["a"], "a": 3}), json!({"a": 3}));
        strategic(
            json!({"nets": ["a", "b"], "finalizers": ["x"]}),
            json!({"$deleteFromPrimitiveList/nets": ["a"], "finalizers": ["x", "y"]}),
            json!({"nets": ["b"], "finalizers": ["x", "y"]}),
        );
        strategic(
            json!({"ownerReferences": [{"uid": "1", "name": "a"}, {"uid": "2"}]}),
            json!({"ownerReferences": [{"uid": "1", "kind": "k"}, {"uid": "2", "$patch": "delete"}]}),
            json!({"ownerReferences": [{"uid": "1", "name": "a", "kind": "k"}]}),
        );
        assert!(super::strategic(&mut json!({}), &json!({"$patch": "burn"}), "").is_err());
    }

    #[tokio::test]
    async fn a_patched_resource_keeps_its_identity_and_follows_the_rules() {
        let store = MemoryStore::new();
        let key = Key::resource(Kind::IpPool, None, "main");
        let pool = r#"{"kind":"IPPool","apiVersion":"projectcalico.org/v3","metadata":{"name":"main","uid":"u"},"spec":{"cidr":"10.0.0.0/16"}}"#;
        store.create(key.clone(), pool.into()).await.unwrap();
        let stamp = Stamp { now: std::time::UNIX_EPOCH, uid: || "new".to_owned() };
        let run = async |how, text: &str| {
            let patch = parse(text)?;
            carry_out(&store, &key, how, &patch, &stamp).await
        };
        let said = run(PatchType::Strategic, "{\"spec\": {\"natOutgoing\": true}}").await.unwrap();
        assert_eq!(said, "Successfully patched 1 'IPPool' resource");
        run(PatchType::Merge, "metadata: {labels: {a: b}}").await.unwrap();
        let add = r#"[{"op": "add", "path": "/spec/disabled", "value": true}]"#;
        run(PatchType::Json, add).await.unwrap();
        let stored = from_entry(&store.get(&key).await.unwrap()).unwrap();
        assert_eq!(stored.metadata.uid, "u");
        assert_eq!(stored.metadata.labels["a"], "b");
        let spec = &stored.fields["spec"];
        assert_eq!((&spec["natOutgoing"], &spec["disabled"]), (&true.into(), &true.into()));
        for (patch, part) in [
            ("{spec: {natOutgoin: true}}", "did you mean `natOutgoing`?"),
            ("{spec: {blockSize: 3}}", "spec.blockSize"),
            ("{spec: {cidr: 10.0.0.0/17}}", "cannot change from 10.0.0.0/16"),
            ("{metadata: {name: other}}", "cannot change kind, name or namespace"),
            ("{metadata: {resourceVersion: '1'}}", "is at resourceVersion"),
            ("7", "neither a map"),
            ("{", "neither JSON nor YAML"),
        ] {
            let error = run(PatchType::Strategic, patch).await.unwrap_err().to_string();
            assert!(error.contains(part), "{patch}: {error}");
        }
    }
}
