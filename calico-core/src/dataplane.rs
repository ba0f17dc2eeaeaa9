//! The trait [`Dataplane`] and the values that cross it: the rule IR, endpoints, sets, routes.
//!
//! A policy engine describes desired state as [`Transaction`]s of [`Update`]s; a backend makes a
//! kernel (or a map, or a mock) equal to the sum of them. Values are free of any backend: no
//! chains, no handles, no interface indexes.

mod dscp;
mod endpoint;
mod host;
mod limits;
mod route;
mod rule;
mod show;
mod verdict;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use ipnet::IpNet;

pub use dscp::{Dscp, Marking};
pub use endpoint::{
    DefaultAction, DenyAction, EndpointId, EndpointToHostAction, HostSettings, LogLimit,
    OutgoingNat, Pool, ServiceLoop, TierPolicies, Translation, Tunnels, WorkloadEndpoint,
};
pub use host::{Failsafe, HostEndpoint, HostInterface};
pub use limits::{Bandwidth, Limits, PacketRate, TrafficLimits};
pub use route::{NextHop, Route, RouteTarget};
pub use rule::{
    Action, Direction, IcmpMatch, PolicyId, PortRange, Rule, RuleId, RuleOwner, RuleSet, SetId,
    SetKind, SetMember, Side,
};
pub use verdict::{Flow, Verdict, VerdictCause, VerdictEvent, VerdictStream};

/// A change to the desired state.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Update {
    /// The set has exactly these members.
    Set {
        /// Its identity.
        id: SetId,
        /// What its members are.
        kind: SetKind,
        /// All of them.
        members: Vec<SetMember>,
    },
    /// The set gains and loses members.
    SetDelta {
        /// Its identity; it was described by an earlier [`Update::Set`].
        id: SetId,
        /// Members that come.
        added: Vec<SetMember>,
        /// Members that go.
        removed: Vec<SetMember>,
    },
    /// The set goes; nothing refers to it any more.
    SetRemoved(SetId),
    /// A policy or a profile has exactly these rules.
    Rules {
        /// Policy or profile.
        owner: RuleOwner,
        /// Its rules.
        rules: RuleSet,
    },
    /// A policy or a profile goes; no endpoint refers to it any more.
    RulesRemoved(RuleOwner),
    /// A workload endpoint on this host.
    Endpoint(WorkloadEndpoint),
    /// An endpoint goes.
    EndpointRemoved(EndpointId),
    /// A host endpoint of this host.
    HostEndpoint(HostEndpoint),
    /// The host endpoint of this name goes.
    HostEndpointRemoved(Arc<str>),
    /// A route to have.
    Route(Route),
    /// A destination without a route of ours.
    RouteRemoved(IpNet),
    /// Every IP pool: what counts as inside, and whose outgoing traffic is masqueraded.
    Pools(Vec<Pool>),
    /// Every floating address of workloads of this host.
    Translations(Vec<Translation>),
    /// Every address of this host whose packets carry a code point when they leave the cluster.
    Markings(Vec<Marking>),
    /// Settings of the host.
    Host(HostSettings),
    /// The desired state is complete from here on: what is ours and not described may go, but
    /// for routes over other routers ([`RouteTarget::Via`]), which wait for
    /// [`Update::LearnedInSync`].
    InSync,
    /// The routes over other routers are complete too: every peer has sent its own, or its time
    /// to do so is over. Until then those that an earlier run left stay, so that a restart loses
    /// no route.
    LearnedInSync,
}

/// Changes that take effect together, in one step of the kernel where it can.
///
/// Updates are in order of dependency: sets before the rules that use them, rules before the
/// endpoints, removals the other way round.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Transaction {
    /// Grows with every transaction; acknowledged by [`Applied::revision`].
    pub revision: u64,
    /// What changes.
    pub updates: Vec<Update>,
}

/// What a backend did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// The revision that is in force now.
    pub revision: u64,
    /// Endpoints that could not be served, and why; they are blocked, the others work.
    pub failed: Vec<(EndpointId, String)>,
}

/// What [`Dataplane::resync`] found and repaired.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Drift {
    /// What was missing or wrong, one line each; empty if all was well.
    pub repaired: Vec<String>,
}

/// Why a backend failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DataplaneError {
    /// The caller's transaction makes no sense: an unknown set, an interface name too long.
    #[error("invalid transaction: {reason}")]
    Invalid {
        /// What is wrong with it.
        reason: String,
    },
    /// The kernel refused; nothing of the transaction is in force.
    #[error("the kernel refused {what}: {reason}")]
    Refused {
        /// The object it refused.
        what: String,
        /// Its own words.
        reason: String,
    },
    /// The kernel lacks something the backend needs.
    #[error("this kernel cannot be used: {missing}")]
    Unsupported {
        /// What is missing, and how to get it.
        missing: String,
    },
    /// The connection to the kernel failed; the same call may succeed later.
    #[error("no connection to the kernel: {reason}")]
    Unavailable {
        /// What happened.
        reason: String,
    },
}

/// Something that enforces policy and forwards packets.
///
/// A backend owns what it made and nothing else. It starts closed: until the first
/// [`Update::InSync`] it changes nothing that an earlier run left in force, and lets no packet of
/// an unknown endpoint through.
#[cfg_attr(feature = "testing", mockall::automock)]
#[async_trait]
pub trait Dataplane: fmt::Debug + Send + Sync {
    /// Brings the changes into force, all or nothing, and returns once they are.
    ///
    /// Safe to drop: the transaction then is in force or not, and
    /// [`resync`](Self::resync) settles it.
    ///
    /// # Errors
    ///
    /// See [`DataplaneError`]. After an error the backend remembers the desired state and brings
    /// it into force with the next call that succeeds.
    async fn apply(&self, transaction: Transaction) -> Result<Applied, DataplaneError>;

    /// Compares the kernel with the desired state and repairs what others changed.
    ///
    /// # Errors
    ///
    /// See [`DataplaneError`].
    async fn resync(&self) -> Result<Drift, DataplaneError>;

    /// Follows the verdicts that the backend reports. May lose events under load, never blocks.
    fn verdicts(&self) -> VerdictStream;
}

/// A backend that enforces nothing: for programs that only route, and for tests of callers.
#[derive(Debug, Clone, Copy, Default)]
pub struct NullDataplane;

#[async_trait]
impl Dataplane for NullDataplane {
    async fn apply(&self, transaction: Transaction) -> Result<Applied, DataplaneError> {
        Ok(Applied { revision: transaction.revision, failed: Vec::new() })
    }

    async fn resync(&self) -> Result<Drift, DataplaneError> {
        Ok(Drift::default())
    }

    fn verdicts(&self) -> VerdictStream {
        Box::pin(crate::stream::Silent::default())
    }
}
