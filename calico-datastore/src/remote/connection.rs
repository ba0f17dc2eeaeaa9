//! One connection of a client, shared by its requests and watches.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncWriteExt, BufWriter, ReadHalf, WriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;

use super::client::Transport;
use super::heartbeat::{Ear, Heard};
use super::wire::{
    Ask, FromClient, FromServer, Hello, Say, VERSION, WINDOW, Welcome, encode, invalid, read,
};

/// Requests whose bytes wait for the socket; callers wait for a place.
const UNSENT: usize = 64;

type Io = Box<dyn Transport>;

/// An open connection, until it breaks. Dropping it hangs up.
#[derive(Debug)]
pub(super) struct Connection {
    /// Which server it leads to.
    pub(super) instance: u64,
    out: mpsc::UnboundedSender<Frame>,
    places: Arc<Semaphore>,
    calls: Arc<Mutex<Calls>>,
    last: AtomicU64,
    task: JoinHandle<()>,
}

/// Bytes to send, and the place they take up until they are.
#[derive(Debug)]
struct Frame(Vec<u8>, Option<OwnedSemaphorePermit>);

/// Who waits for answers.
#[derive(Debug, Default)]
struct Calls {
    open: HashMap<u64, Open>,
    /// Why the connection is of no use any more.
    broken: Option<String>,
}

#[derive(Debug)]
struct Open {
    answers: mpsc::UnboundedSender<Say>,
    /// Events that the server may still send: it bounds what `answers` holds.
    credit: u32,
}

/// A request on its way. Dropping it gives up the answer, and ends a watch.
#[derive(Debug)]
pub(super) struct Call {
    id: u64,
    connection: Arc<Connection>,
    answers: mpsc::UnboundedReceiver<Say>,
    is_watch: bool,
}

/// Why no request was made or no answer came.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum CallError {
    /// The connection is broken, for this reason.
    Broken(String),
    /// The request does not fit into a frame.
    TooLong,
}

impl Connection {
    /// Greets the server on a new stream.
    pub(super) async fn open(io: Io) -> io::Result<Arc<Self>> {
        let (mut reader, writer) = tokio::io::split(io);
        let mut writer = BufWriter::new(writer);
        let hello =
            Hello { protocol: Hello::PROTOCOL.to_owned(), version: VERSION, heartbeat: true };
        let frame = encode(&hello).ok_or_else(|| invalid("the greeting is too long"))?;
        // A server that refuses does not wait for it: what it has to say is worth reading.
        let sent = async {
            writer.write_all(&frame).await?;
            writer.flush().await
        };
        let sent = sent.await;
        let (instance, heartbeat) = match read(&mut reader).await? {
            Some(Welcome::Welcome { instance, heartbeat }) => (instance, heartbeat),
            Some(Welcome::Refused { reason }) => {
                return Err(io::Error::other(reason));
            }
            None => return Err(sent.err().unwrap_or_else(|| hung_up().into())),
        };
        let calls = Arc::new(Mutex::new(Calls::default()));
        let (out, frames) = mpsc::unbounded_channel();
        let heard = Heard::now();
        let reader = Ear { reader, heard: heard.clone() };
        let heard = heartbeat.then_some(heard);
        let task = tokio::spawn(run(reader, writer, heard, frames, Arc::clone(&calls)));
        Ok(Arc::new(Self {
            instance,
            out,
            places: Arc::new(Semaphore::new(UNSENT)),
            calls,
            last: AtomicU64::new(0),
            task,
        }))
    }

    /// Whether it may still work.
    pub(super) fn is_open(&self) -> bool {
        lock(&self.calls).broken.is_none()
    }

    /// Sends a request.
    pub(super) async fn call(self: &Arc<Self>, ask: Ask) -> Result<Call, CallError> {
        let is_watch = matches!(ask, Ask::Watch { .. });
        let id = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let frame = encode(&FromClient { id, ask }).ok_or(CallError::TooLong)?;
        let place = Arc::clone(&self.places).acquire_owned().await.ok();
        let (answers, receiver) = mpsc::unbounded_channel();
        {
            let mut calls = lock(&self.calls);
            if let Some(reason) = &calls.broken {
                return Err(CallError::Broken(reason.clone()));
            }
            let credit = if is_watch { WINDOW } else { 0 };
            calls.open.insert(id, Open { answers, credit });
        }
        // If it breaks right now, the answer says so.
        let _ = self.out.send(Frame(frame, place));
        Ok(Call { id, connection: Arc::clone(self), answers: receiver, is_watch })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Call {
    /// The next answer.
    pub(super) async fn answer(&mut self) -> Result<Say, CallError> {
        match self.answers.recv().await {
            Some(say) => Ok(say),
            None => {
                let reason = lock(&self.connection.calls).broken.clone();
                Err(CallError::Broken(reason.unwrap_or_else(|| hung_up().to_string())))
            }
        }
    }

    /// Which server answers.
    pub(super) fn instance(&self) -> u64 {
        self.connection.instance
    }

    /// Lets the server send `more` events.
    pub(super) fn grant(&self, more: u32) {
        if let Some(open) = lock(&self.connection.calls).open.get_mut(&self.id) {
            open.credit += more;
        }
        self.tell(Ask::Credit(more));
    }

    /// Small, and at most a few per watch: they need no place.
    fn tell(&self, ask: Ask) {
        if let Some(frame) = encode(&FromClient { id: self.id, ask }) {
            let _ = self.connection.out.send(Frame(frame, None));
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let open = lock(&self.connection.calls).open.remove(&self.id);
        if self.is_watch && open.is_some() {
            self.tell(Ask::Cancel);
        }
    }
}

/// Moves frames until the connection breaks, then tells everyone.
async fn run(
    mut reader: Ear<ReadHalf<Io>>,
    mut writer: BufWriter<WriteHalf<Io>>,
    // Of a server that makes itself heard.
    heard: Option<Heard>,
    mut frames: mpsc::UnboundedReceiver<Frame>,
    calls: Arc<Mutex<Calls>>,
) {
    let reading = async {
        while let Some(FromServer { id, say }) = read(&mut reader).await? {
            deliver(&mut lock(&calls), id, say)?;
        }
        Err::<(), _>(io::Error::from(hung_up()))
    };
    let writing = async {
        while let Some(Frame(bytes, _place)) = frames.recv().await {
            writer.write_all(&bytes).await?;
            if frames.is_empty() {
                writer.flush().await?;
            }
        }
        Ok(())
    };
    let silence = async {
        match heard {
            Some(heard) => Err(heard.silence().await),
            None => std::future::pending().await,
        }
    };
    // Reading first: if it was this process that stood still, there is something to be heard.
    let result = tokio::select! {
        biased;
        result = reading => result,
        result = writing => result,
        result = silence => result,
    };
    let reason = match result {
        Ok(()) => "it was closed".to_owned(),
        Err(error) => error.to_string(),
    };
    let open = {
        let mut calls = lock(&calls);
        calls.broken = Some(reason);
        std::mem::take(&mut calls.open)
    };
    drop(open);
}

fn deliver(calls: &mut Calls, id: u64, say: Say) -> io::Result<()> {
    // Its caller may have given up.
    let Some(open) = calls.open.get_mut(&id) else { return Ok(()) };
    if let Say::Events(events) = &say {
        let count = u32::try_from(events.len()).unwrap_or(u32::MAX);
        open.credit = open
            .credit
            .checked_sub(count)
            .ok_or_else(|| invalid("the server sent more events than it was asked for"))?;
    }
    let _ = open.answers.send(say);
    Ok(())
}

fn lock(calls: &Mutex<Calls>) -> MutexGuard<'_, Calls> {
    // Nothing that holds it can panic half way.
    calls.lock().unwrap_or_else(PoisonError::into_inner)
}

const fn hung_up() -> io::ErrorKind {
    io::ErrorKind::UnexpectedEof
}
