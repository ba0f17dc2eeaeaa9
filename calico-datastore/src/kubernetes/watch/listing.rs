//! Listing, one source after the other.

use std::sync::atomic::Ordering;
use std::time::Duration;

use calico_core::datastore::WatchEvent;
use futures_util::future::join_all;
use tokio::time::timeout;

use super::super::Inner;
use super::super::failure::{Failure, FailureKind};
use super::super::feed::Start;
use super::super::listing::{Pages, now};
use super::super::reading::{Event, Reading};
use super::super::server::Lines;
use super::super::source::Source;
use super::{State, Watch};

/// Listings in a row that broke off, after which one is asked for in pages: they need less of server
/// and etcd than streams do, and what stops a stream need not say so.
const BROKEN: u32 = 2;

/// Times that a busy server is asked again before the caller is told.
const WAITS: u32 = 50;

/// How long a server may take for the next object of a streamed listing.
const PATIENCE: Duration = Duration::from_secs(10);

/// A listing under way: of one source after the other.
pub(super) struct Listing {
    pub(super) reading: Reading,
    /// Those that are still to be listed, the next one last.
    pub(super) left: Vec<Source>,
    pub(super) current: Option<(Source, Current)>,
    pub(super) done: Vec<Start>,
    pub(super) begun: bool,
}

pub(super) enum Current {
    Pages(Pages),
    /// Objects come as events, and the changes after them on the same connection.
    Streamed(Lines),
}

impl Watch {
    pub(super) async fn list(&mut self) -> Result<(), Failure> {
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
