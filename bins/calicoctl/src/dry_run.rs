//! `--dry-run`: a store that answers as if writes were done.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use calico_core::Datastore;
use calico_core::datastore::{
    Entry, Listing, Revision, StoreError, WatchStream, Write, WriteFailed,
};
use calico_core::key::{Key, Scope};

/// Reads from a store and keeps writes to itself.
#[derive(Debug)]
pub(crate) struct DryRun {
    store: Arc<dyn Datastore>,
    /// What was written here; `None` is deleted.
    written: Mutex<BTreeMap<Key, Option<Entry>>>,
}

impl DryRun {
    pub(crate) fn new(store: Arc<dyn Datastore>) -> Self {
        Self { store, written: Mutex::default() }
    }

    fn own(&self, key: &Key) -> Option<Option<Entry>> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }
}

#[async_trait]
impl Datastore for DryRun {
    async fn get(&self, key: &Key) -> Result<Entry, StoreError> {
        match self.own(key) {
            Some(Some(entry)) => Ok(entry),
            Some(None) => Err(StoreError::NotFound { key: key.clone() }),
            None => self.store.get(key).await,
        }
    }

    async fn list(&self, scope: &Scope) -> Result<Listing, StoreError> {
        let Listing { entries, revision } = self.store.list(scope).await?;
        let mut all: BTreeMap<String, Entry> =
            entries.into_iter().map(|entry| (entry.key.to_string(), entry)).collect();
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        for (key, entry) in written.iter().filter(|(key, _)| scope.contains(key)) {
            match entry {
                Some(entry) => all.insert(key.to_string(), entry.clone()),
                None => all.remove(&key.to_string()),
            };
        }
        Ok(Listing { entries: all.into_values().collect(), revision })
    }

    async fn write(&self, writes: Vec<Write>) -> Result<Vec<Revision>, WriteFailed> {
        let mut done = Vec::new();
        for write in writes {
            let current = match self.find(&write.key).await {
                Ok(current) => current.map(|entry| entry.revision),
                Err(error) => return Err(WriteFailed { done, error }),
            };
            if let Err(error) = write.check(current) {
                return Err(WriteFailed { done, error });
            }
            let revision = Revision(current.unwrap_or_default().0 + 1);
            let entry = write.value.map(|value| Entry { key: write.key.clone(), value, revision });
            let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
            written.insert(write.key, entry);
            done.push(revision);
        }
        Ok(done)
    }

    fn watch(&self, scope: Scope, from: Option<Revision>) -> WatchStream {
        self.store.watch(scope, from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use calico_core::memory::MemoryStore;

    #[tokio::test]
    async fn writes_are_seen_here_and_nowhere_else() {
        let store = Arc::new(MemoryStore::new());
        let (old, new) = (Key::Handle("old".into()), Key::Handle("new".into()));
        store.put(old.clone(), "1".into()).await.unwrap();
        let dry = DryRun::new(Arc::<MemoryStore>::clone(&store));
        dry.delete(old.clone(), None).await.unwrap();
        dry.create(new.clone(), "2".into()).await.unwrap();
        assert!(dry.create(new.clone(), "2".into()).await.unwrap_err().is_conflict());
        let keys = |listing: Listing| -> Vec<Key> {
            listing.entries.into_iter().map(|entry| entry.key).collect()
        };
        assert_eq!(keys(dry.list(&Scope::Handles).await.unwrap()), [new]);
        assert!(dry.find(&old).await.unwrap().is_none());
        assert_eq!(keys(store.list(&Scope::All).await.unwrap()), [old]);
    }
}
