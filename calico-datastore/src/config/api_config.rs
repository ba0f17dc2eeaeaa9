use std::path::PathBuf;

use calico_core::kind::API_VERSION;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{DatastoreConfig, EtcdConfig, KubernetesConfig, Pem, Secret, default_socket};

/// The settings file of upstream's clients, kind `CalicoAPIConfig`: YAML or JSON, read strictly.
///
/// ```
/// use calico_datastore::config::{ApiConfig, DatastoreConfig};
///
/// let file: ApiConfig = serde_json::from_str(
///     r#"{"kind": "CalicoAPIConfig", "apiVersion": "projectcalico.org/v3",
///         "spec": {"etcdEndpoints": "https://10.0.0.1:2379,https://10.0.0.2:2379",
///                  "etcdCACertFile": "/etc/calico/ca.pem"}}"#,
/// )?;
/// let DatastoreConfig::Etcd(etcd) = file.datastore()? else { panic!("etcd") };
/// assert_eq!(etcd.endpoints.len(), 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ApiConfig {
    api_version: String,
    kind: String,
    #[serde(default, rename = "metadata")]
    _metadata: IgnoredAny,
    /// What it says.
    #[serde(default)]
    pub spec: ApiConfigSpec,
}

/// The settings of upstream's clients, and the two that our own types of datastore need.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[non_exhaustive]
pub struct ApiConfigSpec {
    /// `etcdv3`, `kubernetes`, `embedded` or `remote`; empty: found out from the rest.
    pub datastore_type: String,
    /// Endpoints of etcd, separated by commas.
    pub etcd_endpoints: String,
    /// Domain whose SRV records name the endpoints of etcd.
    pub etcd_discovery_srv: String,
    /// User of etcd; of use only with a password.
    pub etcd_username: String,
    /// The user's password.
    pub etcd_password: Option<Secret>,
    /// File with the client's key.
    pub etcd_key_file: String,
    /// File with the client's certificate.
    pub etcd_cert_file: String,
    /// File with the certificates that etcd's are signed with.
    #[serde(rename = "etcdCACertFile")]
    pub etcd_ca_cert_file: String,
    /// The client's key itself.
    pub etcd_key: Option<Secret>,
    /// The client's certificate itself.
    pub etcd_cert: Option<Secret>,
    /// The certificates that etcd's are signed with.
    #[serde(rename = "etcdCACert")]
    pub etcd_ca_cert: Option<Secret>,
    /// File that says how to reach Kubernetes.
    pub kubeconfig: String,
    /// What such a file would say.
    pub kubeconfig_inline: Option<Secret>,
    /// URL of the Kubernetes API.
    #[serde(rename = "k8sAPIEndpoint")]
    pub k8s_api_endpoint: String,
    /// File with the client's key for Kubernetes.
    #[serde(rename = "k8sKeyFile")]
    pub k8s_key_file: String,
    /// File with the client's certificate for Kubernetes.
    #[serde(rename = "k8sCertFile")]
    pub k8s_cert_file: String,
    /// File with the certificates that the Kubernetes API's is signed with.
    #[serde(rename = "k8sCAFile")]
    pub k8s_ca_file: String,
    /// Token for Kubernetes.
    #[serde(rename = "k8sAPIToken")]
    pub k8s_api_token: Option<Secret>,
    /// Whether the Kubernetes API's certificate is believed unseen.
    #[serde(rename = "k8sInsecureSkipTLSVerify")]
    pub k8s_insecure_skip_tls_verify: bool,
    /// Whether nodes are not polled.
    #[serde(rename = "k8sDisableNodePoll")]
    pub k8s_disable_node_poll: bool,
    /// Whether blocks are the `podCIDR`s of nodes.
    #[serde(rename = "usePodCIDR")]
    pub use_pod_cidr: bool,
    /// Requests per second to the Kubernetes API; 0: the client's default.
    #[serde(rename = "k8sClientQPS")]
    pub k8s_client_qps: f32,
    /// Requests in a burst to the Kubernetes API; 0: the default, 100.
    #[serde(rename = "k8sClientBurst")]
    pub k8s_client_burst: u32,
    /// Context of the kubeconfig, if not its current one.
    #[serde(rename = "k8sCurrentContext")]
    pub k8s_current_context: String,
    /// API group of the CRDs.
    #[serde(rename = "calicoAPIGroup")]
    pub calico_api_group: String,
    /// For `remote`: the unix socket.
    pub socket: Option<PathBuf>,
    /// For `embedded`: the file.
    pub path: Option<PathBuf>,
}

impl ApiConfig {
    /// The datastore that the file names.
    ///
    /// # Errors
    ///
    /// What is wrong, and what to do.
    pub fn datastore(&self) -> Result<DatastoreConfig, String> {
        if self.kind != "CalicoAPIConfig" || self.api_version != API_VERSION {
            return Err(format!(
                "expected kind CalicoAPIConfig of {API_VERSION}, found {} of {}",
                self.kind, self.api_version
            ));
        }
        self.spec.datastore()
    }
}

impl ApiConfigSpec {
    /// Reads environment variables as upstream does: `CALICO_ETCD_ENDPOINTS`, or else
    /// `ETCD_ENDPOINTS`, and so on. Empty ones are as if not set.
    ///
    /// # Errors
    ///
    /// Which variable cannot be read.
    pub fn from_env(env: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let get = |name: &str| {
            [format!("CALICO_{name}"), name.to_owned()]
                .iter()
                .find_map(|name| env(name).filter(|value| !value.is_empty()))
        };
        let text = |name: &str| get(name).unwrap_or_default();
        let flag = |name: &str| match text(name).as_str() {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
            "" | "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
            other => Err(format!("{name} is {other:?}; true or false is expected")),
        };
        Ok(Self {
            datastore_type: text("DATASTORE_TYPE"),
            etcd_endpoints: text("ETCD_ENDPOINTS"),
            etcd_discovery_srv: text("ETCD_DISCOVERY_SRV"),
            etcd_username: text("ETCD_USERNAME"),
            etcd_password: get("ETCD_PASSWORD").map(Secret::new),
            etcd_key_file: text("ETCD_KEY_FILE"),
            etcd_cert_file: text("ETCD_CERT_FILE"),
            etcd_ca_cert_file: text("ETCD_CA_CERT_FILE"),
            kubeconfig: text("KUBECONFIG"),
            k8s_api_endpoint: text("K8S_API_ENDPOINT"),
            k8s_key_file: text("K8S_KEY_FILE"),
            k8s_cert_file: text("K8S_CERT_FILE"),
            k8s_ca_file: text("K8S_CA_FILE"),
            k8s_insecure_skip_tls_verify: flag("K8S_INSECURE_SKIP_TLS_VERIFY")?,
            k8s_disable_node_poll: flag("K8S_DISABLE_NODE_POLL")?,
            use_pod_cidr: flag("USE_POD_CIDR")?,
            k8s_client_qps: number("K8S_CLIENT_QPS", get("K8S_CLIENT_QPS"))?,
            k8s_client_burst: number("K8S_CLIENT_BURST", get("K8S_CLIENT_BURST"))?,
            k8s_current_context: text("K8S_CURRENT_CONTEXT"),
            calico_api_group: text("CALICO_API_GROUP"),
            ..Self::default()
        })
    }

    /// Whether a datastore is named at all, so that a program's own default does not count.
    #[must_use]
    pub fn names_one(&self) -> bool {
        let Self { datastore_type, etcd_endpoints, etcd_discovery_srv, .. } = self;
        [datastore_type, etcd_endpoints, etcd_discovery_srv, &self.k8s_api_endpoint]
            .iter()
            .any(|text| !text.is_empty())
    }

    /// The datastore that is named. Without a type it is etcd if there are endpoints, else
    /// Kubernetes, as upstream has it.
    ///
    /// # Errors
    ///
    /// What is wrong, and what to do.
    pub fn datastore(&self) -> Result<DatastoreConfig, String> {
        match self.datastore_type.as_str() {
            "" if !self.etcd_endpoints.is_empty() => self.etcd().map(DatastoreConfig::Etcd),
            "etcdv3" => self.etcd().map(DatastoreConfig::Etcd),
            "" | "kubernetes" => {
                self.kubernetes().map(|config| DatastoreConfig::Kubernetes(Box::new(config)))
            }
            "remote" => Ok(DatastoreConfig::Remote {
                socket: self.socket.clone().unwrap_or_else(default_socket),
            }),
            "embedded" => match &self.path {
                Some(path) => Ok(DatastoreConfig::Embedded {
                    path: path.clone(),
                    durability: Default::default(),
                }),
                None => Err("an embedded datastore needs spec.path".to_owned()),
            },
            other => Err(format!(
                "datastore type {other:?} is none of etcdv3, kubernetes, embedded, remote"
            )),
        }
    }

    fn kubernetes(&self) -> Result<KubernetesConfig, String> {
        let text = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
        let file = |file: &String| text(file).map(Into::into);
        let api_group = match self.calico_api_group.as_str() {
            "" => None,
            group => Some(group.parse().map_err(|error| format!("CALICO_API_GROUP: {error}"))?),
        };
        let config = KubernetesConfig {
            kubeconfig: text(&self.kubeconfig),
            kubeconfig_inline: self
                .kubeconfig_inline
                .clone()
                .filter(|text| !text.reveal().is_empty()),
            context: text(&self.k8s_current_context),
            endpoint: text(&self.k8s_api_endpoint),
            ca: file(&self.k8s_ca_file),
            certificate: file(&self.k8s_cert_file),
            key: file(&self.k8s_key_file),
            token: self.k8s_api_token.clone(),
            token_file: None,
            insecure_skip_tls_verify: self.k8s_insecure_skip_tls_verify,
            qps: self.k8s_client_qps,
            burst: self.k8s_client_burst,
            api_group,
            use_pod_cidr: self.use_pod_cidr,
            interface_prefix: String::new(),
        };
        config.check()?;
        Ok(config)
    }

    fn etcd(&self) -> Result<EtcdConfig, String> {
        if !self.etcd_discovery_srv.is_empty() && !self.etcd_endpoints.is_empty() {
            return Err("etcdEndpoints and etcdDiscoverySrv exclude each other; give one".into());
        }
        let files = [&self.etcd_ca_cert_file, &self.etcd_cert_file, &self.etcd_key_file];
        let inline = [&self.etcd_ca_cert, &self.etcd_cert, &self.etcd_key];
        if files.iter().any(|file| !file.is_empty()) && inline.iter().any(|pem| pem.is_some()) {
            return Err("certificates of etcd both in files and written out; decide for one".into());
        }
        let pem = |index: usize| match (inline[index], files[index].as_str()) {
            (Some(text), _) => Some(Pem::Inline(text.clone())),
            (None, "") => None,
            (None, file) => Some(Pem::File(file.into())),
        };
        let endpoints = self.etcd_endpoints.split(',').map(str::trim);
        let mut config = EtcdConfig::new(endpoints.filter(|endpoint| !endpoint.is_empty()));
        let domain = Some(self.etcd_discovery_srv.trim()).filter(|domain| !domain.is_empty());
        config.discovery_srv = domain.map(str::to_owned);
        (config.ca, config.certificate, config.key) = (pem(0), pem(1), pem(2));
        // As upstream: one without the other is as if there were none.
        if let (false, Some(password)) = (self.etcd_username.is_empty(), &self.etcd_password) {
            config.username = Some(self.etcd_username.clone());
            config.password = Some(password.clone());
        }
        config.check()?;
        Ok(config)
    }
}

fn number<T>(name: &str, value: Option<String>) -> Result<T, String>
where
    T: std::str::FromStr<Err: std::fmt::Display> + Default,
{
    match value {
        None => Ok(T::default()),
        Some(text) => text.parse().map_err(|error| format!("{name} is {text:?}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_env(variables: &[(&str, &str)]) -> Result<ApiConfigSpec, String> {
        ApiConfigSpec::from_env(|name| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    fn etcd_of(variables: &[(&str, &str)]) -> EtcdConfig {
        match of_env(variables).and_then(|spec| spec.datastore()) {
            Ok(DatastoreConfig::Etcd(config)) => config,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_environment_is_read_as_upstream_reads_it() {
        let config = etcd_of(&[
            ("ETCD_ENDPOINTS", "http://a:1"),
            ("CALICO_ETCD_ENDPOINTS", "https://a:2379, https://b:2379"),
            ("ETCD_CA_CERT_FILE", "/ca"),
            ("ETCD_CERT_FILE", "/cert"),
            ("ETCD_KEY_FILE", "/key"),
            ("ETCD_USERNAME", "u"),
            ("ETCD_PASSWORD", "p"),
        ]);
        assert_eq!(config.endpoints, ["https://a:2379", "https://b:2379"], "the prefix wins");
        assert_eq!(config.ca, Some(Pem::File("/ca".into())));
        assert_eq!(config.certificate, Some(Pem::File("/cert".into())));
        assert_eq!(config.key, Some(Pem::File("/key".into())));
        assert_eq!(config.username.as_deref(), Some("u"));
        assert_eq!(config.password.unwrap().reveal(), "p");

        let discovered =
            etcd_of(&[("DATASTORE_TYPE", "etcdv3"), ("ETCD_DISCOVERY_SRV", "etcd.example")]);
        assert_eq!(discovered.discovery_srv.as_deref(), Some("etcd.example"));
        assert!(discovered.endpoints.is_empty());

        let no_password = etcd_of(&[("ETCD_ENDPOINTS", "http://a:1"), ("ETCD_USERNAME", "u")]);
        assert_eq!(no_password.username, None);
    }

    #[test]
    fn the_type_follows_from_the_rest() {
        let datastore = |variables: &[(&str, &str)]| of_env(variables)?.datastore();
        let kubernetes = || Ok(DatastoreConfig::Kubernetes(Box::default()));
        assert_eq!(datastore(&[]), kubernetes());
        assert_eq!(
            datastore(&[("DATASTORE_TYPE", "kubernetes"), ("ETCD_ENDPOINTS", "http://a:1")]),
            kubernetes()
        );
        assert_eq!(datastore(&[("DATASTORE_TYPE", "remote")]), Ok(DatastoreConfig::default()));
        assert!(!of_env(&[("KUBECONFIG", "/k"), ("ETCD_ENDPOINTS", "")]).unwrap().names_one());
        assert!(of_env(&[("CALICO_ETCD_ENDPOINTS", "http://a:1")]).unwrap().names_one());
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let check = |variables: &[(&str, &str)], expected: &str| {
            let error = of_env(variables).and_then(|spec| spec.datastore()).unwrap_err();
            assert!(error.contains(expected), "{error}");
        };
        check(&[("DATASTORE_TYPE", "etcd")], "etcdv3");
        check(&[("DATASTORE_TYPE", "etcdv3")], "at least one");
        check(&[("DATASTORE_TYPE", "embedded")], "spec.path");
        check(&[("ETCD_ENDPOINTS", "http://a:1"), ("ETCD_KEY_FILE", "/k")], "give both");
        check(&[("ETCD_ENDPOINTS", "http://a:1"), ("ETCD_DISCOVERY_SRV", "x")], "exclude");
        check(&[("USE_POD_CIDR", "maybe")], "USE_POD_CIDR");
        check(&[("CALICO_API_GROUP", "calico.org")], "neither");
        check(&[("DATASTORE_TYPE", "kubernetes"), ("K8S_CERT_FILE", "/c")], "K8S_KEY_FILE");
        check(&[("K8S_CLIENT_QPS", "fast")], "K8S_CLIENT_QPS");
    }

    #[test]
    fn files_are_read_strictly() {
        let read = |spec: &str| {
            let text = format!(
                r#"{{"kind": "CalicoAPIConfig", "apiVersion": "projectcalico.org/v3",
                    "metadata": {{"name": "x"}}, "spec": {spec}}}"#
            );
            let file: ApiConfig = serde_json::from_str(&text).map_err(|error| error.to_string())?;
            file.datastore()
        };
        let inline = r#"{"datastoreType": "etcdv3", "etcdEndpoints": "https://a:1",
            "etcdKey": "k", "etcdCert": "c", "etcdCACert": "ca"}"#;
        match read(inline) {
            Ok(DatastoreConfig::Etcd(config)) => {
                assert_eq!(config.ca, Some(Pem::Inline(Secret::new("ca"))));
            }
            other => panic!("{other:?}"),
        }
        let everything = r#"{"datastoreType": "kubernetes", "kubeconfig": "/k",
            "k8sAPIEndpoint": "https://e", "k8sKeyFile": "k", "k8sCertFile": "c", "k8sCAFile": "ca",
            "k8sAPIToken": "t", "k8sInsecureSkipTLSVerify": true, "k8sDisableNodePoll": true,
            "usePodCIDR": true, "kubeconfigInline": "i", "k8sClientQPS": 7.5,
            "k8sCurrentContext": "x", "calicoAPIGroup": "projectcalico.org/v3", "etcdDiscoverySrv": "",
            "etcdUsername": "", "etcdPassword": "", "etcdKeyFile": "", "etcdCertFile": "",
            "etcdCACertFile": ""}"#;
        let Ok(DatastoreConfig::Kubernetes(config)) = read(everything) else {
            panic!("kubernetes")
        };
        assert_eq!(config.api_group, Some(crate::conversion::ApiGroup::V3));
        assert_eq!(config.ca, Some("ca".into()));
        assert_eq!((config.qps, config.use_pod_cidr), (7.5, true));
        assert_eq!(config.kubeconfig_inline, Some(Secret::new("i")));
        let mixed = inline.replace('}', r#", "etcdCACertFile": "/f"}"#);
        assert!(read(&mixed).unwrap_err().contains("decide"));
        assert!(read(r#"{"etcdEndpoint": "x"}"#).unwrap_err().contains("etcdEndpoint"));
        let other = r#"{"kind": "Pod", "apiVersion": "v1"}"#;
        let other: ApiConfig = serde_json::from_str(other).unwrap();
        assert!(other.datastore().unwrap_err().contains("Pod"));
    }
}
