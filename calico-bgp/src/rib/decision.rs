//! Which of two paths is better, and which step says so (RFC 4271, section 9.1.2.2; RFC 4456,
//! section 9).

use std::cmp::Ordering;
use std::fmt;

use super::long_lived::is_last_resort;
use super::{PeerFacts, PeerKind};
use crate::wire::PathAttributes;

/// LOCAL_PREF of a path that has none.
pub(super) const DEFAULT_LOCAL_PREF: u32 = 100;

/// The step that decided between two paths, in the order in which the steps are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Decision {
    /// There is no other path.
    OnlyPath,
    /// This speaker's own route wins over learned ones, unless it has a LOCAL_PREF, and they a
    /// higher one.
    Local,
    /// A route that is alive over one that is only kept as a last resort (RFC 9494).
    LastResort,
    /// Higher LOCAL_PREF.
    LocalPref,
    /// Shorter AS_PATH.
    AsPathLength,
    /// Lower ORIGIN.
    Origin,
    /// Lower MULTI_EXIT_DISC, among paths from one neighbouring AS.
    Med,
    /// External over internal.
    ExternalOverInternal,
    /// Lower metric to the next hop. Paths that are equal so far can share traffic.
    IgpMetric,
    /// Lower ORIGINATOR_ID or BGP identifier.
    RouterId,
    /// Shorter CLUSTER_LIST.
    ClusterListLength,
    /// Lower peer address.
    PeerAddress,
    /// Lower path identifier, of two paths of one peer (RFC 7911).
    PathId,
    /// The path is not used: rejected by policy, or its next hop is unreachable.
    NotEligible,
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OnlyPath => "only path",
            Self::Local => "local route",
            Self::LastResort => "alive over long-lived stale",
            Self::LocalPref => "local preference",
            Self::AsPathLength => "AS path length",
            Self::Origin => "origin",
            Self::Med => "multi-exit discriminator",
            Self::ExternalOverInternal => "external over internal",
            Self::IgpMetric => "metric to the next hop",
            Self::RouterId => "router identifier",
            Self::ClusterListLength => "cluster list length",
            Self::PeerAddress => "peer address",
            Self::PathId => "path identifier",
            Self::NotEligible => "not eligible",
        })
    }
}

/// A path as the comparison sees it.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// Its attributes after import policy.
    pub attributes: &'a PathAttributes,
    /// Its source.
    pub peer: &'a PeerFacts,
    /// Metric of the way to its next hop.
    pub igp_metric: u32,
    /// The identifier that its peer gave it (RFC 7911); 0 without ADD-PATH.
    pub path_id: u32,
}

impl Candidate<'_> {
    /// The AS that MULTI_EXIT_DISC is compared within: the neighbour's, or 0 for paths that start
    /// in this AS.
    pub(super) fn neighbor_as(&self) -> u32 {
        self.attributes.as_path.neighbor().unwrap_or(0)
    }
}

/// Compares two paths: `Less` if `a` is better, with the step that decided. `Equal` only for a
/// path and itself.
pub fn compare(a: &Candidate<'_>, b: &Candidate<'_>) -> (Ordering, Decision) {
    let (x, y) = (a.attributes, b.attributes);
    let local_pref = |p: &PathAttributes| p.local_pref.unwrap_or(DEFAULT_LOCAL_PREF);
    // RFC 4456, section 9: the originator's identifier stands for the reflector's.
    let router_id =
        |c: &Candidate<'_>| c.attributes.originator_id.unwrap_or(c.peer.router_id).to_bits();
    let med = |p: &PathAttributes| p.med.unwrap_or(0);

    /// Returns if the step decides.
    macro_rules! step {
        ($decision:ident, $order:expr) => {
            let order = $order;
            if order.is_ne() {
                return (order, Decision::$decision);
            }
        };
    }
    // An own route that says how much it is preferred yields to a learned one that is preferred to
    // it (a workload on its way to another node).
    let yields = |own: &Candidate<'_>, other: &Candidate<'_>| {
        let preferred =
            own.attributes.local_pref.is_some_and(|own| own < local_pref(other.attributes));
        preferred && !is_last_resort(other.attributes)
    };
    let (own_a, own_b) = (a.peer.kind == PeerKind::Local, b.peer.kind == PeerKind::Local);
    if own_a != own_b && !(if own_a { yields(a, b) } else { yields(b, a) }) {
        step!(Local, own_b.cmp(&own_a));
    }
    step!(LastResort, is_last_resort(x).cmp(&is_last_resort(y)));
    step!(LocalPref, local_pref(y).cmp(&local_pref(x)));
    step!(AsPathLength, x.as_path.hop_count().cmp(&y.as_path.hop_count()));
    step!(Origin, x.origin.cmp(&y.origin));
    if a.neighbor_as() == b.neighbor_as() {
        step!(Med, med(x).cmp(&med(y)));
    }
    step!(ExternalOverInternal, a.peer.kind.is_internal().cmp(&b.peer.kind.is_internal()));
    step!(IgpMetric, a.igp_metric.cmp(&b.igp_metric));
    step!(RouterId, router_id(a).cmp(&router_id(b)));
    step!(ClusterListLength, x.cluster_list.len().cmp(&y.cluster_list.len()));
    step!(PeerAddress, a.peer.address.cmp(&b.peer.address));
    step!(PathId, a.path_id.cmp(&b.path_id));
    (Ordering::Equal, Decision::PathId)
}
