use serde::{Deserialize, Serialize};

use super::Revision;
use crate::key::Key;

/// Why a store refused or failed.
///
/// Errors cross the wire between an agent and its clients, so causes are kept as text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The caller asked for an object that is not there.
    #[error("{key} does not exist")]
    NotFound {
        /// The object.
        key: Key,
    },
    /// The caller created an object that is there already.
    #[error("{key} exists already")]
    AlreadyExists {
        /// The object.
        key: Key,
    },
    /// Somebody else wrote the object first: read it again and repeat.
    #[error("{key} was changed by another writer: expected revision {expected}, found {found}")]
    Conflict {
        /// The object.
        key: Key,
        /// What the caller had read.
        expected: Revision,
        /// What is stored now.
        found: Revision,
    },
    /// The stored bytes do not describe the object that their name promises.
    #[error("{path} holds a malformed object: {reason}")]
    BadObject {
        /// Where it is stored.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The store cannot be reached now; the same call may succeed later.
    #[error("the datastore is unavailable: {reason}")]
    Unavailable {
        /// What the network or the server said.
        reason: String,
    },
    /// The store does not accept the credentials, or does not let their owner do this.
    #[error("the datastore refuses access: {reason}")]
    Denied {
        /// What the server said.
        reason: String,
    },
    /// The store's own data is damaged; it will not get better by itself.
    #[error("the datastore is damaged: {reason}")]
    Corrupt {
        /// What is damaged, where, and what to do.
        reason: String,
    },
    /// The settings that say how to reach the store make no sense.
    #[error("the settings of the datastore: {reason}")]
    Settings {
        /// Which setting, what is wrong with it, and what to write.
        reason: String,
    },
    /// This backend cannot do that.
    #[error("not supported by this datastore: {what}")]
    Unsupported {
        /// What was asked.
        what: String,
    },
}

impl StoreError {
    /// A value that could not be read.
    #[must_use]
    pub fn bad_object(key: &Key, reason: &dyn std::fmt::Display) -> Self {
        Self::BadObject { path: key.to_string(), reason: reason.to_string() }
    }

    /// Whether reading again and repeating may succeed: somebody else wrote at the same time.
    #[must_use]
    pub const fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict { .. } | Self::AlreadyExists { .. })
    }

    /// Whether the object is missing.
    #[must_use]
    pub const fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// Whether the same call may succeed later, unchanged.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}
