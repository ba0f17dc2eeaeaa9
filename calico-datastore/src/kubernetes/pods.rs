//! Pods as those ask for them who connect them to a network: with all annotations, and with their
//! namespace. What everybody else sees of a pod is its workload endpoint.

use std::collections::BTreeMap;

use calico_core::datastore::StoreError;
use calico_core::resource::WorkloadEndpointPort;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::KubernetesStore;
use super::failure::{Failure, FailureKind};
use super::machines::MachineMeta;
use crate::conversion::{KubernetesMeta, Pod, workload_endpoint};

/// A pod and its namespace.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct PodMeta {
    /// Identity of this very pod.
    pub uid: String,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// The labels of its endpoint: its own, and those of namespace, orchestrator and account.
    pub labels: BTreeMap<String, String>,
    /// Profiles of its namespace and of its account.
    pub profiles: Vec<String>,
    /// Its account.
    pub service_account: String,
    /// Ports that are named, or mapped from the node.
    pub ports: Vec<WorkloadEndpointPort>,
    /// Annotations of its namespace.
    pub namespace_annotations: BTreeMap<String, String>,
    /// Labels of its namespace.
    pub namespace_labels: BTreeMap<String, String>,
    /// The virtual machine that it runs.
    pub machine: Option<MachineMeta>,
}

#[derive(Deserialize)]
struct Namespace {
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
        let path = format!("{namespaces}/pods/{name}");
        let Some(text) = self.text(&path).await? else { return Ok(None) };
        let pod: Pod = read(&path, &text)?;
        let machine = self.machine_of(&pod.metadata, &read(&path, &text)?).await?;
        let namespace = self.object::<Namespace>(namespaces).await?;
        let namespace = namespace.map(|namespace| namespace.metadata).unwrap_or_default();
        let prefix = self.inner.server.settings.interface_prefix();
        let endpoint = workload_endpoint(&pod, prefix).map(|converted| converted.resource);
        let endpoint = endpoint.unwrap_or_default();
        Ok(Some(PodMeta {
            machine,
            uid: pod.metadata.uid,
            annotations: pod.metadata.annotations,
            labels: endpoint.metadata.labels,
            profiles: endpoint.spec.profiles,
            service_account: endpoint.spec.service_account_name,
            ports: endpoint.spec.ports,
            namespace_annotations: namespace.annotations,
            namespace_labels: namespace.labels,
        }))
    }

    pub(super) async fn object<T: DeserializeOwned>(
        &self,
        path: String,
    ) -> Result<Option<T>, StoreError> {
        match self.text(&path).await? {
            Some(text) => read(&path, &text).map(Some),
            None => Ok(None),
        }
    }

    async fn text(&self, path: &str) -> Result<Option<String>, StoreError> {
        match self.inner.server.get(path.to_owned()).await {
            Ok(text) => Ok(Some(text)),
            Err(failure) if failure.kind == FailureKind::NotFound => Ok(None),
            Err(failure) => Err(Failure::into_error(failure)),
        }
    }
}

fn read<T: DeserializeOwned>(path: &str, text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text)
        .map_err(|error| StoreError::BadObject { path: path.to_owned(), reason: error.to_string() })
}

/// Whether it can be a part of a path: names of pods are subdomains (RFC 1123).
pub(super) fn is_name(text: &str) -> bool {
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
