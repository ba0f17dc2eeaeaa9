//! The server side of the control service.

use std::io;
use std::time::Duration;

use calico_core::dataplane::VerdictEvent;
use calico_datastore::remote::Listen;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::broadcast;
use tracing::{debug, warn};

use super::{Reply, Request, Status};
use crate::progress::{Progress, Watcher};
use crate::router::RouterView;

/// Longest request, in bytes.
const MAX_REQUEST: u64 = 64 * 1024;

/// A client that does not take an answer for so long is dropped.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// What the service tells from.
#[derive(Debug, Clone)]
pub struct Control {
    /// Name of this node.
    pub node: String,
    /// How far the agent is.
    pub progress: Watcher,
    /// The BGP speaker.
    pub bgp: RouterView,
    /// Verdicts of the dataplane.
    pub verdicts: broadcast::Sender<VerdictEvent>,
}

impl Control {
    /// Serves clients of `listener` until the future is dropped.
    pub async fn serve(self, mut listener: impl Listen<Io = UnixStream>) {
        loop {
            match listener.accept().await {
                Ok(stream) => {
                    let control = self.clone();
                    tokio::spawn(async move {
                        if let Err(error) = control.client(stream).await {
                            debug!(%error, "control client left");
                        }
                    });
                }
                Err(error) => {
                    warn!(%error, "cannot accept a control client");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn client(&self, stream: UnixStream) -> io::Result<()> {
        let (read, mut write) = stream.into_split();
        let mut lines = BufReader::new(read);
        loop {
            let mut line = String::new();
            let read = (&mut lines).take(MAX_REQUEST).read_line(&mut line).await?;
            if read == 0 {
                return Ok(());
            }
            if let Ok(request) = serde_json::from_str::<calico_control::Request>(&line) {
                self.about_bgp(&request, &mut write).await?;
                continue;
            }
            match serde_json::from_str(&line) {
                Ok(Request::Status) => {
                    send(&mut write, &Reply::Status(Box::new(self.status().await))).await?;
                }
                Ok(Request::Verdicts) => return self.follow(&mut write).await,
                Err(error) => {
                    let reason = format!("not a request: {error}");
                    send(&mut write, &Reply::Error { reason }).await?;
                    return Ok(());
                }
            }
        }
    }

    async fn about_bgp(
        &self,
        request: &calico_control::Request,
        write: &mut (impl AsyncWriteExt + Unpin),
    ) -> io::Result<()> {
        match self.bgp.questions() {
            Some(bgp) => bgp.answer(request, write).await,
            None => {
                let reason = "this node runs no BGP (yet)".to_owned();
                send(write, &Reply::Error { reason }).await
            }
        }
    }

    async fn follow(&self, write: &mut (impl AsyncWriteExt + Unpin)) -> io::Result<()> {
        let mut verdicts = self.verdicts.subscribe();
        send(write, &Reply::Listening).await?;
        loop {
            match verdicts.recv().await {
                Ok(event) => send(write, &Reply::Verdict(event)).await?,
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    let reason = format!("{missed} verdicts were lost: they came too fast");
                    send(write, &Reply::Error { reason }).await?;
                }
                Err(broadcast::error::RecvError::Closed) => return Ok(()),
            }
        }
    }

    async fn status(&self) -> Status {
        let bgp = self.bgp.status().await;
        let progress = self.progress.now();
        let waiting_for = waiting_for(&progress);
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: self.node.clone(),
            ready: waiting_for.is_empty(),
            waiting_for,
            revision: progress.dataplane,
            endpoints: progress
                .endpoints
                .into_iter()
                .map(|(id, status)| (id.to_string(), status))
                .collect(),
            bgp,
        }
    }
}

fn waiting_for(progress: &Progress) -> Vec<String> {
    let mut reasons = Vec::new();
    if !progress.listed {
        reasons.push("the datastore to be listed".to_owned());
    } else if !progress.programmed {
        reasons.push("the kernel to be programmed".to_owned());
    }
    if let Some(error) = &progress.store_error {
        reasons.push(format!("the datastore to answer ({error})"));
    }
    if let Some(error) = &progress.dataplane_error {
        reasons.push(format!("the dataplane to follow ({error})"));
    }
    reasons
}

async fn send(write: &mut (impl AsyncWriteExt + Unpin), reply: &Reply) -> io::Result<()> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    tokio::time::timeout(WRITE_TIMEOUT, write.write_all(&line)).await.map_err(io::Error::from)?
}

#[cfg(test)]
mod tests {
    use tokio::sync::watch;

    use super::*;

    async fn ask(request: &str) -> String {
        let (sender, receiver) = watch::channel(Progress::default());
        let control = Control {
            node: "n1".into(),
            progress: Watcher::new(receiver),
            bgp: RouterView::default(),
            verdicts: broadcast::Sender::new(4),
        };
        let (client, server) = UnixStream::pair().unwrap();
        let served = tokio::spawn(async move { control.client(server).await });
        let (read, mut write) = client.into_split();
        write.write_all(request.as_bytes()).await.unwrap();
        let mut line = String::new();
        BufReader::new(read).read_line(&mut line).await.unwrap();
        drop((write, sender));
        served.await.unwrap().unwrap();
        line
    }

    #[tokio::test]
    async fn a_fresh_agent_says_what_it_waits_for() {
        let reply = ask("{\"ask\":\"status\"}\n").await;
        let Reply::Status(status) = serde_json::from_str(&reply).unwrap() else {
            panic!("{reply}")
        };
        assert_eq!((status.node.as_str(), status.ready), ("n1", false));
        assert_eq!(status.waiting_for, ["the datastore to be listed"]);
    }

    #[tokio::test]
    async fn questions_about_bgp_are_answered_too() {
        let reply = ask("{\"ask\":\"bgp-peers\"}\n").await;
        assert!(reply.contains("runs no BGP"), "{reply}");
    }

    #[tokio::test]
    async fn garbage_is_answered_with_the_reason() {
        let reply = ask("garbage\n").await;
        assert!(reply.contains("not a request"), "{reply}");
    }
}
