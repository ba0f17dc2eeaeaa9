//! Traffic from within a namespace, and the listeners that answer it.

use std::fmt;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use crate::error::LabError;
use crate::netns;

/// What a probe sends over UDP.
const GREETING: &[u8] = b"who are you?\n";

/// What became of a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// The other side answered.
    Answered {
        /// Its answer, trimmed.
        answer: String,
        /// From the first packet to the answer.
        took: Duration,
    },
    /// The other side, or a router, said no.
    Refused(String),
    /// Nothing came back in time.
    Silence(Duration),
}

impl Outcome {
    /// Whether the other side answered.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        matches!(self, Self::Answered { .. })
    }

    fn of(result: io::Result<String>, started: Instant) -> Self {
        let took = started.elapsed();
        match result {
            Ok(answer) => Self::Answered { answer, took },
            Err(error) if matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock) => {
                Self::Silence(took)
            }
            Err(error) => Self::Refused(error.to_string()),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answered { answer, took } => {
                write!(f, "{answer} ({:.1} ms)", took.as_secs_f64() * 1e3)
            }
            Self::Refused(reason) => f.write_str(reason),
            Self::Silence(limit) => write!(f, "no answer within {:.1} s", limit.as_secs_f64()),
        }
    }
}

/// Connects from the namespace and reads what a listener of the lab says.
///
/// # Errors
///
/// [`LabError`] if the namespace cannot be entered; a connection that fails is an [`Outcome`].
pub async fn tcp(namespace: &str, to: SocketAddr, limit: Duration) -> Result<Outcome, LabError> {
    inside(namespace, move || {
        let started = Instant::now();
        let talk = || {
            let mut stream = TcpStream::connect_timeout(&to, limit)?;
            stream.set_read_timeout(Some(limit))?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer.trim().to_owned())
        };
        Outcome::of(talk(), started)
    })
    .await
}

/// Sends a datagram from the namespace and waits for the answer.
///
/// # Errors
///
/// As of [`tcp`].
pub async fn udp(namespace: &str, to: SocketAddr, limit: Duration) -> Result<Outcome, LabError> {
    inside(namespace, move || {
        let started = Instant::now();
        let talk = || {
            let any: IpAddr = match to {
                SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
            };
            let socket = UdpSocket::bind((any, 0))?;
            socket.set_read_timeout(Some(limit))?;
            socket.connect(to)?;
            socket.send(GREETING)?;
            let mut answer = [0; 512];
            let length = socket.recv(&mut answer)?;
            Ok(String::from_utf8_lossy(&answer[..length]).trim().to_owned())
        };
        Outcome::of(talk(), started)
    })
    .await
}

/// One echo request from the namespace, by iputils' `ping`.
///
/// # Errors
///
/// [`LabError::Machine`] if `ping` cannot be run.
pub async fn ping(namespace: &str, to: IpAddr, limit: Duration) -> Result<Outcome, LabError> {
    let started = Instant::now();
    let seconds = limit.as_secs_f64().max(0.1).to_string();
    let output = tokio::process::Command::new("ip")
        .args(["netns", "exec", namespace, "ping", "-n", "-c", "1", "-W", &seconds])
        .arg(to.to_string())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|error| LabError::Machine(format!("cannot run ping: {error}")))?;
    let text = String::from_utf8_lossy(&output.stdout);
    // ping ends with 0 after an answer, 1 without one, 2 if it could not even send (ping(8)).
    let line = |word| text.lines().find(|line| line.contains(word)).map(str::to_owned);
    Ok(match output.status.code() {
        Some(0) => {
            let line = line("bytes from").unwrap_or_default();
            let value = |key: &str| line.split(' ').find_map(|word| word.strip_prefix(key));
            let took = value("time=").and_then(|ms| ms.parse::<f64>().ok());
            Outcome::Answered {
                answer: format!("echo reply, ttl {}", value("ttl=").unwrap_or("unknown")),
                took: took
                    .map_or_else(|| started.elapsed(), |ms| Duration::from_secs_f64(ms / 1e3)),
            }
        }
        Some(1) => match line("Unreachable").or_else(|| line("Filtered")) {
            Some(line) => Outcome::Refused(line),
            None => Outcome::Silence(limit),
        },
        _ => {
            let errors = String::from_utf8_lossy(&output.stderr);
            Outcome::Refused(errors.trim().to_owned())
        }
    })
}

/// Listens on these ports, for both families, until the process ends: TCP connections get the
/// name and are closed; datagrams are answered with the name.
///
/// # Errors
///
/// What binding a port fails with.
pub fn serve(name: &str, tcp: &[u16], udp: &[u16]) -> io::Result<()> {
    let mut listeners = Vec::new();
    for &port in tcp {
        listeners.push(TcpListener::bind((any(), port))?);
    }
    let mut sockets = Vec::new();
    for &port in udp {
        sockets.push(UdpSocket::bind((any(), port))?);
    }
    let answer = format!("{name}\n");
    thread::scope(|scope| {
        for listener in &listeners {
            scope.spawn(|| {
                for mut stream in listener.incoming().flatten() {
                    // Who hangs up early gets no answer.
                    let _ = stream.write_all(answer.as_bytes());
                }
            });
        }
        for socket in &sockets {
            scope.spawn(|| {
                let mut datagram = [0; 512];
                loop {
                    if let Ok((_, from)) = socket.recv_from(&mut datagram) {
                        let _ = socket.send_to(answer.as_bytes(), from);
                    }
                }
            });
        }
    });
    Ok(())
}

/// The wildcard of both families, or of IPv4 on a kernel without IPv6.
fn any() -> IpAddr {
    if std::path::Path::new("/proc/sys/net/ipv6").exists() {
        Ipv6Addr::UNSPECIFIED.into()
    } else {
        Ipv4Addr::UNSPECIFIED.into()
    }
}

async fn inside<T: Send + 'static>(
    namespace: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, LabError> {
    let namespace = namespace.to_owned();
    let task = tokio::task::spawn_blocking(move || netns::enter(&namespace, work));
    task.await.unwrap_or_else(|error| {
        Err(LabError::Machine(format!("a probe ended without an outcome: {error}")))
    })
}
