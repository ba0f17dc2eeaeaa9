//! Which datastore: from the command line, the settings file, or the environment.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use calico_datastore::DatastoreConfig;
use calico_datastore::config::{EtcdConfig, Pem, Secret};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::cli::StoreArgs;
use crate::failure::Failure;

/// Read if nothing else is said and it exists.
const DEFAULT_FILE: &str = "/etc/calico/calicoctl.cfg";

/// Upstream's settings file, with the two types of datastore that are ours.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    #[serde(default, rename = "metadata")]
    _metadata: serde_json::Value,
    spec: Map<String, Value>,
}

/// Upstream's settings, by the names in the file; the environment has the same in capitals.
const FIELDS: &[(&str, &str)] = &[
    ("datastoreType", "DATASTORE_TYPE"),
    ("etcdEndpoints", "ETCD_ENDPOINTS"),
    ("etcdDiscoverySrv", "ETCD_DISCOVERY_SRV"),
    ("etcdUsername", "ETCD_USERNAME"),
    ("etcdPassword", "ETCD_PASSWORD"),
    ("etcdKeyFile", "ETCD_KEY_FILE"),
    ("etcdCertFile", "ETCD_CERT_FILE"),
    ("etcdCACertFile", "ETCD_CA_CERT_FILE"),
    ("kubeconfig", "KUBECONFIG"),
    ("k8sAPIEndpoint", "K8S_API_ENDPOINT"),
    ("k8sKeyFile", "K8S_KEY_FILE"),
    ("k8sCertFile", "K8S_CERT_FILE"),
    ("k8sCAFile", "K8S_CA_FILE"),
    ("k8sAPIToken", "K8S_API_TOKEN"),
    ("k8sInsecureSkipTLSVerify", "K8S_INSECURE_SKIP_TLS_VERIFY"),
    ("k8sDisableNodePoll", "K8S_DISABLE_NODE_POLL"),
    ("k8sUsePodCIDR", "USE_POD_CIDR"),
    ("k8sClientQPS", "K8S_CLIENT_QPS"),
    ("k8sClientBurst", "K8S_CLIENT_BURST"),
    ("k8sCurrentContext", "K8S_CURRENT_CONTEXT"),
    ("calicoAPIGroup", "CALICO_API_GROUP"),
];

/// Settings that a file alone may hold: certificates as they are, and what our own stores need.
const FILE_ONLY: &[&str] =
    &["etcdKey", "etcdCert", "etcdCACert", "kubeconfigInline", "socket", "path"];

/// Settings by name, from a file or from the environment.
#[derive(Debug, Default)]
struct Spec(BTreeMap<&'static str, String>);

impl Spec {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|text| !text.is_empty())
    }

    fn owned(&self, name: &str) -> Option<String> {
        self.get(name).map(str::to_owned)
    }

    /// From the environment, where each name may start with `CALICO_`.
    fn from_env(env: impl Fn(&str) -> Option<String>) -> Self {
        let read = |name: &str| env(name).or_else(|| env(&format!("CALICO_{name}")));
        let found = FIELDS.iter().filter_map(|(field, name)| Some((*field, read(name)?)));
        Self(found.collect())
    }

    /// From a file, strictly.
    fn from_map(fields: Map<String, Value>) -> Result<Self, String> {
        let known = || FIELDS.iter().map(|(field, _)| *field).chain(FILE_ONLY.iter().copied());
        let mut spec = BTreeMap::new();
        for (key, value) in fields {
            let Some(field) = known().find(|field| *field == key) else {
                return Err(format!("unknown field spec.{key}"));
            };
            let text = match value {
                Value::Null => continue,
                Value::String(text) => text,
                Value::Bool(_) | Value::Number(_) => value.to_string(),
                _ => return Err(format!("spec.{key} must be text")),
            };
            spec.insert(field, text);
        }
        Ok(Self(spec))
    }

    /// The store that these settings mean; `None` if they say nothing.
    fn datastore(&self) -> Result<Option<DatastoreConfig>, String> {
        let kind = match self.get("datastoreType") {
            Some(kind) => kind,
            None if self.get("etcdEndpoints").is_some() => "etcdv3",
            None => return Ok(None),
        };
        let config = match kind {
            "remote" => match self.get("socket") {
                Some(socket) => DatastoreConfig::Remote { socket: socket.into() },
                None => DatastoreConfig::default(),
            },
            "embedded" => match self.get("path") {
                Some(path) => {
                    DatastoreConfig::Embedded { path: path.into(), durability: Default::default() }
                }
                None => return Err("an embedded datastore needs spec.path".to_owned()),
            },
            "etcdv3" => DatastoreConfig::Etcd(self.etcd()?),
            "kubernetes" => DatastoreConfig::Kubernetes,
            other => {
                return Err(format!(
                    "datastore type {other:?} is none of embedded, remote, etcdv3, kubernetes"
                ));
            }
        };
        Ok(Some(config))
    }

    fn etcd(&self) -> Result<EtcdConfig, String> {
        if self.get("etcdDiscoverySrv").is_some() {
            return Err("etcdDiscoverySrv is not supported; list etcdEndpoints".to_owned());
        }
        let endpoints = self.get("etcdEndpoints").unwrap_or("http://127.0.0.1:2379");
        let endpoints = endpoints.split(',').map(str::trim).filter(|text| !text.is_empty());
        let mut config = EtcdConfig::new(endpoints);
        let pem = |file: &str, inline: &str| match self.get(file) {
            Some(path) => Some(Pem::File(path.into())),
            None => self.get(inline).map(|text| Pem::Inline(Secret::new(text))),
        };
        config.username = self.owned("etcdUsername");
        config.password = self.get("etcdPassword").map(Secret::new);
        config.ca = pem("etcdCACertFile", "etcdCACert");
        config.certificate = pem("etcdCertFile", "etcdCert");
        config.key = pem("etcdKeyFile", "etcdKey");
        config.check()?;
        Ok(config)
    }
}

/// Finds the datastore. `env` reads an environment variable.
///
/// What the command line says wins, then `CALICO_DATASTORE_SOCKET`, the default settings file,
/// and upstream's environment variables.
pub(crate) fn datastore(
    args: &StoreArgs,
    env: impl Fn(&str) -> Option<String>,
) -> Result<DatastoreConfig, Failure> {
    if let Some(socket) = &args.socket {
        return Ok(DatastoreConfig::Remote { socket: socket.clone() });
    }
    if args.config.is_none()
        && let Some(socket) = env("CALICO_DATASTORE_SOCKET").filter(|path| !path.is_empty())
    {
        return Ok(DatastoreConfig::Remote { socket: socket.into() });
    }
    let (path, required) = match &args.config {
        Some(path) => (path.clone(), true),
        None => (PathBuf::from(DEFAULT_FILE), false),
    };
    match std::fs::read_to_string(&path) {
        Ok(text) => return from_file(&path, &text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !required => {}
        Err(source) => return Err(Failure::Read { path, source }),
    }
    let found = Spec::from_env(env).datastore().map_err(Failure::Usage)?;
    Ok(found.unwrap_or_default())
}

fn from_file(path: &Path, text: &str) -> Result<DatastoreConfig, Failure> {
    let fail = |reason: String| Failure::Settings { path: path.to_owned(), reason };
    let file: File =
        serde_saphyr::from_str(text).map_err(|error| fail(error.without_snippet().to_string()))?;
    if file.kind != "CalicoAPIConfig" || file.api_version != calico_core::API_VERSION {
        return Err(fail(format!(
            "expected kind CalicoAPIConfig of {}, found {} of {}",
            calico_core::API_VERSION,
            file.kind,
            file.api_version
        )));
    }
    let spec = Spec::from_map(file.spec).map_err(fail)?;
    Ok(spec.datastore().map_err(fail)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<DatastoreConfig, String> {
        from_file(Path::new("x.cfg"), text).map_err(|error| error.to_string())
    }

    #[test]
    fn the_command_line_wins() {
        let env = |name: &str| match name {
            "CALICO_DATASTORE_SOCKET" => Some("/env".to_owned()),
            _ => Some("etcdv3".to_owned()),
        };
        let remote = |socket: &str| DatastoreConfig::Remote { socket: socket.into() };
        let args = StoreArgs { socket: Some("/s".into()), ..StoreArgs::default() };
        assert_eq!(datastore(&args, env).unwrap(), remote("/s"));
        assert_eq!(datastore(&StoreArgs::default(), env).unwrap(), remote("/env"));
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = "{apiVersion: projectcalico.org/v3, kind: CalicoAPIConfig, \
                    spec: {datastoreType: remote, socket: /file}}";
        std::fs::write(file.path(), text).unwrap();
        let args = StoreArgs { config: Some(file.path().to_owned()), ..StoreArgs::default() };
        assert_eq!(datastore(&args, env).unwrap(), remote("/file"));
    }

    #[test]
    fn a_file_that_was_named_must_exist() {
        let args = StoreArgs { config: Some("/nonexistent/x.cfg".into()), ..StoreArgs::default() };
        assert!(matches!(datastore(&args, |_| None), Err(Failure::Read { .. })));
    }

    #[test]
    fn files_are_read_strictly() {
        let file = |spec: &str| {
            format!(
                "apiVersion: projectcalico.org/v3\nkind: CalicoAPIConfig\nmetadata:\nspec: {spec}\n"
            )
        };
        assert_eq!(
            read(&file("{datastoreType: embedded, path: /x}")).unwrap(),
            DatastoreConfig::Embedded { path: "/x".into(), durability: Default::default() }
        );
        let etcd = read(&file("{etcdEndpoints: 'http://x:1, http://y:2', etcdCACertFile: /ca}"));
        let DatastoreConfig::Etcd(etcd) = etcd.unwrap() else { panic!("the type is implied") };
        assert_eq!(etcd.endpoints, ["http://x:1", "http://y:2"]);
        assert_eq!(etcd.ca, Some(Pem::File("/ca".into())));
        let half = read(&file("{datastoreType: etcdv3, etcdKeyFile: /x}")).unwrap_err();
        assert!(half.contains("give both"), "{half}");
        let error = read(&file("{datastoreType: remote, sokcet: /x}")).unwrap_err();
        assert!(error.contains("x.cfg") && error.contains("sokcet"), "{error}");
        assert!(read("kind: [").is_err());
    }

    #[test]
    fn upstreams_environment_is_read() {
        let spec = |name: &str, value: &str| {
            let pair = (name.to_owned(), value.to_owned());
            Spec::from_env(move |asked| (asked == pair.0).then(|| pair.1.clone())).datastore()
        };
        assert_eq!(spec("HOME", "/").unwrap(), None);
        let etcd = DatastoreConfig::Etcd(EtcdConfig::new(["http://e:2379"]));
        assert_eq!(spec("ETCD_ENDPOINTS", "http://e:2379").unwrap(), Some(etcd.clone()));
        assert_eq!(spec("CALICO_ETCD_ENDPOINTS", "http://e:2379").unwrap(), Some(etcd));
        assert!(spec("DATASTORE_TYPE", "consul").unwrap_err().contains("consul"));
    }
}
