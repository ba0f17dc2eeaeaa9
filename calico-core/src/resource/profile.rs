//! Profiles: rules and labels that endpoints name directly.

use std::collections::BTreeMap;

use super::object::object;
use super::{Action, Errors, NoStatus, ObjectMeta, Path, PolicyType, Resource, Rule, Spec};
use crate::kind::Kind;

/// Rules and labels that endpoints name directly.
pub type Profile = Resource<ProfileSpec>;

/// The built-in profile that allows everything.
pub const DEFAULT_ALLOW_PROFILE: &str = "projectcalico-default-allow";

/// Prefix of the profile of a Kubernetes namespace.
pub const NAMESPACE_PROFILE_PREFIX: &str = "kns.";

/// Prefix of the profile of a Kubernetes service account.
pub const SERVICE_ACCOUNT_PROFILE_PREFIX: &str = "ksa.";

/// Prefix of labels that endpoints inherit from their namespace.
pub const NAMESPACE_LABEL_PREFIX: &str = "pcns.";

/// Prefix of labels that endpoints inherit from their service account.
pub const SERVICE_ACCOUNT_LABEL_PREFIX: &str = "pcsa.";

object! {
    /// What endpoints of a profile may do, and labels they get.
    pub struct ProfileSpec {
        /// Rules for traffic into the endpoints, first match decides.
        pub ingress: Vec<Rule> = "ingress",
        /// Rules for traffic out of the endpoints, first match decides.
        pub egress: Vec<Rule> = "egress",
        /// Labels that endpoints of the profile inherit.
        pub labels_to_apply: BTreeMap<String, String> = "labelsToApply",
    }
}

impl ProfileSpec {
    /// Everything in, everything out.
    #[must_use]
    pub fn allow_all() -> Self {
        Self {
            ingress: vec![Rule::new(Action::Allow)],
            egress: vec![Rule::new(Action::Allow)],
            ..Self::default()
        }
    }
}

impl Profile {
    /// The built-in, read-only profile that allows everything; its revision is always `1`.
    #[must_use]
    pub fn default_allow() -> Self {
        let mut metadata = ObjectMeta::named(DEFAULT_ALLOW_PROFILE);
        metadata.resource_version = "1".to_owned();
        Self::with_metadata(metadata, ProfileSpec::allow_all())
    }

    /// The profile of a namespace: allows everything, and passes its labels on.
    #[must_use]
    pub fn for_namespace(namespace: &str, labels: &BTreeMap<String, String>) -> Self {
        let spec = ProfileSpec {
            labels_to_apply: inherited(NAMESPACE_LABEL_PREFIX, namespace, labels),
            ..ProfileSpec::allow_all()
        };
        Self::new(format!("{NAMESPACE_PROFILE_PREFIX}{namespace}"), spec)
    }

    /// The profile of a service account: no rules, and passes its labels on.
    #[must_use]
    pub fn for_service_account(
        namespace: &str,
        account: &str,
        labels: &BTreeMap<String, String>,
    ) -> Self {
        let spec = ProfileSpec {
            labels_to_apply: inherited(SERVICE_ACCOUNT_LABEL_PREFIX, account, labels),
            ..ProfileSpec::default()
        };
        Self::new(format!("{SERVICE_ACCOUNT_PROFILE_PREFIX}{namespace}.{account}"), spec)
    }
}

/// An owner's labels under `prefix`, and its name as one more.
fn inherited(
    prefix: &str,
    name: &str,
    labels: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let own = (format!("{prefix}projectcalico.org/name"), name.to_owned());
    labels
        .iter()
        .map(|(key, value)| (format!("{prefix}{key}"), value.clone()))
        .chain([own])
        .collect()
}

impl Spec for ProfileSpec {
    const KIND: Kind = Kind::Profile;
    type Status = NoStatus;

    fn validate(&self, _metadata: &ObjectMeta, errors: &mut Errors) {
        let spec = Path::Root.key("spec");
        super::validate::rules(
            &self.ingress,
            PolicyType::Ingress,
            true,
            &spec.key("ingress"),
            errors,
        );
        super::validate::rules(&self.egress, PolicyType::Egress, true, &spec.key("egress"), errors);
    }
}
