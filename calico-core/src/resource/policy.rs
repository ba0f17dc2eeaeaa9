//! Policies of one namespace and of the whole cluster.

use super::choices::choices;
use super::object::object;
use super::{Errors, NoStatus, ObjectMeta, PolicyType, Resource, Rule, Spec, validate};
use crate::kind::Kind;

/// A policy for the endpoints of one namespace.
pub type NetworkPolicy = Resource<NetworkPolicySpec>;

/// A policy for endpoints of every namespace, and for hosts.
pub type GlobalNetworkPolicy = Resource<GlobalNetworkPolicySpec>;

/// The tier of policies that name none.
pub const DEFAULT_TIER: &str = "default";

object! {
    /// Which endpoints of the namespace, and what they may do.
    pub struct NetworkPolicySpec {
        /// The tier; `default` when empty.
        pub tier: String = "tier",
        /// Rank within the tier, lowest first; unset is last.
        pub order: Option<f64> = "order",
        /// Rules for traffic into the endpoints, first match decides.
        pub ingress: Vec<Rule> = "ingress",
        /// Rules for traffic out of the endpoints, first match decides.
        pub egress: Vec<Rule> = "egress",
        /// Labels of the endpoints; empty is all.
        pub selector: String = "selector",
        /// Directions; see [`NetworkPolicySpec::types`].
        pub types: Vec<PolicyType> = "types",
        /// Labels of the endpoints' service accounts.
        pub service_account_selector: String = "serviceAccountSelector",
        /// Hints to the dataplane.
        pub performance_hints: Vec<PerformanceHint> = "performanceHints",
    }

    /// Which endpoints, and what they may do.
    pub struct GlobalNetworkPolicySpec {
        /// The tier; `default` when empty.
        pub tier: String = "tier",
        /// Rank within the tier, lowest first; unset is last.
        pub order: Option<f64> = "order",
        /// Rules for traffic into the endpoints, first match decides.
        pub ingress: Vec<Rule> = "ingress",
        /// Rules for traffic out of the endpoints, first match decides.
        pub egress: Vec<Rule> = "egress",
        /// Labels of the endpoints; empty is all.
        pub selector: String = "selector",
        /// Directions; see [`GlobalNetworkPolicySpec::types`].
        pub types: Vec<PolicyType> = "types",
        /// Host endpoints only: before connection tracking, untracked.
        pub do_not_track: bool = "doNotTrack",
        /// Host endpoints only: before destination NAT; ingress only.
        pub pre_dnat: bool = "preDNAT",
        /// Host endpoints: also for traffic that the host forwards.
        pub apply_on_forward: bool = "applyOnForward",
        /// Labels of the endpoints' service accounts.
        pub service_account_selector: String = "serviceAccountSelector",
        /// Labels of the endpoints' namespaces.
        pub namespace_selector: String = "namespaceSelector",
        /// Hints to the dataplane.
        pub performance_hints: Vec<PerformanceHint> = "performanceHints",
    }
}

choices! {
    /// A hint to the dataplane.
    pub enum PerformanceHint {
        /// Keep the policy programmed on nodes without a matching endpoint, too.
        AssumeNeededOnEveryNode = "AssumeNeededOnEveryNode",
    }
}

/// The directions a policy governs: as set, else egress only if it has only egress rules,
/// ingress only if it has no egress rules.
pub(crate) fn types_or_default(
    types: &[PolicyType],
    ingress: &[Rule],
    egress: &[Rule],
) -> Vec<PolicyType> {
    match (types, ingress, egress) {
        ([], _, []) => vec![PolicyType::Ingress],
        ([], [], _) => vec![PolicyType::Egress],
        ([], ..) => vec![PolicyType::Ingress, PolicyType::Egress],
        (set, ..) => set.to_vec(),
    }
}

macro_rules! common {
    ($spec:ident, $kind:ident, $validate:path) => {
        impl $spec {
            /// The tier: as set, else `default`.
            #[must_use]
            pub fn tier(&self) -> &str {
                if self.tier.is_empty() { DEFAULT_TIER } else { &self.tier }
            }

            /// The directions governed: as set, else by the rules there are.
            #[must_use]
            pub fn types(&self) -> Vec<PolicyType> {
                types_or_default(&self.types, &self.ingress, &self.egress)
            }

            /// Whether traffic in direction `direction` is governed.
            #[must_use]
            pub fn applies_to(&self, direction: PolicyType) -> bool {
                self.types().contains(&direction)
            }
        }

        impl Spec for $spec {
            const KIND: Kind = Kind::$kind;
            type Status = NoStatus;

            fn apply_defaults(&mut self) {
                self.tier = self.tier().to_owned();
                self.types = self.types();
            }

            fn validate(&self, _metadata: &ObjectMeta, errors: &mut Errors) {
                $validate(self, errors);
            }
        }
    };
}

common!(NetworkPolicySpec, NetworkPolicy, validate::policy);
common!(GlobalNetworkPolicySpec, GlobalNetworkPolicy, validate::global_policy);
