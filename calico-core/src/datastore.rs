//! The trait [`Datastore`]: a versioned store of Calico's objects, with a resumable watch.
//!
//! Backends implement four methods: [`get`](Datastore::get), [`list`](Datastore::list),
//! [`write`](Datastore::write) and [`watch`](Datastore::watch). Everything else is derived.
//! Values are JSON text exactly as upstream stores it; [`Entry::decode`] makes them typed.

mod error;
mod shared;
mod watch;
mod write;

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;
use std::sync::Arc;

use async_trait::async_trait;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use error::StoreError;
pub use shared::{SharedEvent, SharedWatchStream};
pub use watch::{WatchEvent, WatchStream};
pub use write::{Expect, Write, WriteFailed};

use crate::key::{Key, Scope};
use crate::resource::{Resource, Spec};

/// A version of the store (or of one object): a number that grows with every write.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Revision {
    type Err = ParseIntError;

    /// Reads a `metadata.resourceVersion`.
    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        text.parse().map(Self)
    }
}

/// One stored object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its name.
    pub key: Key,
    /// Its JSON text.
    pub value: Arc<str>,
    /// The version of its last write; expected by the next one.
    pub revision: Revision,
}

impl Entry {
    /// Reads the value as `T`.
    ///
    /// # Errors
    ///
    /// [`StoreError::BadObject`] if the JSON does not describe a `T`.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, StoreError> {
        serde_json::from_str(&self.value).map_err(|error| StoreError::bad_object(&self.key, &error))
    }

    /// Reads the value as a resource, several times as fast as [`decode`](Self::decode) does.
    ///
    /// # Errors
    ///
    /// [`StoreError::BadObject`] if the JSON does not describe one of this kind.
    pub fn resource<S: Spec>(&self) -> Result<Resource<S>, StoreError> {
        Resource::from_json(&self.value).map_err(|error| StoreError::bad_object(&self.key, &error))
    }
}

/// The objects of a [`Scope`] at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// The objects, sorted by path.
    pub entries: Vec<Entry>,
    /// The moment: a watch from here misses nothing.
    pub revision: Revision,
}

/// A versioned, watchable store of Calico's objects.
///
/// Handles are cheap to share (`Arc<dyn Datastore>`). Dropping a returned future leaves the store
/// either before or after the whole operation; a dropped [`write`](Self::write) may still happen.
#[cfg_attr(feature = "testing", mockall::automock)]
#[async_trait]
pub trait Datastore: fmt::Debug + Send + Sync {
    /// Reads one object.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotFound`], or [`StoreError::Unavailable`].
    async fn get(&self, key: &Key) -> Result<Entry, StoreError>;

    /// Reads every object of `scope`, at one moment.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`].
    async fn list(&self, scope: &Scope) -> Result<Listing, StoreError>;

    /// Carries out `writes` in order and stops at the first that fails.
    ///
    /// Each write is atomic, the sequence is not: those before a failing one stay done (see
    /// [`WriteFailed::done`]). Sending them together saves round trips and disk syncs. A store may
    /// carry out several at one revision; each of their events then has it. What it says of a
    /// deletion may be later than the deletion's own revision, where others write to the store, too.
    ///
    /// # Errors
    ///
    /// What stopped the sequence: [`StoreError::Conflict`], [`StoreError::AlreadyExists`],
    /// [`StoreError::NotFound`], [`StoreError::BadObject`] for a key that is not
    /// [storable](Key::is_storable), or [`StoreError::Unavailable`] (then the write that was under
    /// way may or may not have happened).
    async fn write(&self, writes: Vec<Write>) -> Result<Vec<Revision>, WriteFailed>;

    /// Follows the objects of `scope`.
    ///
    /// Without `from`, or when the store no longer knows what came after `from`, the stream opens
    /// with a full listing in brackets ([`WatchEvent::Begin`] to [`WatchEvent::Ready`]); else it
    /// goes on after `from` (what was written together at `from` may be repeated). The backend
    /// reconnects by itself; a gap it cannot fill is a new listing, never a silent loss. Dropping
    /// the stream ends the watch.
    fn watch(&self, scope: Scope, from: Option<Revision>) -> WatchStream;

    /// As [`watch`](Self::watch), for who hands the events on as JSON to many: a store that has
    /// each of them in memory writes its JSON once.
    fn watch_shared(&self, scope: Scope, from: Option<Revision>) -> SharedWatchStream {
        Box::pin(shared::Unshared(self.watch(scope, from)))
    }

    /// Reads one object; `None` if there is none.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get), without `NotFound`.
    async fn find(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        match self.get(key).await {
            Ok(entry) => Ok(Some(entry)),
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes a new object.
    ///
    /// # Errors
    ///
    /// [`StoreError::AlreadyExists`], or [`StoreError::Unavailable`].
    async fn create(&self, key: Key, value: Arc<str>) -> Result<Revision, StoreError> {
        one(self.write(vec![Write::create(key, value)]).await)
    }

    /// Replaces an object that still is at revision `expected`.
    ///
    /// # Errors
    ///
    /// [`StoreError::Conflict`], [`StoreError::NotFound`], or [`StoreError::Unavailable`].
    async fn update(
        &self,
        key: Key,
        value: Arc<str>,
        expected: Revision,
    ) -> Result<Revision, StoreError> {
        one(self.write(vec![Write::update(key, value, expected)]).await)
    }

    /// Writes an object, whether or not it exists.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`].
    async fn put(&self, key: Key, value: Arc<str>) -> Result<Revision, StoreError> {
        one(self.write(vec![Write::put(key, value)]).await)
    }

    /// Deletes an object, if given only at revision `expected`.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotFound`], [`StoreError::Conflict`], or [`StoreError::Unavailable`].
    async fn delete(&self, key: Key, expected: Option<Revision>) -> Result<Revision, StoreError> {
        one(self.write(vec![Write::delete(key, expected)]).await)
    }
}

fn one(result: Result<Vec<Revision>, WriteFailed>) -> Result<Revision, StoreError> {
    match result {
        Ok(revisions) => Ok(revisions.last().copied().unwrap_or_default()),
        Err(failed) => Err(failed.error),
    }
}
