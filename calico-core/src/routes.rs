//! The trait [`RouteDistributor`]: tells other routers of our prefixes, and us of theirs.

use std::fmt;
use std::net::IpAddr;
use std::pin::Pin;

use async_trait::async_trait;
use futures_core::Stream;
use ipnet::IpNet;

use crate::stream::Silent;

/// A best path that others told us of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LearnedRoute {
    /// The prefix.
    pub prefix: IpNet,
    /// The next hops, sorted; several share the traffic (ECMP). Never empty.
    pub next_hops: Vec<IpAddr>,
    /// How much it is preferred inside the AS (RFC 4271, section 5.1.5), if the protocol says so:
    /// the greatest wins.
    pub local_pref: Option<u32>,
}

/// One step of the stream of learned routes; the brackets are those of a datastore's watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteEvent {
    /// A full listing starts; a prefix that it lacks is gone.
    Begin,
    /// A route of the listing.
    Item(LearnedRoute),
    /// The listing is complete.
    Ready,
    /// A route is new or has new next hops.
    Put(LearnedRoute),
    /// No route to this prefix is left.
    Gone(IpNet),
}

/// Events of [`RouteDistributor::learned`]; it ends when the distributor does.
pub type RouteStream = Pin<Box<dyn Stream<Item = RouteEvent> + Send>>;

/// Why a distributor failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DistributorError {
    /// It has been shut down.
    #[error("the route distributor has stopped")]
    Stopped,
    /// The caller's prefix cannot be announced.
    #[error("cannot announce {prefix}: {reason}")]
    Refused {
        /// The prefix.
        prefix: IpNet,
        /// Why not.
        reason: String,
    },
}

/// Announces local prefixes to other routers and learns theirs.
#[cfg_attr(feature = "testing", mockall::automock)]
#[async_trait]
pub trait RouteDistributor: fmt::Debug + Send + Sync {
    /// Announces prefixes that this host is the way to. Repeating is harmless.
    ///
    /// # Errors
    ///
    /// See [`DistributorError`].
    async fn announce(&self, prefixes: Vec<IpNet>) -> Result<(), DistributorError>;

    /// Takes announcements back. Repeating is harmless.
    ///
    /// # Errors
    ///
    /// See [`DistributorError`].
    async fn withdraw(&self, prefixes: Vec<IpNet>) -> Result<(), DistributorError>;

    /// Follows the best paths learned from others: a listing in brackets, then changes.
    fn learned(&self) -> RouteStream;
}

/// A distributor that tells nobody and learns nothing: for single hosts, and for overlays whose
/// routes come from the datastore.
#[derive(Debug, Clone, Copy, Default)]
pub struct NullDistributor;

#[async_trait]
impl RouteDistributor for NullDistributor {
    async fn announce(&self, _: Vec<IpNet>) -> Result<(), DistributorError> {
        Ok(())
    }

    async fn withdraw(&self, _: Vec<IpNet>) -> Result<(), DistributorError> {
        Ok(())
    }

    fn learned(&self) -> RouteStream {
        Box::pin(Silent::default())
    }
}
