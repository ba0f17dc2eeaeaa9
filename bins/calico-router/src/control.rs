//! A control socket for questions about BGP.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use calico_control::{Reply, Request};
use calico_datastore::remote::Listen;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, watch};
use tracing::{debug, warn};

use crate::BgpView;
use crate::answer::send;

/// Longest question, in bytes.
const MAX_REQUEST: u64 = 64 * 1024;
/// Clients at a time; more wait.
const CLIENTS: usize = 16;
/// A client that asks nothing for so long is dropped.
const IDLE: Duration = Duration::from_secs(60);

/// Answers clients of `listener` from the latest `view` until the future is dropped.
pub async fn serve(
    mut listener: impl Listen<Io = UnixStream>,
    view: watch::Receiver<Option<BgpView>>,
) {
    let places = Arc::new(Semaphore::new(CLIENTS));
    loop {
        // It is never closed.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok(stream) => {
                let view = view.clone();
                tokio::spawn(async move {
                    if let Err(error) = client(stream, view).await {
                        debug!(%error, "control client left");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                warn!(%error, "cannot accept a control client");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn client(stream: UnixStream, view: watch::Receiver<Option<BgpView>>) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read);
    loop {
        let mut line = String::new();
        let mut bounded = (&mut lines).take(MAX_REQUEST);
        let read = tokio::time::timeout(IDLE, bounded.read_line(&mut line)).await;
        if read.map_err(io::Error::from)?? == 0 {
            return Ok(());
        }
        let request: Request = match serde_json::from_str(&line) {
            Ok(request) => request,
            Err(error) => {
                let reason = format!("not a question about BGP: {error}");
                return send(&mut write, &Reply::Error { reason }).await;
            }
        };
        let now = view.borrow().clone();
        match now {
            Some(view) => view.answer(&request, &mut write).await?,
            None => {
                let reason = "BGP does not run here (yet)".to_owned();
                send(&mut write, &Reply::Error { reason }).await?;
            }
        }
    }
}
