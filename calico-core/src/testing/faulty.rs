use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use async_trait::async_trait;
use futures_core::Stream;

use crate::datastore::{
    Datastore, Entry, Listing, Revision, StoreError, WatchEvent, WatchStream, Write, WriteFailed,
};
use crate::key::{Key, Scope};

/// A call on its way to the store behind a [`FaultyStore`].
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Call<'a> {
    /// [`Datastore::get`].
    Get(&'a Key),
    /// [`Datastore::list`].
    List(&'a Scope),
    /// [`Datastore::write`].
    Write(&'a [Write]),
    /// [`Datastore::watch`].
    Watch(&'a Scope),
}

/// What becomes of a call.
#[non_exhaustive]
pub enum Fault {
    /// Nothing special.
    None,
    /// It fails and never reaches the store. A watch is `Interrupted` once and then goes on.
    Fail(StoreError),
    /// It happens, and the caller is told that the store is unavailable. For a watch as `Fail`.
    LoseReply,
    /// It starts when the future is done: a pause, a signal, or what another writer does first.
    /// For a watch as `None`.
    After(Pin<Box<dyn Future<Output = ()> + Send>>),
}

impl Fault {
    /// Says that the store is unavailable.
    #[must_use]
    pub fn unavailable() -> Self {
        Self::Fail(lost("injected fault"))
    }

    /// Delays the call until `first` is done.
    #[must_use]
    pub fn after(first: impl Future<Output = ()> + Send + 'static) -> Self {
        Self::After(Box::pin(first))
    }
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::Fail(error) => f.debug_tuple("Fail").field(error).finish(),
            Self::LoseReply => f.write_str("LoseReply"),
            Self::After(_) => f.write_str("After"),
        }
    }
}

type Schedule = dyn FnMut(u64, Call<'_>) -> Fault + Send;

/// A store that misbehaves on schedule, around one that works.
///
/// The schedule is asked before each call with the number of the call (from 0). Derived methods
/// such as [`Datastore::create`] count as the required one that they use.
///
/// ```
/// use std::sync::Arc;
/// use calico_core::testing::{Call, Fault, FaultyStore};
/// use calico_core::{Datastore, key::Key, memory::MemoryStore};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let store = FaultyStore::new(Arc::new(MemoryStore::new()), |nth, call| match call {
///     Call::Write(_) if nth == 0 => Fault::LoseReply,
///     _ => Fault::None,
/// });
/// assert!(store.create(Key::IpamConfig, "{}".into()).await.is_err());
/// assert!(store.get(&Key::IpamConfig).await.is_ok());
/// # }
/// ```
pub struct FaultyStore {
    inner: Arc<dyn Datastore>,
    schedule: Mutex<(u64, Box<Schedule>)>,
}

impl FaultyStore {
    /// Puts `schedule` in front of `inner`.
    pub fn new(
        inner: Arc<dyn Datastore>,
        schedule: impl FnMut(u64, Call<'_>) -> Fault + Send + 'static,
    ) -> Self {
        Self { inner, schedule: Mutex::new((0, Box::new(schedule))) }
    }

    fn fault(&self, call: Call<'_>) -> Fault {
        let mut schedule = self.schedule.lock().unwrap_or_else(PoisonError::into_inner);
        let nth = schedule.0;
        schedule.0 += 1;
        (schedule.1)(nth, call)
    }

    /// Lets a call through or stops it; `true` if its reply is to be lost.
    async fn enter(&self, call: Call<'_>) -> Result<bool, StoreError> {
        match self.fault(call) {
            Fault::None => Ok(false),
            Fault::Fail(error) => Err(error),
            Fault::LoseReply => Ok(true),
            Fault::After(first) => {
                first.await;
                Ok(false)
            }
        }
    }
}

impl fmt::Debug for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultyStore").field("inner", &self.inner).finish_non_exhaustive()
    }
}

#[async_trait]
impl Datastore for FaultyStore {
    async fn get(&self, key: &Key) -> Result<Entry, StoreError> {
        let lose = self.enter(Call::Get(key)).await?;
        let reply = self.inner.get(key).await;
        if lose { Err(lost("the reply was lost")) } else { reply }
    }

    async fn list(&self, scope: &Scope) -> Result<Listing, StoreError> {
        let lose = self.enter(Call::List(scope)).await?;
        let reply = self.inner.list(scope).await;
        if lose { Err(lost("the reply was lost")) } else { reply }
    }

    async fn write(&self, writes: Vec<Write>) -> Result<Vec<Revision>, WriteFailed> {
        let lose = self.enter(Call::Write(&writes)).await?;
        let reply = self.inner.write(writes).await;
        if lose { Err(lost("the reply was lost").into()) } else { reply }
    }

    fn watch(&self, scope: Scope, from: Option<Revision>) -> WatchStream {
        let first = match self.fault(Call::Watch(&scope)) {
            Fault::Fail(error) => Some(error.to_string()),
            Fault::LoseReply => Some(lost("the reply was lost").to_string()),
            Fault::None | Fault::After(_) => None,
        };
        let first = first.map(|reason| WatchEvent::Interrupted { reason });
        Box::pin(Opening { first, rest: self.inner.watch(scope, from) })
    }
}

struct Opening {
    first: Option<WatchEvent>,
    rest: WatchStream,
}

impl Stream for Opening {
    type Item = WatchEvent;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<WatchEvent>> {
        match self.first.take() {
            Some(event) => Poll::Ready(Some(event)),
            None => self.rest.as_mut().poll_next(context),
        }
    }
}

fn lost(reason: &str) -> StoreError {
    StoreError::Unavailable { reason: reason.to_owned() }
}
