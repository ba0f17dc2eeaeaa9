//! The side that wants the store.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use calico_core::Datastore;
use calico_core::datastore::{
    Entry, Listing, Revision, StoreError, WatchStream, Write, WriteFailed,
};
use calico_core::key::{Key, Scope};
use tokio::io::{AsyncRead, AsyncWrite};

use super::connection::{Call, CallError, Connection};
use super::local::LocalSocket;
use super::watch;
use super::wire::{Ask, MAX_VALUE, Say};
use crate::joint::Joint;

/// Time for a server to accept and greet.
const PATIENCE: Duration = Duration::from_secs(5);

/// Time for a server to answer a request.
const ANSWER: Duration = Duration::from_secs(60);

/// A stream of bytes in both directions.
pub trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

/// How to reach a server.
#[async_trait]
pub trait Connect: fmt::Debug + Send + Sync {
    /// Opens a stream.
    ///
    /// # Errors
    ///
    /// What the network says.
    async fn connect(&self) -> io::Result<Box<dyn Transport>>;

    /// Names the server in messages.
    fn describe(&self) -> String;

    /// What a person could do about `error`; part of a sentence.
    fn advice(&self, error: &io::Error) -> Option<&'static str>;
}

#[async_trait]
impl<T: Connect + ?Sized> Connect for Arc<T> {
    async fn connect(&self) -> io::Result<Box<dyn Transport>> {
        (**self).connect().await
    }

    fn describe(&self) -> String {
        (**self).describe()
    }

    fn advice(&self, error: &io::Error) -> Option<&'static str> {
        (**self).advice(error)
    }
}

/// A store that a [`Server`](super::Server) in another process has.
///
/// It connects when first used. Clones share the connection.
#[derive(Debug, Clone)]
pub struct RemoteStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
pub(super) struct Shared {
    server: Box<dyn Connect>,
    current: Joint<Arc<Connection>, StoreError>,
    /// The server last spoken to; 0 before the first.
    instance: AtomicU64,
}

impl RemoteStore {
    /// The store served on the unix socket `path`. Nothing is sent yet.
    #[must_use]
    pub fn connect(path: impl AsRef<Path>) -> Self {
        Self::over(LocalSocket(path.as_ref().to_owned()))
    }

    /// The store reached through `server`.
    #[must_use]
    pub fn over(server: impl Connect + 'static) -> Self {
        let shared = Shared {
            server: Box::new(server),
            current: Joint::default(),
            instance: AtomicU64::new(0),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Asks something that does no harm if asked twice: over a connection that turns out to be
    /// broken, it is.
    async fn read<T>(
        &self,
        ask: impl Fn() -> Ask,
        take: impl AsyncFn(&mut Call) -> Result<T, Trouble>,
    ) -> Result<T, StoreError> {
        let mut retry = true;
        loop {
            let connection = self.shared.connection().await?;
            let result = self.limited(async {
                let mut call = connection.call(ask()).await?;
                take(&mut call).await
            });
            match result.await {
                Ok(answer) => return Ok(answer),
                Err(Trouble::Store(error)) => return Err(error),
                Err(Trouble::Call(CallError::Broken(_))) if retry => retry = false,
                Err(Trouble::Call(error)) => return Err(self.shared.lost(error, "")),
            }
        }
    }

    async fn limited<T>(
        &self,
        work: impl Future<Output = Result<T, Trouble>>,
    ) -> Result<T, Trouble> {
        match tokio::time::timeout(ANSWER, work).await {
            Ok(result) => result,
            Err(_elapsed) => {
                let reason = format!(
                    "{} gave no answer in {ANSWER:?}; check the server's log",
                    self.shared.server.describe()
                );
                Err(Trouble::Store(StoreError::Unavailable { reason }))
            }
        }
    }
}

/// Why there is no answer.
enum Trouble {
    Store(StoreError),
    Call(CallError),
}

impl From<CallError> for Trouble {
    fn from(error: CallError) -> Self {
        Self::Call(error)
    }
}

#[async_trait]
impl Datastore for RemoteStore {
    async fn get(&self, key: &Key) -> Result<Entry, StoreError> {
        if !key.is_storable() {
            return Err(StoreError::NotFound { key: key.clone() });
        }
        let take = async |call: &mut Call| match call.answer().await? {
            Say::Entry(entry) => Ok(entry),
            other => Err(unexpected(other)),
        };
        self.read(|| Ask::Get(key.clone()), take).await
    }

    async fn list(&self, scope: &Scope) -> Result<Listing, StoreError> {
        let take = async |call: &mut Call| {
            let mut entries = Vec::new();
            loop {
                match call.answer().await? {
                    Say::Part(part) => entries.extend(part),
                    Say::Listed(revision) => return Ok(Listing { entries, revision }),
                    other => return Err(unexpected(other)),
                }
            }
        };
        self.read(|| Ask::List(scope.clone()), take).await
    }

    async fn write(&self, mut writes: Vec<Write>) -> Result<Vec<Revision>, WriteFailed> {
        // Such a name would not even survive the journey; what comes before it is written.
        let refused = writes.iter().position(|write| !write.key.is_storable()).map(|at| {
            let key = writes[at].key.clone();
            writes.truncate(at);
            StoreError::bad_object(&key, &"its name cannot be stored")
        });
        let mut done = Vec::new();
        if !writes.is_empty() {
            let connection = self.shared.connection().await?;
            let result = self.limited(async {
                let mut call = connection.call(Ask::Write(writes)).await?;
                Ok(call.answer().await?)
            });
            done = match result.await {
                Ok(Say::Written(revisions)) => revisions,
                Ok(Say::WriteFailed(failed)) => return Err(failed),
                Ok(Say::Failed(error)) | Err(Trouble::Store(error)) => return Err(error.into()),
                Ok(_) => return Err(nonsense().into()),
                Err(Trouble::Call(error)) => {
                    let note = "; the write may or may not have happened";
                    return Err(self.shared.lost(error, note).into());
                }
            };
        }
        match refused {
            Some(error) => Err(WriteFailed { done, error }),
            None => Ok(done),
        }
    }

    fn watch(&self, scope: Scope, from: Option<Revision>) -> WatchStream {
        let known = self.shared.instance.load(Ordering::Relaxed);
        let at = from.map(|from| (known, from));
        watch::stream(Arc::clone(&self.shared), scope, at)
    }
}

impl Shared {
    /// The connection, made now if there is none.
    pub(super) async fn connection(self: &Arc<Self>) -> Result<Arc<Connection>, StoreError> {
        self.current.forget_if(|connection| !connection.is_open());
        let shared = Arc::clone(self);
        self.current.get(|| async move { shared.open().await }).await
    }

    async fn open(&self) -> Result<Arc<Connection>, StoreError> {
        let opened = tokio::time::timeout(PATIENCE, async {
            Connection::open(self.server.connect().await?).await
        });
        let opened = match opened.await {
            Ok(opened) => opened,
            Err(_elapsed) => Err(io::Error::from(io::ErrorKind::TimedOut)),
        };
        let connection = opened.map_err(|error| self.unreachable(&error))?;
        self.instance.store(connection.instance, Ordering::Relaxed);
        Ok(connection)
    }

    fn unreachable(&self, error: &io::Error) -> StoreError {
        let mut reason = format!("cannot connect to {}: {error}", self.server.describe());
        if let Some(advice) = self.server.advice(error) {
            reason = format!("{reason}; {advice}");
        }
        StoreError::Unavailable { reason }
    }

    /// Says what became of a request; `note` is what the caller should know about it.
    pub(super) fn lost(&self, error: CallError, note: &str) -> StoreError {
        let server = self.server.describe();
        match error {
            CallError::Broken(reason) => StoreError::Unavailable {
                reason: format!("the connection to {server} broke: {reason}{note}"),
            },
            CallError::TooLong => StoreError::Unsupported {
                what: format!(
                    "a request this large; send fewer writes at a time, each value at most \
                     {MAX_VALUE} bytes long"
                ),
            },
        }
    }
}

fn unexpected(say: Say) -> Trouble {
    Trouble::Store(match say {
        Say::Failed(error) => error,
        _ => nonsense(),
    })
}

fn nonsense() -> StoreError {
    StoreError::Unavailable {
        reason: "the server gave the answer to another question; use one release on both sides"
            .to_owned(),
    }
}
