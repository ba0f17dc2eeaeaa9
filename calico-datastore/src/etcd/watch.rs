//! A watch that outlives connections, members and compactions.

use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::Duration;

use calico_core::datastore::{Revision, WatchEvent, WatchStream};
use calico_core::key::Scope;
use futures_util::stream::{StreamExt as _, iter, unfold};
use tokio::time::{Instant, sleep};

use super::cluster::{Cluster, Repeat, WatchLine};
use super::failure::{Failure, FailureKind};
use super::pages::Pages;
use super::rpc;
use super::span::{Found, Span, revision};
use super::wire::{Event, KeyValue, RangeRequest, WatchCreateRequest, WatchResponse};

/// Pause after every endpoint failed; it doubles up to [`LONGEST`].
const SHORTEST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(5);

/// A watch that broke sooner than this counts as a failure of the endpoint that it was opened on.
const SOON: Duration = Duration::from_secs(10);

/// Malformed objects that are remembered as reported.
const REPORTED: usize = 1_000;

/// Follows `scope`; see [`calico_core::Datastore::watch`].
///
/// Nothing is read ahead: what the caller does not ask for stays in etcd, but for the window of
/// the connection and one answer. A caller that is too slow for etcd's history is given a new
/// listing.
pub(super) fn stream(cluster: Arc<Cluster>, scope: Scope, from: Option<Revision>) -> WatchStream {
    let watch = Watch {
        cluster,
        span: Span::of(scope),
        at: from.map_or(At::Unknown, At::Told),
        cluster_id: 0,
        state: State::Idle,
        ready: VecDeque::new(),
        reported: HashSet::new(),
        outage: Outage::new(),
    };
    // One answer of etcd at a time, and no more work for each of its events than to hand it out.
    let answers = unfold(watch, async |mut watch| {
        let events = watch.next().await;
        Some((iter(events), watch))
    });
    Box::pin(answers.flatten())
}

/// How far the caller is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// A listing is due.
    Unknown,
    /// The caller says so. One transaction may have written several objects at that revision, and
    /// the caller may have seen only some of them.
    Told(Revision),
    /// Everything up to here was yielded.
    After(Revision),
}

enum State {
    Idle,
    Listing(Pages),
    Following(WatchLine),
}

struct Watch {
    cluster: Arc<Cluster>,
    span: Span,
    at: At,
    /// The cluster that `at` is about; 0: not known.
    cluster_id: u64,
    state: State,
    ready: VecDeque<WatchEvent>,
    /// Paths of malformed objects that the caller was told of.
    reported: HashSet<String>,
    outage: Outage,
}

/// What went wrong lately.
struct Outage {
    /// Whether the caller was told of an interruption that has not ended.
    told: bool,
    pause: Duration,
    /// In 256ths of the pause: callers that were cut off together do not come back together.
    jitter: u32,
    /// Watches in a row that broke soon.
    breaks: usize,
    opened: Instant,
}

impl Outage {
    fn new() -> Self {
        let jitter = (RandomState::new().hash_one(0) % 128) as u32;
        Self { told: false, pause: SHORTEST, jitter, breaks: 0, opened: Instant::now() }
    }

    fn ended(&mut self) {
        (self.told, self.pause) = (false, SHORTEST);
    }

    async fn wait(&mut self) {
        sleep(self.pause + self.pause * self.jitter / 256).await;
        self.pause = (self.pause * 2).min(LONGEST);
    }
}

impl Watch {
    /// The next events; at least one.
    async fn next(&mut self) -> VecDeque<WatchEvent> {
        while self.ready.is_empty() {
            if let Err(failure) = self.step().await {
                self.state = State::Idle;
                if !std::mem::replace(&mut self.outage.told, true) {
                    let reason = failure.into_error().to_string();
                    self.ready.push_back(WatchEvent::Interrupted { reason });
                }
            }
        }
        std::mem::take(&mut self.ready)
    }

    async fn step(&mut self) -> Result<(), Failure> {
        match &mut self.state {
            State::Idle => {
                if self.outage.told {
                    self.outage.wait().await;
                }
                self.begin().await
            }
            State::Listing(pages) => match pages.next(&self.span, &self.cluster).await {
                Ok(page) => {
                    let first = pages.count() == 1;
                    self.take_page(first, page);
                    Ok(())
                }
                Err(failure) if failure.kind == FailureKind::Compacted => {
                    // The caller took longer than etcd remembers. What it has is of one moment
                    // that is gone: once more from the start.
                    self.state = State::Idle;
                    Ok(())
                }
                Err(failure) => Err(failure),
            },
            State::Following(line) => match line.answers.message().await {
                Ok(Some(response)) => self.take(response),
                Ok(None) => {
                    self.broke(Failure::new(FailureKind::Lost, "the server ended the watch"))
                }
                Err(status) => self.broke(status.into()),
            },
        }
    }

    /// Starts a listing, or goes on where the caller is.
    async fn begin(&mut self) -> Result<(), Failure> {
        let at = match self.at {
            At::Unknown => {
                self.state = State::Listing(Pages::new(&self.span));
                return Ok(());
            }
            At::Told(at) | At::After(at) => at,
        };
        // A question that a majority answers: a member that lags behind would take a revision
        // that it has not seen yet for one of the future, and wait for it.
        let question = RangeRequest {
            key: self.span.start.clone(),
            count_only: true,
            ..RangeRequest::default()
        };
        let answer = self.cluster.call(&rpc::RANGE, &question, Repeat::Yes).await?;
        let header = answer.header.unwrap_or_default();
        let another = self.cluster_id != 0 && self.cluster_id != header.cluster_id;
        if another || revision(header.revision) < at {
            tracing::info!(
                revision = at.0,
                "the etcd cluster is another one, or was set back; listing anew"
            );
            self.at = At::Unknown;
            return Ok(());
        }
        self.cluster_id = header.cluster_id;
        let request = WatchCreateRequest {
            key: self.span.start.clone(),
            range_end: self.span.end.clone(),
            start_revision: self.start(),
            progress_notify: true,
        };
        self.state = State::Following(self.cluster.watch(&request).await?);
        self.outage.opened = Instant::now();
        Ok(())
    }

    /// The first revision to ask for.
    fn start(&self) -> i64 {
        let first = match self.at {
            At::Unknown => 0,
            At::After(Revision(at)) => at.saturating_add(1),
            // If the revision before is compacted, so may be deletions at this one.
            At::Told(Revision(at)) => at.saturating_sub(1),
        };
        i64::try_from(first).unwrap_or(i64::MAX).max(1)
    }

    fn take_page(&mut self, first: bool, page: Option<Vec<Found>>) {
        let State::Listing(pages) = &self.state else { return };
        self.outage.ended();
        match page {
            Some(found) => {
                self.ready.reserve(found.len() + 1);
                if first {
                    self.ready.push_back(WatchEvent::Begin);
                }
                found.into_iter().for_each(|found| self.found(found, true));
            }
            None => {
                self.at = At::After(pages.revision());
                self.cluster_id = pages.cluster_id();
                self.ready.push_back(WatchEvent::Ready(pages.revision()));
                self.state = State::Idle;
            }
        }
    }

    fn take(&mut self, response: WatchResponse) -> Result<(), Failure> {
        if response.compact_revision != 0 {
            tracing::info!(
                compacted = response.compact_revision,
                "etcd has forgotten what comes next; listing anew"
            );
            (self.at, self.state) = (At::Unknown, State::Idle);
            return Ok(());
        }
        if response.canceled {
            return self.broke(cancelled(&response.cancel_reason));
        }
        self.outage.ended();
        if response.created {
            return Ok(());
        }
        self.outage.breaks = 0;
        if !response.events.is_empty() {
            self.take_events(&response);
        } else if let (At::After(at) | At::Told(at), Some(header)) = (self.at, response.header) {
            // Told only when there was nothing else to tell: the watch is at the end.
            if revision(header.revision) >= at {
                self.at = At::After(revision(header.revision));
            }
        }
        Ok(())
    }

    fn take_events(&mut self, response: &WatchResponse) {
        let at = |event: &Event| revision(event.kv.as_ref().map_or(0, |kv| kv.mod_revision));
        let seen = match self.at {
            At::Told(told) => {
                let there = response.events.iter().filter(|event| at(event) == told).count();
                // A single object written at that revision is the one that the caller knows.
                if there == 1 { told } else { Revision(told.0.saturating_sub(1)) }
            }
            _ => Revision(0),
        };
        for event in response.events.iter().filter(|event| at(event) > seen) {
            let Some(kv) = &event.kv else { continue };
            if event.kind == Event::DELETE {
                self.gone(kv);
            } else {
                let found = self.span.read(kv.stored());
                self.found(found, false);
            }
        }
        let last = response.events.last().map(at).unwrap_or_default();
        self.at = match self.at {
            At::Told(told) if last < told => self.at,
            _ => At::After(last),
        };
    }

    fn found(&mut self, found: Found, listed: bool) {
        match found {
            Found::Object(entry) => {
                self.forget(|| entry.key.to_string());
                self.ready.push_back(match listed {
                    true => WatchEvent::Item(entry),
                    false => WatchEvent::Put(entry),
                });
            }
            Found::Other => {}
            Found::Bad { path, reason } => self.report(path, reason),
        }
    }

    fn gone(&mut self, kv: &KeyValue) {
        self.forget(|| String::from_utf8_lossy(&kv.key).into_owned());
        if let Ok(Some(key)) = self.span.key(&kv.key) {
            self.ready.push_back(WatchEvent::Gone { key, revision: revision(kv.mod_revision) });
        }
    }

    /// Tells of a malformed object, once until it is written well or deleted.
    fn report(&mut self, path: String, reason: String) {
        if self.reported.len() >= REPORTED {
            self.reported.clear();
        }
        if self.reported.insert(path.clone()) {
            self.ready.push_back(WatchEvent::Bad { path, reason });
        }
    }

    fn forget(&mut self, path: impl FnOnce() -> String) {
        if !self.reported.is_empty() {
            self.reported.remove(&path());
        }
    }

    /// Goes on elsewhere, unless that was tried at every endpoint just now.
    fn broke(&mut self, failure: Failure) -> Result<(), Failure> {
        if let State::Following(line) = std::mem::replace(&mut self.state, State::Idle) {
            self.cluster.watch_broke(&line, &failure);
        }
        if failure.kind == FailureKind::TooLarge {
            // Too much has happened to be told at once. etcd could cut it into fragments, but
            // takes time for that which grows with the square of the events in each.
            self.at = At::Unknown;
            return Ok(());
        }
        let soon = self.outage.opened.elapsed() < SOON;
        self.outage.breaks = if soon { self.outage.breaks + 1 } else { 1 };
        let elsewhere = failure.is_of_endpoint() || failure.kind == FailureKind::Token;
        match elsewhere && self.outage.breaks <= self.cluster.size() {
            true => Ok(()),
            false => Err(failure),
        }
    }
}

/// What it means that etcd ended a watch.
fn cancelled(reason: &str) -> Failure {
    let kind = match reason {
        _ if reason.contains("permission denied") => FailureKind::Denied,
        _ if reason.contains("auth token") => FailureKind::Token,
        _ if reason.contains("no leader") => FailureKind::NotReady,
        _ => FailureKind::Lost,
    };
    let reason = reason.strip_prefix("etcdserver: ").unwrap_or(reason);
    Failure::new(
        kind,
        format!("etcd ended the watch: {}", if reason.is_empty() { "no reason" } else { reason }),
    )
}
