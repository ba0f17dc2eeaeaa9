//! The tasks of one TCP connection.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinHandle};

use super::sys;
use crate::speaker::{ConnectionId, Transport};

/// Octets read at once. An idle connection holds no buffer.
const READ_CHUNK: usize = 32 * 1024;
/// Time to get the last words out.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// What a writer holds: the bytes being written, the next ones, and room for the last ones.
const WRITER_QUEUE: usize = 2;

/// What connection tasks tell the owner of the speaker.
#[derive(Debug)]
pub(super) enum Input {
    Connected { id: ConnectionId, stream: TcpStream },
    ConnectFailed { id: ConnectionId, why: String },
    Received { id: ConnectionId, bytes: Bytes },
    Written { id: ConnectionId },
    Closed { id: ConnectionId, why: String },
}

enum Output {
    Bytes(Bytes),
    Last(Bytes),
}

/// Aborts a task when it goes out of scope.
#[derive(Debug)]
pub(super) struct AbortOnDrop(AbortHandle);

impl AbortOnDrop {
    pub(super) fn new(task: &JoinHandle<()>) -> Self {
        Self(task.abort_handle())
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A connection as the owner of the speaker holds it.
#[derive(Debug)]
pub(super) enum Connection {
    /// On its way; dropping it gives up.
    Connecting(#[expect(dead_code, reason = "held for its Drop")] AbortOnDrop),
    /// Up.
    Up(Up),
}

#[derive(Debug)]
pub(super) struct Up {
    /// Aborts the reader when dropped.
    _reader: AbortOnDrop,
    writer: Option<JoinHandle<()>>,
    output: mpsc::Sender<Output>,
    /// Chunks handed over and not written yet.
    in_flight: usize,
}

impl Up {
    /// Starts reading and writing.
    pub(super) fn start(id: ConnectionId, stream: TcpStream, inputs: &mpsc::Sender<Input>) -> Self {
        // Only latency is lost if the option cannot be set.
        let _ = stream.set_nodelay(true);
        let (read, write) = stream.into_split();
        let (output, queue) = mpsc::channel(WRITER_QUEUE);
        let reader = tokio::spawn(read_all(id, read, inputs.clone()));
        let writer = tokio::spawn(write_all(id, write, queue, inputs.clone()));
        Self { _reader: AbortOnDrop::new(&reader), writer: Some(writer), output, in_flight: 0 }
    }

    /// Whether it can take bytes now.
    pub(super) const fn has_room(&self) -> bool {
        self.in_flight == 0
    }

    pub(super) fn send(&mut self, bytes: Bytes) {
        // There is room in the queue because nothing is in flight; a writer that has ended has
        // reported so.
        if self.output.try_send(Output::Bytes(bytes)).is_ok() {
            self.in_flight += 1;
        }
    }

    pub(super) const fn written(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// Ends the connection. The returned task is gone once the last bytes are, or cannot be.
    pub(super) fn close(mut self, last: Bytes) -> Option<JoinHandle<()>> {
        let mut writer = self.writer.take()?;
        if self.output.try_send(Output::Last(last)).is_err() {
            writer.abort();
        }
        Some(tokio::spawn(async move {
            // Nothing is left to do for a peer that does not take its last words.
            if tokio::time::timeout(LAST_WORDS, &mut writer).await.is_err() {
                writer.abort();
            }
        }))
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        if let Some(writer) = &self.writer {
            writer.abort();
        }
    }
}

/// Starts to connect.
pub(super) fn connect(
    id: ConnectionId,
    remote: SocketAddr,
    local: Option<IpAddr>,
    transport: Transport,
    inputs: &mpsc::Sender<Input>,
) -> Connection {
    let inputs = inputs.clone();
    let task = tokio::spawn(async move {
        let input = match open(remote, local, &transport).await {
            Ok(stream) => Input::Connected { id, stream },
            Err(e) => Input::ConnectFailed { id, why: e.to_string() },
        };
        // The owner is gone if this fails, and nobody needs the answer.
        let _ = inputs.send(input).await;
    });
    Connection::Connecting(AbortOnDrop::new(&task))
}

async fn open(
    remote: SocketAddr,
    local: Option<IpAddr>,
    transport: &Transport,
) -> io::Result<TcpStream> {
    let v6 = remote.is_ipv6();
    let socket = if v6 { TcpSocket::new_v6()? } else { TcpSocket::new_v4()? };
    secure(&socket, v6, v6, remote.ip(), transport)?;
    if let Some(local) = local {
        socket.bind(SocketAddr::new(local, 0))?;
    }
    socket.connect(remote).await
}

/// Sets what a peer's connection is protected by. `v6` is the family of the connection,
/// `of_v6` that of the socket.
pub(super) fn secure(
    socket: &impl AsFd,
    v6: bool,
    of_v6: bool,
    remote: IpAddr,
    transport: &Transport,
) -> io::Result<()> {
    let failed = |what: &str, e: io::Error| io::Error::new(e.kind(), format!("{what}: {e}"));
    if let Some(password) = &transport.password {
        sys::set_password(socket, of_v6, remote.into(), Some(password))
            .map_err(|e| failed("the kernel does not take the password (TCP MD5)", e))?;
    }
    sys::set_distance(socket, v6, transport.distance)
        .map_err(|e| failed("the kernel does not take the TTL", e))
}

async fn read_all(id: ConnectionId, read: OwnedReadHalf, inputs: mpsc::Sender<Input>) {
    let why = loop {
        if let Err(e) = read.readable().await {
            break e.to_string();
        }
        let mut buffer = BytesMut::with_capacity(READ_CHUNK);
        match read.try_read_buf(&mut buffer) {
            Ok(0) => break "closed by the peer".to_owned(),
            Ok(_) => {
                // Waiting here when the owner is busy is what slows the sender down.
                let input = Input::Received { id, bytes: buffer.freeze() };
                if inputs.send(input).await.is_err() {
                    return;
                }
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => break e.to_string(),
        }
    };
    let _ = inputs.send(Input::Closed { id, why }).await;
}

async fn write_all(
    id: ConnectionId,
    mut write: OwnedWriteHalf,
    mut queue: mpsc::Receiver<Output>,
    inputs: mpsc::Sender<Input>,
) {
    while let Some(output) = queue.recv().await {
        match output {
            Output::Bytes(bytes) => match write.write_all(&bytes).await {
                Ok(()) => {
                    let _ = inputs.send(Input::Written { id }).await;
                }
                Err(e) => {
                    let _ = inputs.send(Input::Closed { id, why: e.to_string() }).await;
                    return;
                }
            },
            Output::Last(bytes) => {
                // The connection ends either way.
                if write.write_all(&bytes).await.is_ok() {
                    let _ = write.shutdown().await;
                }
                return;
            }
        }
    }
}
