//! A watch that outlives connections, restarts of the server, and what it forgets.

mod listing;
mod objects;

use std::collections::{HashSet, VecDeque};
use std::pin::Pin;
use std::sync::Arc;

use calico_core::datastore::{Entry, Revision, WatchEvent, WatchStream};
use calico_core::key::Scope;
use calico_core::resource::Profile;
use futures_util::future::join_all;
use futures_util::stream::{SelectAll, Stream, StreamExt as _, iter, unfold};

use self::listing::Listing;
use super::Inner;
use super::failure::{Failure, FailureKind};
use super::feed::{Feed, Pause, Start, Told};
use super::listing::now;
use super::reading::{Event, Reading};
use super::source::Source;
use super::trail::Walk;

/// Listings that are begun again at once; after more of them, with a pause.
const ANEW: u32 = 5;

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
