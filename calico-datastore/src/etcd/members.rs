//! Who belongs to the cluster: as the settings name them, or as DNS does.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use calico_core::datastore::StoreError;
use tokio::time::{Instant, timeout, timeout_at};

use super::discovery::discover;
use super::endpoint::Endpoint;
use super::failure::{Failure, FailureKind};
use crate::config::EtcdConfig;
use crate::joint::Joint;

/// While members are known, DNS is asked no more often than this.
const PAUSE: Duration = Duration::from_secs(5);

/// The endpoints of a cluster.
pub(super) type Endpoints = Arc<[Arc<Endpoint>]>;

/// Who the endpoints are.
pub(super) struct Members {
    /// Whose SRV records name them; without it they never change.
    domain: Option<String>,
    /// Whether they must have TLS.
    secure: bool,
    known: Mutex<Known>,
    /// What DNS says, asked once for all who want to know.
    asking: Joint<Endpoints, Failure>,
    /// Time for it.
    patience: Duration,
}

struct Known {
    endpoints: Endpoints,
    /// Whether DNS may know better by now.
    stale: bool,
    asked: Option<Instant>,
}

impl Members {
    pub(super) fn new(config: &EtcdConfig) -> Result<Self, StoreError> {
        let secure = config.ca.is_some() || config.certificate.is_some();
        let endpoints =
            config.endpoints.iter().map(|text| Endpoint::new(text, secure).map(Arc::new));
        let endpoints: Result<Endpoints, _> = endpoints.collect();
        let domain = config.discovery_srv.clone();
        let known = Known { endpoints: endpoints?, stale: domain.is_some(), asked: None };
        Ok(Self {
            domain,
            secure,
            known: Mutex::new(known),
            asking: Joint::default(),
            patience: config.request_timeout(),
        })
    }

    /// Those that are known now; none before the first call of [`get`](Self::get).
    pub(super) fn known(&self) -> Endpoints {
        Arc::clone(&self.lock().endpoints)
    }

    /// The endpoints, for which DNS is asked if need be.
    pub(super) async fn get(self: &Arc<Self>, deadline: Instant) -> Result<Endpoints, Failure> {
        let Some(domain) = self.domain.clone().filter(|_| self.is_due()) else {
            return Ok(self.known());
        };
        let late = late(&domain);
        let members = Arc::clone(self);
        let asked = self.asking.make(0, || async move { members.ask(&domain).await });
        timeout_at(deadline, asked).await.unwrap_or(Err(late))
    }

    async fn ask(&self, domain: &str) -> Result<Endpoints, Failure> {
        let answer = match timeout(self.patience, discover(domain, self.secure)).await {
            Ok(answer) => answer.and_then(|urls| self.replace(&urls)),
            Err(_) => Err(late(domain).reason),
        };
        let mut known = self.lock();
        known.asked = Some(Instant::now());
        match answer {
            Ok(endpoints) => {
                let names: Vec<String> = endpoints.iter().map(ToString::to_string).collect();
                if !same(&endpoints, &known.endpoints) {
                    tracing::info!(domain, members = names.join(", "), "etcd's members, by DNS");
                }
                (known.endpoints, known.stale) = (endpoints, false);
            }
            Err(reason) if known.endpoints.is_empty() => {
                return Err(Failure::new(FailureKind::NotSent, reason));
            }
            // They may be the right ones still.
            Err(reason) => tracing::debug!(domain, reason, "DNS does not tell etcd's members"),
        }
        Ok(Arc::clone(&known.endpoints))
    }

    /// Says that a member does not answer: it may have been replaced by another.
    pub(super) fn doubt(&self) {
        if self.domain.is_some() {
            self.lock().stale = true;
        }
    }

    fn is_due(&self) -> bool {
        let known = self.lock();
        let recent = known.asked.is_some_and(|asked| asked.elapsed() < PAUSE);
        known.stale && (known.endpoints.is_empty() || !recent)
    }

    /// The endpoints of these URLs; one that is known keeps its connection.
    fn replace(&self, urls: &[String]) -> Result<Endpoints, String> {
        let known = self.known();
        let endpoint = |url: &String| match known.iter().find(|known| known.to_string() == *url) {
            Some(known) => Ok(Arc::clone(known)),
            None => Endpoint::new(url, self.secure).map(Arc::new).map_err(|e| e.to_string()),
        };
        urls.iter().map(endpoint).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn late(domain: &str) -> Failure {
    let reason = format!("no name server tells the SRV records of {domain} in time");
    Failure::new(FailureKind::NotSent, reason)
}

fn same(one: &Endpoints, other: &Endpoints) -> bool {
    one.len() == other.len() && one.iter().zip(other.iter()).all(|(a, b)| Arc::ptr_eq(a, b))
}
