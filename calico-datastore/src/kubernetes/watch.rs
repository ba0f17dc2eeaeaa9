//! A watch that outlives connections, restarts of the server, and what it forgets.

use std::collections::{HashSet, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use calico_core::datastore::{Entry, Revision, WatchEvent, WatchStream};
use calico_core::key::Scope;
use calico_core::resource::Profile;
use futures_util::future::join_all;
use futures_util::stream::{SelectAll, Stream, StreamExt as _, iter, unfold};
use tokio::time::timeout;

use super::Inner;
use super::failure::{Failure, FailureKind};
use super::feed::{Feed, Pause, Start, Told};
use super::listing::{Pages, now};
use super::reading::{Event, Read, Reading};
use super::server::Lines;
use super::source::Source;
use super::trail::Walk;

/// Malformed objects that are remembered as reported.
const REPORTED: usize = 1_000;

/// Listings that are begun again at once; after more of them, with a pause.
const ANEW: u32 = 5;

/// Listings in a row that broke off, after which one is asked for in pages: they need less of server
/// and etcd than streams do, and what stops a stream need not say so.
const BROKEN: u32 = 2;

/// Times that a busy server is asked again before the caller is told.
const WAITS: u32 = 50;

/// How long a server may take for the next object of a streamed listing.
const PATIENCE: Duration = Duration::from_secs(10);

/// Follows `scope`; see [`calico_core::Datastore::watch`].
///
/// Nothing is read ahead but what the connections hold: a caller that is too slow for the server
/// loses its connection, goes on at its revision, and if that is forgotten is given a new listing.
pub(super) fn stream(inner: Arc<Inner>, scope: Scope, from: Option<Revision>) -> WatchStream {
    let watch = Watch {
        inner,
        scope,
        from: from.filter(|from| from.0 > 0),
        state: State::Idle,
        walk: None,
        ready: VecDeque::new(),
        reported: HashSet::new(),
        told: false,
        down: HashSet::new(),
        pause: Pause::new(),
        anew: 0,
        broken: 0,
        waits: 0,
    };
    let answers = unfold(watch, async |mut watch| {
        let events = watch.next().await;
        Some((iter(events), watch))
    });
    Box::pin(answers.flatten())
}

type Feeds = SelectAll<Pin<Box<dyn Stream<Item = (usize, Told)> + Send>>>;

enum State {
    Idle,
    Listing(Box<Listing>),
    Following(Feeds),
}

/// A listing under way: of one source after the other.
struct Listing {
    reading: Reading,
    /// Those that are still to be listed, the next one last.
    left: Vec<Source>,
    current: Option<(Source, Current)>,
    done: Vec<Start>,
    begun: bool,
}

enum Current {
    Pages(Pages),
    /// Objects come as events, and the changes after them on the same connection.
    Streamed(Lines),
}

struct Watch {
    inner: Arc<Inner>,
    scope: Scope,
    from: Option<Revision>,
    state: State,
    /// Where it is, if it follows several collections.
    walk: Option<Walk>,
    ready: VecDeque<WatchEvent>,
    /// Paths of malformed objects that the caller was told of.
    reported: HashSet<String>,
    /// Whether the caller was told of an interruption of a listing that has not ended.
    told: bool,
    /// Feeds that are interrupted; the caller was told of the first.
    down: HashSet<usize>,
    pause: Pause,
    /// Listings in a row that the server did not finish.
    anew: u32,
    /// Listings in a row that broke off for any reason.
    broken: u32,
    /// Times in a row that the server was busy.
    waits: u32,
}

impl Watch {
    /// The next events; at least one.
    async fn next(&mut self) -> VecDeque<WatchEvent> {
        while self.ready.is_empty() {
            if let Err(failure) = self.step().await {
                if matches!(self.state, State::Listing(_)) {
                    self.broken += 1;
                }
                self.state = State::Idle;
                if failure.kind == FailureKind::Expired && self.anew < ANEW {
                    self.anew += 1;
                    continue;
                }
                if !std::mem::replace(&mut self.told, true) {
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
                if self.told {
                    self.pause.wait().await;
                }
                self.begin().await
            }
            State::Listing(_) => self.list().await,
            State::Following(feeds) => {
                let Some((feed, told)) = feeds.next().await else {
                    // Nothing in Kubernetes can ever belong to the scope.
                    return std::future::pending().await;
                };
                self.heard(feed, told);
                Ok(())
            }
        }
    }

    /// Goes on where the caller is, or starts a listing.
    async fn begin(&mut self) -> Result<(), Failure> {
        let reading = self.inner.reading().await?;
        let mut sources = self.inner.sources(&self.scope).await?;
        if let Some(from) = self.from {
            let starts = places(&self.inner, &self.scope, from, &sources, &reading).await?;
            self.from = None;
            if let Some(starts) = starts {
                self.follow(reading, starts, from);
                return Ok(());
            }
        }
        sources.reverse();
        let listing =
            Listing { reading, left: sources, current: None, done: Vec::new(), begun: false };
        self.state = State::Listing(Box::new(listing));
        Ok(())
    }

    /// Follows what comes after `starts`; the caller was shown `shown`.
    fn follow(&mut self, reading: Reading, starts: Vec<Start>, shown: Revision) {
        self.walk = (starts.len() > 1).then(|| {
            let places = starts.iter().map(|start| start.at).collect();
            self.inner.trails.start(&self.scope, places, shown)
        });
        let mut feeds = SelectAll::new();
        for (number, start) in starts.into_iter().enumerate() {
            let feed = Feed::new(Arc::clone(&self.inner), reading.clone(), start);
            let told = unfold(feed, move |mut feed| async move {
                let told = feed.next().await;
                Some(((number, told), feed))
            });
            feeds.push(Box::pin(told) as Pin<Box<dyn Stream<Item = _> + Send>>);
        }
        self.down.clear();
        self.state = State::Following(feeds);
        (self.anew, self.broken, self.waits) = (0, 0, 0);
        (self.told, self.pause) = (false, Pause::new());
    }

    async fn list(&mut self) -> Result<(), Failure> {
        let State::Listing(listing) = &mut self.state else { return Ok(()) };
        let Listing { reading, left, current, done, begun } = &mut **listing;
        let stream = self.broken < BROKEN && self.inner.streams.load(Ordering::Relaxed);
        match current {
            None => match left.pop() {
                Some(source) => match open(&self.inner, reading, &source, stream).await {
                    Ok(opened) => *current = Some((source, opened)),
                    // A server that was just started makes each collection ready when it is first
                    // asked for it: what is done stays done, and the others get ready together.
                    Err(failure) if failure.kind == FailureKind::Busy && self.waits < WAITS => {
                        self.waits += 1;
                        left.push(source);
                        let asked =
                            left.iter().map(|source| now(&self.inner.server, source, reading));
                        join_all(asked).await;
                        self.pause.wait().await;
                    }
                    Err(failure) => return Err(failure),
                },
                None => {
                    self.ready.extend(first(begun));
                    let (reading, done) = (reading.clone(), std::mem::take(done));
                    self.listed(reading, done);
                }
            },
            Some((source, Current::Pages(pages))) => {
                match pages.next(&self.inner.server, reading).await? {
                    Some(page) => {
                        self.ready.extend(first(begun));
                        page.items.into_iter().for_each(|item| self.found(item, None));
                    }
                    None => {
                        done.push(Start::after(source.clone(), pages.revision));
                        *current = None;
                    }
                }
            }
            Some((source, Current::Streamed(lines))) => {
                let line = match timeout(PATIENCE, lines.next()).await {
                    Ok(Ok(Some(line))) => line,
                    // What was seen is a part of nothing known: once more, in pages.
                    Err(_) => {
                        self.inner.streams.store(false, Ordering::Relaxed);
                        return Err(Failure::new(FailureKind::Expired, "a listing takes too long"));
                    }
                    Ok(Ok(None)) => {
                        return Err(Failure::new(FailureKind::Lost, "a listing broke off"));
                    }
                    Ok(Err(error)) => {
                        return Err(Failure::new(FailureKind::Lost, error.to_string()));
                    }
                };
                match source.event(&line, reading) {
                    Ok(Event::Bookmark { at, listed: true }) => {
                        if let Some((source, Current::Streamed(lines))) = current.take() {
                            done.push(Start::streamed(source, at, lines));
                        }
                    }
                    Ok(Event::Written { what, .. }) => {
                        self.ready.extend(first(begun));
                        self.found(what, None);
                    }
                    Ok(Event::Error(failure)) if cannot_stream(&failure) => {
                        self.inner.streams.store(false, Ordering::Relaxed);
                        return Err(Failure::new(FailureKind::Expired, "listings come in pages"));
                    }
                    Ok(Event::Error(failure)) => return Err(failure),
                    Ok(Event::Bookmark { .. } | Event::Deleted { .. }) => {}
                    Err(reason) => return Err(Failure::new(FailureKind::Lost, reason)),
                }
            }
        }
        Ok(())
    }

    /// Everything was listed; what follows are changes.
    fn listed(&mut self, reading: Reading, starts: Vec<Start>) {
        let profile = Profile::default_allow();
        if self.scope.contains(&profile.key()) {
            let (key, value) = (profile.key(), profile.to_json());
            self.ready.push_back(WatchEvent::Item(Entry { key, value, revision: Revision(1) }));
        }
        let revision = starts.iter().filter_map(|start| start.at).min().unwrap_or(Revision(1));
        self.ready.push_back(WatchEvent::Ready(revision));
        self.follow(reading, starts, revision);
    }

    fn heard(&mut self, feed: usize, told: Told) {
        match told {
            Told::Event(event) => {
                let before = self.ready.len();
                let at = match event {
                    Event::Written { at, what } => {
                        self.found(what, Some(at));
                        at
                    }
                    Event::Deleted { at, what } => {
                        self.gone(what, at);
                        at
                    }
                    Event::Bookmark { at, .. } => at,
                    Event::Error(_) => return,
                };
                let told = |event: &WatchEvent| {
                    matches!(event, WatchEvent::Put(_) | WatchEvent::Gone { .. })
                };
                if let Some(walk) = &self.walk {
                    walk.step(feed, at, self.ready.range(before..).any(told));
                }
            }
            Told::Gap => {
                tracing::debug!(scope = %self.scope, "the API server has forgotten what comes next; listing anew");
                self.state = State::Idle;
            }
            Told::Down(reason) => {
                if self.down.is_empty() {
                    self.ready.push_back(WatchEvent::Interrupted { reason });
                }
                self.down.insert(feed);
            }
            Told::Up => drop(self.down.remove(&feed)),
        }
    }

    /// An object of a listing, or with `at` one that was written then.
    fn found(&mut self, what: Read, at: Option<Revision>) {
        match what {
            Read::Object(entry) if self.scope.contains(&entry.key) => {
                self.ready.push_back(match at {
                    None => WatchEvent::Item(entry),
                    Some(_) => WatchEvent::Put(entry),
                });
            }
            Read::Hidden(key) if self.scope.contains(&key) => {
                if let Some(revision) = at {
                    self.ready.push_back(WatchEvent::Gone { key, revision });
                }
            }
            Read::Bad { path, reason, key } => {
                if let (Some(key), Some(revision)) = (key, at) {
                    self.ready.push_back(WatchEvent::Gone { key, revision });
                }
                self.report(path, reason);
            }
            Read::Object(_) | Read::Hidden(_) | Read::Other => {}
        }
    }

    fn gone(&mut self, what: Read, revision: Revision) {
        let key = match what {
            Read::Object(Entry { key, .. }) | Read::Hidden(key) => key,
            Read::Bad { path, key: Some(key), .. } => {
                self.reported.remove(&path);
                key
            }
            Read::Bad { path, .. } => {
                self.reported.remove(&path);
                return;
            }
            Read::Other => return,
        };
        if self.scope.contains(&key) {
            self.ready.push_back(WatchEvent::Gone { key, revision });
        }
    }

    /// Tells of a malformed object, once until it is deleted.
    fn report(&mut self, path: String, reason: String) {
        if self.reported.len() >= REPORTED {
            self.reported.clear();
        }
        if self.reported.insert(path.clone()) {
            self.ready.push_back(WatchEvent::Bad { path, reason });
        }
    }
}

/// Where a caller goes on who was last shown `from`; `None` if nobody knows, or if the server has
/// not come that far: it was set back.
async fn places(
    inner: &Inner,
    scope: &Scope,
    from: Revision,
    sources: &[Source],
    reading: &Reading,
) -> Result<Option<Vec<Start>>, Failure> {
    let places = match sources.len() {
        1 => vec![Some(from)],
        _ => inner.trails.places(scope, from).unwrap_or_default(),
    };
    if places.len() != sources.len() || places.is_empty() {
        return Ok(None);
    }
    let asked = sources.iter().zip(&places).filter_map(|(source, place)| {
        let place = (*place)?;
        Some(async move { Ok(now(&inner.server, source, reading).await? >= place) })
    });
    for answer in join_all(asked).await {
        match answer {
            Ok(true) => {}
            Ok(false) | Err(Failure { kind: FailureKind::NotFound, .. }) => return Ok(None),
            Err(failure) => return Err(failure),
        }
    }
    let starts = sources.iter().cloned().zip(places);
    Ok(Some(starts.map(|(source, at)| Start::after(source, at)).collect()))
}

/// What opens a listing, the first time.
fn first(begun: &mut bool) -> Option<WatchEvent> {
    (!std::mem::replace(begun, true)).then_some(WatchEvent::Begin)
}

/// Whether the server does not know streamed listings, or has an etcd that is too old for them.
fn cannot_stream(failure: &Failure) -> bool {
    failure.kind == FailureKind::Invalid || failure.reason.contains("RequestWatchProgress")
}

/// Starts to list a source: with `stream` as a stream if the server can, else in pages.
async fn open(
    inner: &Inner,
    reading: &Reading,
    source: &Source,
    stream: bool,
) -> Result<Current, Failure> {
    if stream {
        let path = format!(
            "{}?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan\
             &allowWatchBookmarks=true&timeoutSeconds=600{}",
            source.collection(reading.group),
            source.selector()
        );
        match inner.server.lines(&path).await {
            Ok(lines) => return Ok(Current::Streamed(lines)),
            Err(failure) if cannot_stream(&failure) => {
                inner.streams.store(false, Ordering::Relaxed);
            }
            Err(failure) if failure.kind == FailureKind::NotFound => {}
            Err(failure) => return Err(failure),
        }
    }
    Ok(Current::Pages(Pages::new(source.clone())))
}
