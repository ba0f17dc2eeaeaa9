use calico_core::resource::{
    NAMESPACE_PROFILE_PREFIX, ObjectMeta, Profile, SERVICE_ACCOUNT_PROFILE_PREFIX,
};
use serde::Deserialize;

use super::calico_uid;
use super::meta::KubernetesMeta;

/// A namespace, as far as Calico looks at it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Namespace {
    /// Its metadata.
    pub metadata: KubernetesMeta,
}

/// A service account, as far as Calico looks at it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct ServiceAccount {
    /// Its metadata.
    pub metadata: KubernetesMeta,
}

/// The profile `kns.<namespace>`: everything is allowed, and its endpoints get its labels.
#[must_use]
pub fn namespace_profile(namespace: &Namespace) -> Profile {
    let meta = &namespace.metadata;
    with_identity(Profile::for_namespace(&meta.name, &meta.labels), meta)
}

/// The profile `ksa.<namespace>.<account>`: no rules; its endpoints get its labels.
#[must_use]
pub fn service_account_profile(account: &ServiceAccount) -> Profile {
    let meta = &account.metadata;
    with_identity(Profile::for_service_account(&meta.namespace, &meta.name, &meta.labels), meta)
}

fn with_identity(mut profile: Profile, meta: &KubernetesMeta) -> Profile {
    let name = std::mem::take(&mut profile.metadata.name);
    profile.metadata = ObjectMeta { ..meta.view(name, calico_uid(&meta.uid)) };
    profile
}

/// What a profile is a view of.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProfileSource {
    /// A namespace.
    Namespace(String),
    /// A service account.
    ServiceAccount {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
}

/// The object whose view has the name `profile`; `None` if the name is no view's.
#[must_use]
pub fn profile_source(profile: &str) -> Option<ProfileSource> {
    if let Some(name) = profile.strip_prefix(NAMESPACE_PROFILE_PREFIX) {
        return (!name.is_empty()).then(|| ProfileSource::Namespace(name.to_owned()));
    }
    // A namespace has no dots, an account may.
    let (namespace, name) =
        profile.strip_prefix(SERVICE_ACCOUNT_PROFILE_PREFIX)?.split_once('.')?;
    (!namespace.is_empty() && !name.is_empty()).then(|| ProfileSource::ServiceAccount {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use calico_core::resource::{Action, Rule};

    #[test]
    fn a_namespace_is_a_profile_that_allows_everything() {
        let namespace: Namespace = serde_json::from_str(
            r#"{"metadata": {"name": "prod", "resourceVersion": "7", "labels": {"a": "b"},
                "uid": "30316465-6365-4463-ad63-3564622d3638"}}"#,
        )
        .unwrap();
        let profile = namespace_profile(&namespace);
        assert_eq!(profile.name(), "kns.prod");
        assert_eq!(profile.metadata.uid, "0c8c26a6-c6a6-44c6-adc6-ac2646b46c1c");
        assert_eq!(profile.spec.ingress, [Rule::new(Action::Allow)]);
        assert_eq!(profile.spec.egress, [Rule::new(Action::Allow)]);
        let labels: Vec<_> = profile.spec.labels_to_apply.into_iter().collect();
        let expected = [("pcns.a", "b"), ("pcns.projectcalico.org/name", "prod")];
        assert_eq!(labels, expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
        assert_eq!(profile_source("kns.prod"), Some(ProfileSource::Namespace("prod".to_owned())));
    }

    #[test]
    fn a_service_account_is_a_profile_of_labels() {
        let account: ServiceAccount = serde_json::from_str(
            r#"{"metadata": {"name": "web.x", "namespace": "prod", "labels": {"a": "b"}}}"#,
        )
        .unwrap();
        let profile = service_account_profile(&account);
        assert_eq!(profile.name(), "ksa.prod.web.x");
        assert!(profile.spec.ingress.is_empty() && profile.spec.egress.is_empty());
        assert_eq!(profile.spec.labels_to_apply["pcsa.projectcalico.org/name"], "web.x");
        assert_eq!(profile.spec.labels_to_apply["pcsa.a"], "b");
        let source =
            ProfileSource::ServiceAccount { namespace: "prod".into(), name: "web.x".into() };
        assert_eq!(profile_source("ksa.prod.web.x"), Some(source));
        for other in ["", "kns.", "ksa.prod", "ksa..x", "projectcalico-default-allow"] {
            assert_eq!(profile_source(other), None, "{other}");
        }
    }
}
