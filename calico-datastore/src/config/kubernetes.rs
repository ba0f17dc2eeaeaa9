use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Secret;
use crate::conversion::ApiGroup;

/// A Kubernetes API server, and how to reach it.
///
/// Without `kubeconfig`, `kubeconfigInline` and `endpoint`, a program in a pod uses the pod's own
/// account, and others `$HOME/.kube/config`.
///
/// ```
/// use calico_datastore::config::DatastoreConfig;
///
/// let config: DatastoreConfig = serde_json::from_str(
///     r#"{"type": "kubernetes", "kubeconfig": "/etc/calico/kubeconfig"}"#,
/// )?;
/// assert!(matches!(config, DatastoreConfig::Kubernetes(_)));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct KubernetesConfig {
    /// A kubeconfig, or several separated by `:`, the first ones winning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kubeconfig: Option<String>,
    /// What such a file would say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kubeconfig_inline: Option<Secret>,
    /// Context of the kubeconfig, if not its current one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
    /// URL of the API server, instead of what the kubeconfig says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// File with the certificates that the server's is signed with, instead of what the kubeconfig says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// File with our certificate, instead of what the kubeconfig says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<PathBuf>,
    /// File with the key of our certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
    /// Our token, instead of what the kubeconfig says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<Secret>,
    /// File with our token, which is read again when it changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// Whether the server's certificate is believed unseen.
    pub insecure_skip_tls_verify: bool,
    /// Requests per second, on average; 0: no limit but the server's own.
    pub qps: f32,
    /// Requests in a burst; 0: 100. Of use only with `qps`.
    pub burst: u32,
    /// API group of the custom resources; found out if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_group: Option<ApiGroup>,
    /// Whether tunnels of nodes have the first address of the node's `podCIDR`.
    #[serde(rename = "usePodCIDR")]
    pub use_pod_cidr: bool,
    /// What names of pods' interfaces begin with; `cali` if empty.
    pub interface_prefix: String,
}

// `qps` is a number: JSON has no other ones, and `check` refuses them.
impl Eq for KubernetesConfig {}

impl KubernetesConfig {
    /// Whether the settings make sense together.
    ///
    /// # Errors
    ///
    /// What does not, and what to do.
    pub fn check(&self) -> Result<(), String> {
        if self.certificate.is_some() != self.key.is_some() {
            return Err("a certificate for Kubernetes needs its key, and a key its certificate; \
                        give both (k8sCertFile and k8sKeyFile; K8S_CERT_FILE and K8S_KEY_FILE)"
                .to_owned());
        }
        if !self.qps.is_finite() || self.qps < 0.0 {
            return Err(format!("{} is no number of requests per second", self.qps));
        }
        if let Some(endpoint) = &self.endpoint {
            let host =
                ["https://", "http://"].iter().find_map(|scheme| endpoint.strip_prefix(scheme));
            if host.is_none_or(|host| host.is_empty() || host.contains(char::is_whitespace)) {
                return Err(format!(
                    "endpoint {endpoint:?} is no URL of a Kubernetes API; write https://host:port"
                ));
            }
        }
        Ok(())
    }

    /// What names of pods' interfaces begin with.
    #[must_use]
    pub fn interface_prefix(&self) -> &str {
        if self.interface_prefix.is_empty() { "cali" } else { &self.interface_prefix }
    }
}
