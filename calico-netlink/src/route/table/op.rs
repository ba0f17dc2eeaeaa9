//! What a plan consists of.

use super::KernelRoute;

/// One change of the kernel's routes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Make a route where none is.
    Add(KernelRoute),
    /// Make a route in the place of one of ours.
    Replace(KernelRoute),
    /// Remove one of ours.
    Remove(KernelRoute),
}

impl Op {
    /// The route it is about.
    #[must_use]
    pub fn route(&self) -> &KernelRoute {
        match self {
            Self::Add(route) | Self::Replace(route) | Self::Remove(route) => route,
        }
    }
}

/// Why a desired route is not in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Its interface is not there or not up; it is made once it is.
    Waiting {
        /// The interface's name.
        interface: String,
    },
    /// The kernel refused it; it is tried again when something changes.
    Refused {
        /// Its reason.
        reason: String,
    },
}
