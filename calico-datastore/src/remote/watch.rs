//! A watch that outlives its connections.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use calico_core::datastore::{Revision, StoreError, WatchEvent, WatchStream};
use calico_core::key::Scope;
use futures_util::stream::unfold;

use super::client::Shared;
use super::connection::{Call, CallError};
use super::wire::{Ask, Say, WINDOW};

/// First pause after a failure; it doubles up to [`LONGEST`].
const SHORTEST: Duration = Duration::from_millis(20);
const LONGEST: Duration = Duration::from_secs(2);

/// Follows `scope` after `at`: a revision, and the server that gave it (0: not known).
pub(super) fn stream(
    shared: Arc<Shared>,
    scope: Scope,
    at: Option<(u64, Revision)>,
) -> WatchStream {
    let watch = Watch {
        shared,
        scope,
        at,
        call: None,
        ready: VecDeque::new(),
        owed: 0,
        failed: false,
        pause: SHORTEST,
    };
    Box::pin(unfold(watch, async |mut watch| {
        let event = watch.next().await;
        Some((event, watch))
    }))
}

struct Watch {
    shared: Arc<Shared>,
    scope: Scope,
    /// Everything up to here was yielded; `None` if a listing is due.
    at: Option<(u64, Revision)>,
    call: Option<Call>,
    ready: VecDeque<WatchEvent>,
    /// Events taken from the server and not yet granted again.
    owed: u32,
    /// Whether the caller was told of an interruption that has not ended.
    failed: bool,
    /// How long to wait before connecting again.
    pause: Duration,
}

impl Watch {
    async fn next(&mut self) -> WatchEvent {
        loop {
            if let Some(event) = self.ready.pop_front() {
                self.note(&event);
                return event;
            }
            let result = match &mut self.call {
                Some(call) => match call.answer().await {
                    Ok(say) => self.take(say),
                    Err(error) => Err(self.shared.lost(error, "")),
                },
                None => {
                    if self.failed {
                        tokio::time::sleep(self.pause).await;
                        self.pause = (self.pause * 2).min(LONGEST);
                    }
                    self.connect().await
                }
            };
            if let Err(error) = result {
                let had_call = self.call.take().is_some();
                let known = std::mem::replace(&mut self.failed, true);
                if had_call || !known {
                    return WatchEvent::Interrupted { reason: error.to_string() };
                }
            }
        }
    }

    async fn connect(&mut self) -> Result<(), StoreError> {
        let connection = self.shared.connection().await?;
        // Another server's revisions may mean other things.
        self.at = self.at.filter(|(server, _)| *server == 0 || *server == connection.instance);
        let from = self.at.map(|(_, revision)| revision);
        let ask = Ask::Watch { scope: self.scope.clone(), from, credit: WINDOW };
        let call = connection.call(ask).await;
        self.call = Some(call.map_err(|error: CallError| self.shared.lost(error, ""))?);
        self.owed = 0;
        self.pause = SHORTEST;
        Ok(())
    }

    fn take(&mut self, say: Say) -> Result<(), StoreError> {
        match say {
            Say::Events(events) => {
                self.ready.extend(events);
                self.failed = false;
                Ok(())
            }
            Say::Failed(error) => Err(error),
            _ => Err(StoreError::Unavailable { reason: "the server ended the watch".to_owned() }),
        }
    }

    /// Accounts for an event that is handed to the caller.
    fn note(&mut self, event: &WatchEvent) {
        let Some(call) = &self.call else { return };
        let server = call.instance();
        match event {
            WatchEvent::Begin => self.at = None,
            WatchEvent::Ready(revision) | WatchEvent::Gone { revision, .. } => {
                self.at = Some((server, *revision));
            }
            WatchEvent::Put(entry) => self.at = Some((server, entry.revision)),
            _ => {}
        }
        self.owed += 1;
        if self.owed >= WINDOW / 2 {
            call.grant(self.owed);
            self.owed = 0;
        }
    }
}
