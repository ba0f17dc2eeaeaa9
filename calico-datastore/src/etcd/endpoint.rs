//! One etcd server: its connection, and whether it works.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use calico_core::datastore::StoreError;
use http::Uri;
use tokio::time::Instant;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity};

use super::failure::{Failure, FailureKind};
use crate::config::EtcdConfig;

/// An endpoint that failed is tried after the others for this long; doubled with each failure.
const SHORTEST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(15);

/// A connection on which something is under way is probed this often. etcd closes connections
/// that are probed more often than every five seconds.
const PROBE: Duration = Duration::from_secs(10);

/// Bytes that the server may send ahead on one watch or request before they are read.
const STREAM_WINDOW: u32 = 1 << 20;

/// Bytes it may send ahead in sum. The largest there is: a watch that nobody reads must not
/// keep the answers to requests on the same connection waiting.
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;

/// How a connection ends whose other side expected something else. Which of them is seen depends
/// on whether the answer or its end comes first.
const MISUNDERSTOOD: [&str; 8] = [
    "broken pipe",
    "connection closed",
    "corrupt message",
    "end of file",
    "eof",
    "frame with invalid size",
    "protocol error",
    "reset",
];

/// One server of the cluster.
pub(super) struct Endpoint {
    uri: Uri,
    state: Mutex<State>,
}

struct State {
    channel: Option<Channel>,
    /// Another for every connection, of whatever endpoint.
    generation: u64,
    failures: u32,
    has_answered: bool,
    /// Others are preferred until then.
    avoid_until: Option<Instant>,
}

impl State {
    fn new() -> Self {
        Self {
            channel: None,
            generation: new_generation(),
            failures: 0,
            has_answered: false,
            avoid_until: None,
        }
    }
}

fn new_generation() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed) + 1
}

/// A connection in use.
#[derive(Clone)]
pub(super) struct Line {
    pub(super) channel: Channel,
    pub(super) generation: u64,
}

impl Endpoint {
    /// Reads `http://host:port` or `https://host:port`; without a scheme, `secure` decides.
    pub(super) fn new(text: &str, secure: bool) -> Result<Self, StoreError> {
        let wrong = |why: &str| StoreError::Settings {
            reason: format!(
                "etcd endpoint {text:?}: {why}; write http://host:port or https://host:port"
            ),
        };
        let full = match text.contains("://") {
            true => text.to_owned(),
            false => format!("{}://{text}", if secure { "https" } else { "http" }),
        };
        let uri: Uri =
            full.parse().map_err(|error: http::uri::InvalidUri| wrong(&error.to_string()))?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err(wrong("unknown scheme"));
        }
        if uri.port().is_none() {
            return Err(wrong("no port"));
        }
        if !matches!(uri.path(), "" | "/") {
            return Err(wrong("a path makes no sense here"));
        }
        Ok(Self { uri, state: Mutex::new(State::new()) })
    }

    /// The connection, which is made when it is first used. It cannot be made from settings that
    /// are not usable now, such as a certificate that is missing.
    pub(super) fn line(&self, config: &EtcdConfig) -> Result<Line, Failure> {
        let mut state = self.lock();
        let generation = state.generation;
        if let Some(channel) = &state.channel {
            return Ok(Line { channel: channel.clone(), generation });
        }
        match self.open(config) {
            Ok(channel) => {
                state.channel = Some(channel.clone());
                Ok(Line { channel, generation })
            }
            Err(reason) => {
                drop(state);
                self.failed(generation, &reason, Instant::now());
                Err(Failure::new(FailureKind::NotSent, reason))
            }
        }
    }

    /// The endpoint answered.
    pub(super) fn works(&self) {
        let mut state = self.lock();
        state.has_answered = true;
        if state.failures > 0 {
            tracing::info!(endpoint = %self, "the etcd endpoint answers again");
            (state.failures, state.avoid_until) = (0, None);
        }
    }

    /// The endpoint failed on the connection of `generation`; a new one is made next time, from
    /// certificates as they are then.
    pub(super) fn failed(&self, generation: u64, reason: &str, now: Instant) {
        let mut state = self.lock();
        if state.generation != generation {
            return;
        }
        if state.failures == 0 {
            tracing::warn!(endpoint = %self, reason, "the etcd endpoint fails");
        }
        state.channel = None;
        state.generation = new_generation();
        let pause = SHORTEST.saturating_mul(1 << state.failures.min(16)).min(LONGEST);
        state.failures = state.failures.saturating_add(1);
        state.avoid_until = Some(now + pause);
    }

    /// Adds what may lie behind a failure that tells little.
    pub(super) fn explain(&self, failure: Failure) -> Failure {
        if failure.kind == FailureKind::Denied || self.lock().has_answered {
            return failure;
        }
        if !MISUNDERSTOOD.iter().any(|word| failure.reason.contains(word)) {
            return failure;
        }
        // A server that does not like our certificate says so in an alert that comes after the
        // handshake, and that the layers above turn into the end of the connection.
        let hint = match self.uri.scheme_str() {
            Some("https") => {
                "does it speak TLS? does it want a client certificate, or reject ours?"
            }
            _ => "is it etcd's port for clients, without TLS?",
        };
        Failure { reason: format!("{}; {hint}", failure.reason), ..failure }
    }

    /// Whether others should be tried first.
    pub(super) fn is_avoided(&self, now: Instant) -> bool {
        self.lock().avoid_until.is_some_and(|until| now < until)
    }

    fn open(&self, config: &EtcdConfig) -> Result<Channel, String> {
        let mut endpoint = Channel::builder(self.uri.clone())
            .user_agent(concat!("calico-rs/", env!("CARGO_PKG_VERSION")))
            .map_err(|error| error.to_string())?
            .connect_timeout(config.connect_timeout())
            .http2_keep_alive_interval(PROBE)
            .keep_alive_timeout(PROBE / 2)
            .keep_alive_while_idle(false)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW);
        if self.uri.scheme_str() == Some("https") {
            endpoint = endpoint.tls_config(tls(config)?).map_err(|error| {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                format!("the TLS settings are not usable: {}", cause.unwrap_or_default())
            })?;
        }
        Ok(endpoint.connect_lazy())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = self.uri.scheme_str().unwrap_or_default();
        let authority = self.uri.authority().map(|authority| authority.as_str());
        write!(f, "{scheme}://{}", authority.unwrap_or_default())
    }
}

/// Reads the certificates. Without a CA, the system's are trusted.
fn tls(config: &EtcdConfig) -> Result<ClientTlsConfig, String> {
    let tls = match &config.ca {
        Some(ca) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca.read()?)),
        None => ClientTlsConfig::new().with_native_roots(),
    };
    match (&config.certificate, &config.key) {
        (Some(certificate), Some(key)) => {
            Ok(tls.identity(Identity::from_pem(certificate.read()?, key.read()?)))
        }
        _ => Ok(tls),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read() {
        let check = |text: &str, secure, expected: &str| {
            assert_eq!(Endpoint::new(text, secure).unwrap().to_string(), expected);
        };
        check("http://127.0.0.1:2379", true, "http://127.0.0.1:2379");
        check("https://etcd.example:2379/", false, "https://etcd.example:2379");
        check("https://[::1]:2379", false, "https://[::1]:2379");
        check("h:1", true, "https://h:1");
        check("h:1", false, "http://h:1");
        for bad in
            ["", "unix:///run/etcd", "http://h", "http://h:1/v2", "http://h:99999", "http://a b:1"]
        {
            let error = Endpoint::new(bad, false).err().expect(bad).to_string();
            assert!(error.contains("http://host:port"), "{error}");
        }
    }

    #[tokio::test]
    async fn one_broken_connection_counts_once() {
        let endpoint = Endpoint::new("http://127.0.0.1:1", false).unwrap();
        let config = EtcdConfig::new(["http://127.0.0.1:1"]);
        let line = endpoint.line(&config).unwrap();
        let now = Instant::now();
        endpoint.failed(line.generation, "x", now);
        endpoint.failed(line.generation, "x", now);
        assert!(endpoint.is_avoided(now) && !endpoint.is_avoided(now + SHORTEST));
        let line = endpoint.line(&config).unwrap();
        endpoint.failed(line.generation, "x", now);
        assert!(endpoint.is_avoided(now + SHORTEST) && !endpoint.is_avoided(now + SHORTEST * 2));
        endpoint.works();
        assert!(!endpoint.is_avoided(now));
    }
}
