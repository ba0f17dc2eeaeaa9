//! Policies that are valid and do not do what they seem to say: what `calicoctl` tells who writes
//! them, for those that came by another door.

use std::collections::HashMap;

use calico_core::datastore::{Entry, Revision};
use calico_core::key::Key;
use calico_core::kind::Kind;
use calico_core::resource::AnyResource;
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
    pub(crate) fn look(&mut self, entry: &Entry) {
        if self.told.get(&entry.key) == Some(&entry.revision) {
            return;
        }
        let doubts = of(entry);
        for doubt in &doubts {
            warn!(key = %entry.key, %doubt, "a policy may not do what it seems to say");
        }
        if doubts.is_empty() {
            self.told.remove(&entry.key);
        } else if self.told.len() < REMEMBERED {
            self.told.insert(entry.key.clone(), entry.revision);
        }
    }

    /// It is gone.
    pub(crate) fn forget(&mut self, key: &Key) {
        self.told.remove(key);
    }
}

/// What there is to doubt about a policy that somebody wrote; nothing about anything else.
fn of(entry: &Entry) -> Vec<String> {
    let (Some(Kind::NetworkPolicy | Kind::GlobalNetworkPolicy), Key::Resource { name, .. }) =
        (entry.key.kind(), &entry.key)
    else {
        return Vec::new();
    };
    if CONVERTED.iter().any(|prefix| name.starts_with(prefix)) {
        return Vec::new();
    }
    let resource = serde_json::from_str::<AnyResource>(&entry.value);
    let doubts = resource.map(|resource| resource.doubts()).unwrap_or_default();
    doubts.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn policy(name: &str, rule: &serde_json::Value, revision: u64) -> Entry {
        let key = Key::resource(Kind::GlobalNetworkPolicy, None, name);
        let value = json!({"apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy",
            "metadata": {"name": name}, "spec": {"selector": "all()", "ingress": [rule]}});
        Entry { key, value: value.to_string().into(), revision: Revision(revision) }
    }

    #[test]
    fn a_rule_that_can_never_match_is_told_once_for_each_revision() {
        let never = json!({"action": "Allow", "protocol": "TCP", "notProtocol": "TCP"});
        let mut doubts = Doubts::default();
        let entry = policy("default.never", &never, 1);
        assert_eq!(of(&entry).len(), 1, "{:?}", of(&entry));
        doubts.look(&entry);
        assert_eq!(doubts.told[&entry.key], Revision(1));
        doubts.look(&policy("default.never", &never, 2));
        assert_eq!(doubts.told[&entry.key], Revision(2));
        doubts.look(&policy("default.never", &json!({"action": "Allow"}), 3));
        assert!(doubts.told.is_empty(), "it is fine now");
        doubts.look(&entry);
        doubts.forget(&entry.key);
        assert!(doubts.told.is_empty());
        assert!(of(&policy("kcnp.never", &never, 1)).is_empty(), "nobody wrote it so");
    }
}
