//! The rules that need other objects, held against writes before they are made.

use std::collections::HashMap;
use std::sync::Arc;

use calico_core::Datastore;
use calico_core::datastore::Entry;
use calico_core::key::{Key, Scope};
use calico_core::resource::AnyResource;
use calico_core::resource::admission::Change;

use crate::failure::{Failure, name_of};

/// Reads what the rules need, once, and remembers what the command itself is about to write.
pub(crate) struct Admission<'a> {
    store: &'a dyn Datastore,
    known: HashMap<Scope, HashMap<Key, Arc<str>>>,
    /// Writes that come before: an object is there or gone by then.
    pending: Vec<(Key, Option<Arc<str>>)>,
}

impl<'a> Admission<'a> {
    pub(crate) fn new(store: &'a dyn Datastore) -> Self {
        Self { store, known: HashMap::new(), pending: Vec::new() }
    }

    /// Checks a write of `key`: what is stored, and what shall be stored instead.
    pub(crate) async fn check(
        &mut self,
        key: &Key,
        current: Option<&Entry>,
        new: Option<(&AnyResource, Arc<str>)>,
    ) -> Result<(), Failure> {
        // What cannot be read may be replaced by anything.
        let old: Option<AnyResource> = current.and_then(|entry| entry.decode().ok());
        let change = match (&old, &new) {
            (Some(old), Some((new, _))) => Some(Change::Update { old, new }),
            (None, Some((new, _))) => Some(Change::Create(new)),
            (Some(old), None) => Some(Change::Delete(old)),
            (None, None) => None,
        };
        if let Some(change) = change {
            let others = self.others(change.needs()).await?;
            change
                .check(&others)
                .map_err(|errors| Failure::Invalid { name: name_of(key), errors })?;
        }
        self.pending.push((key.clone(), new.map(|(_, text)| text)));
        Ok(())
    }

    async fn others(&mut self, scopes: Vec<Scope>) -> Result<Vec<(Key, Arc<str>)>, Failure> {
        let mut others = Vec::new();
        for scope in scopes {
            if !self.known.contains_key(&scope) {
                let entries = self.store.list(&scope).await?.entries;
                let known = entries.into_iter().map(|entry| (entry.key, entry.value)).collect();
                self.known.insert(scope.clone(), known);
            }
            let Some(known) = self.known.get(&scope) else { continue };
            if self.pending.iter().any(|(key, _)| scope.contains(key)) {
                let mut known = known.clone();
                for (key, text) in self.pending.iter().filter(|(key, _)| scope.contains(key)) {
                    match text {
                        Some(text) => known.insert(key.clone(), Arc::clone(text)),
                        None => known.remove(key),
                    };
                }
                others.extend(known);
            } else {
                others.extend(known.iter().map(|(key, text)| (key.clone(), Arc::clone(text))));
            }
        }
        others.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(others)
    }
}
