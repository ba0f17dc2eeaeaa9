//! What becomes of Kubernetes' services.

use std::net::IpAddr;

use calico_core::datastore::{Revision, StoreError};
use calico_core::key::Key;
use calico_core::kind::Kind;
use http::Method;
use serde_json::{Value, json};

use super::KubernetesStore;
use super::failure::{Failure, FailureKind};
use super::pods::is_name;
use super::server::Change;
use super::write::MERGE;

impl KubernetesStore {
    /// Says on a service's status by which addresses its load balancer is reached, if the service is
    /// still at `version`, the `resourceVersion` of what the decision was made on.
    ///
    /// # Errors
    ///
    /// [`StoreError::Conflict`] if somebody has written the service since, and
    /// [`StoreError::NotFound`]; others as those of the [`Datastore`](calico_core::Datastore).
    pub async fn set_load_balancer(
        &self,
        namespace: &str,
        service: &str,
        version: &str,
        addresses: &[IpAddr],
    ) -> Result<(), StoreError> {
        let key = || Key::resource(Kind::KubernetesService, Some(namespace), service);
        if !is_name(namespace) || !is_name(service) {
            return Err(StoreError::NotFound { key: key() });
        }
        let ingress: Vec<Value> = addresses.iter().map(|ip| json!({ "ip": ip })).collect();
        let ingress = if ingress.is_empty() { Value::Null } else { ingress.into() };
        let change = Change {
            method: Method::PATCH,
            path: format!(
                "/api/v1/namespaces/{namespace}/services/{service}/status?fieldManager=calico"
            ),
            content_type: MERGE,
            body: json!({
                "metadata": { "resourceVersion": version },
                "status": { "loadBalancer": { "ingress": ingress } },
            })
            .to_string(),
        };
        match self.inner.server.change(&change).await {
            Ok(_) => Ok(()),
            Err(failure) if failure.kind == FailureKind::Conflict => {
                let expected = Revision(version.parse().unwrap_or_default());
                Err(StoreError::Conflict { key: key(), expected, found: Revision::default() })
            }
            Err(failure) if failure.kind == FailureKind::NotFound => {
                Err(StoreError::NotFound { key: key() })
            }
            Err(failure) => Err(Failure::into_error(failure)),
        }
    }
}
