//! `datastore migrate import`.

use std::path::Path;

use calico_core::Datastore;
use calico_core::datastore::Write;
use calico_core::key::{Key, Scope};
use calico_core::kind::Kind;
use calico_core::resource::{AnyResource, Tier};

use super::file::Contents;
use crate::cluster::Cluster;
use crate::failure::{Failure, name_of};
use crate::progress::Progress;
use crate::stored::text;

/// Objects written in one call.
const BATCH: usize = 128;

/// Fills an empty datastore from a file, and leaves it locked.
///
/// An import that was cut off can be repeated: what is there already with the same content is
/// passed over.
pub(crate) async fn import(store: &dyn Datastore, path: &Path) -> Result<String, Failure> {
    let input = std::fs::read_to_string(path)
        .map_err(|source| Failure::Read { path: path.to_owned(), source })?;
    let wrong = |reason: String| Failure::Settings { path: path.to_owned(), reason };
    let contents = Contents::read(&input).map_err(wrong)?;
    let wanted = objects(contents, path)?;
    let writes = vet(store, &wanted).await?;
    let (count, total) = (wanted.len(), writes.len());
    let mut progress = Progress::new("importing");
    let mut done = 0;
    let mut writes = writes.into_iter().peekable();
    while writes.peek().is_some() {
        let batch: Vec<Write> = writes.by_ref().take(BATCH).collect();
        let size = batch.len();
        store.write(batch).await.map_err(|failed| Failure::Partial {
            done: format!("imported {} of {total} objects", done + failed.done.len()),
            source: Box::new(failed.error.into()),
        })?;
        done += size;
        progress.at(done, total);
    }
    Ok(format!(
        "Successfully imported {count} objects. The datastore is locked; run `calicoctl datastore \
         migrate unlock` when every node uses it.\n"
    ))
}

/// What shall be stored, in order: the lock comes first.
fn objects(contents: Contents, path: &Path) -> Result<Vec<(Key, String)>, Failure> {
    let Some(mut cluster) = contents.cluster else {
        return Err(Failure::Settings {
            path: path.to_owned(),
            reason: "section 2 has no ClusterInformation".to_owned(),
        });
    };
    if let Some(spec) = cluster.fields.get_mut("spec").filter(|spec| spec.is_object()) {
        spec["datastoreReady"] = false.into();
    }
    let mut objects = vec![(cluster.key(), text(cluster))];
    for resource in contents.resources {
        objects.push((resource.key(), text(resource)));
    }
    objects.extend(contents.ipam.items().map(|item| (item.key.clone(), item.value.to_string())));
    Ok(objects)
}

/// What is left to write. The datastore must hold nothing else than what an agent makes in an
/// empty one, and what an earlier attempt left.
async fn vet(store: &dyn Datastore, wanted: &[(Key, String)]) -> Result<Vec<Write>, Failure> {
    let mut stored = std::collections::HashMap::new();
    for entry in store.list(&Scope::All).await?.entries {
        stored.insert(entry.key.clone(), entry);
    }
    let mut writes = Vec::new();
    let mut foreign = Vec::new();
    for (key, text) in wanted {
        match stored.remove(key) {
            None => writes.push(Write::create(key.clone(), text.as_str())),
            Some(entry) if same(&entry.value, text) => {}
            // Written by the first agent that found the datastore empty.
            Some(entry) if is_initial(key) => {
                writes.push(Write::update(key.clone(), text.as_str(), entry.revision));
            }
            Some(_) => foreign.push(name_of(key)),
        }
    }
    foreign.extend(stored.keys().filter(|key| !is_initial(key)).map(name_of));
    if foreign.is_empty() {
        return Ok(writes);
    }
    foreign.sort();
    const SHOWN: usize = 5;
    let more = if foreign.len() > SHOWN { ", ..." } else { "" };
    Err(Failure::Usage(format!(
        "the datastore is not empty: it holds {} other object(s) ({}{more}); import into an empty \
         one",
        foreign.len(),
        foreign[..foreign.len().min(SHOWN)].join(", ")
    )))
}

fn is_initial(key: &Key) -> bool {
    match key {
        Key::Resource { kind: Kind::Tier, name, .. } => Tier::is_built_in(name),
        key => *key == Cluster::key(),
    }
}

fn same(a: &str, b: &str) -> bool {
    let read = |text: &str| match serde_json::from_str::<AnyResource>(text) {
        Ok(mut resource) => {
            resource.metadata.resource_version.clear();
            Some(resource.to_value())
        }
        Err(_) => serde_json::from_str(text).ok(),
    };
    a == b || read(a).is_some_and(|a| Some(a) == read(b))
}
