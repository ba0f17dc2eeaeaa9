use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

/// One lock per name, for as long as somebody holds or wants it.
#[derive(Debug, Default)]
pub(crate) struct Locks {
    held: Mutex<HashMap<String, Arc<AsyncMutex<()>>>>,
}

impl Locks {
    /// Waits for the lock of `name`.
    pub(crate) async fn lock(&self, name: &str) -> OwnedMutexGuard<()> {
        let lock = {
            let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
            // Nobody else has a reference to what only the map knows.
            held.retain(|_, lock| Arc::strong_count(lock) > 1);
            Arc::clone(held.entry(name.to_owned()).or_default())
        };
        lock.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn equal_names_exclude_each_other_and_leave_nothing() {
        let locks = Locks::default();
        let first = locks.lock("a").await;
        let _other = locks.lock("b").await;
        let waiting = tokio::time::timeout(std::time::Duration::from_millis(20), locks.lock("a"));
        assert!(waiting.await.is_err());
        drop(first);
        drop(locks.lock("a").await);
        drop(locks.lock("c").await);
        assert_eq!(locks.held.lock().unwrap().len(), 2, "b is held, c was the last");
    }
}
