//! What the store says, into the hub.

use std::collections::BTreeMap;
use std::sync::Arc;

use calico_core::Datastore;
use calico_core::datastore::{Entry, WatchEvent};
use calico_core::key::Scope;
use futures_util::{FutureExt, StreamExt};

use super::hub::{Hub, News};

/// Events handed on at a time.
const BATCH: usize = 256;

/// Follows the store until it is closed.
pub(super) async fn run(store: Arc<dyn Datastore>, hub: Arc<Hub>) {
    let mut watch = store.watch(Scope::All, None);
    let mut listing: Option<BTreeMap<Arc<str>, Entry>> = None;
    let mut bad = BTreeMap::new();
    while let Some(first) = watch.next().await {
        let mut news = Vec::new();
        let mut event = Some(first);
        while let Some(now) = event.take() {
            match now {
                WatchEvent::Begin => listing = Some(BTreeMap::new()),
                WatchEvent::Item(entry) => {
                    if let Some(listing) = &mut listing {
                        listing.insert(entry.key.to_string().into(), entry);
                    }
                }
                WatchEvent::Ready(revision) => {
                    let listed = listing.take().unwrap_or_default();
                    tracing::info!(objects = listed.len(), %revision, "listed the store");
                    news.push(News::Listed(listed, revision));
                }
                WatchEvent::Put(entry) => news.push(News::Put(entry)),
                WatchEvent::Gone { key, revision } => news.push(News::Gone(key, revision)),
                WatchEvent::Bad { path, reason } => {
                    if bad.insert(path.clone(), reason.clone()).as_ref() != Some(&reason) {
                        tracing::warn!(path, reason, "an object in the store is left out");
                    }
                    news.push(News::Bad { path, reason });
                }
                WatchEvent::Interrupted { reason } => {
                    tracing::warn!(
                        reason,
                        "the store does not answer; what it said last is served"
                    );
                    news.push(News::Interrupted(reason));
                }
                _ => {}
            }
            if news.len() < BATCH {
                event = watch.next().now_or_never().flatten();
            }
        }
        hub.take(news);
    }
    tracing::warn!("the store was closed");
    hub.close();
}
