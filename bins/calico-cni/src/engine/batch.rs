//! Calls that come at the same time share one write to the store: whoever is first serves all that
//! have come by then.

use std::fmt;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use calico_core::datastore::Write;
use calico_ipam::{Allocator, AssignRequest, Ending, IpamError, Outcome};
use tokio::sync::{Mutex as AsyncMutex, oneshot};

/// Requests served together at most; bounds the size of one write.
const MAX_BATCH: usize = 256;

/// What is written along with the addresses of a request.
pub(super) type Along = Box<dyn Fn(&[IpAddr]) -> Vec<Write> + Send + Sync>;

/// Requests for addresses, and releases of them, that wait for their turn.
#[derive(Debug, Default)]
pub(super) struct Queue {
    assign: Turns<Assignment>,
    release: Turns<Releases>,
}

impl Queue {
    /// Assigns addresses, together with whoever else wants some now.
    pub(super) async fn assign(
        &self,
        allocator: &Allocator,
        request: AssignRequest,
        along: Along,
    ) -> Outcome {
        let outcome = self.assign.take(Assignment { request, along }, allocator).await;
        outcome.unwrap_or_else(|| Outcome { assigned: Err(broken_off("assigning")), also: None })
    }

    /// Releases handles, together with whoever else wants to now.
    ///
    /// # Errors
    ///
    /// If anything is in the way of any of them: then each is to be released on its own.
    pub(super) async fn release(
        &self,
        allocator: &Allocator,
        endings: Vec<Ending>,
    ) -> Result<(), IpamError> {
        let released = self.release.take(Releases(endings), allocator).await;
        released.unwrap_or_else(|| Err(broken_off("releasing")))
    }
}

/// What can be served together.
trait Item: Sized {
    type Answer;

    /// Answers in the order of the items.
    fn serve(
        batch: Vec<Self>,
        allocator: &Allocator,
    ) -> impl Future<Output = Vec<Self::Answer>> + Send;
}

struct Assignment {
    request: AssignRequest,
    along: Along,
}

impl Item for Assignment {
    type Answer = Outcome;

    async fn serve(batch: Vec<Self>, allocator: &Allocator) -> Vec<Outcome> {
        let (requests, along): (Vec<_>, Vec<_>) =
            batch.into_iter().map(|item| (item.request, item.along)).unzip();
        let also = |nth: usize, assigned: &calico_ipam::Assigned| {
            let addresses: Vec<IpAddr> = assigned.addresses().map(|a| a.ip).collect();
            along.get(nth).map(|along| along(&addresses)).unwrap_or_default()
        };
        allocator.assign_along(&requests, also).await
    }
}

struct Releases(Vec<Ending>);

impl Item for Releases {
    type Answer = Result<(), IpamError>;

    async fn serve(batch: Vec<Self>, allocator: &Allocator) -> Vec<Self::Answer> {
        let count = batch.len();
        let endings: Vec<Ending> = batch.into_iter().flat_map(|item| item.0).collect();
        vec![allocator.release_along(&endings).await.map(drop); count]
    }
}

/// The call that served this one was dropped: nobody knows what became of it.
fn broken_off(what: &str) -> IpamError {
    let what = format!("{what} addresses together with a call that broke off");
    IpamError::Contention { what, attempts: 1 }
}

type Waiting<T> = (T, oneshot::Sender<<T as Item>::Answer>);

/// Items that wait to be served, all that are there at a time.
struct Turns<T: Item> {
    waiting: Mutex<Vec<Waiting<T>>>,
    turn: AsyncMutex<()>,
}

impl<T: Item> Default for Turns<T> {
    fn default() -> Self {
        Self { waiting: Mutex::default(), turn: AsyncMutex::default() }
    }
}

impl<T: Item> fmt::Debug for Turns<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Turns").finish_non_exhaustive()
    }
}

impl<T: Item> Turns<T> {
    /// Has `item` served, here or by another call; `None` if that one was dropped meanwhile.
    async fn take(&self, item: T, allocator: &Allocator) -> Option<T::Answer> {
        let (answer, mut mine) = oneshot::channel();
        self.waiting().push((item, answer));
        loop {
            let turn = self.turn.lock().await;
            // Served by whoever had the turn before?
            match mine.try_recv() {
                Ok(answer) => return Some(answer),
                Err(oneshot::error::TryRecvError::Closed) => return None,
                Err(oneshot::error::TryRecvError::Empty) => {}
            }
            let batch: Vec<Waiting<T>> = {
                let mut waiting = self.waiting();
                waiting.retain(|(_, answer)| !answer.is_closed());
                let count = waiting.len().min(MAX_BATCH);
                waiting.drain(..count).collect()
            };
            let (items, askers): (Vec<T>, Vec<_>) = batch.into_iter().unzip();
            for (asker, answer) in askers.into_iter().zip(T::serve(items, allocator).await) {
                // Whoever no longer waits was dropped: the runtime's DEL finds what it was given.
                let _ = asker.send(answer);
            }
            drop(turn);
        }
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Vec<Waiting<T>>> {
        // A panic elsewhere cannot leave the list half changed.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
