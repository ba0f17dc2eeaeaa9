//! The netlink socket: commits batches and reads the ruleset back.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{AsyncSocket, Socket as RawSocket, SocketAddr, TokioSocket};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, sendmsg, setsockopt, sockopt};

use super::batch::{Batch, Datagram};
use super::error::{Error, Refusal};
use super::wire::{Family, Generation, Header, KernelError, Messages, Object, Writer, flags, msg};

/// No request of ours takes the kernel this long; then something is broken.
const TIMEOUT: Duration = Duration::from_secs(10);
/// A datagram of a dump is at most 32 KiB (`netlink_dump`).
const RECEIVE_BYTES: usize = 64 * 1024;
/// Room for the answers to a batch in which every message is refused.
const RECEIVE_QUEUE: usize = 8 * 1024 * 1024;
/// A batch of so many bytes takes the kernel longer (a millisecond or so) than starting a thread.
const LONG: usize = 64 * 1024;
/// Initial limit for a batch; grows with the batch.
const SEND_QUEUE: usize = 1024 * 1024;

/// A netlink socket for nf_tables, bound to the network namespace of the thread that opened it.
///
/// The kernel runs a batch within the system call that sends it, so commits are ordered by
/// construction; `&mut self` keeps answers from being mixed up.
#[derive(Debug)]
pub struct Socket {
    io: Netlink,
    send_queue: usize,
    sequence: u32,
}

/// A netfilter netlink socket registered with the runtime.
pub(super) struct Netlink(TokioSocket);

impl std::fmt::Debug for Netlink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Netlink(NETLINK_NETFILTER)")
    }
}

impl Netlink {
    /// Opens, in the network namespace of the calling thread, and connects to the kernel. The
    /// receive queue may exceed the system's limit for unprivileged processes.
    pub(super) fn open(receive_queue: usize) -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
        let raw = socket.socket_mut();
        raw.bind_auto()?;
        raw.connect(&SocketAddr::new(0, 0))?;
        setsockopt(raw, sockopt::RcvBufForce, &receive_queue)?;
        Ok(Self(socket))
    }

    /// Subscribes to a multicast group of nfnetlink.
    pub(super) fn join(&mut self, group: u32) -> io::Result<()> {
        self.0.socket_mut().add_membership(group)
    }

    pub(super) fn raw(&self) -> &RawSocket {
        self.0.socket_ref()
    }

    async fn send(&self, datagram: &[u8]) -> io::Result<usize> {
        poll_fn(|cx| self.0.poll_send(cx, datagram)).await
    }

    /// Sends these pieces as one datagram, which spares a copy of a large one. The kernel takes it
    /// within the call: there is no queue that could be full.
    fn send_pieces(&self, pieces: &[&[u8]]) -> io::Result<()> {
        let pieces: Vec<_> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        loop {
            let fd = self.raw().as_raw_fd();
            return match sendmsg::<()>(fd, &pieces, &[], MsgFlags::empty(), None) {
                Ok(_whole) => Ok(()),
                Err(Errno::EINTR) => continue,
                Err(errno) => Err(errno.into()),
            };
        }
    }

    /// Waits for a datagram. Nothing is lost when the future is dropped.
    pub(super) async fn receive(&self) -> io::Result<Vec<u8>> {
        // The queue is looked at before the runtime is asked: most answers are there already.
        if let Some(datagram) = self.receive_now()? {
            return Ok(datagram);
        }
        let mut buffer = Vec::with_capacity(RECEIVE_BYTES);
        poll_fn(|cx| self.0.poll_recv(cx, &mut buffer)).await?;
        Ok(buffer)
    }

    /// Reads one datagram if there is one.
    pub(super) fn receive_now(&self) -> io::Result<Option<Vec<u8>>> {
        let mut buffer = Vec::with_capacity(RECEIVE_BYTES);
        loop {
            return match self.raw().recv(&mut buffer, MSG_TRUNC) {
                Ok(len) if len > RECEIVE_BYTES => Err(io::Error::other("datagram was cut off")),
                Ok(_len) => Ok(Some(buffer)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
        }
    }
}

impl Socket {
    /// Opens a socket in the network namespace of the calling thread. Must be called within a
    /// tokio runtime with IO enabled.
    ///
    /// # Errors
    /// When the system has no netfilter netlink or the process may not use it.
    pub fn open() -> Result<Self, Error> {
        Self::open_raw()
            .map_err(|source| Error::Socket { what: "open (is nf_tables there?)", source })
    }

    fn open_raw() -> io::Result<Self> {
        let io = Netlink::open(RECEIVE_QUEUE)?;
        // Errors need not quote our messages back; we know them by number.
        io.raw().set_cap_ack(true)?;
        io.raw().set_ext_ack(true)?;
        Ok(Self { io, send_queue: 0, sequence: 0x6361_6c69 })
    }

    /// Brings a batch into force, whole or not at all. With a `generation` the kernel refuses it
    /// when anybody changed the ruleset since.
    ///
    /// # Errors
    /// [`Error::Refused`] names each refused message; [`Error::GenerationChanged`] asks to read
    /// back and retry. After these nothing is in force.
    pub async fn commit(
        &mut self,
        batch: &Batch,
        generation: Option<Generation>,
    ) -> Result<(), Error> {
        self.commit_while(batch, generation, || {}).await.0
    }

    /// As [`commit`](Self::commit), and does something else on this thread while the kernel takes a
    /// large batch, for which it needs long.
    pub async fn commit_while<T>(
        &mut self,
        batch: &Batch,
        generation: Option<Generation>,
        meanwhile: impl FnOnce() -> T,
    ) -> (Result<(), Error>, T) {
        if batch.is_empty() {
            return (Ok(()), meanwhile());
        }
        let datagram = match self.prepare(batch, generation) {
            Ok(datagram) => datagram,
            Err(error) => return (Err(error), meanwhile()),
        };
        let (sent, done) = self.send_while(&datagram, meanwhile);
        let result = match sent {
            Ok(()) => self.answers(batch).await,
            Err(source) => Err(Error::Socket { what: "send", source }),
        };
        (result, done)
    }

    fn prepare<'a>(
        &mut self,
        batch: &'a Batch,
        generation: Option<Generation>,
    ) -> Result<Datagram<'a>, Error> {
        let datagram = batch.datagram(generation)?;
        self.reserve_send_queue(datagram.len())?;
        self.discard_pending()?;
        Ok(datagram)
    }

    /// The kernel runs a batch within the system call that sends it. A small one is done before a
    /// thread would have started.
    fn send_while<T>(
        &self,
        datagram: &Datagram<'_>,
        meanwhile: impl FnOnce() -> T,
    ) -> (io::Result<()>, T) {
        let pieces = datagram.pieces();
        let send = || self.io.send_pieces(&pieces);
        std::thread::scope(|scope| {
            let sender = (datagram.len() >= LONG).then(|| {
                let thread = std::thread::Builder::new().name("nft-batch".to_owned());
                thread.spawn_scoped(scope, send)
            });
            match sender {
                Some(Ok(sender)) => {
                    let done = meanwhile();
                    let sent = sender.join();
                    (sent.unwrap_or_else(|panic| std::panic::resume_unwind(panic)), done)
                }
                _no_thread => (send(), meanwhile()),
            }
        })
    }

    async fn answers(&mut self, batch: &Batch) -> Result<(), Error> {
        let mut acknowledged = false;
        let mut refusals = Vec::new();
        let mut stale = false;
        // All answers are queued when `send` returns: read on until the queue is empty, which
        // collects every refusal, not only the first.
        loop {
            let received = match self.try_receive() {
                Ok(Some(received)) => received,
                Ok(None) if acknowledged || stale || !refusals.is_empty() => break,
                Ok(None) => self.receive().await?,
                // So many refusals that their queue ran over.
                Err(error) if answers_lost(&error) => {
                    let message = Some("more refusals than could be received".to_owned());
                    refusals.push(Refusal { subject: None, errno: Errno::ENOBUFS, message });
                    continue;
                }
                Err(error) => return Err(error),
            };
            for message in Messages::new(&received) {
                let message = message?;
                if message.header.kind != msg::ERROR {
                    continue;
                }
                let answer = KernelError::decode(&message)?;
                match Errno::from_raw(answer.errno) {
                    _ if answer.errno == 0 => acknowledged |= answer.seq == batch.acknowledged(),
                    // ERESTART never reaches user space but here: the generation differs.
                    _ if answer.errno == ERESTART => stale = true,
                    errno => refusals.push(Refusal {
                        subject: batch.subject(answer.seq),
                        errno,
                        message: answer.message,
                    }),
                }
            }
        }
        match () {
            () if stale => Err(Error::GenerationChanged),
            () if refusals.is_empty() => Ok(()),
            () => Err(Error::Refused(refusals)),
        }
    }

    /// The generation of the ruleset of this network namespace.
    ///
    /// # Errors
    /// When the socket fails.
    pub async fn generation(&mut self) -> Result<Generation, Error> {
        let objects = self.request(msg::GET_GEN, 0, 0, |_| {}).await?;
        objects
            .into_iter()
            .find_map(|object| match object {
                Object::Generation(generation) => Some(generation),
                _ => None,
            })
            .ok_or(Error::Decode(super::wire::DecodeError::Missing { what: "generation" }))
    }

    /// Every object of a kind (`msg::GET_*`) in a family; `filter` writes the attributes that
    /// narrow the dump.
    ///
    /// # Errors
    /// [`Error::GenerationChanged`] when the ruleset changed during the dump.
    pub async fn dump(
        &mut self,
        kind: u16,
        family: Family,
        filter: impl FnOnce(&mut Writer),
    ) -> Result<Vec<Object>, Error> {
        self.request(kind, flags::DUMP, family as u8, filter).await
    }

    pub(super) fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    /// Sends a datagram and returns the first answer.
    pub(super) async fn exchange(&mut self, datagram: &[u8]) -> Result<Vec<u8>, Error> {
        self.discard_pending()?;
        self.send(datagram).await?;
        self.receive().await
    }

    /// Waits for a further answer.
    pub(super) async fn more(&mut self) -> Result<Vec<u8>, Error> {
        self.receive().await
    }

    async fn request(
        &mut self,
        kind: u16,
        extra: u16,
        family: u8,
        body: impl FnOnce(&mut Writer),
    ) -> Result<Vec<Object>, Error> {
        let seq = self.next_sequence();
        let header = Header { kind, flags: flags::REQUEST | extra, seq, family, res_id: 0 };
        let mut w = Writer::new();
        w.message(header, body);
        self.discard_pending()?;
        self.send(w.bytes()).await?;
        let mut objects = Vec::new();
        loop {
            let received = self.receive().await?;
            for message in Messages::new(&received) {
                let message = message?;
                if message.header.seq != seq {
                    continue;
                }
                if message.header.flags & flags::DUMP_INTR != 0 && extra == flags::DUMP {
                    self.discard_pending()?;
                    return Err(Error::GenerationChanged);
                }
                match message.header.kind {
                    msg::ERROR | msg::DONE => {
                        let answer = KernelError::decode(&message)?;
                        if answer.errno == 0 {
                            return Ok(objects);
                        }
                        return Err(refused(kind, answer));
                    }
                    // What others put into a table need not be something we model.
                    kind => objects.push(Object::decode(&message).unwrap_or(Object::Other(kind))),
                }
                if extra & flags::DUMP == 0 {
                    return Ok(objects);
                }
            }
        }
    }

    /// The kernel takes a datagram only if it fits the send queue (`EMSGSIZE`).
    fn reserve_send_queue(&mut self, len: usize) -> Result<(), Error> {
        // The kernel doubles what it is given, and counts its own overhead against it.
        let wanted = len.saturating_add(len / 4).max(SEND_QUEUE);
        if wanted > self.send_queue {
            setsockopt(self.io.raw(), sockopt::SndBufForce, &wanted).map_err(|errno| {
                Error::Socket { what: "grow the send queue (CAP_NET_ADMIN?)", source: errno.into() }
            })?;
            self.send_queue = wanted;
        }
        Ok(())
    }

    async fn send(&mut self, datagram: &[u8]) -> Result<(), Error> {
        timeout(self.io.send(datagram), "send").await.map(|_sent| ())
    }

    async fn receive(&mut self) -> Result<Vec<u8>, Error> {
        timeout(self.io.receive(), "receive").await
    }

    fn try_receive(&self) -> Result<Option<Vec<u8>>, Error> {
        self.io.receive_now().map_err(|source| Error::Socket { what: "receive", source })
    }

    /// Drops answers to an earlier call that was cancelled.
    fn discard_pending(&self) -> Result<(), Error> {
        loop {
            match self.try_receive() {
                Ok(Some(_)) => {}
                Ok(None) => return Ok(()),
                Err(error) if answers_lost(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Makes `recv` return the whole length of a datagram that was cut off.
const MSG_TRUNC: i32 = 0x20;

/// `ERESTART` of the kernel (`linux/errno.h`).
const ERESTART: i32 = 85;

fn answers_lost(error: &Error) -> bool {
    let Error::Socket { source, .. } = error else { return false };
    source.raw_os_error() == Some(Errno::ENOBUFS as i32)
}

fn refused(kind: u16, answer: KernelError) -> Error {
    let subject = super::error::Subject {
        verb: "read",
        kind: match kind {
            msg::GET_CHAIN => "chains",
            msg::GET_RULE => "rules",
            msg::GET_SET => "sets",
            msg::GET_SET_ELEM => "elements",
            _ => "ruleset",
        },
        name: String::new(),
    };
    Error::Refused(vec![Refusal {
        subject: Some(subject),
        errno: Errno::from_raw(answer.errno),
        message: answer.message,
    }])
}

async fn timeout<T>(
    what: impl Future<Output = io::Result<T>>,
    name: &'static str,
) -> Result<T, Error> {
    tokio::time::timeout(TIMEOUT, what)
        .await
        .map_err(|_elapsed| Error::Timeout { seconds: TIMEOUT.as_secs() })?
        .map_err(|source| Error::Socket { what: name, source })
}
