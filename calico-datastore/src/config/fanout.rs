use std::io;

use serde::{Deserialize, Serialize};

use super::Pem;

/// Who we are on a connection over TLS, and whom we believe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TlsConfig {
    /// Who signs the certificates of the other side.
    pub ca: Pem,
    /// Our certificate.
    pub certificate: Pem,
    /// The key of our certificate.
    pub key: Pem,
}

/// A server that fans out a store, and how to reach it.
///
/// ```
/// use calico_datastore::config::DatastoreConfig;
///
/// let config: DatastoreConfig = serde_json::from_str(
///     r#"{"type": "fanout", "address": "calico-fanout.kube-system:5473",
///         "tls": {"ca": {"file": "/etc/calico/ca.pem"},
///                 "certificate": {"file": "/etc/calico/cert.pem"},
///                 "key": {"file": "/etc/calico/key.pem"}}}"#,
/// )?;
/// assert!(matches!(config, DatastoreConfig::Fanout(_)));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FanoutConfig {
    /// Host (or address) and TCP port; several, with commas between, are tried from any of them
    /// on until one answers, and so is each address that a host's name has.
    pub address: String,
    /// The name in the servers' certificates, if it is not the host of `address`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// Certificates of both sides: there is no connection without.
    pub tls: TlsConfig,
}

impl FanoutConfig {
    /// The servers: the address of each, and the name that its certificate must have.
    ///
    /// # Errors
    ///
    /// An address has no port.
    pub fn servers(&self) -> io::Result<Vec<(&str, &str)>> {
        self.address.split(',').map(|address| self.server(address.trim())).collect()
    }

    fn server<'a>(&'a self, address: &'a str) -> io::Result<(&'a str, &'a str)> {
        let bad = || {
            let reason = format!("{address:?} is no address such as fanout.example:5473");
            io::Error::new(io::ErrorKind::InvalidInput, reason)
        };
        let (host, port) = address.rsplit_once(':').ok_or_else(bad)?;
        if host.is_empty() || port.parse::<u16>().is_err() {
            return Err(bad());
        }
        let host = host.trim_start_matches('[').trim_end_matches(']');
        Ok((address, self.server_name.as_deref().unwrap_or(host)))
    }
}
