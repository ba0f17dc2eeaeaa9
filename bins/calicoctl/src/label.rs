//! `label`: one label of one resource.

use std::sync::Arc;

use calico_core::Datastore;
use calico_core::key::Key;
use calico_core::resource::AnyResource;

use crate::admit::Admission;
use crate::failure::{Failure, name_of};
use crate::stored::{from_entry, text};

/// Attempts at a resource that others write at the same time.
const TRIES: u32 = 5;

/// What to do with the label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    Set { key: String, value: String, overwrite: bool },
    Remove { key: String },
}

impl Change {
    /// From `key=value`, or from `key` if it is to be removed.
    pub(crate) fn parse(text: &str, remove: bool, overwrite: bool) -> Result<Self, Failure> {
        match (text.split_once('='), remove) {
            (None, true) => Ok(Self::Remove { key: text.to_owned() }),
            (Some((key, value)), false) => {
                Ok(Self::Set { key: key.to_owned(), value: value.to_owned(), overwrite })
            }
            (Some(_), true) => Err(Failure::Usage("give only the key of a label to remove".into())),
            (None, false) => Err(Failure::Usage(format!("{text:?} is no label; write key=value"))),
        }
    }

    /// Makes the change; returns the words for what was done.
    fn apply(&self, resource: &mut AnyResource, name: &str) -> Result<String, Failure> {
        let labels = &mut resource.metadata.labels;
        let (what, key) = match self {
            Self::Remove { key } => match labels.remove(key) {
                Some(_) => ("removed", key),
                None => return Err(Failure::Usage(format!("{name} has no label {key}"))),
            },
            Self::Set { key, value, overwrite } => match labels.get(key) {
                Some(found) if found != value && !overwrite => {
                    return Err(Failure::Usage(format!(
                        "{name} has label {key}={found}; use --overwrite to change it"
                    )));
                }
                found => {
                    let what = if found.is_some() { "updated" } else { "set" };
                    labels.insert(key.clone(), value.clone());
                    (what, key)
                }
            },
        };
        Ok(match what {
            "removed" => format!("Successfully removed label {key} from {name}"),
            what => format!("Successfully {what} label {key} on {name}"),
        })
    }
}

/// Changes a label of the resource at `key`, over again if somebody else writes it meanwhile.
pub(crate) async fn carry_out(
    store: &dyn Datastore,
    key: &Key,
    change: &Change,
) -> Result<String, Failure> {
    let name = name_of(key);
    let mut tries = 1;
    loop {
        let entry = store.get(key).await?;
        let mut resource = from_entry(&entry)?;
        let said = change.apply(&mut resource, &name)?;
        resource.validate().map_err(|errors| Failure::Invalid { name: name.clone(), errors })?;
        let text: Arc<str> = text(resource.clone()).into();
        let new = Some((&resource, Arc::clone(&text)));
        Admission::new(store).check(key, Some(&entry), new).await?;
        match store.update(key.clone(), text, entry.revision).await {
            Ok(_) => return Ok(said),
            Err(error) if error.is_conflict() && tries < TRIES => tries += 1,
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use calico_core::kind::Kind;
    use calico_core::memory::MemoryStore;

    #[tokio::test]
    async fn labels_are_set_changed_and_removed() {
        let store = MemoryStore::new();
        let key = Key::resource(Kind::Node, None, "n1");
        let node = r#"{"kind":"Node","metadata":{"name":"n1","uid":"u"},"spec":{}}"#;
        store.create(key.clone(), node.into()).await.unwrap();
        let run = async |text: &str, remove: bool, overwrite: bool| {
            let change = Change::parse(text, remove, overwrite)?;
            carry_out(&store, &key, &change).await
        };
        let say = |result: Result<String, Failure>| result.unwrap_or_else(|e| e.to_string());
        let set = "Successfully set label rack on Node n1";
        assert_eq!(say(run("rack=a", false, false).await), set);
        let differs = "Node n1 has label rack=a; use --overwrite to change it";
        assert_eq!(say(run("rack=b", false, false).await), differs);
        let updated = "Successfully updated label rack on Node n1";
        assert_eq!(say(run("rack=b", false, true).await), updated);
        let stored = from_entry(&store.get(&key).await.unwrap()).unwrap();
        assert_eq!((stored.metadata.labels["rack"].as_str(), &*stored.metadata.uid), ("b", "u"));
        let removed = "Successfully removed label rack from Node n1";
        assert_eq!(say(run("rack", true, false).await), removed);
        assert_eq!(say(run("rack", true, false).await), "Node n1 has no label rack");
        assert!(say(run("no good=x", false, false).await).contains("metadata.labels"));
        assert!(run("rack", false, false).await.is_err());
        assert!(run("rack=a", true, false).await.is_err());
    }
}
