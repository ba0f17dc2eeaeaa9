use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use futures_core::Stream;

use super::{WatchEvent, WatchStream};

/// As [`WatchStream`], of events that whoever follows the same store may share.
pub type SharedWatchStream = Pin<Box<dyn Stream<Item = SharedEvent> + Send>>;

/// An event that many are told of. Clones are one event; its JSON is written once for all of them,
/// when the first asks for it.
#[derive(Clone)]
pub struct SharedEvent(Arc<Inner>);

struct Inner {
    event: WatchEvent,
    json: OnceLock<Box<str>>,
}

impl SharedEvent {
    /// Shares `event`.
    #[must_use]
    pub fn new(event: WatchEvent) -> Self {
        Self(Arc::new(Inner { event, json: OnceLock::new() }))
    }

    /// The event.
    #[must_use]
    pub fn event(&self) -> &WatchEvent {
        &self.0.event
    }

    /// The event as JSON.
    #[must_use]
    pub fn json(&self) -> &str {
        self.0.json.get_or_init(|| {
            // Cannot fail: an event has text keys only, and memory takes every write.
            serde_json::to_string(&self.0.event).unwrap_or_default().into()
        })
    }

    /// Whether somebody has asked for the JSON.
    #[must_use]
    pub fn is_written(&self) -> bool {
        self.0.json.get().is_some()
    }

    /// The event, without a copy if nobody shares it.
    #[must_use]
    pub fn into_event(self) -> WatchEvent {
        match Arc::try_unwrap(self.0) {
            Ok(inner) => inner.event,
            Err(shared) => shared.event.clone(),
        }
    }
}

impl fmt::Debug for SharedEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.event.fmt(f)
    }
}

/// Events of a store that shares none.
pub(super) struct Unshared(pub(super) WatchStream);

impl Stream for Unshared {
    type Item = SharedEvent;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<SharedEvent>> {
        self.0.as_mut().poll_next(context).map(|event| event.map(SharedEvent::new))
    }
}
