//! What the store says, into the hub.

use std::collections::BTreeMap;
use std::sync::Arc;

use calico_core::Datastore;
use calico_core::datastore::{Listing, WatchEvent};
use calico_core::key::Scope;
use calico_core::memory::{Change, WatchHub};
use futures_util::{FutureExt, StreamExt};
use tokio::sync::watch;

use super::State;

/// Events handed on at a time.
const BATCH: usize = 256;

/// Malformed objects that are remembered as reported.
const REPORTED: usize = 1_000;

/// What the feed says.
enum News {
    Listed(Listing),
    Change(Change),
    Bad { path: String, reason: String },
}

/// Follows the store until it is closed.
pub(super) async fn run(
    store: Arc<dyn Datastore>,
    hub: Arc<WatchHub>,
    state: Arc<watch::Sender<State>>,
) {
    let mut watch = store.watch(Scope::All, None);
    let mut feed = Feed::default();
    while let Some(first) = watch.next().await {
        let mut event = Some(first);
        while let Some(now) = event.take() {
            feed.hear(now);
            if feed.news.len() < BATCH {
                event = watch.next().now_or_never().flatten();
            }
        }
        feed.tell(&hub, &state);
    }
    tracing::warn!("the store was closed");
    hub.close();
    state.send_modify(|state| state.closed = true);
}

#[derive(Default)]
struct Feed {
    /// The listing that is under way.
    listing: Option<Listing>,
    /// Malformed objects, and what was said of them.
    bad: BTreeMap<String, String>,
    news: Vec<News>,
    trouble: Option<String>,
}

impl Feed {
    fn hear(&mut self, event: WatchEvent) {
        match event {
            WatchEvent::Begin => self.listing = Some(Listing::default()),
            WatchEvent::Item(entry) => {
                if let Some(listing) = &mut self.listing {
                    listing.entries.push(entry);
                }
            }
            WatchEvent::Ready(revision) => {
                let entries = self.listing.take().unwrap_or_default().entries;
                tracing::info!(objects = entries.len(), %revision, "listed the store");
                self.trouble = None;
                self.news.push(News::Listed(Listing { entries, revision }));
            }
            WatchEvent::Put(entry) => {
                self.trouble = None;
                let (key, value, revision) = (entry.key, Some(entry.value), entry.revision);
                self.news.push(News::Change(Change { key, value, revision }));
            }
            WatchEvent::Gone { key, revision } => {
                self.trouble = None;
                self.news.push(News::Change(Change { key, value: None, revision }));
            }
            WatchEvent::Bad { path, reason } => {
                if self.bad.len() >= REPORTED {
                    self.bad.clear();
                }
                if self.bad.insert(path.clone(), reason.clone()).as_ref() != Some(&reason) {
                    tracing::warn!(path, reason, "an object in the store is left out");
                }
                self.news.push(News::Bad { path, reason });
            }
            WatchEvent::Interrupted { reason } => {
                tracing::warn!(reason, "the store does not answer; what it said last is served");
                self.trouble = Some(reason);
            }
            _ => {}
        }
    }

    /// Hands on what was heard.
    fn tell(&mut self, hub: &WatchHub, state: &watch::Sender<State>) {
        let news = std::mem::take(&mut self.news);
        let is_listed = state.borrow().listed;
        let mut listed = is_listed;
        let updates = news.len() as u64;
        let revision = hub.change(|table| {
            for one in news {
                match one {
                    News::Change(change) => table.apply(change),
                    News::Bad { path, reason } => table.report(path, reason),
                    News::Listed(listing) => {
                        let revision = listing.revision;
                        table.replace(listing);
                        if !std::mem::replace(&mut listed, true) {
                            // What came before, nobody was told.
                            table.forget_history(revision);
                        }
                    }
                }
            }
            table.revision()
        });
        state.send_modify(|state| {
            (state.listed, state.revision) = (listed, revision);
            state.updates += updates;
            state.trouble.clone_from(&self.trouble);
        });
    }
}
