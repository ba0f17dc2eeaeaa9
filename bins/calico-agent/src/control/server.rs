//! The server side of the control service.

use std::io;
use std::time::Duration;

use calico_control::{Reply, Request, Status};
use calico_core::dataplane::EndpointId;
use calico_core::datastore::Revision;
use calico_datastore::remote::Listen;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::broadcast;
use tracing::{debug, warn};

use super::VerdictLog;
use crate::progress::Watcher;
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
    pub verdicts: VerdictLog,
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
            match serde_json::from_str(&line) {
                Ok(Request::Status) => {
                    send(&mut write, &Reply::Status(Box::new(self.status().await))).await?;
                }
                Ok(Request::Verdicts { recent }) => return self.follow(recent, &mut write).await,
                Ok(Request::EndpointWait { endpoint, written }) => {
                    self.wait(&endpoint, Revision(written), &mut lines, &mut write).await?;
                }
                Ok(request) => self.about_bgp(&request, &mut write).await?,
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
        request: &Request,
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

    async fn follow(
        &self,
        recent: bool,
        write: &mut (impl AsyncWriteExt + Unpin),
    ) -> io::Result<()> {
        let (remembered, mut live) = self.verdicts.follow();
        for verdict in remembered.into_iter().filter(|_| recent) {
            send(write, &Reply::Verdict(Box::new(verdict))).await?;
        }
        send(write, &Reply::Listening).await?;
        loop {
            match live.recv().await {
                Ok(verdict) => send(write, &Reply::Verdict(Box::new(verdict))).await?,
                Err(broadcast::error::RecvError::Lagged(count)) => {
                    send(write, &Reply::Missed { count }).await?;
                }
                Err(broadcast::error::RecvError::Closed) => return Ok(()),
            }
        }
    }

    /// Until the endpoint is programmed, or the client hangs up.
    async fn wait(
        &self,
        endpoint: &EndpointId,
        written: Revision,
        lines: &mut (impl AsyncBufReadExt + Unpin),
        write: &mut (impl AsyncWriteExt + Unpin),
    ) -> io::Result<()> {
        let mut progress = self.progress.clone();
        let mut told = None;
        loop {
            let missing = progress.look(|progress| progress.missing(endpoint, written));
            let Some(reason) = missing else {
                return send(write, &Reply::Programmed).await;
            };
            if told.as_ref() != Some(&reason) {
                send(write, &Reply::Waiting { reason: reason.clone() }).await?;
                told = Some(reason);
            }
            tokio::select! {
                changed = progress.changed() => if !changed {
                    let reason = "the agent is shutting down".to_owned();
                    return send(write, &Reply::Error { reason }).await;
                },
                // The next question, or the end: either way nobody waits any more.
                _ = lines.fill_buf() => return Ok(()),
            }
        }
    }

    async fn status(&self) -> Status {
        let bgp = self.bgp.status().await;
        let progress = self.progress.now();
        let waiting_for = progress.waiting_for();
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
            mistakes: progress.mistakes,
            bgp,
        }
    }
}

async fn send(write: &mut (impl AsyncWriteExt + Unpin), reply: &Reply) -> io::Result<()> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    tokio::time::timeout(WRITE_TIMEOUT, write.write_all(&line)).await.map_err(io::Error::from)?
}

#[cfg(test)]
mod tests {
    use calico_control::EndpointStatus;
    use tokio::sync::watch;

    use super::*;
    use crate::progress::Progress;

    fn control(progress: watch::Receiver<Progress>) -> Control {
        Control {
            node: "n1".into(),
            progress: Watcher::new(progress),
            bgp: RouterView::default(),
            verdicts: VerdictLog::default(),
        }
    }

    async fn ask(request: &str) -> String {
        let (sender, receiver) = watch::channel(Progress::default());
        let control = control(receiver);
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

    #[tokio::test]
    async fn a_wait_tells_what_is_missing_until_nothing_is() {
        let (progress, receiver) = watch::channel(Progress::default());
        let control = control(receiver);
        let (client, server) = UnixStream::pair().unwrap();
        let served = tokio::spawn(async move { control.client(server).await });
        let (read, mut write) = client.into_split();
        let id = EndpointId { namespace: "prod".into(), name: "web".into() };
        let question =
            serde_json::to_string(&Request::EndpointWait { endpoint: id.clone(), written: 7 });
        write.write_all((question.unwrap() + "\n").as_bytes()).await.unwrap();
        let mut lines = BufReader::new(read).lines();
        let mut reply = async || lines.next_line().await.unwrap().unwrap();
        assert!(reply().await.contains("the datastore to be listed"));
        progress.send_modify(|progress| {
            (progress.listed, progress.programmed) = (true, true);
            progress.store = Revision(6);
        });
        assert!(reply().await.contains("revision 6 of the datastore, not 7"));
        progress.send_modify(|progress| progress.store = Revision(8));
        assert!(reply().await.contains("knows no endpoint prod/web"));
        let status = EndpointStatus { programmed: false, error: Some("it is full".into()) };
        progress.send_modify(|progress| drop(progress.endpoints.insert(id.clone(), status)));
        assert!(reply().await.contains("it is full"));
        let status = EndpointStatus { programmed: true, error: None };
        progress.send_modify(|progress| drop(progress.endpoints.insert(id, status)));
        assert_eq!(reply().await, "{\"reply\":\"programmed\"}");
        drop((write, lines));
        served.await.unwrap().unwrap();
    }
}
