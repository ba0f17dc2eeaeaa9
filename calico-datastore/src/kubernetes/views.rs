//! Writing to what is a view of Kubernetes' own objects: some of it is kept in annotations.

use std::collections::BTreeMap;

use calico_core::datastore::{Expect, Revision, StoreError, Write};
use calico_core::key::Key;
use calico_core::kind::Kind;
use calico_core::resource::{Node, WorkloadEndpoint, WorkloadEndpointSpec};
use http::Method;
use serde_json::{Map, Value, json};

use super::Inner;
use super::failure::{Failure, FailureKind};
use super::reading::{Read, Reading};
use super::server::Change;
use super::source::{Source, What};
use super::write::{MERGE, of_object, version_of};
use crate::conversion::{KubernetesNode, node_annotations, pod_annotations};

/// Attempts at an object that others write at the same time, where the caller expects nothing.
const TRIES: u32 = 30;

/// Carries out a write of a view.
pub(super) async fn view(
    inner: &Inner,
    reading: &Reading,
    source: &Source,
    write: &Write,
) -> Result<Revision, StoreError> {
    let key = &write.key;
    match (source.what, &write.value) {
        (What::Nodes, None) => return Err(unsupported(key, "delete the node in Kubernetes")),
        (What::Nodes | What::Pods, _) => {}
        (
            What::Policies | What::ClusterPolicies | What::AdminPolicies | What::BaselinePolicies,
            _,
        ) => {
            return Err(unsupported(key, "change the policy in Kubernetes"));
        }
        (What::Services | What::Slices, _) => {
            return Err(unsupported(key, "change the service in Kubernetes"));
        }
        (What::Migrations, _) => return Err(unsupported(key, "change the migration in KubeVirt")),
        _ => return Err(unsupported(key, "change the namespace or service account in Kubernetes")),
    }
    for _ in 0..TRIES {
        let current = inner.server.get(source.object(reading.group)).await;
        let current = match current {
            Err(failure) if failure.kind == FailureKind::NotFound => {
                return Err(match write.expect {
                    Expect::Absent | Expect::Any => unsupported(
                        key,
                        "there is no such object in Kubernetes; it must be there first",
                    ),
                    _ => StoreError::NotFound { key: key.clone() },
                });
            }
            other => other.map_err(|failure| of_object(key, failure))?,
        };
        let bad = |reason: &dyn std::fmt::Display| StoreError::bad_object(key, reason);
        let object: Value = serde_json::from_str(&current).map_err(|error| bad(&error))?;
        let found = version_of(&object).map_err(|error| bad(&error))?;
        let shown = match source.read(&current, reading) {
            Ok(Read::Object(entry)) if entry.key == *key => Some(found),
            _ => None,
        };
        write.check(shown)?;
        if shown.is_none() {
            return Err(unsupported(key, "the object in Kubernetes is no endpoint of that name"));
        }
        let annotations = annotations(source, reading, write, object)?;
        if annotations.is_empty() {
            return Ok(found);
        }
        match patch(inner, reading, source, found, annotations).await {
            Ok(text) => {
                let object: Value = serde_json::from_str(&text).map_err(|error| bad(&error))?;
                return version_of(&object).map_err(|error| bad(&error));
            }
            // Others (the kubelet, every few seconds) write it, too.
            Err(failure) if failure.kind == FailureKind::Conflict => {}
            Err(failure) => return Err(of_object(key, failure)),
        }
    }
    Err(StoreError::Unavailable { reason: format!("others keep writing {key}") })
}

/// Annotations that must change; `None` takes one away.
fn annotations(
    source: &Source,
    reading: &Reading,
    write: &Write,
    object: Value,
) -> Result<BTreeMap<String, Option<String>>, StoreError> {
    let bad = |reason: &dyn std::fmt::Display| StoreError::bad_object(&write.key, reason);
    let value = write.value.as_deref();
    if source.what == What::Nodes {
        let wanted: Node =
            serde_json::from_str(value.unwrap_or_default()).map_err(|error| bad(&error))?;
        let current: KubernetesNode =
            serde_json::from_value(object).map_err(|error| bad(&error))?;
        return Ok(node_annotations(&wanted, &current, reading.use_pod_cidr));
    }
    let spec = match value {
        Some(text) => {
            let wanted: WorkloadEndpoint =
                serde_json::from_str(text).map_err(|error| bad(&error))?;
            wanted.spec
        }
        // Deleted: its addresses are its own no longer.
        None => WorkloadEndpointSpec::default(),
    };
    let changed =
        |(name, value): &(String, String)| object["metadata"]["annotations"][name] != *value;
    let wanted = pod_annotations(&spec).into_iter();
    Ok(wanted.filter(changed).map(|(name, value)| (name, Some(value))).collect())
}

/// Patches the object by way of its status: that is what agents may write.
async fn patch(
    inner: &Inner,
    reading: &Reading,
    source: &Source,
    at: Revision,
    annotations: BTreeMap<String, Option<String>>,
) -> Result<String, Failure> {
    let annotations: Map<String, Value> =
        annotations.into_iter().map(|(name, value)| (name, value.into())).collect();
    let metadata = json!({"resourceVersion": at.to_string(), "annotations": annotations});
    let change = Change {
        method: Method::PATCH,
        path: format!("{}/status?fieldManager=calico", source.object(reading.group)),
        content_type: MERGE,
        body: json!({"metadata": metadata}).to_string(),
    };
    inner.server.change(&change).await
}

fn unsupported(key: &Key, what: &str) -> StoreError {
    let kind = key.kind().map_or("object", Kind::as_str);
    let name = key.name();
    StoreError::Unsupported {
        what: format!("{kind} {name} is Kubernetes' own, seen by Calico: {what}"),
    }
}
