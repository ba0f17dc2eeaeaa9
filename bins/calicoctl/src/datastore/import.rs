//! `datastore migrate import`.

use std::path::Path;

use calico_core::Datastore;
use calico_core::datastore::Write;
use calico_core::key::{Key, Scope};
use calico_core::kind::Kind;
use calico_core::resource::{AnyResource, Tier};
use calico_datastore::conversion::{
    ADMIN_POLICY_PREFIX, BASELINE_POLICY_PREFIX, CLUSTER_POLICY_PREFIX, NETWORK_POLICY_PREFIX,
};

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
/// passed over. With `views`, the datastore is a cluster of Kubernetes: what is only a view of
/// its own objects is left out, but for what agents say of nodes.
pub(crate) async fn import(
    store: &dyn Datastore,
    path: &Path,
    views: bool,
) -> Result<String, Failure> {
    let input = std::fs::read_to_string(path)
        .map_err(|source| Failure::Read { path: path.to_owned(), source })?;
    let wrong = |reason: String| Failure::Settings { path: path.to_owned(), reason };
    let contents = Contents::read(&input).map_err(wrong)?;
    let wanted = objects(contents, path)?;
    let Vetted { writes, left_out } = vet(store, &wanted, views).await?;
    let (count, total) = (wanted.len() - left_out.len(), writes.len());
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
    let left_out = match left_out.as_slice() {
        [] => String::new(),
        all => format!(
            "Left out {} object(s) that Kubernetes keeps itself or has no place for: {}.\n",
            all.len(),
            shown(all)
        ),
    };
    Ok(format!(
        "{left_out}Successfully imported {count} objects. The datastore is locked; run `calicoctl datastore \
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
async fn vet(
    store: &dyn Datastore,
    wanted: &[(Key, String)],
    views: bool,
) -> Result<Vetted, Failure> {
    let mut stored = std::collections::HashMap::new();
    for entry in store.list(&Scope::All).await?.entries {
        stored.insert(entry.key.clone(), entry);
    }
    let mut writes = Vec::new();
    let (mut foreign, mut left_out) = (Vec::new(), Vec::new());
    // There, both forms of IPAM's settings are one object.
    let settings = Key::resource(Kind::IpamConfiguration, None, "default");
    let twice = views && wanted.iter().any(|(key, _)| *key == Key::IpamConfig);
    for (key, text) in wanted {
        let node = key.kind() == Some(Kind::Node);
        match stored.remove(key) {
            found if views && is_view(key) && !(node && found.is_some()) => {
                left_out.push(name_of(key));
            }
            None if twice && *key == settings => left_out.push(name_of(key)),
            None => writes.push(Write::create(key.clone(), text.as_str())),
            Some(entry) if same(&entry.value, text, views) => {}
            // Written by the first agent that found the datastore empty.
            Some(entry) if is_initial(key) || (views && node) => {
                writes.push(Write::update(key.clone(), text.as_str(), entry.revision));
            }
            Some(_) => foreign.push(name_of(key)),
        }
    }
    let other = |key: &&Key| !(is_initial(key) || views && is_view(key));
    foreign.extend(stored.keys().filter(other).map(name_of));
    if foreign.is_empty() {
        return Ok(Vetted { writes, left_out });
    }
    foreign.sort();
    Err(Failure::Usage(format!(
        "the datastore is not empty: it holds {} other object(s) ({}); import into an empty one",
        foreign.len(),
        shown(&foreign)
    )))
}

/// What an import is about to do.
struct Vetted {
    writes: Vec<Write>,
    /// What Kubernetes has its own objects for.
    left_out: Vec<String>,
}

/// The first few of many names.
fn shown(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let more = if names.len() > SHOWN { ", ..." } else { "" };
    format!("{}{more}", names[..names.len().min(SHOWN)].join(", "))
}

/// Whether Kubernetes keeps this itself, under another name, or has no place for it.
fn is_view(key: &Key) -> bool {
    match key {
        Key::IpamHost(_) => true,
        Key::Resource { kind, name, .. } => match kind {
            Kind::Node | Kind::Profile | Kind::WorkloadEndpoint => true,
            kind if kind.is_internal() => true,
            Kind::NetworkPolicy => name.starts_with(NETWORK_POLICY_PREFIX),
            Kind::GlobalNetworkPolicy => {
                [CLUSTER_POLICY_PREFIX, ADMIN_POLICY_PREFIX, BASELINE_POLICY_PREFIX]
                    .iter()
                    .any(|prefix| name.starts_with(prefix))
            }
            _ => false,
        },
        _ => false,
    }
}

fn is_initial(key: &Key) -> bool {
    match key {
        Key::Resource { kind: Kind::Tier, name, .. } => Tier::is_built_in(name),
        key => *key == Cluster::key(),
    }
}

/// Whether two texts are of one object. Kubernetes gives each its own identity.
fn same(a: &str, b: &str, views: bool) -> bool {
    let read = |text: &str| match serde_json::from_str::<AnyResource>(text) {
        Ok(mut resource) => {
            let metadata = &mut resource.metadata;
            metadata.resource_version.clear();
            if views {
                metadata.uid.clear();
                (metadata.generation, metadata.creation_timestamp) = (0, None);
            }
            Some(resource.to_value())
        }
        Err(_) => serde_json::from_str(text).ok(),
    };
    a == b || read(a).is_some_and(|a| Some(a) == read(b))
}
