//! `diff`: what `apply` would change.

use calico_core::Datastore;
use calico_core::resource::{AnyResource, to_yaml};

use crate::admit::Admission;
use crate::change::Item;
use crate::failure::{Failure, name_of};
use crate::output::colour::Colour;
use crate::output::unified::unified;
use crate::stored::{Stamp, new_text, next_text};

/// The changes that applying `items` would make, as a unified diff; empty if none.
pub(crate) async fn of(
    store: &dyn Datastore,
    items: &[Item],
    stamp: &Stamp,
    colour: Colour,
) -> Result<String, Failure> {
    let mut out = String::new();
    let mut admission = Admission::new(store);
    for item in items {
        let current = store.find(&item.key).await?;
        let text = match &current {
            Some(entry) => next_text(item.resource.clone(), entry, stamp),
            None => new_text(item.resource.clone(), stamp),
        };
        let new = Some((&item.resource, text.as_str().into()));
        admission.check(&item.key, current.as_ref(), new).await?;
        let old = current.map_or_else(String::new, |entry| document(&entry.value));
        let mut new = document(&text);
        if old.is_empty() {
            // What the store makes up is nothing that a person wants to see.
            new = document(&without_identity(&text));
        }
        let hunks = unified(&old, &new, colour);
        if !hunks.is_empty() {
            let name = name_of(&item.key);
            let from = if old.is_empty() { "nothing".to_owned() } else { format!("stored {name}") };
            out.push_str(&format!("--- {from}\n+++ applied {name}\n{hunks}"));
        }
    }
    Ok(out)
}

/// Stored text as YAML; what is no resource, as it is.
fn document(text: &str) -> String {
    match serde_json::from_str::<AnyResource>(text) {
        Ok(mut resource) => {
            resource.metadata.resource_version.clear();
            to_yaml(&resource)
        }
        Err(_) => text.to_owned(),
    }
}

fn without_identity(text: &str) -> String {
    match serde_json::from_str::<AnyResource>(text) {
        Ok(mut resource) => {
            resource.metadata.uid.clear();
            resource.metadata.creation_timestamp = None;
            resource.to_value().to_string()
        }
        Err(_) => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{Verb, carry_out, prepare};
    use calico_core::memory::MemoryStore;
    use serde_json::json;

    fn item(nat: bool) -> Vec<Item> {
        let value = json!({"apiVersion": "projectcalico.org/v3", "kind": "IPPool",
            "metadata": {"name": "main"}, "spec": {"cidr": "10.0.0.0/16", "natOutgoing": nat}});
        prepare(Verb::Apply, vec![serde_json::from_value(value).unwrap()], None).unwrap()
    }

    #[tokio::test]
    async fn it_tells_what_apply_would_do() {
        let store = MemoryStore::new();
        let stamp = Stamp { now: std::time::UNIX_EPOCH, uid: || "u".to_owned() };
        let diff = async |nat| of(&store, &item(nat), &stamp, Colour::Never).await.unwrap();
        let new = diff(false).await;
        assert!(new.starts_with("--- nothing\n+++ applied IPPool main\n@@ -0,0 +1,"), "{new}");
        assert!(new.contains("\n+  cidr: 10.0.0.0/16\n") && !new.contains("uid"), "{new}");
        carry_out(&store, Verb::Apply, &item(false), &stamp).await.unwrap();
        assert_eq!(diff(false).await, "");
        let changed = diff(true).await;
        assert!(changed.contains("\n+  natOutgoing: true\n"), "{changed}");
        assert_eq!(changed.lines().filter(|line| line.starts_with('-')).count(), 1, "{changed}");
    }
}
