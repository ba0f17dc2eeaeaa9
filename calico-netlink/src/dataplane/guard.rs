//! Notices that another program changed our table, and repairs it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use super::linux::Inner;
use crate::nft::Monitor;

/// After a failure, and the share of time that reading may take: a program that changes other
/// tables all the time makes us read ours, but not all the time.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);
const READING_SHARE: u32 = 10;
/// Commits come in bursts; one look serves all of them.
const GATHER: Duration = Duration::from_millis(10);

/// A task that compares generations after every commit that the kernel tells of, and every
/// `interval` whatever it tells: one short request, and nothing more as long as nobody but us
/// commits. Ends with this value.
#[derive(Debug)]
pub(super) struct Guard(JoinHandle<()>);

impl Guard {
    pub(super) fn start(inner: Arc<Mutex<Inner>>, monitor: Monitor, interval: Duration) -> Self {
        Self(tokio::spawn(watch(inner, monitor, interval)))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn watch(inner: Arc<Mutex<Inner>>, mut monitor: Monitor, interval: Duration) {
    loop {
        if let Ok(Err(error)) = tokio::time::timeout(interval, monitor.changed()).await {
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
