//! ADDs that come at the same time share one write to the store: whoever is first serves all that
//! have come by then.

use std::fmt;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use calico_core::datastore::Write;
use calico_ipam::{Allocator, AssignRequest, IpamError, Outcome};
use tokio::sync::{Mutex as AsyncMutex, oneshot};

/// Requests served together at most; bounds the size of one write.
const MAX_BATCH: usize = 256;

/// What is written along with the addresses of a request.
pub(super) type Along = Box<dyn Fn(&[IpAddr]) -> Vec<Write> + Send + Sync>;

/// Requests for addresses that wait for their turn.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: Mutex<Vec<Waiting>>,
    turn: AsyncMutex<()>,
}

struct Waiting {
    request: AssignRequest,
    along: Along,
    answer: oneshot::Sender<Outcome>,
}

impl fmt::Debug for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiting").field("request", &self.request).finish_non_exhaustive()
    }
}

impl Queue {
    /// Assigns addresses, together with whoever else wants some now.
    pub(super) async fn assign(
        &self,
        allocator: &Allocator,
        request: AssignRequest,
        along: Along,
    ) -> Outcome {
        let (answer, mut mine) = oneshot::channel();
        self.waiting().push(Waiting { request, along, answer });
        loop {
            let turn = self.turn.lock().await;
            // Served by whoever had the turn before?
            match mine.try_recv() {
                Ok(outcome) => return outcome,
                Err(oneshot::error::TryRecvError::Empty) => self.serve(allocator).await,
                Err(oneshot::error::TryRecvError::Closed) => return broken_off(),
            }
            drop(turn);
        }
    }

    async fn serve(&self, allocator: &Allocator) {
        let batch: Vec<Waiting> = {
            let mut waiting = self.waiting();
            waiting.retain(|waiting| !waiting.answer.is_closed());
            let count = waiting.len().min(MAX_BATCH);
            waiting.drain(..count).collect()
        };
        let (mut requests, mut along, mut answers) = (Vec::new(), Vec::new(), Vec::new());
        for waiting in batch {
            requests.push(waiting.request);
            along.push(waiting.along);
            answers.push(waiting.answer);
        }
        let also = |nth: usize, assigned: &calico_ipam::Assigned| {
            let addresses: Vec<IpAddr> = assigned.addresses().map(|a| a.ip).collect();
            along.get(nth).map(|along| along(&addresses)).unwrap_or_default()
        };
        let outcomes = allocator.assign_along(&requests, also).await;
        for (answer, outcome) in answers.into_iter().zip(outcomes) {
            // Whoever no longer waits was dropped: the runtime's DEL finds what it was given.
            let _ = answer.send(outcome);
        }
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Vec<Waiting>> {
        // A panic elsewhere cannot leave the list half changed.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The call that served this one was dropped: nobody knows what became of it.
fn broken_off() -> Outcome {
    let what = "assigning addresses together with a call that broke off".to_owned();
    Outcome { assigned: Err(IpamError::Contention { what, attempts: 1 }), also: None }
}
