//! Policies that are valid and do not do what they seem to say: what `calicoctl` tells who writes
//! them, for those that came by another door.

use std::collections::HashMap;

use calico_core::datastore::{Entry, Revision};
use calico_core::key::Key;
use calico_core::resource::{AnyResource, FieldError};
use calico_policy::Object;
use tracing::warn;

/// What names of policies begin with that are made from Kubernetes' own: nobody wrote their rules.
const CONVERTED: [&str; 4] = ["knp.", "kcnp.", "kanp.", "kbanp."];

/// Doubts about more objects than this are not remembered, so that they may be told twice.
const REMEMBERED: usize = 10_000;

/// Objects that were doubted, by the revision of which it was told.
#[derive(Debug, Default)]
pub(crate) struct Doubts {
    told: HashMap<Key, Revision>,
}

impl Doubts {
    /// Tells what there is to doubt about an object, once for each of its revisions.
    pub(crate) fn tell(&mut self, key: &Key, revision: Revision, doubts: &[FieldError]) {
        if self.told.get(key) == Some(&revision) {
            return;
        }
        for doubt in doubts {
            warn!(%key, %doubt, "a policy may not do what it seems to say");
        }
        if doubts.is_empty() {
            self.told.remove(key);
        } else if self.told.len() < REMEMBERED {
            self.told.insert(key.clone(), revision);
        }
    }

    /// It is gone.
    pub(crate) fn forget(&mut self, key: &Key) {
        self.told.remove(key);
    }
}

/// What there is to doubt about a policy that somebody wrote; nothing about anything else. `object`
/// is what was read of it.
pub(crate) fn of(entry: &Entry, object: &Object) -> Vec<FieldError> {
    let is_converted = |name: &str| CONVERTED.iter().any(|prefix| name.starts_with(prefix));
    let found = match object {
        Object::NetworkPolicy(policy) if !is_converted(policy.name()) => policy.doubts(),
        Object::GlobalNetworkPolicy(policy) if !is_converted(policy.name()) => policy.doubts(),
        _ => return Vec::new(),
    };
    if found.is_empty() && !entry.value.contains("[]") {
        return found;
    }
    let resource = serde_json::from_str::<AnyResource>(&entry.value);
    resource.map(|resource| resource.doubts()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use calico_core::kind::Kind;
    use serde_json::json;

    use super::*;

    fn policy(name: &str, rule: &serde_json::Value, revision: u64) -> Entry {
        let key = Key::resource(Kind::GlobalNetworkPolicy, None, name);
        let value = json!({"apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy",
            "metadata": {"name": name}, "spec": {"selector": "all()", "ingress": [rule]}});
        Entry { key, value: value.to_string().into(), revision: Revision(revision) }
    }

    #[test]
    fn empty_lists_are_doubted_and_other_policies_are_not() {
        let found = |rule: serde_json::Value| {
            let entry = policy("default.it", &rule, 1);
            of(&entry, &Object::decode(&entry).unwrap().unwrap()).len()
        };
        assert_eq!(found(json!({"action": "Allow", "source": {"nets": []}})), 1);
        assert_eq!(found(json!({"action": "Allow", "source": {"nets": ["10.0.0.0/8"]}})), 0);
    }

    #[test]
    fn a_rule_that_can_never_match_is_told_once_for_each_revision() {
        let never = json!({"action": "Allow", "protocol": "TCP", "notProtocol": "TCP"});
        let mut doubts = Doubts::default();
        let found = |entry: &Entry| of(entry, &Object::decode(entry).unwrap().unwrap());
        let look = |doubts: &mut Doubts, entry: &Entry| {
            doubts.tell(&entry.key, entry.revision, &found(entry));
        };
        let entry = policy("default.never", &never, 1);
        assert_eq!(found(&entry).len(), 1, "{:?}", found(&entry));
        look(&mut doubts, &entry);
        assert_eq!(doubts.told[&entry.key], Revision(1));
        look(&mut doubts, &policy("default.never", &never, 2));
        assert_eq!(doubts.told[&entry.key], Revision(2));
        look(&mut doubts, &policy("default.never", &json!({"action": "Allow"}), 3));
        assert!(doubts.told.is_empty(), "it is fine now");
        look(&mut doubts, &entry);
        doubts.forget(&entry.key);
        assert!(doubts.told.is_empty());
        assert!(found(&policy("kcnp.never", &never, 1)).is_empty(), "nobody wrote it so");
    }
}
