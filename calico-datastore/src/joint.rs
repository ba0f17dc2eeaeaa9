//! What many wait for and a task of its own makes: a connection, a token, a client.
//!
//! A watch is a stream, and who holds one may leave it alone for as long as he likes. If it stood in
//! the queue of a lock then, or held it while it made something, everybody behind it would wait
//! until somebody polls it again: perhaps the one who waits. So nobody makes anything here while
//! he is polled, and there is no queue: whoever comes joins the task that is under way, and
//! whoever leaves it alone is waited for by nobody.

use std::fmt;
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};

/// A value that is kept until it is forgotten, or why it could not be made. Clones share it.
pub(crate) struct Joint<T, E> {
    state: Arc<Mutex<State<T, E>>>,
}

struct State<T, E> {
    made: Option<T>,
    making: Option<Making<T, E>>,
    /// Tasks so far.
    count: u64,
}

/// A task under way.
struct Making<T, E> {
    number: u64,
    /// By what it makes the value.
    by: u64,
    outcome: Shared<BoxFuture<'static, Result<T, E>>>,
}

impl<T, E> Joint<T, E> {
    fn lock(&self) -> MutexGuard<'_, State<T, E>> {
        // Nothing that holds it can panic half way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets the value if it is of no use any more.
    pub(crate) fn forget_if(&self, useless: impl FnOnce(&T) -> bool) {
        let mut state = self.lock();
        if state.made.as_ref().is_some_and(useless) {
            state.made = None;
        }
    }
}

impl<T, E> Joint<T, E>
where
    T: Clone + Send + Sync + 'static,
    E: Clone + Send + Sync + 'static,
{
    /// The value, if it was made and not forgotten.
    pub(crate) fn made(&self) -> Option<T> {
        self.lock().made.clone()
    }

    /// The value, which is made if there is none.
    pub(crate) async fn get<F>(&self, make: impl FnOnce() -> F) -> Result<T, E>
    where
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        match self.made() {
            Some(value) => Ok(value),
            None => self.make(0, make).await,
        }
    }

    /// A new value, or the one that is being made, unless that is done by something else.
    ///
    /// What `make` does must come to an end by itself: it goes on if nobody waits for it.
    pub(crate) async fn make<F>(&self, by: u64, make: impl FnOnce() -> F) -> Result<T, E>
    where
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        let outcome = {
            let mut state = self.lock();
            match &state.making {
                Some(making) if making.by == by => making.outcome.clone(),
                _ => {
                    state.count += 1;
                    let number = state.count;
                    let outcome = self.spawn(number, make());
                    state.making = Some(Making { number, by, outcome: outcome.clone() });
                    outcome
                }
            }
        };
        outcome.await
    }

    fn spawn(
        &self,
        number: u64,
        work: impl Future<Output = Result<T, E>> + Send + 'static,
    ) -> Shared<BoxFuture<'static, Result<T, E>>> {
        let joint = self.clone();
        let task = tokio::spawn(async move {
            let result = work.await;
            let mut state = joint.lock();
            if let Ok(value) = &result {
                state.made = Some(value.clone());
            }
            if state.making.as_ref().is_some_and(|making| making.number == number) {
                state.making = None;
            }
            drop(state);
            result
        });
        let outcome = async move {
            match task.await {
                Ok(result) => result,
                Err(error) => match error.try_into_panic() {
                    Ok(panic) => resume_unwind(panic),
                    // The runtime is being shut down, and everybody who waits with it.
                    Err(_) => std::future::pending().await,
                },
            }
        };
        outcome.boxed().shared()
    }
}

impl<T, E> Default for Joint<T, E> {
    fn default() -> Self {
        let state = State { made: None, making: None, count: 0 };
        Self { state: Arc::new(Mutex::new(state)) }
    }
}

impl<T, E> Clone for Joint<T, E> {
    fn clone(&self) -> Self {
        Self { state: Arc::clone(&self.state) }
    }
}

impl<T, E> fmt::Debug for Joint<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("Joint")
            .field("made", &state.made.is_some())
            .field("making", &state.making.is_some())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use super::*;

    type Number = Joint<u32, String>;

    /// Counts how often something is made.
    #[derive(Default, Clone)]
    struct Maker(Arc<AtomicU32>);

    impl Maker {
        fn make(&self) -> impl Future<Output = Result<u32, String>> + Send + 'static {
            let number = self.0.fetch_add(1, Ordering::Relaxed) + 1;
            async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                if number == 1 { Err("the first fails".to_owned()) } else { Ok(number) }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn many_wait_for_one_task_and_share_its_failure() {
        let (joint, maker) = (Number::default(), Maker::default());
        let both =
            || async { tokio::join!(joint.get(|| maker.make()), joint.get(|| maker.make())) };
        let failed = Err("the first fails".to_owned());
        assert_eq!(both().await, (failed.clone(), failed));
        assert_eq!((both().await, joint.made()), ((Ok(2), Ok(2)), Some(2)));
        joint.forget_if(|value| *value != 2);
        assert_eq!(joint.get(|| maker.make()).await, Ok(2));
        joint.forget_if(|value| *value == 2);
        assert_eq!(joint.get(|| maker.make()).await, Ok(3));
        assert_eq!(joint.make(0, || maker.make()).await, Ok(4));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_one_who_is_not_polled() {
        let (joint, maker) = (Number::default(), Maker::default());
        let mut first = Box::pin(joint.get(|| maker.make()));
        assert!(first.as_mut().now_or_never().is_none());
        assert!(joint.get(|| maker.make()).await.is_err());
        let mut second = Box::pin(joint.get(|| maker.make()));
        assert!(second.as_mut().now_or_never().is_none());
        assert_eq!(joint.get(|| maker.make()).await, Ok(2));
        assert!(first.await.is_err());
        assert_eq!(second.await, Ok(2));
        // One who gave up leaves the work to others.
        joint.forget_if(|_| true);
        assert!(joint.get(|| maker.make()).now_or_never().is_none());
        assert_eq!(joint.get(|| maker.make()).await, Ok(3));
    }

    #[tokio::test(start_paused = true)]
    async fn another_way_does_not_wait_for_the_first() {
        let (joint, maker) = (Number::default(), Maker::default());
        let silent = joint.make(1, || async { std::future::pending().await });
        assert!(silent.now_or_never().is_none());
        assert!(joint.make(2, || maker.make()).await.is_err());
        assert_eq!(joint.make(2, || maker.make()).await, Ok(2));
    }
}
