//! Things that are done together: whoever is first does it for all that have come by then.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use tokio::sync::{Mutex as AsyncMutex, oneshot};

/// Items served together at most; bounds the size of one write to a store.
const MAX_BATCH: usize = 256;

/// What can be served together.
pub(super) trait Item: Sized {
    type Answer;
    /// What serves it.
    type With;

    /// Answers in the order of the items.
    fn serve(batch: Vec<Self>, with: &Self::With)
    -> impl Future<Output = Vec<Self::Answer>> + Send;
}

type Waiting<T> = (T, oneshot::Sender<<T as Item>::Answer>);

/// Items that wait to be served, all that are there at a time.
pub(super) struct Turns<T: Item> {
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
    pub(super) async fn take(&self, item: T, with: &T::With) -> Option<T::Answer> {
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
            for (asker, answer) in askers.into_iter().zip(T::serve(items, with).await) {
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
