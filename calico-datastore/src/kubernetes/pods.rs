//! Pods as those ask for them who connect them to a network: with all annotations, and with their
//! namespace. What everybody else sees of a pod is its workload endpoint.

use std::collections::BTreeMap;

use calico_core::datastore::StoreError;
use serde::Deserialize;

use super::KubernetesStore;
use super::failure::{Failure, FailureKind};
use crate::conversion::KubernetesMeta;

/// A pod and its namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PodMeta {
    /// Identity of this very pod.
    pub uid: String,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations of its namespace.
    pub namespace_annotations: BTreeMap<String, String>,
    /// Labels of its namespace.
    pub namespace_labels: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Object {
    metadata: KubernetesMeta,
}

impl KubernetesStore {
    /// A pod and its namespace, as the API server has them now; `None` if there is no such pod.
    ///
    /// # Errors
    ///
    /// As those of the [`Datastore`](calico_core::Datastore).
    pub async fn pod(&self, namespace: &str, name: &str) -> Result<Option<PodMeta>, StoreError> {
        if !is_name(namespace) || !is_name(name) {
            return Ok(None);
        }
        let namespaces = format!("/api/v1/namespaces/{namespace}");
        let Some(pod) = self.meta(format!("{namespaces}/pods/{name}")).await? else {
            return Ok(None);
        };
        let namespace = self.meta(namespaces).await?.unwrap_or_default();
        Ok(Some(PodMeta {
            uid: pod.uid,
            annotations: pod.annotations,
            labels: pod.labels,
            namespace_annotations: namespace.annotations,
            namespace_labels: namespace.labels,
        }))
    }

    async fn meta(&self, path: String) -> Result<Option<KubernetesMeta>, StoreError> {
        match self.inner.server.get(path.clone()).await {
            Ok(text) => match serde_json::from_str::<Object>(&text) {
                Ok(object) => Ok(Some(object.metadata)),
                Err(error) => Err(StoreError::BadObject { path, reason: error.to_string() }),
            },
            Err(failure) if failure.kind == FailureKind::NotFound => Ok(None),
            Err(failure) => Err(Failure::into_error(failure)),
        }
    }
}

/// Whether it can be a part of a path: names of pods are subdomains (RFC 1123).
fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 253
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_name_is_not_asked_for() {
        for (text, fits) in [
            ("web-0", true),
            ("a.b", true),
            ("", false),
            ("..", false),
            ("a/b", false),
            ("a?b", false),
        ] {
            assert_eq!(is_name(text), fits, "{text}");
        }
    }
}
