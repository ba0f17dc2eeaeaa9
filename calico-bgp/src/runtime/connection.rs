//! The tasks of one TCP connection.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinHandle};

use super::sys;
use crate::speaker::{ConnectionId, Transport};

/// Octets read at once. A connection holds no buffer.
const READ_CHUNK: usize = 64 * 1024;
/// Time to get the last words out.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Time that a peer has to close its side after a NOTIFICATION.
const LINGER: Duration = Duration::from_millis(500);
/// Pieces and octets handed to the kernel at once, at most.
const WRITE_PIECES: usize = 64;
const WRITE_OCTETS: usize = 256 * 1024;

/// What connection tasks tell the owner of the speaker.
#[derive(Debug)]
pub(super) enum Input {
    Connected { id: ConnectionId, stream: TcpStream },
    ConnectFailed { id: ConnectionId, why: String },
    Received { id: ConnectionId, bytes: Bytes },
    Writable { id: ConnectionId },
    Closed { id: ConnectionId, why: String },
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
    id: ConnectionId,
    stream: Arc<TcpStream>,
    inputs: mpsc::Sender<Input>,
    /// Aborts the reader when dropped.
    _reader: AbortOnDrop,
    /// What the kernel has not taken yet.
    unsent: VecDeque<Bytes>,
    /// There while the kernel takes nothing.
    waiting: Option<AbortOnDrop>,
}

impl Up {
    /// Starts reading.
    pub(super) fn start(id: ConnectionId, stream: TcpStream, inputs: &mpsc::Sender<Input>) -> Self {
        // Only latency is lost if the option cannot be set.
        let _ = stream.set_nodelay(true);
        let stream = Arc::new(stream);
        let reader = tokio::spawn(read_all(id, Arc::clone(&stream), inputs.clone()));
        Self {
            id,
            stream,
            inputs: inputs.clone(),
            _reader: AbortOnDrop::new(&reader),
            unsent: VecDeque::new(),
            waiting: None,
        }
    }

    /// Writes what `next` gives until it gives nothing, or the kernel takes no more; then
    /// [`Input::Writable`] comes when it does.
    pub(super) fn write(&mut self, mut next: impl FnMut() -> Option<Bytes>) -> io::Result<()> {
        if self.waiting.is_some() {
            return Ok(());
        }
        loop {
            let mut octets: usize = self.unsent.iter().map(Bytes::len).sum();
            while self.unsent.len() < WRITE_PIECES && octets < WRITE_OCTETS {
                let Some(piece) = next() else { break };
                octets += piece.len();
                self.unsent.push_back(piece);
            }
            if self.unsent.is_empty() {
                return Ok(());
            }
            match write_some(&self.stream, &mut self.unsent) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.wait();
                    return Ok(());
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// The kernel takes bytes again.
    pub(super) fn writable(&mut self) {
        self.waiting = None;
    }

    fn wait(&mut self) {
        let (id, stream, inputs) = (self.id, Arc::clone(&self.stream), self.inputs.clone());
        let task = tokio::spawn(async move {
            // An error is found by the next write.
            let _ = stream.writable().await;
            let _ = inputs.send(Input::Writable { id }).await;
        });
        self.waiting = Some(AbortOnDrop::new(&task));
    }

    /// Ends the connection. The returned task is gone once the last bytes are, or cannot be.
    pub(super) fn close(mut self, last: Bytes) -> JoinHandle<()> {
        let stream = Arc::clone(&self.stream);
        let mut unsent = std::mem::take(&mut self.unsent);
        // A message that was begun has to be ended, the others do not matter any more; which
        // is which is not known here, and there are few.
        unsent.extend((!last.is_empty()).then_some(last));
        tokio::spawn(async move { say_goodbye(&stream, unsent, LINGER).await })
    }
}

/// Sends the last bytes, and waits a while for the peer to close its side: a socket that is closed
/// over bytes that nobody has read resets the connection (RFC 1122, section 4.2.2.13), and a reset
/// may cost the peer the NOTIFICATION. FRR, met by a reset on the connection that loses a
/// collision, gives up the other one too.
async fn say_goodbye(stream: &TcpStream, unsent: VecDeque<Bytes>, linger: Duration) {
    let has_words = !unsent.is_empty();
    // Nothing is left to do for a peer that does not take its last words.
    let told = tokio::time::timeout(LAST_WORDS, write_last(stream, unsent)).await;
    if has_words && matches!(told, Ok(Ok(()))) {
        let _ = tokio::time::timeout(linger, drain(stream)).await;
    }
}

/// Reads until the peer closes its side.
async fn drain(stream: &TcpStream) -> io::Result<()> {
    loop {
        stream.readable().await?;
        match read(stream) {
            Ok(None) => return Ok(()),
            Err(e) if e.kind() != io::ErrorKind::WouldBlock => return Err(e),
            Ok(Some(_)) | Err(_) => {}
        }
    }
}

/// Hands bytes to the kernel, and takes those that it took off the queue.
fn write_some(stream: &TcpStream, unsent: &mut VecDeque<Bytes>) -> io::Result<()> {
    let pieces: Vec<IoSlice<'_>> =
        unsent.iter().take(WRITE_PIECES).map(|b| IoSlice::new(b)).collect();
    let mut wrote = match &pieces[..] {
        [one] => stream.try_write(one)?,
        all => stream.try_write_vectored(all)?,
    };
    while wrote > 0
        && let Some(first) = unsent.front_mut()
    {
        let part = wrote.min(first.len());
        first.advance(part);
        wrote -= part;
        if first.is_empty() {
            unsent.pop_front();
        }
    }
    Ok(())
}

async fn write_last(stream: &TcpStream, mut unsent: VecDeque<Bytes>) -> io::Result<()> {
    while !unsent.is_empty() {
        stream.writable().await?;
        match write_some(stream, &mut unsent) {
            Err(e) if e.kind() != io::ErrorKind::WouldBlock => return Err(e),
            _ => {}
        }
    }
    // The peer has to see the end even while the reader still holds the socket.
    nix::sys::socket::shutdown(stream.as_raw_fd(), nix::sys::socket::Shutdown::Write)?;
    Ok(())
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

async fn read_all(id: ConnectionId, stream: Arc<TcpStream>, inputs: mpsc::Sender<Input>) {
    let why = loop {
        if let Err(e) = stream.readable().await {
            break e.to_string();
        }
        match read(&stream) {
            Ok(None) => break "closed by the peer".to_owned(),
            Ok(Some(bytes)) => {
                // Waiting here when the owner is busy is what slows the sender down.
                if inputs.send(Input::Received { id, bytes }).await.is_err() {
                    return;
                }
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => break e.to_string(),
        }
    };
    let _ = inputs.send(Input::Closed { id, why }).await;
}

/// Reads what is there; `None` at the end. A thread has one buffer for all its connections, so
/// that what is queued is as large as what came and no larger.
fn read(stream: &TcpStream) -> io::Result<Option<Bytes>> {
    thread_local! {
        static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_CHUNK].into());
    }
    BUFFER.with_borrow_mut(|buffer| {
        let octets = stream.try_read(buffer)?;
        Ok((octets > 0).then(|| Bytes::copy_from_slice(&buffer[..octets])))
    })
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn last_words_arrive_though_the_peer_is_still_talking() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (ours, _) = listener.accept().await.unwrap();
        let patience = Duration::from_secs(60);
        let goodbye = tokio::spawn(async move {
            say_goodbye(&ours, VecDeque::from([Bytes::from_static(b"goodbye")]), patience).await;
        });
        // Far more than the sockets hold: somebody has to read it.
        let talk = async {
            peer.write_all(&vec![0; 16 << 20]).await?;
            let mut heard = Vec::new();
            peer.read_to_end(&mut heard).await?;
            io::Result::Ok(heard)
        };
        let heard = tokio::time::timeout(patience, talk).await.expect("in time");
        assert_eq!(heard.expect("no reset"), b"goodbye");
        drop(peer);
        tokio::time::timeout(patience, goodbye).await.expect("in time").unwrap();
    }
}
