//! The `projectcalico.org/v3` resources: typed, with defaults and validation.
//!
//! Every kind is a [`Resource`] of its spec, for example [`IpPool`] = `Resource<IpPoolSpec>`.
//! Reading has two modes. Plain `serde` is *tolerant*, for data from stores: unknown fields
//! are kept in `unknown` and written back. [`AnyResource::from_value`] with
//! [`Mode::Strict`] or [`Mode::Valid`] is for input from people: it reports every problem with its
//! path.
//!
//! ```
//! # #[cfg(feature = "yaml")] {
//! use calico_core::resource::{IpPool, IpPoolSpec, Mode, read_manifest, to_yaml};
//!
//! let mut pool = IpPool::new("main", IpPoolSpec::new("10.0.0.0/16".parse()?));
//! pool.apply_defaults();
//! assert_eq!(pool.spec.block_size(), 26);
//! pool.validate().map_err(|errors| errors[0].clone())?;
//!
//! let yaml = to_yaml(&pool);
//! let read = read_manifest(&yaml, Mode::Strict).map_err(|errors| errors[0].clone())?;
//! assert_eq!(read[0].typed::<IpPoolSpec>()?, pool);
//! # }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod admission;
mod any;
mod bgp;
mod bgp_filter;
pub(crate) mod choices;
mod cluster;
mod doubts;
mod endpoint_name;
mod felix;
pub mod field;
mod host_endpoint;
pub mod ipam;
mod live_migration;
#[cfg(feature = "yaml")]
mod manifest;
mod meta;
mod nearest;
mod node;
mod node_status;
pub(crate) mod object;
mod outline;
mod policy;
mod pool;
mod profile;
mod qos;
mod rest;
mod rule;
pub mod schema;
mod service;
mod sets;
mod staged;
mod straight;
#[cfg(test)]
mod tests;
mod tier;
mod validate;
pub mod values;
mod workload;

use std::fmt;
use std::sync::Arc;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

pub use self::any::*;
pub use self::bgp::*;
pub use self::bgp_filter::*;
pub use self::choices::UnknownWord;
pub use self::cluster::*;
pub use self::endpoint_name::*;
pub use self::felix::*;
pub use self::field::{Errors, Field, FieldError, Path};
pub use self::host_endpoint::*;
pub use self::ipam::*;
pub use self::live_migration::*;
#[cfg(feature = "yaml")]
pub use self::manifest::*;
pub use self::meta::ObjectMeta;
pub use self::nearest::nearest;
pub use self::node::*;
pub use self::node_status::*;
pub use self::object::Unknown;
pub use self::outline::*;
pub use self::policy::*;
pub use self::pool::*;
pub use self::profile::*;
pub use self::rule::*;
pub use self::service::*;
pub use self::sets::*;
pub use self::staged::*;
pub use self::tier::*;
pub use self::values::*;
pub use self::workload::*;

use crate::key::Key;
use crate::kind::{API_VERSION, Kind};

/// The `spec` of one kind.
pub trait Spec: Field + fmt::Debug + Clone + Default + PartialEq + Send + Sync + 'static {
    /// The kind this is the spec of.
    const KIND: Kind;

    /// The `status` of the kind; [`NoStatus`] where it has none.
    type Status: Field + fmt::Debug + Clone + Default + PartialEq + Send + Sync + 'static;

    /// Writes upstream's defaults into fields that are unset.
    fn apply_defaults(&mut self) {}

    /// Reports everything wrong with the spec; paths start with `spec`.
    fn validate(&self, _metadata: &ObjectMeta, _errors: &mut Errors) {}
}

object::object! {
    /// The status of kinds that have none.
    pub struct NoStatus {}
}

/// A resource: metadata, what is wanted (`spec`) and what is (`status`).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Resource<S: Spec> {
    /// Name, labels and bookkeeping.
    pub metadata: ObjectMeta,
    /// What is wanted.
    pub spec: S,
    /// What a controller reported, for kinds that have a status.
    pub status: Option<S::Status>,
    /// Top-level fields that this version does not know.
    pub unknown: Unknown,
}

impl<S: Spec> Resource<S> {
    /// A resource of name `name`.
    pub fn new(name: impl Into<String>, spec: S) -> Self {
        Self::with_metadata(ObjectMeta::named(name), spec)
    }

    /// A resource of a namespaced kind.
    pub fn namespaced(namespace: impl Into<String>, name: impl Into<String>, spec: S) -> Self {
        Self::with_metadata(ObjectMeta::namespaced(namespace, name), spec)
    }

    /// A resource with this metadata.
    pub fn with_metadata(metadata: ObjectMeta, spec: S) -> Self {
        Self { metadata, spec, status: None, unknown: Unknown::default() }
    }

    /// The kind of the resource.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        S::KIND
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.metadata.name
    }

    /// The namespace; empty for cluster-wide kinds.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.metadata.namespace
    }

    /// Its name in a datastore.
    #[must_use]
    pub fn key(&self) -> Key {
        Key::resource(S::KIND, Some(self.namespace()), self.name())
    }

    /// Its text in a datastore: what [`Datastore::create`](crate::Datastore::create) takes and
    /// [`Entry::decode`](crate::datastore::Entry::decode) reads.
    #[must_use]
    pub fn to_json(&self) -> Arc<str> {
        let text = serde_json::to_string(self).expect("resource types serialise to JSON");
        text.into()
    }

    /// Writes upstream's defaults into fields that are unset.
    pub fn apply_defaults(&mut self) {
        self.spec.apply_defaults();
    }
}

impl<S: Spec> Serialize for Resource<S> {
    fn serialize<Z: Serializer>(&self, serializer: Z) -> Result<Z::Ok, Z::Error> {
        use serde::ser::SerializeMap as _;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("kind", S::KIND.as_str())?;
        map.serialize_entry("apiVersion", API_VERSION)?;
        map.serialize_entry("metadata", &self.metadata)?;
        map.serialize_entry("spec", &self.spec)?;
        if let Some(status) = &self.status {
            map.serialize_entry("status", status)?;
        }
        for (key, value) in self.unknown.iter() {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

impl<'de, S: Spec> Deserialize<'de> for Resource<S> {
    /// Tolerant: `kind` and `apiVersion` may be missing, but must be right when present.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fields = Map::<String, Value>::deserialize(deserializer)?;
        Self::from_fields(&fields).map_err(D::Error::custom)
    }
}

impl<S: Spec> Resource<S> {
    /// As [`Deserialize`] reads it, from a document that was read already.
    fn from_fields(fields: &Map<String, Value>) -> Result<Self, FieldError> {
        let mut unknown = Unknown::default();
        for (key, value) in fields {
            let wanted = match key.as_str() {
                "kind" => S::KIND.as_str(),
                "apiVersion" => API_VERSION,
                "metadata" | "spec" | "status" => continue,
                _ => {
                    unknown.insert(key.clone(), value.clone());
                    continue;
                }
            };
            if value != wanted {
                return Err(FieldError::new(key.as_str(), format!("is {value}, not {wanted:?}")));
            }
        }
        Ok(Self {
            metadata: field(fields, "metadata")?,
            spec: field(fields, "spec")?,
            status: field(fields, "status")?,
            unknown,
        })
    }
}

fn field<T: Field + Default>(
    fields: &Map<String, Value>,
    key: &'static str,
) -> Result<T, FieldError> {
    let Some(value) = fields.get(key).filter(|value| !value.is_null()) else {
        return Ok(T::default());
    };
    T::deserialize(value).map_err(|first| {
        // The walk names the place, which the plain error does not.
        let mut errors = Errors::default();
        T::check(value, &Path::Root.key(key), &mut errors);
        let typed = errors.into_result().err().into_iter().flatten();
        let mut typed = typed.filter(|error| !error.message.starts_with("unknown field"));
        typed.next().unwrap_or_else(|| FieldError::new(key, first.to_string()))
    })
}
