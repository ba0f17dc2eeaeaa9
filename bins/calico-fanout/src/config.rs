//! The settings: a TOML file.
//!
//! ```toml
//! listen = "[::]:5473"                # TCP; upstream's port for the same purpose
//! clients = 2000                      # connections at a time
//! pages = "127.0.0.1:9093"            # /metrics, /liveness and /readiness; leave out for none
//!
//! [tls]                               # both sides show certificates
//! ca = { file = "/etc/calico/ca.pem" }
//! certificate = { file = "/etc/calico/fanout.pem" }
//! key = { file = "/etc/calico/fanout-key.pem" }
//!
//! [datastore]
//! type = "etcdv3"
//! endpoints = ["https://10.0.0.1:2379"]
//! ```

use std::error::Error;
use std::path::Path;

use calico_datastore::config::{DatastoreConfig, TlsConfig};
use serde::Deserialize;

/// Contents of the file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    #[serde(default = "default_listen")]
    pub(crate) listen: String,
    #[serde(default = "default_clients")]
    pub(crate) clients: usize,
    pub(crate) pages: Option<String>,
    pub(crate) tls: TlsConfig,
    pub(crate) datastore: DatastoreConfig,
}

impl Config {
    pub(crate) fn read(path: &Path) -> Result<Self, Box<dyn Error>> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        let config: Self = toml::from_str(&text)
            .map_err(|error| format!("{} is not valid: {error}", path.display()))?;
        if matches!(config.datastore, DatastoreConfig::Fanout(_)) {
            return Err(format!(
                "{} is not valid: the datastore is a fan-out itself; name the store behind it",
                path.display()
            )
            .into());
        }
        Ok(config)
    }
}

fn default_listen() -> String {
    "[::]:5473".to_owned()
}

const fn default_clients() -> usize {
    2000
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
            .map(|line| line.trim_start_matches("//!").trim_start().to_owned() + "\n")
            .collect();
        let config: Config = toml::from_str(&text).unwrap();
        assert_eq!((config.listen, config.clients), (default_listen(), default_clients()));
        assert!(matches!(config.datastore, DatastoreConfig::Etcd(_)));
    }
}
