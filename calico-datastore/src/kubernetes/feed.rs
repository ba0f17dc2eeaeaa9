//! The changes of one collection, without end.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::Duration;

use calico_core::datastore::Revision;
use tokio::time::{Instant, sleep, timeout};

use super::Inner;
use super::failure::{Failure, FailureKind};
use super::listing::Pages;
use super::reading::{Event, Reading};
use super::server::Lines;
use super::source::Source;

/// Pauses after failures grow from here to there.
const SHORTEST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(5);
/// How long the server is asked to keep a watch open. It sends bookmarks about every minute.
const OPEN: Duration = Duration::from_secs(300);
/// Without anything for this long after that, the connection is taken for dead.
const GRACE: Duration = Duration::from_secs(30);
/// Watches that end sooner than this are not opened again at once.
const SOON: Duration = Duration::from_secs(1);
/// How often a collection that the server does not have is looked for.
const ABSENT: Duration = Duration::from_secs(30);

/// A pause that grows, and differs from others': callers that were cut off together do not come
/// back together.
#[derive(Debug, Clone)]
pub(super) struct Pause {
    next: Duration,
    /// In 256ths.
    jitter: u32,
}

impl Pause {
    pub(super) fn new() -> Self {
        let jitter = (RandomState::new().hash_one(0) % 128) as u32;
        Self { next: SHORTEST, jitter }
    }

    pub(super) async fn wait(&mut self) {
        sleep(self.next + self.next * self.jitter / 256).await;
        self.next = (self.next * 2).min(LONGEST);
    }
}

/// Where to start.
pub(super) struct Start {
    source: Source,
    /// After this; `None` if the server does not have the collection.
    pub(super) at: Option<Revision>,
    lines: Option<Lines>,
}

impl Start {
    pub(super) const fn after(source: Source, at: Option<Revision>) -> Self {
        Self { source, at, lines: None }
    }

    /// With the connection on which the objects came.
    pub(super) const fn streamed(source: Source, at: Revision, lines: Lines) -> Self {
        Self { source, at: Some(at), lines: Some(lines) }
    }
}

/// What a feed tells.
pub(super) enum Told {
    Event(Event),
    /// Something may have been missed.
    Gap,
    /// The server cannot be reached, or does not answer as it should.
    Down(String),
    /// It can again.
    Up,
}

/// The changes of one collection.
pub(super) struct Feed {
    inner: Arc<Inner>,
    reading: Reading,
    source: Source,
    at: Option<Revision>,
    lines: Option<Lines>,
    opened: Instant,
    down: bool,
    pause: Pause,
}

impl Feed {
    pub(super) fn new(inner: Arc<Inner>, reading: Reading, start: Start) -> Self {
        let Start { source, at, lines } = start;
        let (opened, pause) = (Instant::now(), Pause::new());
        Self { inner, reading, source, at, lines, opened, down: false, pause }
    }

    pub(super) async fn next(&mut self) -> Told {
        loop {
            match self.step().await {
                Ok(Some(told)) => return told,
                Ok(None) => {}
                Err(failure) if failure.kind == FailureKind::Expired => return Told::Gap,
                Err(failure) => {
                    self.lines = None;
                    if !std::mem::replace(&mut self.down, true) {
                        return Told::Down(failure.into_error().to_string());
                    }
                    self.pause.wait().await;
                }
            }
        }
    }

    async fn step(&mut self) -> Result<Option<Told>, Failure> {
        let Some(at) = self.at else { return self.look_for().await.map(Some) };
        let Some(lines) = &mut self.lines else {
            let path = format!(
                "{}?watch=true&resourceVersion={at}&allowWatchBookmarks=true&timeoutSeconds={}{}",
                self.source.collection(self.reading.group),
                OPEN.as_secs(),
                self.source.selector()
            );
            self.lines = Some(self.inner.server.lines(&path).await?);
            self.opened = Instant::now();
            return Ok(std::mem::replace(&mut self.down, false).then(|| {
                self.pause = Pause::new();
                Told::Up
            }));
        };
        match timeout(OPEN + GRACE, lines.next()).await {
            Ok(Ok(Some(line))) => {
                let event = self.source.event(&line, &self.reading);
                let event = event.map_err(|e| Failure::new(FailureKind::Lost, e))?;
                match &event {
                    Event::Written { at, .. } | Event::Deleted { at, .. } => self.at = Some(*at),
                    Event::Bookmark { at, .. } => self.at = Some(*at),
                    Event::Error(failure) => return Err(failure.clone()),
                }
                Ok(Some(Told::Event(event)))
            }
            // The time for which it was asked is over, or the server goes away. If it has not
            // gone on in the meantime, opening the next one tells.
            Ok(Ok(None) | Err(_)) => {
                self.lines = None;
                if self.opened.elapsed() < SOON {
                    self.pause.wait().await;
                } else {
                    self.pause = Pause::new();
                }
                Ok(None)
            }
            Err(_) => {
                self.lines = None;
                Ok(None)
            }
        }
    }

    /// Waits for a collection that the server does not have; then everything is listed anew.
    async fn look_for(&mut self) -> Result<Told, Failure> {
        loop {
            sleep(ABSENT).await;
            let mut pages = Pages::new(self.source.clone());
            if pages.next(&self.inner.server, &self.reading).await?.is_some() {
                return Ok(Told::Gap);
            }
        }
    }
}
