use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Text that must not show up in logs.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Keeps `text` out of logs.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A certificate or key in PEM form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum Pem {
    /// In a file, which is read again for each new connection: it may be replaced at any time.
    File(PathBuf),
    /// Here.
    Inline(Secret),
}

impl Pem {
    /// Reads it.
    ///
    /// # Errors
    ///
    /// Which file cannot be read, and why.
    pub fn read(&self) -> Result<Vec<u8>, String> {
        match self {
            Self::File(path) => std::fs::read(path)
                .map_err(|error| format!("{} cannot be read: {error}", path.display())),
            Self::Inline(text) => Ok(text.reveal().as_bytes().to_vec()),
        }
    }
}

/// An etcd v3 cluster, and how to reach it.
///
/// ```
/// use calico_datastore::config::{DatastoreConfig, EtcdConfig};
///
/// let config: DatastoreConfig = serde_json::from_str(
///     r#"{"type": "etcdv3", "endpoints": ["https://10.0.0.1:2379", "https://10.0.0.2:2379"],
///         "ca": {"file": "/etc/calico/certs/ca.pem"}}"#,
/// )?;
/// let DatastoreConfig::Etcd(etcd) = config else { panic!("etcd") };
/// assert_eq!(etcd.endpoints.len(), 2);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EtcdConfig {
    /// `http://host:port` or `https://host:port` of the members, any number of them.
    #[serde(default)]
    pub endpoints: Vec<String>,
    /// Instead of `endpoints`: the domain whose SRV records name the members,
    /// `_etcd-client-ssl._tcp` of it or, where there are none and no certificates are set here,
    /// `_etcd-client._tcp`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub discovery_srv: Option<String>,
    /// Name of an etcd user, if the cluster has authentication turned on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// The user's password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
    /// Who signs the members' certificates; those that the system trusts, if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<Pem>,
    /// Our certificate, if the cluster asks for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Pem>,
    /// The key of our certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Pem>,
    /// Milliseconds for a connection to be made.
    #[serde(default = "default_connect")]
    pub connect_timeout_ms: u64,
    /// Milliseconds for a request, over all endpoints that are tried (upstream: 10 s).
    #[serde(default = "default_request")]
    pub request_timeout_ms: u64,
}

impl EtcdConfig {
    /// A cluster without TLS or passwords.
    pub fn new<T: Into<String>>(endpoints: impl IntoIterator<Item = T>) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            discovery_srv: None,
            username: None,
            password: None,
            ca: None,
            certificate: None,
            key: None,
            connect_timeout_ms: default_connect(),
            request_timeout_ms: default_request(),
        }
    }

    /// Time for a connection to be made.
    #[must_use]
    pub const fn connect_timeout(&self) -> Duration {
        Duration::from_millis(self.connect_timeout_ms)
    }

    /// Time for a request, over all endpoints that are tried.
    #[must_use]
    pub const fn request_timeout(&self) -> Duration {
        Duration::from_millis(self.request_timeout_ms)
    }

    /// Whether the settings make sense together.
    ///
    /// # Errors
    ///
    /// What does not, and what to do.
    pub fn check(&self) -> Result<(), String> {
        match &self.discovery_srv {
            None if self.endpoints.is_empty() => {
                return Err("etcd without endpoints; name at least one, or the domain whose SRV \
                            records do (discoverySrv, ETCD_DISCOVERY_SRV)"
                    .to_owned());
            }
            Some(_) if !self.endpoints.is_empty() => {
                return Err("endpoints of etcd and a domain to discover them by; give one".into());
            }
            Some(domain) if domain.trim_end_matches('.').is_empty() => {
                return Err("an empty domain to discover etcd by".to_owned());
            }
            _ => {}
        }
        if self.certificate.is_some() != self.key.is_some() {
            return Err("a certificate for etcd without its key, or the reverse; give both".into());
        }
        if self.username.is_some() != self.password.is_some() {
            return Err("a user name for etcd without a password, or the reverse; give both".into());
        }
        if self.connect_timeout_ms == 0 || self.request_timeout_ms == 0 {
            return Err("a timeout of zero for etcd".to_owned());
        }
        Ok(())
    }
}

const fn default_connect() -> u64 {
    3_000
}

const fn default_request() -> u64 {
    10_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_stay_out_of_logs() {
        let mut config = EtcdConfig::new(["http://h:1"]);
        config.password = Some(Secret::new("hunter2"));
        config.key = Some(Pem::Inline(Secret::new("-----BEGIN")));
        let text = format!("{config:?}");
        assert!(!text.contains("hunter2") && !text.contains("BEGIN"), "{text}");
    }

    #[test]
    fn halves_of_pairs_are_refused() {
        let good = EtcdConfig::new(["http://h:1"]);
        assert_eq!(good.check(), Ok(()));
        let check = |change: fn(&mut EtcdConfig), expected: &str| {
            let mut config = good.clone();
            change(&mut config);
            let error = config.check().unwrap_err();
            assert!(error.contains(expected), "{error}");
        };
        check(|c| c.endpoints.clear(), "at least one");
        check(|c| c.discovery_srv = Some("etcd.example".into()), "give one");
        check(
            |c| (c.endpoints, c.discovery_srv) = (Vec::new(), Some(".".into())),
            "an empty domain",
        );
        check(|c| c.key = Some(Pem::File("/x".into())), "give both");
        check(|c| c.username = Some("u".into()), "give both");
        check(|c| c.request_timeout_ms = 0, "zero");
    }
}
