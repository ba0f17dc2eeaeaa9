//! What pods ask for by annotation, as the Kubernetes API server has them.

use std::sync::Arc;

use async_trait::async_trait;
use calico_cni::facts::{Machine, NoPods, PodInfo, PodSource};
use calico_cni::spec::{CniError, Code};
use calico_core::datastore::StoreError;
use calico_datastore::KubernetesStore;
use calico_datastore::config::{DatastoreConfig, KubernetesConfig};

/// Who knows the pods of this cluster: the API server, if it is the datastore or named besides.
///
/// # Errors
///
/// [`StoreError::Settings`] for settings that make no sense.
pub fn source(
    store: &DatastoreConfig,
    besides: Option<&KubernetesConfig>,
) -> Result<Arc<dyn PodSource>, StoreError> {
    Ok(match api_server(store, besides)? {
        Some(server) => Arc::new(KubernetesPods(server)),
        None => Arc::new(NoPods),
    })
}

/// The API server of this cluster, if it is the datastore or named besides.
///
/// # Errors
///
/// As [`source`].
pub fn api_server(
    store: &DatastoreConfig,
    besides: Option<&KubernetesConfig>,
) -> Result<Option<KubernetesStore>, StoreError> {
    let config = match store {
        DatastoreConfig::Kubernetes(config) => Some(&**config),
        _ => besides,
    };
    config.map(KubernetesStore::connect).transpose()
}

/// Pods of a Kubernetes API server.
#[derive(Debug)]
pub struct KubernetesPods(pub KubernetesStore);

#[async_trait]
impl PodSource for KubernetesPods {
    async fn pod(&self, namespace: &str, name: &str) -> Result<Option<PodInfo>, CniError> {
        match self.0.pod(namespace, name).await? {
            Some(found) => Ok(Some(PodInfo {
                annotations: found.annotations,
                labels: found.labels,
                namespace_annotations: found.namespace_annotations,
                namespace_labels: found.namespace_labels,
                profiles: found.profiles,
                service_account: found.service_account,
                ports: found.ports,
                machine: found.machine.map(|machine| Machine {
                    name: machine.name,
                    uid: machine.uid,
                    vm_uid: machine.vm_uid,
                    migration: machine.migration,
                }),
            })),
            None => {
                let error = CniError::new(
                    Code::UnknownContainer,
                    format!("Kubernetes does not know the pod {namespace}/{name}"),
                );
                Err(error.details("it was deleted, or CNI_ARGS names another"))
            }
        }
    }

    async fn machine_ends(&self, namespace: &str, name: &str) -> Result<bool, CniError> {
        Ok(self.0.machine_ends(namespace, name).await?)
    }
}
