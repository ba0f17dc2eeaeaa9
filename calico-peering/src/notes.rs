//! What of the resources has no effect, and why.

use std::fmt;
use std::net::IpAddr;

use crate::secrets::SecretRef;

/// Something that a resource asks for and that is not in force. Report each once.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Note {
    /// The resource, such as `BGPPeer tor`.
    pub resource: String,
    /// What is the matter.
    pub problem: Problem,
}

/// What is the matter with a part of a resource.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Problem {
    /// A field has no effect.
    NoEffect {
        /// The field.
        field: &'static str,
        /// Why.
        why: String,
    },
    /// A field cannot be understood.
    Bad {
        /// The field.
        field: &'static str,
        /// Why.
        why: String,
    },
    /// A field is missing.
    Missing {
        /// The field.
        field: &'static str,
        /// What it would be for.
        why: &'static str,
    },
    /// It names a BGPFilter that does not exist: routes pass as if it had no rules.
    NoSuchFilter(String),
    /// Its password is missing: the session runs without one.
    NoPassword {
        /// Where it should be.
        secret: SecretRef,
        /// Why it is not.
        why: String,
    },
    /// A session is left out.
    NoSession {
        /// With whom.
        peer: IpAddr,
        /// Why.
        why: &'static str,
    },
}

impl Note {
    pub(crate) fn new(resource: impl Into<String>, problem: Problem) -> Self {
        Self { resource: resource.into(), problem }
    }

    pub(crate) fn no_effect(
        resource: impl Into<String>,
        field: &'static str,
        why: impl Into<String>,
    ) -> Self {
        Self::new(resource, Problem::NoEffect { field, why: why.into() })
    }

    pub(crate) fn bad(
        resource: impl Into<String>,
        field: &'static str,
        why: impl fmt::Display,
    ) -> Self {
        Self::new(resource, Problem::Bad { field, why: why.to_string() })
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.resource)?;
        match &self.problem {
            Problem::NoEffect { field, why } => write!(f, "{field} has no effect: {why}"),
            Problem::Bad { field, why } => write!(f, "{field} is ignored: {why}"),
            Problem::Missing { field, why } => write!(f, "{field} is not set: {why}"),
            Problem::NoSuchFilter(name) => {
                write!(f, "BGPFilter {name} does not exist; routes pass as without it")
            }
            Problem::NoPassword { secret, why } => {
                write!(f, "the session runs without a password: secret {secret} {why}")
            }
            Problem::NoSession { peer, why } => write!(f, "no session with {peer}: {why}"),
        }
    }
}
