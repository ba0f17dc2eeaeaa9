//! The agent's own settings: a TOML file.
//!
//! Everything about the cluster comes from the datastore; the file says only who this node is and
//! where things are on this host.
//!
//! ```toml
//! node = "node1"                      # default: NODENAME, the nodename file, the host name
//! run_dir = "/var/run/calico"         # sockets: datastore.sock, cni.sock, control.sock
//! state_dir = "/var/lib/calico"       # journal of the CNI service
//! felix_config = "/etc/calico/felix.cfg"  # `Name = value`; wins over FelixConfiguration
//! load_balancer = true                # give Kubernetes' services their addresses, if no other controller does
//! reconcile = "free"                  # addresses whose container is gone; or "log", or "off"
//!
//! [datastore]                         # exactly one of these; leave out for the environment
//! embedded = "/var/lib/calico/datastore"
//! # remote = "/run/other-agent/datastore.sock"
//! # kubernetes = { kubeconfig = "/etc/calico/kubeconfig" }
//! # fanout = { address = "fanout.example:5473", tls = { ca = { file = "/etc/calico/ca.pem" }, certificate = { file = "/etc/calico/cert.pem" }, key = { file = "/etc/calico/key.pem" } } }
//! # etcdv3 = { endpoints = ["https://10.0.0.1:2379"], ca = { file = "/etc/calico/ca.pem" } }
//!
//! [kubernetes]                        # who knows the pods, if Kubernetes is not the datastore
//! kubeconfig = "/etc/calico/kubeconfig"
//!
//! [bgp]                               # leave out to run without BGP
//! listen_port = 179                   # default: BGPConfiguration, else 179
//! secrets_dir = "/etc/calico/secrets"   # passwords: <secret>/<key>, as a kubelet mounts them
//!
//! [dataplane]
//! own_table = true                    # nobody else can change our nftables table (from Linux 6.9 on)
//!
//! [startup]                           # write this node's addresses, and the first pools, as upstream's
//! IP = "autodetect"                   # node does by these variables; leave out to write nothing.
//! NO_DEFAULT_POOLS = "true"           # The environment's hold as well; without a file, they alone
//! ```
//!
//! Without `[datastore]` the variables of upstream's node say which store it is: `DATASTORE_TYPE`,
//! `ETCD_ENDPOINTS`, `ETCD_CA_CERT_FILE` and so on, with or without the prefix `CALICO_`.
//! Variables `FELIX_<NAME>` win over everything that FelixConfiguration and its file say.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use calico_datastore::config::{
    ApiConfigSpec, DatastoreConfig, EtcdConfig, FanoutConfig, KubernetesConfig,
};
use calico_datastore::embedded::Durability;
use serde::Deserialize;

/// Contents of the file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Name of this node, as its Node resource has it.
    pub node: Option<String>,
    /// Directory of the sockets that the agent serves.
    #[serde(default = "default_run_dir")]
    pub run_dir: PathBuf,
    /// Directory of what must outlive the agent.
    #[serde(default = "default_state_dir")]
    pub state_dir: PathBuf,
    /// File with parameters of FelixConfiguration that win over those of the datastore.
    #[serde(default = "default_felix_config")]
    pub felix_config: PathBuf,
    /// What to do about addresses whose container is proven to be gone.
    #[serde(default)]
    pub reconcile: Reconcile,
    /// Whether this node takes part in giving services of type `LoadBalancer` their addresses.
    #[serde(default)]
    pub load_balancer: bool,
    /// The store of the cluster's resources; the one that the environment names, if absent.
    pub datastore: Option<Store>,
    /// The Kubernetes API server that knows what pods ask for, if it is not the datastore.
    pub kubernetes: Option<Box<KubernetesConfig>>,
    /// The BGP speaker; none if absent.
    pub bgp: Option<Bgp>,
    /// What packets pass.
    #[serde(default)]
    pub dataplane: DataplaneOptions,
    /// Variables of the node's start, by upstream's names, which win over the environment's; if
    /// absent, the node writes nothing about itself.
    pub startup: Option<BTreeMap<String, String>>,
}

/// What packets pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataplaneOptions {
    /// Whether the agent's nftables table is its own, so that other programs can neither change nor
    /// flush it while the agent runs; where the kernel can do that (from Linux 6.9 on).
    pub own_table: bool,
}

impl Default for DataplaneOptions {
    fn default() -> Self {
        Self { own_table: true }
    }
}

/// What to do about addresses of this node whose container is proven to be gone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reconcile {
    /// Free them, a limited number at a time.
    #[default]
    Free,
    /// Only say so in the log, with the evidence.
    Log,
    /// Do not look for them.
    Off,
}

/// Which store.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Store {
    /// A file of this host, which this agent alone opens and serves to others.
    Embedded(PathBuf),
    /// The socket of an agent that serves a store.
    Remote(PathBuf),
    /// An etcd cluster, with upstream's layout.
    Etcdv3(EtcdConfig),
    /// A server that fans out a store.
    Fanout(FanoutConfig),
    /// A Kubernetes API server.
    Kubernetes(Box<KubernetesConfig>),
}

impl From<Store> for DatastoreConfig {
    fn from(store: Store) -> Self {
        match store {
            Store::Embedded(path) => Self::Embedded { path, durability: Durability::default() },
            Store::Remote(socket) => Self::Remote { socket },
            Store::Etcdv3(config) => Self::Etcd(config),
            Store::Fanout(config) => Self::Fanout(config),
            Store::Kubernetes(config) => Self::Kubernetes(config),
        }
    }
}

/// The BGP speaker.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bgp {
    /// TCP port to listen on, instead of the one in BGPConfiguration.
    pub listen_port: Option<u16>,
    /// Directory of the passwords that `secretKeyRef`s name: the file `<name>/<key>` in it, as a
    /// kubelet mounts a Secret. `/etc/calico/secrets` if unset.
    pub secrets_dir: Option<PathBuf>,
}

impl Bgp {
    /// Directory of the passwords.
    #[must_use]
    pub fn secrets_dir(&self) -> PathBuf {
        self.secrets_dir.clone().unwrap_or_else(|| "/etc/calico/secrets".into())
    }
}

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// It cannot be read.
    #[error("cannot read {path}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// It says something that the agent does not understand.
    #[error("{path} is not a valid configuration", path = path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// The environment names no store, or one that makes no sense.
    #[error("no [datastore] in the configuration, and {reason}")]
    NoDatastore {
        /// What the environment lacks.
        reason: String,
    },
    /// A parameter of the host is malformed without which it would not be protected as meant.
    #[error("{problem}")]
    Parameter {
        /// Which, where, and what is expected.
        problem: String,
    },
    /// Nothing says which node this is.
    #[error("the name of this node is unknown: set `node` in the configuration, or NODENAME")]
    NoNodeName,
}

impl Config {
    /// Reads the file at `path`.
    ///
    /// # Errors
    ///
    /// See [`ConfigError`].
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        toml::from_str(&text)
            .map_err(|source| ConfigError::Parse { path: path.to_owned(), source: source.into() })
    }

    /// What holds without a file, as upstream's node: everything by default, BGP unless
    /// `CALICO_NETWORKING_BACKEND` is another than `bird`; and of upstream's controllers
    /// `loadbalancer`, if `ENABLED_CONTROLLERS` names it. `CALICO_OWN_TABLE=false` is ours, and does
    /// what `own_table` does in the file.
    #[must_use]
    pub fn from_env() -> Self {
        let variable = |name| std::env::var(name).unwrap_or_default();
        let controllers = variable("ENABLED_CONTROLLERS");
        let load_balancer = controllers.split(',').any(|name| name.trim() == "loadbalancer");
        let backend = variable("CALICO_NETWORKING_BACKEND");
        let own_table = !variable("CALICO_OWN_TABLE").eq_ignore_ascii_case("false");
        let dataplane = DataplaneOptions { own_table };
        Self { load_balancer, dataplane, ..Self::for_backend(&backend) }
    }

    fn for_backend(backend: &str) -> Self {
        Self {
            node: None,
            run_dir: default_run_dir(),
            state_dir: default_state_dir(),
            felix_config: default_felix_config(),
            reconcile: Reconcile::default(),
            load_balancer: false,
            datastore: None,
            kubernetes: None,
            bgp: matches!(backend, "" | "bird").then(Bgp::default),
            dataplane: DataplaneOptions::default(),
            startup: Some(BTreeMap::new()),
        }
    }

    /// The store of the cluster's resources: of the file, else of the environment.
    ///
    /// # Errors
    ///
    /// [`ConfigError::NoDatastore`] if neither says which.
    pub fn store(&self) -> Result<DatastoreConfig, ConfigError> {
        self.store_or(|name| std::env::var(name).ok())
    }

    fn store_or(
        &self,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<DatastoreConfig, ConfigError> {
        if let Some(store) = &self.datastore {
            return Ok(store.clone().into());
        }
        let spec = ApiConfigSpec::from_env(env);
        let found = match spec {
            Ok(spec) if !spec.names_one() => {
                Err("neither DATASTORE_TYPE nor ETCD_ENDPOINTS is set".to_owned())
            }
            spec => spec.and_then(|spec| spec.datastore()),
        };
        found.map_err(|reason| ConfigError::NoDatastore { reason })
    }

    /// Socket of the datastore service.
    #[must_use]
    pub fn datastore_socket(&self) -> PathBuf {
        self.run_dir.join("datastore.sock")
    }

    /// Socket of the CNI service.
    #[must_use]
    pub fn cni_socket(&self) -> PathBuf {
        self.run_dir.join("cni.sock")
    }

    /// Socket of the control service.
    #[must_use]
    pub fn control_socket(&self) -> PathBuf {
        self.run_dir.join("control.sock")
    }

    /// The file that says how large packets of pods may be, as upstream's in `/var/lib/calico`.
    #[must_use]
    pub fn mtu_file(&self) -> PathBuf {
        self.state_dir.join("mtu")
    }

    /// Directory of CNI deletions that are still to be carried out.
    #[must_use]
    pub fn journal(&self) -> PathBuf {
        self.state_dir.join("cni-journal")
    }

    /// The name of this node: from the file, `NODENAME`, `<state_dir>/nodename`, `HOSTNAME` in
    /// lower case, or the host's name in lower case, as upstream's node start-up looks for it.
    ///
    /// # Errors
    ///
    /// [`ConfigError::NoNodeName`] if none of them says anything.
    pub fn node_name(&self) -> Result<String, ConfigError> {
        let variable = |name| std::env::var(name).ok();
        let file = || std::fs::read_to_string(self.state_dir.join("nodename")).ok();
        let host = || nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
        self.node
            .clone()
            .or_else(|| variable("NODENAME"))
            .or_else(file)
            .or_else(|| variable("HOSTNAME").map(|name| name.to_lowercase()))
            .or_else(|| host().map(|name| name.to_lowercase()))
            .map(|name| name.trim().to_owned())
            .filter(|name| !name.is_empty())
            .ok_or(ConfigError::NoNodeName)
    }
}

fn default_run_dir() -> PathBuf {
    "/var/run/calico".into()
}

fn default_felix_config() -> PathBuf {
    "/etc/calico/felix.cfg".into()
}

fn default_state_dir() -> PathBuf {
    "/var/lib/calico".into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_example_is_valid() {
        let text: String = include_str!("config.rs")
            .lines()
            .skip_while(|line| !line.contains("```toml"))
            .skip(1)
            .take_while(|line| !line.contains("```"))
            .map(|line| line.trim_start_matches("//! ").trim_start_matches("//!").to_owned() + "\n")
            .collect();
        let config: Config = toml::from_str(&text).unwrap();
        assert_eq!(config.node_name().unwrap(), "node1");
        assert_eq!(config.datastore, Some(Store::Embedded("/var/lib/calico/datastore".into())));
        assert_eq!(config.cni_socket(), Path::new("/var/run/calico/cni.sock"));
    }

    #[test]
    fn an_unknown_key_is_named() {
        let error = toml::from_str::<Config>("nod = 'a'\n[datastore]\nremote = 's'\n").unwrap_err();
        assert!(error.to_string().contains("nod"), "{error}");
    }

    #[test]
    fn two_stores_are_refused() {
        let text = "[datastore]\nembedded = 'a'\nremote = 'b'\n";
        assert!(toml::from_str::<Config>(text).is_err());
    }

    #[test]
    fn etcd_is_named_by_the_file_or_by_the_environment() {
        let file = "[datastore]\netcdv3 = { endpoints = ['https://a:1'], ca = { file = '/ca' } }\n";
        let file: Config = toml::from_str(file).unwrap();
        let DatastoreConfig::Etcd(etcd) = file.store_or(|_| None).unwrap() else { panic!("etcd") };
        assert_eq!(etcd.endpoints, ["https://a:1"]);

        let empty = Config::for_backend("bird");
        assert!(empty.bgp.is_some() && Config::for_backend("vxlan").bgp.is_none());
        let variable = |name: &str| (name == "ETCD_ENDPOINTS").then(|| "http://b:1".to_owned());
        let DatastoreConfig::Etcd(etcd) = empty.store_or(variable).unwrap() else { panic!("etcd") };
        assert_eq!(etcd.endpoints, ["http://b:1"]);

        let error = empty.store_or(|_| None).unwrap_err().to_string();
        assert!(error.contains("[datastore]") && error.contains("DATASTORE_TYPE"), "{error}");
    }
}
