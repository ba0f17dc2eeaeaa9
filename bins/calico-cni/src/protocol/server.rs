use std::future::Future;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Duration;

use calico_datastore::remote::Listen;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::geteuid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{debug, warn};

use super::{FrameError, PROTOCOL, Request, Response, encode, length};
use crate::engine::Engine;
use crate::spec::{CniError, Code, Version};

/// How long a client may take to send its request or to take its answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long calls under way may take once the server is to stop.
const FAREWELL: Duration = Duration::from_secs(10);

/// Answers plugins on `listener` until `shutdown` is done; then finishes the calls under way.
///
/// Only root and the user that this process runs as are served. A call goes on to its end even if
/// the plugin that made it is killed.
pub async fn serve(
    mut listener: impl Listen<Io = UnixStream>,
    engine: Arc<Engine>,
    shutdown: impl Future<Output = ()>,
) {
    let mut calls = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            accepted = listener.accept() => match accepted {
                Ok(stream) => {
                    calls.spawn(connection(stream, Arc::clone(&engine)));
                }
                Err(error) => {
                    // Out of file descriptors, most likely: let the calls under way end first.
                    warn!(%error, "cannot accept a CNI call");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
            Some(done) = calls.join_next(), if !calls.is_empty() => report(done),
        }
    }
    let rest = async {
        while let Some(done) = calls.join_next().await {
            report(done);
        }
    };
    if timeout(FAREWELL, rest).await.is_err() {
        warn!("CNI calls were still under way when the service stopped");
    }
}

fn report(done: Result<Result<(), FrameError>, tokio::task::JoinError>) {
    match done {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "a CNI client went away"),
        Err(error) => warn!(%error, "a CNI call ended badly"),
    }
}

async fn connection(mut stream: UnixStream, engine: Arc<Engine>) -> Result<(), FrameError> {
    let peer = stream.peer_cred()?.uid();
    if peer != 0 && peer != geteuid().as_raw() {
        let error = CniError::new(Code::Io, format!("user {peer} may not use this socket"))
            .details("container runtimes run as root");
        return reply(&mut stream, &refuse(&error)).await;
    }
    let request = timeout(PATIENCE, receive(&mut stream))
        .await
        .map_err(|_elapsed| FrameError::Io(std::io::ErrorKind::TimedOut.into()))?;
    let response = match request {
        Ok(request) if request.protocol == PROTOCOL => {
            engine.handle_for(&request, &|| has_hung_up(&stream)).await
        }
        Ok(request) => refuse(
            &CniError::new(Code::TryAgain, "plugin and agent are of different versions").details(
                format!("the plugin speaks protocol {}, the agent {PROTOCOL}", request.protocol),
            ),
        ),
        Err(error @ (FrameError::Json(_) | FrameError::TooLong(_))) => refuse(
            &CniError::new(Code::Decode, "the agent did not understand the plugin")
                .details(error.to_string()),
        ),
        Err(error) => return Err(error),
    };
    reply(&mut stream, &response).await
}

/// Whether the plugin has ended. Asks the kernel itself: what the runtime knows of the socket is of
/// its last look.
fn has_hung_up(stream: &UnixStream) -> bool {
    let mut look = [PollFd::new(stream.as_fd(), PollFlags::empty())];
    let hung_up = |events: PollFlags| events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR);
    poll(&mut look, PollTimeout::ZERO).is_ok() && look[0].revents().is_some_and(hung_up)
}

fn refuse(error: &CniError) -> Response {
    Response { failed: true, output: error.to_json(Version::LATEST) }
}

async fn receive(stream: &mut UnixStream) -> Result<Request, FrameError> {
    let mut head = [0; 4];
    stream.read_exact(&mut head).await?;
    let mut body = vec![0; length(head)?];
    stream.read_exact(&mut body).await?;
    Ok(serde_json::from_slice(&body)?)
}

async fn reply(stream: &mut UnixStream, response: &Response) -> Result<(), FrameError> {
    let frame = encode(response)?;
    let written = timeout(PATIENCE, stream.write_all(&frame)).await;
    written.map_err(|_elapsed| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_plugin_that_was_killed_is_told_from_one_that_waits() {
        let (near, far) = UnixStream::pair().unwrap();
        assert!(!has_hung_up(&near));
        let far = far.into_std().unwrap();
        far.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(!has_hung_up(&near), "it said all, and waits for the answer");
        drop(far);
        assert!(has_hung_up(&near));
    }
}
