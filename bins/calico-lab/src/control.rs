//! Asking an agent, over its control socket: one JSON value per line each way.

use std::path::{Path, PathBuf};
use std::time::Duration;

use calico_core::dataplane::{VerdictCause, VerdictEvent};
use ipnet::IpNet;
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{Instant, timeout, timeout_at};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the lab reads of an agent's status.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    /// Whether the datastore was listed, and the kernel is as the datastore says.
    pub ready: bool,
    /// What is missing for that.
    pub waiting_for: Vec<String>,
    /// BGP, if the agent runs it.
    pub bgp: Option<Bgp>,
}

/// The BGP speaker of an agent.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Bgp {
    /// AS number.
    pub as_number: u32,
    /// Sessions.
    pub peers: Vec<Peer>,
    /// Prefixes that it announces.
    pub announced: Vec<IpNet>,
}

/// A BGP session.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Peer {
    /// Address of the peer.
    pub address: String,
    /// AS number of the peer.
    pub as_number: u32,
    /// Where the session comes from.
    pub peer_type: String,
    /// State of RFC 4271.
    pub state: String,
    /// Prefixes received and kept.
    pub received: u64,
    /// The latest error.
    pub last_error: Option<String>,
}

impl Peer {
    /// Whether routes are exchanged.
    #[must_use]
    pub fn is_established(&self) -> bool {
        self.state == "Established"
    }
}

#[derive(Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
enum Reply {
    Status(Box<Status>),
    Listening,
    Verdict(VerdictEvent),
    Error { reason: String },
}

/// How the agent with this run directory is.
///
/// # Errors
///
/// In words: it is not there yet, or does not answer.
pub async fn status(run_dir: &Path) -> Result<Status, String> {
    let mut connection = Connection::open(run_dir, "status").await?;
    match connection.reply(Instant::now() + PATIENCE).await? {
        Some(Reply::Status(status)) => Ok(*status),
        _ => Err(connection.unexpected("no status")),
    }
}

/// Verdicts of an agent, from the moment of [`Verdicts::listen`] on.
#[derive(Debug)]
pub struct Verdicts {
    connection: Connection,
}

impl Verdicts {
    /// Listens at the agent with this run directory.
    ///
    /// # Errors
    ///
    /// In words, as of [`status`].
    pub async fn listen(run_dir: &Path) -> Result<Self, String> {
        let mut connection = Connection::open(run_dir, "verdicts").await?;
        match connection.reply(Instant::now() + PATIENCE).await? {
            Some(Reply::Listening) => Ok(Self { connection }),
            _ => Err(connection.unexpected("no word that it listens")),
        }
    }

    /// The next verdict that `wanted` accepts; none if `limit` passes before it comes.
    ///
    /// # Errors
    ///
    /// In words, if the agent hangs up.
    pub async fn find(
        &mut self,
        limit: Duration,
        wanted: impl Fn(&VerdictEvent) -> bool,
    ) -> Result<Option<VerdictEvent>, String> {
        let end = Instant::now() + limit;
        loop {
            match self.connection.reply(end).await? {
                Some(Reply::Verdict(event)) if wanted(&event) => return Ok(Some(event)),
                Some(Reply::Verdict(_)) => {}
                Some(_) => return Err(self.connection.unexpected("no verdict")),
                None => return Ok(None),
            }
        }
    }
}

/// What decided, for people.
#[must_use]
pub fn explain(cause: &VerdictCause) -> String {
    match cause {
        VerdictCause::Rule(rule) => rule.to_string(),
        VerdictCause::EndOfTier(tier) => {
            format!("end of tier {tier}: policies select the endpoint, none of their rules matched")
        }
        VerdictCause::NoProfileMatch => "no policy and no profile allows it".to_owned(),
        VerdictCause::Spoofed => "the source address is not the endpoint's".to_owned(),
        VerdictCause::UnknownEndpoint => "the interface belongs to no known endpoint".to_owned(),
        other => format!("{other:?}"),
    }
}

#[derive(Debug)]
struct Connection {
    socket: PathBuf,
    lines: Lines<BufReader<OwnedReadHalf>>,
    /// The agent stops answering when this side is closed.
    _write: OwnedWriteHalf,
}

impl Connection {
    async fn open(run_dir: &Path, ask: &str) -> Result<Self, String> {
        let socket = run_dir.join("control.sock");
        let failed = |error| format!("{}: {error}", socket.display());
        let stream = timeout(PATIENCE, UnixStream::connect(&socket)).await;
        let stream =
            stream.map_err(|_elapsed| "connecting took too long".to_owned())?.map_err(failed)?;
        let (read, mut write) = stream.into_split();
        let request = format!("{}\n", serde_json::json!({ "ask": ask }));
        write.write_all(request.as_bytes()).await.map_err(failed)?;
        Ok(Self { lines: BufReader::new(read).lines(), socket, _write: write })
    }

    /// The next answer; none if it does not come before `end`.
    async fn reply(&mut self, end: Instant) -> Result<Option<Reply>, String> {
        let Ok(line) = timeout_at(end, self.lines.next_line()).await else {
            return Ok(None);
        };
        let line = line.map_err(|error| format!("{}: {error}", self.socket.display()))?;
        let line = line.ok_or_else(|| self.unexpected("no more: it hung up"))?;
        match serde_json::from_str(&line) {
            Ok(Reply::Error { reason }) => Err(reason),
            Ok(reply) => Ok(Some(reply)),
            Err(error) => Err(self.unexpected(&format!("{line:?}, which is unknown ({error})"))),
        }
    }

    fn unexpected(&self, what: &str) -> String {
        format!("the agent at {} answers {what}", self.socket.display())
    }
}
