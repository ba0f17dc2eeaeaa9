//! BGP filters: import and export rules that peers refer to.

use ipnet::IpNet;

use super::choices::choices;
use super::object::object;
use super::{AsNumber, Errors, NoStatus, ObjectMeta, Resource, Spec};
use crate::kind::Kind;

/// Import and export rules that a peer refers to.
pub type BgpFilter = Resource<BgpFilterSpec>;

object! {
    /// Rules per direction and family, first match decides.
    pub struct BgpFilterSpec {
        /// IPv4 routes sent.
        pub export_v4: Vec<BgpFilterRule> = "exportV4",
        /// IPv4 routes received.
        pub import_v4: Vec<BgpFilterRule> = "importV4",
        /// IPv6 routes sent.
        pub export_v6: Vec<BgpFilterRule> = "exportV6",
        /// IPv6 routes received.
        pub import_v6: Vec<BgpFilterRule> = "importV6",
    }

    /// What a rule matches, and what happens then. All its conditions must hold.
    pub struct BgpFilterRule {
        /// Range of the route, compared as `match_operator` says.
        pub cidr: Option<IpNet> = "cidr",
        /// Bounds of the route's prefix length.
        pub prefix_length: Option<PrefixLengthRange> = "prefixLength",
        /// Where the route is from.
        pub source: Option<BgpFilterSource> = "source",
        /// Interface of the route; `*` stands for any characters.
        pub interface: String = "interface",
        /// How the route compares to `cidr`.
        pub match_operator: Option<MatchOperator> = "matchOperator",
        /// Sessions inside or outside the AS.
        pub peer_type: Option<PeerType> = "peerType",
        /// Communities that the route has.
        pub communities: Option<CommunityMatch> = "communities",
        /// AS numbers that the path begins with.
        pub as_path_prefix: Vec<AsNumber> = "asPathPrefix",
        /// Kernel metric of the route.
        pub priority: Option<u32> = "priority",
        /// What happens to the route.
        pub action: Option<BgpFilterAction> = "action" (required),
        /// Changes to an accepted route, in order.
        pub operations: Vec<BgpFilterOperation> = "operations",
    }

    /// Bounds of a prefix length, both included.
    pub struct PrefixLengthRange {
        /// Least.
        pub min: Option<u8> = "min",
        /// Greatest.
        pub max: Option<u8> = "max",
    }

    /// Communities that a route has.
    pub struct CommunityMatch {
        /// Exactly one, `aa:nn` or `aa:nn:mm`.
        pub values: Vec<String> = "values" (required),
    }

    /// A change to a route: exactly one of the three.
    pub struct BgpFilterOperation {
        /// Adds a community.
        pub add_community: Option<AddCommunity> = "addCommunity",
        /// Puts AS numbers in front of the path.
        pub prepend_as_path: Option<PrependAsPath> = "prependASPath",
        /// Sets the kernel metric.
        pub set_priority: Option<SetPriority> = "setPriority",
    }

    /// Adds a community.
    pub struct AddCommunity {
        /// `aa:nn` or `aa:nn:mm`.
        pub value: String = "value" (required),
    }

    /// Puts AS numbers in front of a path.
    pub struct PrependAsPath {
        /// 1 to 10 AS numbers.
        pub prefix: Vec<AsNumber> = "prefix" (required),
    }

    /// Sets a kernel metric.
    pub struct SetPriority {
        /// 1 to 2147483646.
        pub value: u32 = "value" (required),
    }
}

choices! {
    /// What happens to a route.
    pub enum BgpFilterAction {
        /// It is used or sent.
        Accept = "Accept",
        /// It is ignored.
        Reject = "Reject",
    }

    /// How a route compares to a range.
    pub enum MatchOperator {
        /// The same prefix.
        Equal = "Equal",
        /// Another prefix.
        NotEqual = "NotEqual",
        /// Inside, or the same.
        In = "In",
        /// Outside.
        NotIn = "NotIn",
    }

    /// Where a route is from.
    pub enum BgpFilterSource {
        /// Learned over BGP.
        RemotePeers = "RemotePeers",
    }

    /// Sessions inside or outside the AS.
    pub enum PeerType {
        /// Between different AS numbers.
        Ebgp = "eBGP",
        /// Inside one AS.
        Ibgp = "iBGP",
    }
}

impl Spec for BgpFilterSpec {
    const KIND: Kind = Kind::BgpFilter;
    type Status = NoStatus;

    fn validate(&self, _metadata: &ObjectMeta, errors: &mut Errors) {
        super::validate::bgp_filter(self, errors);
    }
}
