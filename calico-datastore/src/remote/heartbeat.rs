//! Noticing that the other side says nothing any more.
//!
//! A process that is stopped, or whose host has gone, closes no connection. A server therefore
//! says something every few seconds, and a client takes one that does not for gone.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Instant, sleep_until};

/// A server that had nothing to say for this long says that it is there.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(3);

/// One that said nothing for this long is not.
pub(super) const SILENCE: Duration = Duration::from_secs(10);

/// When something was heard. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Heard(Arc<Mutex<Instant>>);

impl Heard {
    pub(super) fn now() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    fn note(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Done when nothing was heard for [`SILENCE`].
    pub(super) async fn silence(&self) -> io::Error {
        loop {
            let end = *self.0.lock().unwrap_or_else(PoisonError::into_inner) + SILENCE;
            if end <= Instant::now() {
                let what = format!("the server was silent for {} s", SILENCE.as_secs());
                return io::Error::new(io::ErrorKind::TimedOut, what);
            }
            sleep_until(end).await;
        }
    }
}

/// Notes every byte that comes: a large message may take long.
#[derive(Debug)]
pub(super) struct Ear<R> {
    pub(super) reader: R,
    pub(super) heard: Heard,
}

impl<R: AsyncRead + Unpin> AsyncRead for Ear<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.reader).poll_read(context, buffer);
        if read.is_ready() {
            self.heard.note();
        }
        read
    }
}
