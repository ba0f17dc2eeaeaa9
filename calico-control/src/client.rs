//! Asking a program.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use calico_core::dataplane::EndpointId;
use ipnet::IpNet;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

use crate::{Explanation, NeighborRoute, Peers, Reply, Request, Route, Status, Verdicts};

/// Time for one answer or page.
const PATIENCE: Duration = Duration::from_secs(30);

/// Longest line, in bytes.
const MAX_LINE: u64 = 64 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AskError {
    /// Nobody can be reached at the socket.
    #[error("cannot reach {socket}: {}", advice(.source), socket = socket.display())]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The connection broke.
    #[error("{socket}: the program closed the connection; it has ended, or it answers only root \
        and the user that it runs as", socket = socket.display())]
    Broken {
        /// The socket.
        socket: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No answer came in time.
    #[error("{socket}: no answer within 30 s; the program is stuck or overloaded, see its log",
        socket = socket.display())]
    TimedOut {
        /// The socket.
        socket: PathBuf,
    },
    /// The answer is none of this protocol.
    #[error("{socket}: the answer cannot be understood ({reason}); use one release of both \
        programs", socket = socket.display())]
    Strange {
        /// The socket.
        socket: PathBuf,
        /// What was wrong with it.
        reason: String,
    },
    /// The program has no answer to this question.
    #[error("{0}")]
    Refused(String),
}

fn advice(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            "calico-agent or calico-rr does not run here, or serves another socket".to_owned()
        }
        io::ErrorKind::PermissionDenied => "permission denied; run as root".to_owned(),
        _ => error.to_string(),
    }
}

/// A connection to a program.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
    lines: BufReader<OwnedReadHalf>,
    /// What has come of the next line already.
    partial: Vec<u8>,
    write: OwnedWriteHalf,
}

impl Client {
    /// Connects to the control socket of a program.
    ///
    /// # Errors
    ///
    /// [`AskError::Connect`]
    pub async fn connect(socket: &Path) -> Result<Self, AskError> {
        let stream = UnixStream::connect(socket)
            .await
            .map_err(|source| AskError::Connect { socket: socket.to_owned(), source })?;
        let (read, write) = stream.into_split();
        let (socket, partial) = (socket.to_owned(), Vec::new());
        Ok(Self { socket, lines: BufReader::new(read), partial, write })
    }

    /// How the agent is.
    ///
    /// # Errors
    ///
    /// [`AskError`]
    pub async fn status(&mut self) -> Result<Status, AskError> {
        match self.ask(&Request::Status).await? {
            Reply::Status(status) => Ok(*status),
            other => Err(self.strange(&other)),
        }
    }

    /// Waits, without a limit, until the policy of an endpoint of the agent's node is in force as
    /// the datastore says at revision `written`. Tells `waiting` what is missing, as often as that
    /// changes.
    ///
    /// # Errors
    ///
    /// [`AskError`]
    pub async fn wait_programmed(
        &mut self,
        endpoint: &EndpointId,
        written: u64,
        mut waiting: impl FnMut(&str),
    ) -> Result<(), AskError> {
        let request = Request::EndpointWait { endpoint: endpoint.clone(), written };
        self.send(&request).await?;
        loop {
            match self.next_reply().await? {
                Reply::Waiting { reason } => waiting(&reason),
                Reply::Programmed => return Ok(()),
                other => return Err(self.strange(&other)),
            }
        }
    }

    /// Listens to what becomes of packets; with `recent`, what the agent remembers comes first.
    ///
    /// # Errors
    ///
    /// [`AskError`]
    pub async fn verdicts(mut self, recent: bool) -> Result<Verdicts, AskError> {
        self.send(&Request::Verdicts { recent }).await?;
        Ok(Verdicts::new(self))
    }

    /// The speaker and its peers.
    ///
    /// # Errors
    ///
    /// [`AskError`]
    pub async fn peers(&mut self) -> Result<Peers, AskError> {
        match self.ask(&Request::BgpPeers).await? {
            Reply::Peers(peers) => Ok(*peers),
            other => Err(self.strange(&other)),
        }
    }

    /// The destinations that [`Request::BgpRoutes`] asks for, sorted.
    ///
    /// # Errors
    ///
    /// [`AskError`]
    pub async fn routes(&mut self, request: &Request) -> Result<Vec<Route>, AskError> {
        let mut all = Vec::new();
        let mut reply = self.ask(request).await?;
        loop {
            match reply {
                Reply::Routes { routes } => all.extend(routes),
                Reply::End => break,
                other => return Err(self.strange(&other)),
            }
            reply = self.reply().await?;
        }
        all.sort_by_key(|route| route.prefix);
        Ok(all)
    }

    /// Everything about one destination.
    ///
    /// # Errors
    ///
    /// [`AskError`]
    pub async fn explain(&mut self, prefix: IpNet) -> Result<Explanation, AskError> {
        match self.ask(&Request::BgpExplain { prefix }).await? {
            Reply::Explanation(explanation) => Ok(*explanation),
            other => Err(self.strange(&other)),
        }
    }

    /// The routes that [`Request::BgpNeighbor`] asks for.
    ///
    /// # Errors
    ///
    /// [`AskError`]
    pub async fn neighbor(&mut self, request: &Request) -> Result<Vec<NeighborRoute>, AskError> {
        let mut all = Vec::new();
        let mut reply = self.ask(request).await?;
        loop {
            match reply {
                Reply::Neighbor(page) => all.extend(page.routes),
                Reply::End => return Ok(all),
                other => return Err(self.strange(&other)),
            }
            reply = self.reply().await?;
        }
    }

    async fn ask(&mut self, request: &Request) -> Result<Reply, AskError> {
        self.send(request).await?;
        self.reply().await
    }

    async fn send(&mut self, request: &Request) -> Result<(), AskError> {
        let mut line = serde_json::to_vec(request).map_err(|e| self.not_understood(&e))?;
        line.push(b'\n');
        match timeout(PATIENCE, self.write.write_all(&line)).await {
            Ok(written) => written.map_err(|source| self.broken(source)),
            Err(_elapsed) => Err(AskError::TimedOut { socket: self.socket.clone() }),
        }
    }

    /// The next reply, which has to come soon.
    pub(crate) async fn reply(&mut self) -> Result<Reply, AskError> {
        match timeout(PATIENCE, self.next_reply()).await {
            Ok(reply) => reply,
            Err(_elapsed) => Err(AskError::TimedOut { socket: self.socket.clone() }),
        }
    }

    /// The next reply, whenever it comes. Safe to drop: nothing is lost.
    pub(crate) async fn next_reply(&mut self) -> Result<Reply, AskError> {
        let room = MAX_LINE.saturating_sub(self.partial.len() as u64);
        let mut bounded = (&mut self.lines).take(room);
        let read = bounded.read_until(b'\n', &mut self.partial).await;
        read.map_err(|source| self.broken(source))?;
        let line = std::mem::take(&mut self.partial);
        if line.is_empty() {
            return Err(self.broken(io::Error::new(io::ErrorKind::UnexpectedEof, "it hung up")));
        }
        match serde_json::from_slice(&line) {
            Ok(Reply::Error { reason }) => Err(AskError::Refused(reason)),
            Ok(reply) => Ok(reply),
            Err(error) => Err(self.not_understood(&error)),
        }
    }

    fn broken(&self, source: io::Error) -> AskError {
        AskError::Broken { socket: self.socket.clone(), source }
    }

    fn not_understood(&self, error: &serde_json::Error) -> AskError {
        AskError::Strange { socket: self.socket.clone(), reason: error.to_string() }
    }

    pub(crate) fn strange(&self, reply: &Reply) -> AskError {
        let name = serde_json::to_value(reply).ok();
        let name = name.and_then(|value| value["reply"].as_str().map(str::to_owned));
        let reason = format!("an unexpected `{}`", name.unwrap_or_default());
        AskError::Strange { socket: self.socket.clone(), reason }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;
    use crate::Direction;

    /// Answers with these lines whatever is asked, and then hangs up.
    async fn asked(answer: &str) -> (tempfile::TempDir, Client, tokio::task::JoinHandle<String>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let answer = answer.to_owned();
        let server = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let (read, mut write) = stream.into_split();
            let mut line = String::new();
            BufReader::new(read).read_line(&mut line).await.unwrap();
            write.write_all(answer.as_bytes()).await.unwrap();
            line
        });
        (dir, Client::connect(&path).await.unwrap(), server)
    }

    #[tokio::test]
    async fn pages_are_put_together_and_sorted() {
        let page = |prefix: &str| {
            format!(
                "{{\"reply\":\"routes\",\"routes\":[{{\"prefix\":\"{prefix}\",\"paths\":[]}}]}}\n"
            )
        };
        let answer = page("10.2.0.0/16") + &page("10.1.0.0/16") + "{\"reply\":\"end\"}\n";
        let (_dir, mut client, server) = asked(&answer).await;
        let routes = client.routes(&Request::BgpRoutes { within: None }).await.unwrap();
        let prefixes: Vec<String> = routes.iter().map(|route| route.prefix.to_string()).collect();
        assert_eq!(prefixes, ["10.1.0.0/16", "10.2.0.0/16"]);
        assert_eq!(server.await.unwrap(), "{\"ask\":\"bgp-routes\",\"within\":null}\n");
    }

    #[tokio::test]
    async fn what_goes_wrong_is_told() {
        let (_dir, mut client, _server) =
            asked("{\"reply\":\"error\",\"reason\":\"no such peer\"}\n").await;
        let request = Request::BgpNeighbor {
            address: [10, 0, 0, 1].into(),
            port: None,
            direction: Direction::Advertised,
        };
        assert_eq!(client.neighbor(&request).await.unwrap_err().to_string(), "no such peer");
        for (answer, wanted) in
            [("", "only root"), ("garbage\n", "one release"), ("{\"reply\":\"end\"}\n", "`end`")]
        {
            let (_dir, mut client, _server) = asked(answer).await;
            let error = client.peers().await.unwrap_err().to_string();
            assert!(error.contains(wanted), "{answer}: {error}");
        }
        let error = Client::connect("/nonexistent/s".as_ref()).await.unwrap_err().to_string();
        assert!(error.contains("/nonexistent/s") && error.contains("does not run"), "{error}");
    }
}
