//! Objects of Kubernetes among files, taken as the Kubernetes datastore takes them.

use std::io::Read;
use std::path::Path;

use calico_core::resource::{AnyResource, Mode, Spec};
use calico_datastore::conversion::{
    self, ADMIN_POLICY_PREFIX, BASELINE_POLICY_PREFIX, CLUSTER_POLICY_PREFIX, Converted,
    NETWORK_POLICY_PREFIX,
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::failure::Failure;
use crate::input;

/// What interfaces of pods are called by; it matters to nobody who is told of policy only.
const INTERFACE_PREFIX: &str = "cali";

/// What files say.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) resources: Vec<AnyResource>,
    /// What of them was left out, a line each.
    pub(super) notes: Vec<String>,
}

/// Reads files as [`input::read`] does, and what they hold of Kubernetes besides.
pub(super) fn read(
    path: &Path,
    recursive: bool,
    skip_empty: bool,
    stdin: &mut dyn Read,
) -> Result<Found, Failure> {
    let mut notes = Vec::new();
    let resources = input::read_with(path, recursive, skip_empty, stdin, &mut |path, text| {
        // Mistakes in files of ours are told with their lines.
        input::parse(path, text, Mode::Valid)
            .or_else(|mistakes| parse(text, &mut notes).unwrap_or(Err(mistakes)))
    })?;
    Ok(Found { resources, notes })
}

/// `None` if there is nothing of Kubernetes in it.
fn parse(text: &str, notes: &mut Vec<String>) -> Option<Result<Vec<AnyResource>, Failure>> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).ok()?;
    let mut objects = Vec::new();
    documents.into_iter().for_each(|document| flatten(document, &mut objects));
    if !objects.iter().any(is_foreign) {
        return None;
    }
    let resource = |object: Value| match is_foreign(&object) {
        true => Ok(convert(object, notes)),
        false => {
            let name = name_of(&object);
            let own = AnyResource::from_value(object, Mode::Valid);
            own.map(Some).map_err(|errors| Failure::Invalid { name, errors })
        }
    };
    Some(objects.into_iter().map(resource).filter_map(Result::transpose).collect())
}

/// Lists are taken apart.
fn flatten(value: Value, objects: &mut Vec<Value>) {
    match value {
        Value::Array(items) => items.into_iter().for_each(|item| flatten(item, objects)),
        Value::Object(mut fields)
            if fields.get("kind").and_then(Value::as_str).is_some_and(|k| k.ends_with("List")) =>
        {
            flatten(fields.remove("items").unwrap_or_default(), objects);
        }
        Value::Null => {}
        object => objects.push(object),
    }
}

fn is_foreign(object: &Value) -> bool {
    let version = object["apiVersion"].as_str();
    version.is_some_and(|version| !version.contains("projectcalico.org"))
}

fn name_of(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    let (kind, name) = (text(&object["kind"]), text(&object["metadata"]["name"]));
    match object["metadata"]["namespace"].as_str() {
        Some(namespace) => format!("{kind} {namespace}/{name}"),
        None => format!("{kind} {name}"),
    }
}

/// The resource that Calico sees in an object; `None` if it has no say in policy.
fn convert(mut object: Value, notes: &mut Vec<String>) -> Option<AnyResource> {
    let name = name_of(&object);
    let (version, kind) = (object["apiVersion"].take(), object["kind"].take());
    let group = version.as_str()?.split_once('/').map_or("", |(group, _)| group).to_owned();
    let is_namespaced =
        matches!(kind.as_str()?, "Pod" | "ServiceAccount" | "NetworkPolicy" | "EndpointSlice");
    if is_namespaced && object["metadata"]["namespace"].as_str().is_none_or(str::is_empty) {
        object["metadata"]["namespace"] = "default".into();
    }
    let converted = match (&*group, kind.as_str()?) {
        ("", "Namespace") => typed(object).map(|o| all(conversion::namespace_profile(&o))),
        ("", "ServiceAccount") => {
            typed(object).map(|o| all(conversion::service_account_profile(&o)))
        }
        ("", "Pod") => typed(object).and_then(|pod| {
            let endpoint = conversion::workload_endpoint(&pod, INTERFACE_PREFIX);
            endpoint.map(part).ok_or_else(|| "is on no node, or in the node's network".to_owned())
        }),
        ("discovery.k8s.io", "EndpointSlice") => {
            typed(object).map(|o| all(conversion::kubernetes_endpoint_slice(&o)))
        }
        ("networking.k8s.io", "NetworkPolicy") => {
            typed(object).map(|o| renamed(NETWORK_POLICY_PREFIX, conversion::network_policy(&o)))
        }
        ("policy.networking.k8s.io", "ClusterNetworkPolicy") => typed(object)
            .and_then(|o| conversion::cluster_network_policy(&o))
            .map(|found| renamed(CLUSTER_POLICY_PREFIX, found)),
        ("policy.networking.k8s.io", "AdminNetworkPolicy") => typed(object)
            .and_then(|o| conversion::admin_network_policy(&o))
            .map(|found| renamed(ADMIN_POLICY_PREFIX, found)),
        ("policy.networking.k8s.io", "BaselineAdminNetworkPolicy") => typed(object)
            .and_then(|o| conversion::baseline_admin_network_policy(&o))
            .map(|found| renamed(BASELINE_POLICY_PREFIX, found)),
        _ => return None,
    };
    match converted {
        Ok((resource, problems)) => {
            notes.extend(problems.into_iter().map(|problem| format!("{name}: {problem}")));
            Some(resource)
        }
        Err(reason) => {
            notes.push(format!("left out: {name}: {reason}"));
            None
        }
    }
}

fn typed<T: DeserializeOwned>(object: Value) -> Result<T, String> {
    serde_json::from_value(object).map_err(|error| error.to_string())
}

/// A resource, and what of the object is not in it.
type Parts = (AnyResource, Vec<String>);

fn all<S: Spec>(resource: calico_core::resource::Resource<S>) -> Parts {
    (resource.into(), Vec::new())
}

fn part<S: Spec>(found: Converted<calico_core::resource::Resource<S>>) -> Parts {
    (found.resource.into(), found.problems)
}

/// Under the name that it has among Calico's own.
fn renamed<S: Spec>(
    prefix: &str,
    mut found: Converted<calico_core::resource::Resource<S>>,
) -> Parts {
    let name = &mut found.resource.metadata.name;
    if !name.starts_with(prefix) {
        *name = format!("{prefix}{name}");
    }
    part(found)
}
