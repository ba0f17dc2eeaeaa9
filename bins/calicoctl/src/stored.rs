//! Between resources as people write them and objects as the store keeps them.

use std::time::SystemTime;

use calico_core::datastore::{Entry, Revision, StoreError};
use calico_core::key::Key;
use calico_core::resource::AnyResource;
use calico_ipam::plan::time::rfc3339;

use crate::failure::{Failure, name_of};

/// What a new object gets besides what was written: taken once per command, so that planning
/// needs neither clock nor randomness.
#[derive(Debug)]
pub(crate) struct Stamp {
    /// The time of the command.
    pub(crate) now: SystemTime,
    /// Makes a UUID.
    pub(crate) uid: fn() -> String,
}

impl Stamp {
    /// From the system's clock and the kernel's random numbers.
    pub(crate) fn of_system() -> Self {
        let uid = || {
            let made = std::fs::read_to_string("/proc/sys/kernel/random/uuid");
            made.map_or_else(|_| String::new(), |uuid| uuid.trim().to_owned())
        };
        Self { now: SystemTime::now(), uid }
    }
}

/// Fills in the namespace of a resource from a file, and says where it is stored.
pub(crate) fn place(resource: &mut AnyResource, namespace: Option<&str>) -> Result<Key, Failure> {
    let kind = resource.kind;
    let own = &mut resource.metadata.namespace;
    if kind.is_namespaced() {
        if own.is_empty() {
            *own = namespace.filter(|name| !name.is_empty()).unwrap_or("default").to_owned();
        }
    } else if !own.is_empty() {
        return Err(Failure::Usage(format!(
            "{kind} {}: metadata.namespace: a {kind} has no namespace; remove it",
            resource.metadata.name
        )));
    }
    if resource.metadata.name.is_empty() {
        return Err(Failure::Usage(format!("a {kind} without a name: set metadata.name")));
    }
    Ok(Key::resource(kind, Some(&resource.metadata.namespace), &resource.metadata.name))
}

/// The resource with upstream's defaults, if it follows upstream's rules.
pub(crate) fn complete(key: &Key, mut resource: AnyResource) -> Result<AnyResource, Failure> {
    let invalid = |errors| Failure::Invalid { name: name_of(key), errors };
    resource.apply_defaults().map_err(|error| invalid(vec![error]))?;
    resource.validate().map_err(invalid)?;
    Ok(resource)
}

/// Reads a stored resource; its `resourceVersion` is the revision.
pub(crate) fn from_entry(entry: &Entry) -> Result<AnyResource, StoreError> {
    let mut resource: AnyResource = entry.decode()?;
    resource.metadata.resource_version = entry.revision.to_string();
    Ok(resource)
}

/// The text to store for a new object.
pub(crate) fn new_text(mut resource: AnyResource, stamp: &Stamp) -> String {
    resource.metadata.uid = (stamp.uid)();
    resource.metadata.creation_timestamp = Some(rfc3339(stamp.now));
    text(resource)
}

/// The text to store in place of `current`: it stays the same object.
pub(crate) fn next_text(mut resource: AnyResource, current: &Entry, stamp: &Stamp) -> String {
    match current.decode::<AnyResource>() {
        Ok(old) => {
            resource.metadata.uid = old.metadata.uid;
            resource.metadata.creation_timestamp = old.metadata.creation_timestamp;
            text(resource)
        }
        // What is stored there is no resource; this one takes its place.
        Err(_) => new_text(resource, stamp),
    }
}

/// The text to store.
pub(crate) fn text(mut resource: AnyResource) -> String {
    resource.metadata.resource_version.clear();
    resource.metadata.self_link.clear();
    resource.to_value().to_string()
}

/// The revision that a file insists on, if it names one.
pub(crate) fn wanted_revision(
    key: &Key,
    resource: &AnyResource,
) -> Result<Option<Revision>, Failure> {
    let version = &resource.metadata.resource_version;
    if version.is_empty() {
        return Ok(None);
    }
    version.parse().map(Some).map_err(|_not_a_number| {
        Failure::Usage(format!(
            "{}: metadata.resourceVersion: {version:?} is no revision of this datastore; remove it",
            name_of(key)
        ))
    })
}
