//! The thread that owns the log: it checks writes, appends them, and only then shows them.

use std::sync::Arc;
use std::thread::{self, JoinHandle};

use calico_core::datastore::{Revision, StoreError, Write, WriteFailed};
use calico_core::key::Scope;
use calico_core::memory::{Prepared, WatchHub};
use tokio::sync::{mpsc, oneshot};

use super::file::{AppendError, Log};
use super::format::{MAX_PATH, MAX_VALUE};

/// Callers that may share one sync.
const GROUP: usize = 256;

type Reply = Result<Vec<Revision>, WriteFailed>;

/// One call of `write`.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) writes: Vec<Write>,
    pub(super) reply: oneshot::Sender<Reply>,
}

/// Starts the writer; it ends when the other end of `queue` is dropped.
pub(super) fn spawn(
    log: Log,
    hub: Arc<WatchHub>,
    queue: mpsc::Receiver<Job>,
) -> Result<JoinHandle<()>, StoreError> {
    thread::Builder::new()
        .name("calico-store".to_owned())
        .spawn(move || Writer { log, hub, broken: None }.run(queue))
        .map_err(|error| StoreError::Unavailable {
            reason: format!("cannot start the thread that writes the store: {error}"),
        })
}

struct Writer {
    log: Log,
    hub: Arc<WatchHub>,
    /// Why nothing may be written any more.
    broken: Option<StoreError>,
}

impl Writer {
    fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        while let Some(first) = queue.blocking_recv() {
            let mut group = vec![first];
            while group.len() < GROUP
                && let Ok(next) = queue.try_recv()
            {
                group.push(next);
            }
            self.write(group);
            if self.broken.is_none() && self.log.is_compaction_due() {
                self.compact();
            }
        }
    }

    fn write(&mut self, group: Vec<Job>) {
        let mut prepared = Prepared::default();
        let mut replies = Vec::with_capacity(group.len());
        self.hub.read(|table| {
            for Job { writes, reply } in group {
                let (writes, refused) = split_at_refused(writes);
                let result = match (table.prepare(writes, &mut prepared), refused) {
                    (Ok(done), Some(error)) => Err(WriteFailed { done, error }),
                    (result, _) => result,
                };
                replies.push((reply, result));
            }
        });
        let stored = match &self.broken {
            Some(error) => Err(error.clone()),
            None if prepared.changes().is_empty() => Ok(()),
            None => self.append(&prepared),
        };
        match stored {
            Ok(()) => {
                self.hub.change(|table| table.commit(prepared));
                for (reply, result) in replies {
                    // A caller that went away does not want to know.
                    let _ = reply.send(result);
                }
            }
            // A refusal may rest on a change that did not happen: nobody is told of it.
            Err(error) => {
                for (reply, _) in replies {
                    let _ = reply.send(Err(error.clone().into()));
                }
            }
        }
    }

    fn append(&mut self, prepared: &Prepared) -> Result<(), StoreError> {
        self.log.append(prepared.changes()).map_err(|error| self.failed("write to", error))
    }

    fn compact(&mut self) {
        let listing = self.hub.read(|table| table.list(&Scope::All));
        if let Err(error) = self.log.compact(&listing) {
            let error = self.failed("compact", error);
            tracing::error!(%error, "the store was not compacted");
        }
    }

    fn failed(&mut self, verb: &str, error: AppendError) -> StoreError {
        let path = self.log.path().display();
        match error {
            AppendError::Refused(error) => StoreError::Unavailable {
                reason: format!("cannot {verb} {path}: {error}; free some space or check the disk"),
            },
            AppendError::Broken(error) => {
                let error = StoreError::Unavailable {
                    reason: format!(
                        "cannot {verb} {path}: {error}; nothing more is written, as what the disk \
                         holds is uncertain. Check the disk, then start this program again"
                    ),
                };
                tracing::error!(%error, "the store takes no more writes");
                self.broken = Some(error.clone());
                error
            }
        }
    }
}

/// The writes before the first that does not fit into a record, and why that one is refused.
fn split_at_refused(mut writes: Vec<Write>) -> (Vec<Write>, Option<StoreError>) {
    let refusal = |write: &Write| {
        let value = write.value.as_ref().map_or(0, |value| value.len());
        if value > MAX_VALUE {
            let reason = format!("{value} bytes; at most {MAX_VALUE} can be stored");
            return Some(StoreError::bad_object(&write.key, &reason));
        }
        let path = write.key.to_string().len();
        (path > MAX_PATH).then(|| {
            let reason = format!("its name has {path} bytes; at most {MAX_PATH} can be stored");
            StoreError::bad_object(&write.key, &reason)
        })
    };
    let found = writes.iter().enumerate().find_map(|(at, write)| Some((at, refusal(write)?)));
    match found {
        Some((at, error)) => {
            writes.truncate(at);
            (writes, Some(error))
        }
        None => (writes, None),
    }
}
