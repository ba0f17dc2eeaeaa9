//! Creating, applying, replacing and deleting: planned without IO, then written in batches.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use calico_core::Datastore;
use calico_core::datastore::{Entry, StoreError, Write};
use calico_core::key::Key;
use calico_core::kind::Kind;
use calico_core::resource::{AnyResource, Tier};

use crate::admit::Admission;
use crate::failure::{Failure, name_of};
use crate::stored::{Stamp, complete, new_text, next_text, place, wanted_revision};

/// Attempts at an object that others write at the same time, and the pause between them.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_secs(1);

/// Writes sent in one call: one wait for the disk each.
const BATCH: usize = 128;

/// Bytes of values sent in one call.
const BATCH_BYTES: usize = 512 << 10;

/// What to do with each resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Create { skip_exists: bool },
    Apply,
    Replace,
    Delete { skip_missing: bool },
}

impl Verb {
    /// As in `Successfully applied`.
    const fn done(self) -> &'static str {
        match self {
            Self::Create { .. } => "created",
            Self::Apply => "applied",
            Self::Replace => "replaced",
            Self::Delete { .. } => "deleted",
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Create { .. } => "create",
            Self::Apply => "apply",
            Self::Replace => "replace",
            Self::Delete { .. } => "delete",
        }
    }
}

/// One resource on its way, and where it is stored.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    pub(crate) key: Key,
    pub(crate) resource: AnyResource,
}

/// Checks resources from files; nothing is done if one of them is wrong.
pub(crate) fn prepare(
    verb: Verb,
    resources: Vec<AnyResource>,
    namespace: Option<&str>,
) -> Result<Vec<Item>, Failure> {
    let mut items = Vec::with_capacity(resources.len());
    for mut resource in resources {
        let key = place(&mut resource, namespace)?;
        refuse_special(verb, &key)?;
        if !matches!(verb, Verb::Delete { .. }) {
            resource = complete(&key, resource)?;
        }
        items.push(Item { key, resource });
    }
    Ok(items)
}

/// What in resources is valid, but does not do what it seems to say; a line each.
pub(crate) fn doubts(resources: &[AnyResource], namespace: Option<&str>) -> Vec<String> {
    let lines = resources.iter().flat_map(|resource| {
        // What has no place is refused by `prepare`.
        let name = place(&mut resource.clone(), namespace).map(|key| name_of(&key));
        let name = name.unwrap_or_else(|_| resource.name().to_owned());
        resource.doubts().into_iter().map(move |doubt| format!("Warning: {name}: {doubt}"))
    });
    lines.collect()
}

/// Carries out `verb` on `items` in order, up to the first failure. Returns what to tell.
pub(crate) async fn carry_out(
    store: &dyn Datastore,
    verb: Verb,
    items: &[Item],
    stamp: &Stamp,
) -> Result<String, Failure> {
    let (mut at, mut skipped, mut tries) = (0, 0, 1);
    while at < items.len() {
        let batch = batch(&items[at..]);
        let outcome = match attempt(store, verb, batch, stamp).await {
            Ok(outcome) => outcome,
            Err(failure) => return Err(partial(verb, items, at - skipped, failure)),
        };
        if outcome.handled > 0 {
            tries = 1;
        }
        at += outcome.handled;
        skipped += outcome.skipped;
        match outcome.stopped {
            None => {}
            // Somebody was faster: look again. It may well be skipped or replaced now.
            Some(error) if error.is_conflict() || error.is_not_found() => {
                if tries >= TRIES {
                    return Err(partial(verb, items, at - skipped, error.into()));
                }
                if tries > 1 {
                    tokio::time::sleep(PAUSE).await;
                }
                tries += 1;
            }
            Some(error) => return Err(partial(verb, items, at - skipped, error.into())),
        }
    }
    Ok(format!("Successfully {} {}", verb.done(), count(items, items.len() - skipped)))
}

/// What became of a batch.
struct Outcome {
    /// Items from the start that need no more attention.
    handled: usize,
    /// Those of them that needed nothing at all.
    skipped: usize,
    stopped: Option<StoreError>,
}

async fn attempt(
    store: &dyn Datastore,
    verb: Verb,
    items: &[Item],
    stamp: &Stamp,
) -> Result<Outcome, Failure> {
    let mut writes = Vec::new();
    // Which item each write is for; those between are skipped.
    let mut places = Vec::new();
    let mut refused = None;
    let mut admission = Admission::new(store);
    for (at, item) in items.iter().enumerate() {
        let current = store.find(&item.key).await?;
        let planned = match plan(verb, item, current.as_ref(), stamp) {
            Ok(Some(write)) => {
                let new = write.value.clone().map(|text| (&item.resource, text));
                let admitted = admission.check(&item.key, current.as_ref(), new).await;
                admitted.map(|()| Some(write))
            }
            other => other,
        };
        match planned {
            Ok(Some(write)) => {
                writes.push(write);
                places.push(at);
            }
            Ok(None) => {}
            Err(failure) => {
                refused = Some((at, failure));
                break;
            }
        }
    }
    let end = refused.as_ref().map_or(items.len(), |(at, _)| *at);
    let (done, stopped) = match store.write(writes).await {
        Ok(done) => (done.len(), None),
        Err(failed) => (failed.done.len(), Some(failed.error)),
    };
    let handled = if stopped.is_some() { places.get(done).copied().unwrap_or(end) } else { end };
    match refused {
        // What comes before it is done.
        Some((0, failure)) => Err(failure),
        _ => Ok(Outcome { handled, skipped: handled - done, stopped }),
    }
}

/// What to write for an item that is stored as `current`; `None` if it can be passed over.
fn plan(
    verb: Verb,
    item: &Item,
    current: Option<&Entry>,
    stamp: &Stamp,
) -> Result<Option<Write>, Failure> {
    let Item { key, resource } = item;
    let missing = || Failure::Store(StoreError::NotFound { key: key.clone() });
    let create = || Write::create(key.clone(), new_text(resource.clone(), stamp));
    let replace = |current: &Entry| {
        if let Some(expected) = wanted_revision(key, resource)?
            && expected != current.revision
        {
            let found = current.revision;
            return Err(StoreError::Conflict { key: key.clone(), expected, found }.into());
        }
        let text = next_text(resource.clone(), current, stamp);
        Ok(Some(Write::update(key.clone(), text, current.revision)))
    };
    match (verb, current) {
        (Verb::Create { skip_exists: true }, Some(_)) => Ok(None),
        (Verb::Create { .. }, Some(_)) => {
            Err(StoreError::AlreadyExists { key: key.clone() }.into())
        }
        (Verb::Create { .. } | Verb::Apply, None) => Ok(Some(create())),
        (Verb::Apply | Verb::Replace, Some(current)) => replace(current),
        (Verb::Replace, None) => Err(missing()),
        (Verb::Delete { .. }, Some(current)) => {
            Ok(Some(Write::delete(key.clone(), Some(current.revision))))
        }
        (Verb::Delete { skip_missing: true }, None) => Ok(None),
        (Verb::Delete { .. }, None) => Err(missing()),
    }
}

/// The longest start of `items` that can be sent in one call: no object twice, not too large.
fn batch(items: &[Item]) -> &[Item] {
    let (mut seen, mut bytes) = (HashSet::new(), 0);
    let end = items.iter().take(BATCH).position(|item| {
        bytes += item.resource.to_value().to_string().len();
        !seen.insert(&item.key) || (bytes > BATCH_BYTES && seen.len() > 1)
    });
    &items[..end.unwrap_or_else(|| items.len().min(BATCH))]
}

fn refuse_special(verb: Verb, key: &Key) -> Result<(), Failure> {
    let what = match (verb, key) {
        (_, Key::Resource { kind, .. }) if kind.is_internal() => {
            "it is what Kubernetes, or who else runs the workloads, says of itself; change it there"
        }
        (Verb::Apply, Key::Resource { kind: Kind::ClusterInformation, .. }) => {
            "it is written by the system; it cannot be applied"
        }
        (Verb::Delete { .. }, Key::Resource { kind: Kind::Tier, name, .. })
            if Tier::is_built_in(name) =>
        {
            "it is built in; it cannot be deleted"
        }
        _ => return Ok(()),
    };
    Err(Failure::Usage(format!("cannot {} {}: {what}", verb.name(), name_of(key))))
}

/// `2 'IPPool' resource(s)`; without the kind if there are several.
fn count(items: &[Item], number: usize) -> String {
    let kinds: BTreeMap<Option<Kind>, ()> = items.iter().map(|i| (i.key.kind(), ())).collect();
    match (kinds.len(), items.first().and_then(|item| item.key.kind())) {
        (1, Some(kind)) => format!("{number} '{kind}' resource(s)"),
        _ => format!("{number} resource(s)"),
    }
}

fn partial(verb: Verb, items: &[Item], done: usize, failure: Failure) -> Failure {
    if done == 0 {
        return failure;
    }
    let done = format!("{} the first {done} out of {}", verb.done(), count(items, items.len()));
    Failure::Partial { done, source: Box::new(failure) }
}

#[cfg(test)]
mod tests;
