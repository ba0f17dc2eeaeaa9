//! Staged policies: what enforcing them would do.

use calico_core::key::Key;
use calico_core::kind::Kind;
use calico_core::resource::{
    AnyResource, FieldError, GlobalNetworkPolicy, NetworkPolicy, StagedAction,
    StagedGlobalNetworkPolicy, StagedNetworkPolicy,
};

use crate::input::{Input, Object};

/// What becomes of a staged policy once it is enforced.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Effect {
    /// It replaces the policy of its name, or removes it.
    Change(Input),
    /// Nothing (its action is Ignore or Learn, or it is no staged policy).
    Nothing,
    /// It cannot be told here: its rules are those of Kubernetes.
    Unknown,
}

/// What enforcing this resource would do. A graph that takes this in besides everything else
/// explains verdicts as they would be.
///
/// ```
/// use calico_core::resource::{Mode, read_manifest};
/// use calico_policy::{Input, Object, staged};
///
/// let staged = read_manifest("
/// apiVersion: projectcalico.org/v3
/// kind: StagedNetworkPolicy
/// metadata: {name: web, namespace: prod}
/// spec: {selector: app == 'web', ingress: [{action: Deny}]}
/// ", Mode::Strict).unwrap();
/// let effect = staged::effect(&staged[0]).unwrap();
/// assert!(matches!(effect, staged::Effect::Change(Input::Put(Object::NetworkPolicy(_)))));
/// ```
///
/// # Errors
///
/// The first field that does not fit the kind.
pub fn effect(resource: &AnyResource) -> Result<Effect, FieldError> {
    Ok(match resource.kind {
        Kind::StagedNetworkPolicy => {
            let staged: StagedNetworkPolicy = resource.typed()?;
            let key = Key::resource(Kind::NetworkPolicy, Some(staged.namespace()), staged.name());
            act(staged.spec.staged_action, key, || {
                NetworkPolicy::with_metadata(staged.metadata.clone(), staged.spec.to_enforced())
                    .into()
            })
        }
        Kind::StagedGlobalNetworkPolicy => {
            let staged: StagedGlobalNetworkPolicy = resource.typed()?;
            let key = Key::resource(Kind::GlobalNetworkPolicy, None, staged.name());
            act(staged.spec.staged_action, key, || {
                let spec = staged.spec.to_enforced();
                GlobalNetworkPolicy::with_metadata(staged.metadata.clone(), spec).into()
            })
        }
        Kind::StagedKubernetesNetworkPolicy => Effect::Unknown,
        _ => Effect::Nothing,
    })
}

fn act(action: Option<StagedAction>, key: Key, policy: impl FnOnce() -> Object) -> Effect {
    match action.unwrap_or_default() {
        StagedAction::Set => Effect::Change(Input::Put(policy())),
        StagedAction::Delete => Effect::Change(Input::Remove(key)),
        StagedAction::Learn | StagedAction::Ignore => Effect::Nothing,
    }
}
