//! Which store a program uses, as its settings file says.

mod api_config;
mod etcd;
mod fanout;
mod kubernetes;

use std::path::PathBuf;
use std::sync::Arc;

use calico_core::Datastore;
use calico_core::datastore::StoreError;
use serde::{Deserialize, Serialize};

pub use self::api_config::{ApiConfig, ApiConfigSpec};
pub use self::etcd::{EtcdConfig, Pem, Secret};
pub use self::fanout::{FanoutConfig, TlsConfig};
pub use self::kubernetes::KubernetesConfig;
use crate::embedded::{Durability, Options};
use crate::remote::RemoteStore;

/// Where a host's agent serves its store unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/var/run/calico/datastore.sock";

/// A store, and how to reach it.
///
/// ```
/// # #[derive(Debug, serde::Deserialize)]
/// # struct Settings { datastore: calico_datastore::config::DatastoreConfig }
/// let settings: Settings = serde_json::from_str(
///     r#"{"datastore": {"type": "remote", "socket": "/run/calico/datastore.sock"}}"#,
/// )?;
/// let store = calico_datastore::config::open(&settings.datastore)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
#[non_exhaustive]
pub enum DatastoreConfig {
    /// A file of this host that this program alone uses.
    Embedded {
        /// The file.
        path: PathBuf,
        /// What a write survives.
        #[serde(default)]
        durability: Durability,
    },
    /// The store of another program on this host.
    Remote {
        /// Its unix socket.
        #[serde(default = "default_socket")]
        socket: PathBuf,
    },
    /// An etcd cluster. Opened only by programs that are built with the feature `etcd`.
    #[serde(rename = "etcdv3")]
    Etcd(EtcdConfig),
    /// A server that fans out a store. Opened only by programs that are built with the feature
    /// `tls`.
    Fanout(FanoutConfig),
    /// A Kubernetes API server. Opened only by programs that are built with the feature
    /// `kubernetes`.
    Kubernetes(Box<KubernetesConfig>),
}

impl Default for DatastoreConfig {
    /// The store of this host's agent.
    fn default() -> Self {
        Self::Remote { socket: default_socket() }
    }
}

/// Opens the store. An embedded one blocks on the disk; the others connect when first used, and
/// must be used on a tokio runtime.
///
/// # Errors
///
/// As [`Options::open`], and [`StoreError::Settings`] for a type that is not built in or for
/// settings that make no sense.
pub fn open(config: &DatastoreConfig) -> Result<Arc<dyn Datastore>, StoreError> {
    match config {
        DatastoreConfig::Embedded { path, durability } => {
            Ok(Arc::new(Options::new().durability(*durability).open(path)?))
        }
        DatastoreConfig::Remote { socket } => Ok(Arc::new(RemoteStore::connect(socket))),
        #[cfg(feature = "tls")]
        DatastoreConfig::Fanout(config) => {
            let server = crate::remote::TlsAddress(config.clone());
            Ok(Arc::new(RemoteStore::over(server)))
        }
        #[cfg(not(feature = "tls"))]
        DatastoreConfig::Fanout(_) => Err(unsupported("fanout")),
        #[cfg(feature = "etcd")]
        DatastoreConfig::Etcd(config) => {
            Ok(Arc::new(crate::etcd::EtcdStore::connect(config.clone())?))
        }
        #[cfg(not(feature = "etcd"))]
        DatastoreConfig::Etcd(_) => Err(unsupported("etcdv3")),
        #[cfg(feature = "kubernetes")]
        DatastoreConfig::Kubernetes(config) => {
            Ok(Arc::new(crate::kubernetes::KubernetesStore::connect(config)?))
        }
        #[cfg(not(feature = "kubernetes"))]
        DatastoreConfig::Kubernetes(_) => Err(unsupported("kubernetes")),
    }
}

#[cfg(not(all(feature = "etcd", feature = "kubernetes", feature = "tls")))]
fn unsupported(name: &str) -> StoreError {
    StoreError::Settings {
        reason: format!("datastore type {name:?}; this program has {}", built_in().join(", ")),
    }
}

#[cfg(not(all(feature = "etcd", feature = "kubernetes", feature = "tls")))]
fn built_in() -> Vec<&'static str> {
    let mut names = vec!["embedded", "remote"];
    if cfg!(feature = "tls") {
        names.push("fanout");
    }
    if cfg!(feature = "etcd") {
        names.push("etcdv3");
    }
    if cfg!(feature = "kubernetes") {
        names.push("kubernetes");
    }
    names
}

fn default_socket() -> PathBuf {
    DEFAULT_SOCKET.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<DatastoreConfig, serde_json::Error> {
        serde_json::from_str(text)
    }

    #[test]
    fn settings_are_read_strictly() {
        assert_eq!(parse(r#"{"type": "remote"}"#).unwrap(), DatastoreConfig::default());
        assert_eq!(
            parse(r#"{"type": "embedded", "path": "/x", "durability": "process"}"#).unwrap(),
            DatastoreConfig::Embedded { path: "/x".into(), durability: Durability::Process }
        );
        for bad in [
            r#"{"type": "embedded"}"#,
            r#"{"type": "embedded", "path": "/x", "socket": "/y"}"#,
            r#"{"type": "zookeeper"}"#,
            r#"{"type": "etcdv3", "endpoints": [], "endpoint": "x"}"#,
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_not_supported_says_what_is() {
        let kubernetes = parse(r#"{"type": "kubernetes", "endpoint": "no url"}"#).unwrap();
        let error = open(&kubernetes).unwrap_err().to_string();
        let reason = if cfg!(feature = "kubernetes") { "no url" } else { "embedded" };
        assert!(error.contains(reason), "{error}");
        let etcd = parse(r#"{"type": "etcdv3", "endpoints": ["unix:///x"]}"#).unwrap();
        let error = open(&etcd).unwrap_err().to_string();
        let reason = if cfg!(feature = "etcd") { "unix:///x" } else { "embedded" };
        assert!(error.contains(reason), "{error}");
    }
}
