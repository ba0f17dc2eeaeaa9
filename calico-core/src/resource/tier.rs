//! Tiers: ordered groups of policies.

use super::choices::choices;
use super::object::object;
use super::{Condition, Errors, ObjectMeta, Resource, Spec};
use crate::kind::Kind;

/// An ordered group of policies.
pub type Tier = Resource<TierSpec>;

object! {
    /// Rank and default of a tier.
    pub struct TierSpec {
        /// Rank, lowest first; see [`TierSpec::order()`].
        pub order: Option<f64> = "order",
        /// What happens to traffic of endpoints that the tier's policies select but do not
        /// decide about.
        pub default_action: Option<TierAction> = "defaultAction",
    }

    /// What the tier controller reports.
    pub struct TierStatus {
        /// Conditions; `Ready` says whether the tier is in use.
        pub conditions: Vec<Condition> = "conditions",
    }
}

choices! {
    /// What a tier does with traffic that its policies did not decide about.
    #[derive(Default)]
    pub enum TierAction {
        /// It goes on to the next tier.
        Pass = "Pass",
        /// It is dropped.
        #[default]
        Deny = "Deny",
    }
}

impl TierSpec {
    /// The order of tiers that state none.
    pub const DEFAULT_ORDER: f64 = 1_000_000.0;

    /// Its rank among tiers, lowest first: as set, else [`DEFAULT_ORDER`](Self::DEFAULT_ORDER), which
    /// upstream's clients write into a tier without one, or read it so.
    #[must_use]
    pub fn order(&self) -> f64 {
        self.order.unwrap_or(Self::DEFAULT_ORDER)
    }

    /// What happens at the end of the tier: as set, else Deny.
    #[must_use]
    pub fn default_action(&self) -> TierAction {
        self.default_action.unwrap_or_default()
    }
}

impl Tier {
    /// The tiers that always exist and cannot be deleted.
    #[must_use]
    pub fn built_in() -> [Self; 3] {
        [
            Self::of("kube-admin", 1_000.0, TierAction::Pass),
            Self::of("default", TierSpec::DEFAULT_ORDER, TierAction::Deny),
            Self::of("kube-baseline", 10_000_000.0, TierAction::Pass),
        ]
    }

    /// The tiers of AdminNetworkPolicies and of the BaselineAdminNetworkPolicy. Upstream made them
    /// until it dropped these kinds, so clusters may have their policies without their tiers:
    /// then they are these.
    #[must_use]
    pub fn implied() -> [Self; 2] {
        [
            Self::of("adminnetworkpolicy", 1_000.0, TierAction::Pass),
            Self::of("baselineadminnetworkpolicy", 10_000_000.0, TierAction::Pass),
        ]
    }

    fn of(name: &str, order: f64, action: TierAction) -> Self {
        let (order, default_action) = (Some(order), Some(action));
        Self::new(name, TierSpec { order, default_action, ..TierSpec::default() })
    }

    /// Whether `name` is a tier that always exists.
    #[must_use]
    pub fn is_built_in(name: &str) -> bool {
        matches!(name, "kube-admin" | "default" | "kube-baseline")
    }
}

impl Spec for TierSpec {
    const KIND: Kind = Kind::Tier;
    type Status = TierStatus;

    fn validate(&self, metadata: &ObjectMeta, errors: &mut Errors) {
        super::validate::tier(self, metadata, errors);
    }

    fn apply_defaults(&mut self) {
        self.order.get_or_insert(Self::DEFAULT_ORDER);
        self.default_action.get_or_insert_default();
    }
}
