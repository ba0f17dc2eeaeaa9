//! What Kubernetes itself is told by, and tells, a node's network.

use calico_core::datastore::StoreError;
use http::Method;
use serde_json::{Value, json};

use super::KubernetesStore;
use super::failure::{Failure, FailureKind};
use super::server::Change;

/// The list of conditions is merged by their types.
const STRATEGIC: &str = "application/strategic-merge-patch+json";

impl KubernetesStore {
    /// Says on a node's status whether its network is unavailable, with upstream's words. `node`
    /// is a name of Kubernetes'.
    ///
    /// # Errors
    ///
    /// As those of the [`Datastore`](calico_core::Datastore).
    pub async fn set_network_unavailable(
        &self,
        node: &str,
        unavailable: bool,
    ) -> Result<(), StoreError> {
        let (status, reason, message) = if unavailable {
            ("True", "CalicoIsDown", "Calico is shutting down on this node")
        } else {
            ("False", "CalicoIsUp", "Calico is running on this node")
        };
        let now = k8s_openapi::jiff::Timestamp::now();
        let now = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let condition = json!({
            "type": "NetworkUnavailable", "status": status, "reason": reason, "message": message,
            "lastTransitionTime": now, "lastHeartbeatTime": now,
        });
        let change = Change {
            method: Method::PATCH,
            path: format!("/api/v1/nodes/{node}/status?fieldManager=calico"),
            content_type: STRATEGIC,
            body: json!({"status": {"conditions": [condition]}}).to_string(),
        };
        let told = self.inner.server.change(&change).await;
        told.map(drop).map_err(Failure::into_error)
    }

    /// The pods' ranges that kubeadm was told (`podSubnet`), separated by commas; `None` if the
    /// cluster was not made by kubeadm, or says nothing about it to this account.
    ///
    /// # Errors
    ///
    /// As those of the [`Datastore`](calico_core::Datastore).
    pub async fn kubeadm_pod_subnets(&self) -> Result<Option<String>, StoreError> {
        const PATH: &str = "/api/v1/namespaces/kube-system/configmaps/kubeadm-config";
        let text = match self.inner.server.get(PATH.to_owned()).await {
            Ok(text) => text,
            Err(failure)
                if matches!(failure.kind, FailureKind::NotFound | FailureKind::Forbidden) =>
            {
                return Ok(None);
            }
            Err(failure) => return Err(failure.into_error()),
        };
        let object: Value = serde_json::from_str(&text).map_err(|error| StoreError::BadObject {
            path: PATH.to_owned(),
            reason: error.to_string(),
        })?;
        Ok(pod_subnets(&object))
    }
}

/// The value of the first line `podSubnet: ...` of any entry.
fn pod_subnets(config_map: &Value) -> Option<String> {
    let entries = config_map["data"].as_object()?.values();
    let mut lines = entries.filter_map(Value::as_str).flat_map(str::lines);
    let value = lines.find_map(|line| line.trim().strip_prefix("podSubnet:"))?;
    Some(value.trim().trim_matches('"').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pods_range_of_kubeadm() {
        let text =
            "networking:\n  dnsDomain: cluster.local\n  podSubnet: 10.244.0.0/16,fd00::/48\n";
        let map = json!({"data": {"ClusterConfiguration": text}});
        assert_eq!(pod_subnets(&map).as_deref(), Some("10.244.0.0/16,fd00::/48"));
        assert_eq!(pod_subnets(&json!({"data": {"ClusterConfiguration": "x: y"}})), None);
    }
}
