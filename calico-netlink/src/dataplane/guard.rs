//! Notices that another program changed our table, and repairs it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use super::linux::Inner;

/// After a failure, and the share of time that reading may take: a program that changes other
/// tables all the time makes us read ours, but not all the time.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);
const READING_SHARE: u32 = 10;

/// A task that compares generations every `interval`: one short request, and nothing more as
/// long as nobody but us commits. Ends with this value.
#[derive(Debug)]
pub(super) struct Guard(JoinHandle<()>);

impl Guard {
    pub(super) fn start(inner: Arc<Mutex<Inner>>, interval: Duration) -> Self {
        Self(tokio::spawn(watch(inner, interval)))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn watch(inner: Arc<Mutex<Inner>>, interval: Duration) {
    let mut pause = interval;
    loop {
        tokio::time::sleep(pause).await;
        let mut inner = inner.lock().await;
        let started = Instant::now();
        pause = match inner.repair_if_changed().await {
            Ok(drift) => {
                if !drift.is_empty() {
                    tracing::warn!(?drift, "another program changed our nftables: repaired");
                }
                interval.max(started.elapsed() * READING_SHARE)
            }
            Err(error) => {
                tracing::warn!(%error, "cannot see whether our nftables are as they should be");
                PAUSE_AFTER_FAILURE
            }
        };
    }
}
