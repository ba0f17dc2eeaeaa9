//! Staged policies: computed, reported, never enforced.

use serde_json::Value;

use super::choices::choices;
use super::object::object;
use super::policy::types_or_default;
use super::{
    DEFAULT_TIER, Errors, GlobalNetworkPolicySpec, NetworkPolicySpec, NoStatus, ObjectMeta,
    PerformanceHint, PolicyType, Resource, Rule, Spec, validate,
};
use crate::kind::Kind;

/// A [`super::NetworkPolicy`] that is computed but not enforced.
pub type StagedNetworkPolicy = Resource<StagedNetworkPolicySpec>;

/// A [`super::GlobalNetworkPolicy`] that is computed but not enforced.
pub type StagedGlobalNetworkPolicy = Resource<StagedGlobalNetworkPolicySpec>;

/// A Kubernetes NetworkPolicy that is computed but not enforced.
pub type StagedKubernetesNetworkPolicy = Resource<StagedKubernetesNetworkPolicySpec>;

object! {
    /// A staged policy of one namespace.
    pub struct StagedNetworkPolicySpec {
        /// What enforcing it would do.
        pub staged_action: Option<StagedAction> = "stagedAction",
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
        /// Directions.
        pub types: Vec<PolicyType> = "types",
        /// Labels of the endpoints' service accounts.
        pub service_account_selector: String = "serviceAccountSelector",
        /// Hints to the dataplane.
        pub performance_hints: Vec<PerformanceHint> = "performanceHints",
    }

    /// A staged policy of the whole cluster.
    pub struct StagedGlobalNetworkPolicySpec {
        /// What enforcing it would do.
        pub staged_action: Option<StagedAction> = "stagedAction",
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
        /// Directions.
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

    /// A staged Kubernetes policy; peers and ports are kept as written.
    pub struct StagedKubernetesNetworkPolicySpec {
        /// What enforcing it would do.
        pub staged_action: Option<StagedAction> = "stagedAction",
        /// Kubernetes label selector of the pods.
        pub pod_selector: Option<Value> = "podSelector",
        /// Kubernetes ingress rules.
        pub ingress: Vec<Value> = "ingress",
        /// Kubernetes egress rules.
        pub egress: Vec<Value> = "egress",
        /// Directions.
        pub policy_types: Vec<PolicyType> = "policyTypes",
    }
}

choices! {
    /// What enforcing a staged policy would do.
    #[derive(Default)]
    pub enum StagedAction {
        /// Create or replace the policy of that name.
        #[default]
        Set = "Set",
        /// Delete the policy of that name.
        Delete = "Delete",
        /// Learn what traffic there is.
        Learn = "Learn",
        /// Nothing.
        Ignore = "Ignore",
    }
}

impl StagedNetworkPolicySpec {
    /// The policy it would become.
    #[must_use]
    pub fn to_enforced(&self) -> NetworkPolicySpec {
        let s = self.clone();
        NetworkPolicySpec {
            tier: s.tier,
            order: s.order,
            ingress: s.ingress,
            egress: s.egress,
            selector: s.selector,
            types: s.types,
            service_account_selector: s.service_account_selector,
            performance_hints: s.performance_hints,
            unknown: s.unknown,
        }
    }
}

impl StagedGlobalNetworkPolicySpec {
    /// The policy it would become.
    #[must_use]
    pub fn to_enforced(&self) -> GlobalNetworkPolicySpec {
        let s = self.clone();
        GlobalNetworkPolicySpec {
            tier: s.tier,
            order: s.order,
            ingress: s.ingress,
            egress: s.egress,
            selector: s.selector,
            types: s.types,
            do_not_track: s.do_not_track,
            pre_dnat: s.pre_dnat,
            apply_on_forward: s.apply_on_forward,
            service_account_selector: s.service_account_selector,
            namespace_selector: s.namespace_selector,
            performance_hints: s.performance_hints,
            unknown: s.unknown,
        }
    }
}

macro_rules! staged {
    ($spec:ident, $kind:ident, $validate:path) => {
        impl Spec for $spec {
            const KIND: Kind = Kind::$kind;
            type Status = NoStatus;

            fn apply_defaults(&mut self) {
                if self.tier.is_empty() {
                    self.tier = DEFAULT_TIER.to_owned();
                }
                // The rest of a Delete must stay empty.
                if *self.staged_action.get_or_insert_default() != StagedAction::Delete {
                    self.types = types_or_default(&self.types, &self.ingress, &self.egress);
                }
            }

            fn validate(&self, _metadata: &ObjectMeta, errors: &mut Errors) {
                if self.staged_action == Some(StagedAction::Delete) {
                    let empty = Self {
                        staged_action: self.staged_action,
                        tier: self.tier.clone(),
                        ..Self::default()
                    };
                    validate::staged_delete(*self == empty, errors);
                } else {
                    $validate(&self.to_enforced(), errors);
                }
            }
        }
    };
}

staged!(StagedNetworkPolicySpec, StagedNetworkPolicy, validate::policy);
staged!(StagedGlobalNetworkPolicySpec, StagedGlobalNetworkPolicy, validate::global_policy);

impl Spec for StagedKubernetesNetworkPolicySpec {
    const KIND: Kind = Kind::StagedKubernetesNetworkPolicy;
    type Status = NoStatus;

    fn apply_defaults(&mut self) {
        let action = *self.staged_action.get_or_insert_default();
        if action != StagedAction::Delete && self.policy_types.is_empty() {
            self.policy_types.push(PolicyType::Ingress);
            if !self.egress.is_empty() {
                self.policy_types.push(PolicyType::Egress);
            }
        }
    }

    fn validate(&self, _metadata: &ObjectMeta, errors: &mut Errors) {
        if self.staged_action == Some(StagedAction::Delete) {
            let empty = Self { staged_action: self.staged_action, ..Self::default() };
            validate::staged_delete(*self == empty, errors);
        }
    }
}
