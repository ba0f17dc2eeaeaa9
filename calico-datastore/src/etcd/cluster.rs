//! Calls that find an endpoint which answers, and stay logged in.

use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use calico_core::datastore::StoreError;
use prost::Message;
use tokio::time::{Instant, sleep, timeout};
use tonic::Streaming;

use super::endpoint::{Endpoint, Line};
use super::failure::{Failure, FailureKind};
use super::login::Login;
use super::members::{Endpoints, Members};
use super::rpc::{Ask, Call, Method, OpenWatch};
use super::wire::{WatchCreateRequest, WatchResponse};
use crate::config::EtcdConfig;

/// First pause before endpoints that were not ready are asked again; it doubles.
const PAUSE: Duration = Duration::from_millis(50);

/// Whether a request may be made a second time when the answer to the first was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    /// It only reads.
    Yes,
    /// It writes: a second time might see the first one's effect and take it for another's.
    No,
}

/// The endpoints of one etcd cluster.
pub(super) struct Cluster {
    config: EtcdConfig,
    members: Arc<Members>,
    /// The one that answered last.
    preferred: AtomicUsize,
    login: Login,
}

/// An open watch.
pub(super) struct WatchLine {
    pub(super) answers: Streaming<WatchResponse>,
    endpoint: Arc<Endpoint>,
    generation: u64,
}

impl Cluster {
    /// Checks the settings. Connects when it is first used.
    pub(super) fn new(config: EtcdConfig) -> Result<Self, StoreError> {
        config.check().map_err(|reason| StoreError::Settings { reason })?;
        let members = Arc::new(Members::new(&config)?);
        // A thousand nodes with one settings file must not all begin at the same server.
        let seed = RandomState::new().hash_one(0) as usize;
        let preferred = AtomicUsize::new(seed % config.endpoints.len().max(1));
        let login = Login::new(&config);
        Ok(Self { config, members, preferred, login })
    }

    /// How many endpoints are known.
    pub(super) fn size(&self) -> usize {
        self.members.known().len()
    }

    /// Makes a call on the first endpoint that answers.
    pub(super) async fn call<Q, A>(
        &self,
        method: &Method<Q, A>,
        request: &Q,
        repeat: Repeat,
    ) -> Result<A, Failure>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        self.ask(&Call { method, request }, repeat).await
    }

    /// Asks the first endpoint that answers.
    pub(super) async fn ask<T: Ask>(&self, ask: &T, repeat: Repeat) -> Result<T::Answer, Failure> {
        let deadline = Instant::now() + self.config.request_timeout();
        let mut pause = PAUSE;
        loop {
            let endpoints = self.members.get(deadline).await?;
            let mut round = Round::default();
            for index in self.order(&endpoints) {
                match self.attempt(&endpoints, index, deadline, ask).await {
                    Ok((_, answer)) => return Ok(answer),
                    Err(failure) if !failure.is_of_endpoint() => return Err(failure),
                    Err(failure) if failure.kind == FailureKind::Lost && repeat == Repeat::No => {
                        return Err(failure);
                    }
                    Err(failure) => round.add(&endpoints[index], failure),
                }
            }
            if !round.worth_another || Instant::now() + pause >= deadline {
                return Err(round.into_failure());
            }
            sleep(pause).await;
            pause *= 2;
        }
    }

    /// Opens a watch on the first endpoint that takes it.
    pub(super) async fn watch(&self, request: &WatchCreateRequest) -> Result<WatchLine, Failure> {
        let mut round = Round::default();
        let patience = || Instant::now() + self.config.request_timeout();
        let endpoints = self.members.get(patience()).await?;
        for index in self.order(&endpoints) {
            match self.attempt(&endpoints, index, patience(), &OpenWatch(request)).await {
                Ok((generation, answers)) => {
                    let endpoint = Arc::clone(&endpoints[index]);
                    return Ok(WatchLine { answers, endpoint, generation });
                }
                Err(failure) if !failure.is_of_endpoint() => return Err(failure),
                Err(failure) => round.add(&endpoints[index], failure),
            }
        }
        Err(round.into_failure())
    }

    /// Notes that an open watch broke.
    pub(super) fn watch_broke(&self, line: &WatchLine, failure: &Failure) {
        if failure.is_of_endpoint() {
            line.endpoint.failed(line.generation, &failure.reason, Instant::now());
            self.members.doubt();
        }
    }

    /// The endpoints, the most promising first.
    fn order(&self, endpoints: &Endpoints) -> Vec<usize> {
        let (count, now) = (endpoints.len(), Instant::now());
        let preferred = self.preferred.load(Ordering::Relaxed);
        let mut order: Vec<usize> = (0..count).map(|n| (preferred + n) % count).collect();
        order.sort_by_key(|&index| endpoints[index].is_avoided(now));
        order
    }

    /// How long one endpoint may take: not all of the time, if others are left to ask.
    fn patience(&self, endpoints: &Endpoints, deadline: Instant) -> Duration {
        let left = deadline.saturating_duration_since(Instant::now());
        match endpoints.len() {
            1 => left,
            _ => left.min(self.config.request_timeout() / 2),
        }
    }

    /// Makes a call on one endpoint, and draws conclusions about it.
    async fn attempt<T: Ask>(
        &self,
        endpoints: &Endpoints,
        index: usize,
        deadline: Instant,
        ask: &T,
    ) -> Result<(u64, T::Answer), Failure> {
        let endpoint = &endpoints[index];
        let line = endpoint.line(&self.config)?;
        let generation = line.generation;
        let patience = self.patience(endpoints, deadline);
        let result = timeout(patience, self.logged_in(line, ask)).await.unwrap_or_else(|_| {
            let reason = format!("no answer within {} ms", patience.as_millis());
            Err(Failure::new(FailureKind::Lost, reason))
        });
        match result {
            Ok(done) => {
                endpoint.works();
                self.preferred.store(index, Ordering::Relaxed);
                Ok((generation, done))
            }
            Err(failure) => {
                let failure = endpoint.explain(failure);
                match failure.is_of_endpoint() {
                    true => {
                        endpoint.failed(generation, &failure.reason, Instant::now());
                        self.members.doubt();
                    }
                    false => endpoint.works(),
                }
                Err(failure)
            }
        }
    }

    /// Makes a call with a token; once more with a new one if etcd does not know the old one any
    /// more, which is so after a few idle minutes.
    async fn logged_in<T: Ask>(&self, line: Line, ask: &T) -> Result<T::Answer, Failure> {
        let token = self.login.token(&line, None).await?;
        match ask.ask(line.channel.clone(), token.clone()).await.map_err(Failure::from) {
            Err(failure) if failure.kind == FailureKind::Token && token.is_some() => {
                let token = self.login.token(&line, token).await?;
                ask.ask(line.channel, token).await.map_err(Failure::from)
            }
            result => result,
        }
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endpoints: Vec<String> = self.members.known().iter().map(ToString::to_string).collect();
        f.debug_struct("Cluster").field("endpoints", &endpoints).finish_non_exhaustive()
    }
}

/// What went wrong while each endpoint was tried.
#[derive(Default)]
struct Round {
    reasons: Vec<String>,
    /// Whether something was sent and may have been carried out.
    lost: bool,
    /// Whether an endpoint said something that passes soon, such as that there is no leader.
    worth_another: bool,
}

impl Round {
    fn add(&mut self, endpoint: &Endpoint, failure: Failure) {
        self.worth_another |=
            failure.kind == FailureKind::NotReady || failure.reason.starts_with("etcd says");
        self.lost |= failure.kind == FailureKind::Lost;
        self.reasons.push(format!("{endpoint}: {}", failure.reason));
    }

    fn into_failure(self) -> Failure {
        let kind = if self.lost { FailureKind::Lost } else { FailureKind::NotSent };
        Failure::new(kind, format!("no etcd endpoint answers ({})", self.reasons.join("; ")))
    }
}
