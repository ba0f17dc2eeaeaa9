//! What the datastore says, read.
//!
//! A listing is read by a task of its own, while the agent's loop takes in what came before: in a
//! large cluster the two are as much work. What is read ahead is bounded, so that a slow loop keeps
//! the datastore waiting. A single change is read by the loop itself, as handing it over would take
//! longer.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use calico_core::datastore::{Entry, StoreError, WatchEvent, WatchStream};
use calico_core::key::Key;
use calico_core::resource::{AllocationBlock, FieldError};
use calico_policy::Object;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tracing::warn;

use crate::doubts;

/// Objects handed over at once, at most: fewer if no more are there yet.
const BATCH: usize = 64;

/// Bytes of JSON handed over at once; more only if the last object is that large.
const BATCH_BYTES: usize = 128 << 10;

/// Batches that are read ahead.
const AHEAD: usize = 8;

/// One thing that the datastore says.
#[derive(Debug)]
pub enum News {
    /// An object is so.
    Object(Stored),
    /// Anything else.
    Event(WatchEvent),
}

/// An object of the datastore.
#[derive(Debug)]
pub struct Stored {
    /// As it is stored.
    pub entry: Entry,
    /// Whether it is part of a listing, not a change.
    pub listed: bool,
    /// What it says.
    pub read: Result<Read, StoreError>,
}

/// What an object says, as far as it is read ahead: a large cluster has few of other kinds.
#[derive(Debug)]
pub enum Read {
    /// Something that policy depends on, and what there is to doubt about it.
    Object(Object, Vec<FieldError>),
    /// A block of addresses.
    Block(Box<AllocationBlock>),
    /// Not read.
    Other,
}

impl News {
    /// Reads what `event` says to `node`.
    #[must_use]
    pub fn read(node: &str, event: WatchEvent) -> Self {
        let (entry, listed) = match event {
            WatchEvent::Item(entry) => (entry, true),
            WatchEvent::Put(entry) => (entry, false),
            event => return Self::Event(event),
        };
        let read = Read::of(node, &entry);
        Self::Object(Stored { entry, listed, read })
    }

    fn size(&self) -> usize {
        match self {
            Self::Object(stored) => stored.entry.value.len(),
            Self::Event(_) => 0,
        }
    }

    /// Whether a listing is complete with it.
    const fn is_ready(&self) -> bool {
        matches!(self, Self::Event(WatchEvent::Ready(_)))
    }
}

impl Read {
    fn of(node: &str, entry: &Entry) -> Result<Self, StoreError> {
        if let Key::Block(_) = &entry.key {
            return entry.decode().map(|block| Self::Block(Box::new(block)));
        }
        Ok(match Object::decode_for(node, entry)? {
            Some(object) => {
                let doubts = doubts::of(entry, &object);
                Self::Object(object, doubts)
            }
            None => Self::Other,
        })
    }
}

/// A watch of the datastore, as a node reads it.
#[derive(Debug)]
pub struct Source {
    node: Arc<str>,
    state: State,
}

enum State {
    /// Changes come one by one.
    Live(WatchStream),
    /// A listing is under way.
    Listing { batches: mpsc::Receiver<Vec<News>>, taken: std::vec::IntoIter<News>, reader: Reader },
    /// There is nothing more to come.
    Over,
}

impl Source {
    /// Reads what `watch` says to `node`.
    #[must_use]
    pub fn new(node: &str, watch: WatchStream) -> Self {
        Self { node: node.into(), state: State::Live(watch) }
    }

    /// What the datastore says next; `None` if it was closed. A call that is given up loses nothing.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub async fn next(&mut self) -> Option<News> {
        loop {
            match &mut self.state {
                State::Live(watch) => {
                    let Some(event) = watch.next().await else {
                        self.state = State::Over;
                        return None;
                    };
                    if event == WatchEvent::Begin {
                        self.read_ahead();
                    }
                    return Some(News::read(&self.node, event));
                }
                State::Listing { batches, taken, reader } => {
                    if let Some(news) = taken.next() {
                        return Some(news);
                    }
                    match batches.recv().await {
                        Some(batch) => *taken = batch.into_iter(),
                        None => self.state = reader.end().await.map_or(State::Over, State::Live),
                    }
                }
                State::Over => return None,
            }
        }
    }

    fn read_ahead(&mut self) {
        let State::Live(watch) = std::mem::replace(&mut self.state, State::Over) else { return };
        let (sender, batches) = mpsc::channel(AHEAD);
        let reader = Reader(tokio::spawn(read(Arc::clone(&self.node), watch, sender)));
        self.state = State::Listing { batches, taken: Vec::new().into_iter(), reader };
    }
}

/// Reads until a listing is complete, and gives the watch back; `None` if nobody listens any more or
/// the watch is over.
async fn read(
    node: Arc<str>,
    mut watch: WatchStream,
    batches: mpsc::Sender<Vec<News>>,
) -> Option<WatchStream> {
    loop {
        let mut next = Some(watch.next().await);
        let mut batch = Vec::with_capacity(BATCH);
        let (mut size, mut is_over) = (0, false);
        while let Some(event) = next.take() {
            let Some(event) = event else {
                is_over = true;
                break;
            };
            let news = News::read(&node, event);
            size += news.size();
            let is_ready = news.is_ready();
            batch.push(news);
            if is_ready {
                batches.send(batch).await.ok()?;
                return Some(watch);
            }
            if batch.len() < BATCH && size < BATCH_BYTES {
                next = watch.next().now_or_never();
            }
        }
        batches.send(batch).await.ok()?;
        if is_over {
            return None;
        }
    }
}

/// The task that reads ahead. Dropping it ends it.
struct Reader(JoinHandle<Option<WatchStream>>);

impl Reader {
    /// The watch, once the task has given it back.
    async fn end(&mut self) -> Option<WatchStream> {
        (&mut self.0).await.unwrap_or_else(|error| {
            warn!(%error, "reading the datastore's listing failed");
            None
        })
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Live(_) => "Live",
            Self::Listing { .. } => "Listing",
            Self::Over => "Over",
        })
    }
}
