use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{FrameError, Request, Response, encode, length};

/// Why the agent did not answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unreachable {
    /// Nobody listens there.
    #[error("no agent answers at {}", path.display())]
    NoAgent {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The agent took the request and did not answer in time, or went away.
    #[error("the agent at {} did not answer", path.display())]
    NoAnswer {
        /// The socket.
        path: PathBuf,
        /// What happened.
        source: FrameError,
    },
}

/// Sends `request` to the agent at `path` and waits at most `patience` for the answer.
///
/// # Errors
///
/// See [`Unreachable`].
pub fn ask(path: &Path, request: &Request, patience: Duration) -> Result<Response, Unreachable> {
    let mut stream = UnixStream::connect(path)
        .map_err(|source| Unreachable::NoAgent { path: path.to_owned(), source })?;
    exchange(&mut stream, request, patience)
        .map_err(|source| Unreachable::NoAnswer { path: path.to_owned(), source })
}

fn exchange(
    stream: &mut UnixStream,
    request: &Request,
    patience: Duration,
) -> Result<Response, FrameError> {
    let deadline = Instant::now() + patience;
    stream.set_write_timeout(Some(patience))?;
    stream.write_all(&encode(request)?)?;
    let mut head = [0; 4];
    read(stream, &mut head, deadline)?;
    let mut body = vec![0; length(head)?];
    read(stream, &mut body, deadline)?;
    Ok(serde_json::from_slice(&body)?)
}

/// Fills `buffer`, with one deadline for all of it.
fn read(stream: &mut UnixStream, buffer: &mut [u8], deadline: Instant) -> std::io::Result<()> {
    let mut filled = 0;
    while filled < buffer.len() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(std::io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut buffer[filled..]) {
            Ok(0) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            Ok(more) => filled += more,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
