//! The side that has the store.

use std::collections::HashMap;
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use calico_core::Datastore;
use calico_core::datastore::{Revision, SharedEvent, SharedWatchStream, StoreError, WatchEvent};
use calico_core::key::Scope;
use futures_util::{FutureExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufWriter};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};

use super::counters::Counters;
use super::heartbeat::HEARTBEAT;
use super::wire::{
    Ask, FromClient, FromServer, Hello, MAX_VALUE, PART, Say, VERSION, WINDOW, Welcome, encode,
    encode_events, invalid, read,
};

/// Connections at a time, unless told otherwise.
const CONNECTIONS: usize = 256;
/// Requests of a connection that are worked on at a time; more wait on the socket.
const REQUESTS: usize = 64;
/// Watches of a connection.
const WATCHES: usize = 1024;
/// Frames that wait for the socket of a connection.
const QUEUE: usize = 16;
/// Events in a frame.
const EVENTS: usize = 64;
/// Time to say hello in.
const GREETING: Duration = Duration::from_secs(5);
/// A client whose connection takes no byte for this long is dropped; upstream's Typha waits as long.
const WRITE: Duration = Duration::from_secs(120);
/// So is one that has room for no event of a watch for this long, likewise.
const BEHIND: Duration = Duration::from_secs(300);
/// Pause after a failed accept, such as for lack of file descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Where clients come from.
#[async_trait]
pub trait Listen: Send {
    /// A connection.
    type Io: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// Waits for the next client that may use the store.
    ///
    /// # Errors
    ///
    /// A passing trouble: it will be called again after a pause.
    async fn accept(&mut self) -> io::Result<Self::Io>;
}

/// Serves a store to [`RemoteStore`](super::RemoteStore)s.
#[derive(Debug, Clone, Copy)]
pub struct Server;

impl Server {
    /// Serves `store` on `listener` until `shutdown` is done, then hangs up on every client.
    pub async fn run(
        listener: impl Listen,
        store: Arc<dyn Datastore>,
        shutdown: impl Future<Output = ()>,
    ) {
        Self::run_for(CONNECTIONS, listener, store, shutdown).await;
    }

    /// Likewise, for that many clients at a time; more wait.
    pub async fn run_for(
        clients: usize,
        listener: impl Listen,
        store: Arc<dyn Datastore>,
        shutdown: impl Future<Output = ()>,
    ) {
        Self::run_counted(clients, Arc::default(), listener, store, shutdown).await;
    }

    /// Likewise, and counts what it does.
    pub async fn run_counted(
        clients: usize,
        counters: Arc<Counters>,
        mut listener: impl Listen,
        store: Arc<dyn Datastore>,
        shutdown: impl Future<Output = ()>,
    ) {
        let most = clients.clamp(1, Semaphore::MAX_PERMITS);
        let instance = RandomState::new().hash_one(std::process::id()).max(1);
        let places = Arc::new(Semaphore::new(most));
        let mut clients = JoinSet::new();
        let accepting = async {
            loop {
                let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
                while clients.try_join_next().is_some() {}
                match listener.accept().await {
                    Ok(io) => {
                        let (store, counters) = (Arc::clone(&store), Arc::clone(&counters));
                        clients.spawn(async move {
                            let _connected = counters.client();
                            match serve(io, store, &counters, instance).await {
                                Ok(()) => tracing::debug!("a datastore client left"),
                                Err(error) => tracing::info!(%error, "dropped a datastore client"),
                            }
                            drop(place);
                        });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a datastore client");
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
        };
        tokio::select! {
            () = accepting => {}
            () = shutdown => {}
        }
    }
}

/// Serves one client until it leaves.
async fn serve(
    io: impl AsyncRead + AsyncWrite,
    store: Arc<dyn Datastore>,
    counters: &Arc<Counters>,
    instance: u64,
) -> io::Result<()> {
    let (mut reader, writer) = tokio::io::split(io);
    let mut writer = BufWriter::new(writer);
    let hello = tokio::time::timeout(GREETING, read::<Hello>(&mut reader)).await;
    let Some(hello) = hello.map_err(|_elapsed| invalid("no greeting came"))?? else {
        return Ok(());
    };
    if let Some(reason) = refusal(&hello) {
        send_now(&mut writer, &Welcome::Refused { reason: reason.clone() }).await?;
        return Err(invalid(reason));
    }
    send_now(&mut writer, &Welcome::Welcome { instance, heartbeat: true }).await?;

    let (out, mut frames) = mpsc::channel::<Vec<u8>>(QUEUE);
    let hang_up = Arc::new(Notify::new());
    let session = Session {
        out: Outgoing {
            frames: out,
            counters: Arc::clone(counters),
            hang_up: Arc::clone(&hang_up),
        },
        store,
        requests: Arc::new(Semaphore::new(REQUESTS)),
        watches: HashMap::new(),
        tasks: JoinSet::new(),
    };
    let writing = async {
        loop {
            let frame = match tokio::time::timeout(HEARTBEAT, frames.recv()).await {
                Ok(Some(frame)) => frame,
                Ok(None) => return Ok(()),
                Err(_elapsed) if hello.heartbeat => match encode(&alive()) {
                    Some(frame) => frame,
                    None => continue,
                },
                Err(_elapsed) => continue,
            };
            let written = async {
                writer.write_all(&frame).await?;
                if frames.is_empty() {
                    writer.flush().await?;
                }
                io::Result::Ok(())
            };
            match tokio::time::timeout(WRITE, written).await {
                Ok(result) => result?,
                Err(_elapsed) => {
                    counters.was_slow();
                    return Err(slow("read nothing", WRITE));
                }
            }
            counters.sent(frame.len());
        }
    };
    tokio::select! {
        result = session.run(&mut reader) => result,
        result = writing => result,
        () = hang_up.notified() => {
            counters.was_slow();
            Err(slow("had no room for an event", BEHIND))
        }
    }
}

const fn alive() -> FromServer {
    FromServer { id: 0, say: Say::Alive }
}

fn slow(what: &str, time: Duration) -> io::Error {
    let what = format!("a slow client: it {what} for {} s", time.as_secs());
    io::Error::new(io::ErrorKind::TimedOut, what)
}

fn refusal(hello: &Hello) -> Option<String> {
    if hello.protocol != Hello::PROTOCOL {
        return Some(format!("this is {}, not {:?}", Hello::PROTOCOL, hello.protocol));
    }
    (hello.version != VERSION).then(|| {
        let theirs = hello.version;
        format!(
            "the client speaks version {theirs}, this server version {VERSION}; use one release"
        )
    })
}

async fn send_now<T: serde::Serialize>(
    writer: &mut (impl AsyncWrite + Unpin),
    message: &T,
) -> io::Result<()> {
    let frame = encode(message).ok_or_else(|| invalid("the message is too long"))?;
    writer.write_all(&frame).await?;
    writer.flush().await
}

/// One client's requests.
struct Session {
    out: Outgoing,
    store: Arc<dyn Datastore>,
    requests: Arc<Semaphore>,
    watches: HashMap<u64, Following>,
    tasks: JoinSet<()>,
}

struct Following {
    /// Events that the client has room for.
    credit: Arc<Semaphore>,
    task: AbortHandle,
}

impl Session {
    async fn run(mut self, reader: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
        while let Some(FromClient { id, ask }) = read(reader).await? {
            while let Some(done) = self.tasks.try_join_next() {
                if done.is_err_and(|error| error.is_panic()) {
                    return Err(io::Error::other("a request panicked"));
                }
            }
            match ask {
                Ask::Watch { scope, from, credit } => self.follow(id, scope, from, credit)?,
                Ask::Credit(more) => self.grant(id, more)?,
                Ask::Cancel => {
                    if let Some(following) = self.watches.remove(&id) {
                        following.task.abort();
                    }
                }
                request => {
                    let Ok(permit) = Arc::clone(&self.requests).acquire_owned().await else {
                        return Ok(());
                    };
                    let (store, out) = (Arc::clone(&self.store), self.out.clone());
                    self.tasks.spawn(async move {
                        answer(&*store, &out, id, request).await;
                        drop(permit);
                    });
                }
            }
        }
        Ok(())
    }

    fn follow(
        &mut self,
        id: u64,
        scope: Scope,
        from: Option<Revision>,
        credit: u32,
    ) -> io::Result<()> {
        self.watches.retain(|_, following| !following.task.is_finished());
        if self.watches.len() >= WATCHES || self.watches.contains_key(&id) || credit > WINDOW {
            return Err(invalid("too many watches, or one that cannot be"));
        }
        let credit = Arc::new(Semaphore::new(credit as usize));
        let stream = self.store.watch_shared(scope, from);
        let following = follow(stream, self.out.clone(), id, Arc::clone(&credit));
        let task = self.tasks.spawn(following);
        self.watches.insert(id, Following { credit, task });
        Ok(())
    }

    fn grant(&self, id: u64, more: u32) -> io::Result<()> {
        // It may have ended just now.
        let Some(following) = self.watches.get(&id) else { return Ok(()) };
        if following.credit.available_permits() + more as usize > WINDOW as usize {
            return Err(invalid("more credit than a window"));
        }
        following.credit.add_permits(more as usize);
        Ok(())
    }
}

async fn answer(store: &dyn Datastore, out: &Outgoing, id: u64, request: Ask) {
    let say = match request {
        Ask::Get(key) => store.get(&key).await.map_or_else(Say::Failed, Say::Entry),
        Ask::Write(writes) => store.write(writes).await.map_or_else(Say::WriteFailed, Say::Written),
        Ask::List(scope) => match store.list(&scope).await {
            Err(error) => Say::Failed(error),
            Ok(listing) => {
                let (mut part, mut bytes) = (Vec::new(), 0);
                for entry in listing.entries {
                    bytes += entry.value.len();
                    part.push(entry);
                    if bytes >= PART || part.len() >= 1024 {
                        out.send(id, Say::Part(std::mem::take(&mut part))).await;
                        bytes = 0;
                    }
                }
                if !part.is_empty() {
                    out.send(id, Say::Part(part)).await;
                }
                Say::Listed(listing.revision)
            }
        },
        // Carried out where they are read.
        Ask::Watch { .. } | Ask::Credit(_) | Ask::Cancel => return,
    };
    out.send(id, say).await;
}

async fn follow(mut stream: SharedWatchStream, out: Outgoing, id: u64, credit: Arc<Semaphore>) {
    loop {
        let Ok(room) = tokio::time::timeout(BEHIND, credit.acquire()).await else {
            return out.hang_up.notify_one();
        };
        let Ok(permit) = room else { return };
        let Some(event) = stream.next().await else { break };
        permit.forget();
        let mut bytes = weight(event.event());
        let mut events = vec![sendable(event)];
        while events.len() < EVENTS
            && bytes < PART
            && let Ok(permit) = credit.try_acquire()
            && let Some(Some(event)) = stream.next().now_or_never()
        {
            permit.forget();
            bytes += weight(event.event());
            events.push(sendable(event));
        }
        if !out.send_events(id, &events).await {
            return;
        }
    }
    out.send(id, Say::Ended).await;
}

fn weight(event: &WatchEvent) -> usize {
    match event {
        WatchEvent::Item(entry) | WatchEvent::Put(entry) => entry.value.len(),
        _ => 0,
    }
}

/// The event, or a report in place of an object that no frame can carry.
fn sendable(event: SharedEvent) -> SharedEvent {
    match event.event() {
        WatchEvent::Item(entry) | WatchEvent::Put(entry) if entry.value.len() > MAX_VALUE => {
            let length = entry.value.len();
            SharedEvent::new(WatchEvent::Bad {
                path: entry.key.to_string(),
                reason: format!("{length} bytes; at most {MAX_VALUE} can be sent"),
            })
        }
        _ => event,
    }
}

/// Frames on their way to the client.
#[derive(Clone)]
struct Outgoing {
    frames: mpsc::Sender<Vec<u8>>,
    counters: Arc<Counters>,
    /// Ends the connection of a client that is too slow.
    hang_up: Arc<Notify>,
}

impl Outgoing {
    /// Waits for room; `false` once the client is gone.
    async fn send(&self, id: u64, say: Say) -> bool {
        let frame = encode(&FromServer { id, say });
        self.send_frame(id, frame).await
    }

    async fn send_events(&self, id: u64, events: &[SharedEvent]) -> bool {
        let shared = events.iter().filter(|event| event.is_written()).count();
        let frame = encode_events(id, events);
        self.counters.events(events.len(), events.len() - shared);
        self.send_frame(id, frame).await
    }

    async fn send_frame(&self, id: u64, frame: Option<Vec<u8>>) -> bool {
        let frame = frame.or_else(|| {
            let what = format!("an answer larger than {MAX_VALUE} bytes");
            encode(&FromServer { id, say: Say::Failed(StoreError::Unsupported { what }) })
        });
        match frame {
            Some(frame) => self.frames.send(frame).await.is_ok(),
            None => true,
        }
    }
}
