//! Notices that another program changed our table, and repairs it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, Notify};
use tokio::task::JoinHandle;

use super::linux::Inner;
use crate::nft::{Error, Monitor, Quiet};

/// After a failure, and the share of time that reading may take: a program that changes other
/// tables all the time makes us read ours, but not all the time.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);
const READING_SHARE: u32 = 10;
/// Commits come in bursts; one look serves all of them.
const GATHER: Duration = Duration::from_millis(10);

/// The kernel tells of each message of a commit. From this many on nobody listens to our own.
const MANY: usize = 64;

/// The ear of the guard, and how to wake it.
#[derive(Debug, Clone)]
pub(super) struct Ear {
    monitor: Arc<Monitor>,
    wake: Arc<Notify>,
}

/// While it lives, nothing is told of commits; afterwards the guard looks.
#[derive(Debug)]
pub(super) struct Deaf<'a> {
    wake: &'a Notify,
    _quiet: Quiet<'a>,
}

impl Ear {
    pub(super) fn open() -> Result<Self, Error> {
        Ok(Self { monitor: Arc::new(Monitor::open()?), wake: Arc::default() })
    }

    /// Spares the kernel to tell of a commit of our own, if it is large.
    pub(super) fn close(&self, messages: usize) -> Option<Deaf<'_>> {
        (messages >= MANY).then(|| Deaf { wake: &self.wake, _quiet: self.monitor.quiet() })
    }
}

impl Drop for Deaf<'_> {
    fn drop(&mut self) {
        // The guard waits for the dataplane's lock, which whoever commits holds, so that it looks
        // after the ear is open again.
        self.wake.notify_one();
    }
}

/// A task that compares generations after every commit that the kernel tells of, and every
/// `interval` whatever it tells: one short request, and nothing more as long as nobody but us
/// commits. Ends with this value.
#[derive(Debug)]
pub(super) struct Guard(JoinHandle<()>);

impl Guard {
    pub(super) fn start(inner: Arc<Mutex<Inner>>, ear: Ear, interval: Duration) -> Self {
        Self(tokio::spawn(watch(inner, ear, interval)))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn watch(inner: Arc<Mutex<Inner>>, ear: Ear, interval: Duration) {
    loop {
        let told = tokio::select! {
            told = ear.monitor.changed() => told,
            () = ear.wake.notified() => Ok(()),
            () = tokio::time::sleep(interval) => Ok(()),
        };
        if let Err(error) = told {
            tracing::warn!(%error, "changes of our nftables are noticed late");
            tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
        }
        let mut guarded = inner.lock().await;
        let started = Instant::now();
        let pause = match guarded.repair_if_changed().await {
            Ok(drift) => {
                if !drift.is_empty() {
                    tracing::warn!(?drift, "another program changed our nftables: repaired");
                }
                started.elapsed() * READING_SHARE
            }
            Err(error) => {
                tracing::warn!(%error, "cannot see whether our nftables are as they should be");
                PAUSE_AFTER_FAILURE
            }
        };
        drop(guarded);
        tokio::time::sleep(pause.max(GATHER)).await;
    }
}
