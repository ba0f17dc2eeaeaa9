use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Revision, StoreError};
use crate::key::Key;

/// What must hold for a write to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expect {
    /// Nothing: write in any case.
    Any,
    /// There is no such object.
    Absent,
    /// There is one, at any revision.
    Present,
    /// There is one, at this revision.
    At(Revision),
}

/// One change to one object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Write {
    /// The object.
    pub key: Key,
    /// Its new JSON text; `None` deletes it.
    pub value: Option<Arc<str>>,
    /// What must hold.
    pub expect: Expect,
}

impl Write {
    /// Writes an object that must not exist yet.
    #[must_use]
    pub fn create(key: Key, value: impl Into<Arc<str>>) -> Self {
        Self { key, value: Some(value.into()), expect: Expect::Absent }
    }

    /// Replaces an object that must be at revision `expected`.
    #[must_use]
    pub fn update(key: Key, value: impl Into<Arc<str>>, expected: Revision) -> Self {
        Self { key, value: Some(value.into()), expect: Expect::At(expected) }
    }

    /// Writes an object in any case.
    #[must_use]
    pub fn put(key: Key, value: impl Into<Arc<str>>) -> Self {
        Self { key, value: Some(value.into()), expect: Expect::Any }
    }

    /// Deletes an object that must exist, at revision `expected` if given.
    #[must_use]
    pub fn delete(key: Key, expected: Option<Revision>) -> Self {
        Self { key, value: None, expect: expected.map_or(Expect::Present, Expect::At) }
    }

    /// Says whether the write may happen to an object now at `current` (`None`: absent).
    ///
    /// # Errors
    ///
    /// [`StoreError::AlreadyExists`], [`StoreError::NotFound`] or [`StoreError::Conflict`].
    pub fn check(&self, current: Option<Revision>) -> Result<(), StoreError> {
        let key = || self.key.clone();
        match (self.expect, current) {
            (Expect::Absent, Some(_)) => Err(StoreError::AlreadyExists { key: key() }),
            (Expect::Present | Expect::At(_), None) => Err(StoreError::NotFound { key: key() }),
            (Expect::At(expected), Some(found)) if expected != found => {
                Err(StoreError::Conflict { key: key(), expected, found })
            }
            _ => Ok(()),
        }
    }
}

/// A sequence of writes that stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{error}")]
pub struct WriteFailed {
    /// The revisions of the writes that were done before; they stay done.
    pub done: Vec<Revision>,
    /// Why the next one was not.
    pub error: StoreError,
}

impl From<WriteFailed> for StoreError {
    fn from(failed: WriteFailed) -> Self {
        failed.error
    }
}
