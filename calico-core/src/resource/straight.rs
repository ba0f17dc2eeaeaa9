//! Reading a resource straight from its text.
//!
//! Plain deserialisation of a [`Resource`] goes over a tree of values, as it takes documents of any
//! format and names the place of a mistake. Of a large cluster's objects nearly all are right, and
//! each is text: they are read without the tree, and only what fails is read again with it.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, MapAccess, Visitor};

use super::{Resource, Spec, Unknown};
use crate::kind::API_VERSION;

impl<S: Spec> Resource<S> {
    /// Reads its text in a datastore: the twin of [`to_json`](Self::to_json). Tolerant, and several
    /// times as fast as plain deserialisation, which it agrees with.
    ///
    /// # Errors
    ///
    /// Those of plain deserialisation: text that is not JSON, another kind or version, or the first
    /// value that the type cannot hold, with its path.
    pub fn from_json(text: &str) -> Result<Self, serde_json::Error> {
        match serde_json::from_str::<Straight<S>>(text) {
            Ok(Straight(resource)) => Ok(resource),
            Err(_) => serde_json::from_str(text),
        }
    }
}

/// A resource that is read without a tree of values.
struct Straight<S: Spec>(Resource<S>);

impl<'de, S: Spec> Deserialize<'de> for Straight<S> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Fields(PhantomData)).map(Self)
    }
}

struct Fields<S>(PhantomData<S>);

impl<'de, S: Spec> Visitor<'de> for Fields<S> {
    type Value = Resource<S>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of fields")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Resource<S>, A::Error> {
        let (mut metadata, mut spec, mut status) = (None, None, None);
        let mut unknown = Unknown::default();
        while let Some(key) = map.next_key_seed(TopKey)? {
            match key {
                Top::Kind => expect(map.next_value_seed(Is(S::KIND.as_str()))?)?,
                Top::ApiVersion => expect(map.next_value_seed(Is(API_VERSION))?)?,
                Top::Metadata => metadata = map.next_value()?,
                Top::Spec => spec = map.next_value()?,
                Top::Status => status = map.next_value()?,
                Top::Other(name) => unknown.insert(name, map.next_value()?),
            }
        }
        Ok(Resource {
            metadata: metadata.unwrap_or_default(),
            spec: spec.unwrap_or_default(),
            status: status.unwrap_or_default(),
            unknown,
        })
    }
}

/// A field at the top of a document.
pub(super) enum Top {
    Kind,
    ApiVersion,
    Metadata,
    Spec,
    Status,
    Other(String),
}

/// Reads a [`Top`].
pub(super) struct TopKey;

impl<'de> DeserializeSeed<'de> for TopKey {
    type Value = Top;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Top, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for TopKey {
    type Value = Top;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name")
    }

    fn visit_str<E>(self, key: &str) -> Result<Top, E> {
        Ok(match key {
            "kind" => Top::Kind,
            "apiVersion" => Top::ApiVersion,
            "metadata" => Top::Metadata,
            "spec" => Top::Spec,
            "status" => Top::Status,
            other => Top::Other(other.to_owned()),
        })
    }
}

/// Whether a text is this one.
pub(super) struct Is<'a>(pub(super) &'a str);

impl<'de> DeserializeSeed<'de> for Is<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Is<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }

    fn visit_str<E>(self, text: &str) -> Result<bool, E> {
        Ok(text == self.0)
    }
}

/// Whoever reads with a tree says what is wrong.
pub(super) fn expect<E: serde::de::Error>(found: bool) -> Result<(), E> {
    if found { Ok(()) } else { Err(E::custom("another kind or version")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::{IpPoolSpec, NetworkPolicySpec, NodeSpec, WorkloadEndpointSpec};

    /// What the two ways make of `text` is the same, and `Ok` if `good`.
    fn check<S: Spec>(text: &str, good: bool) {
        let straight = Resource::<S>::from_json(text).map_err(|error| error.to_string());
        let tree = serde_json::from_str::<Resource<S>>(text).map_err(|error| error.to_string());
        assert_eq!(straight, tree, "{text}");
        assert_eq!(straight.is_ok(), good, "{straight:?}");
        let alone = serde_json::from_str::<Straight<S>>(text);
        assert_eq!(alone.is_ok(), good, "the second reading is for mistakes only: {text}");
        if let Ok(Straight(alone)) = alone {
            assert_eq!(Ok(alone), tree);
        }
    }

    #[test]
    fn both_ways_read_the_same() {
        check::<WorkloadEndpointSpec>(
            r#"{"kind":"WorkloadEndpoint","apiVersion":"projectcalico.org/v3","metadata":{"name":"a",
            "labels":{"b":"c","a":"\u00e9\n"},"creationTimestamp":null,"new":[1]},"spec":{"node":"n",
            "ipNetworks":["10.0.0.1/32","fd00::1"],"ports":[{"name":"x","protocol":"TCP","port":80}],
            "mac":null,"ipv4Gateway":"","later":{"x":1.5}},"status":null,"extra":{"y":true}}"#,
            true,
        );
        check::<WorkloadEndpointSpec>(r#"{"metadata":null,"spec":null}"#, true);
        check::<NetworkPolicySpec>(
            r#"{"spec":{"order":10,"selector":"all()","ingress":[{"action":"Allow","protocol":6,
            "source":{"nets":["10.0.0.0/8"],"ports":[80,"90:100","http"]}}]}}"#,
            true,
        );
        check::<NodeSpec>(
            r#"{"spec":{"bgp":{"ipv4Address":"10.0.0.1/24","asNumber":"1.2"}}}"#,
            true,
        );
        check::<IpPoolSpec>("{}", true);
    }

    #[test]
    fn both_ways_name_the_same_mistake() {
        check::<WorkloadEndpointSpec>(r#"{"kind":"Node"}"#, false);
        check::<WorkloadEndpointSpec>(r#"{"kind":5}"#, false);
        check::<WorkloadEndpointSpec>(r#"{"apiVersion":"projectcalico.org/v4"}"#, false);
        check::<WorkloadEndpointSpec>(
            r#"{"spec":{"ipNetworks":["10.0.0.1/32","nonsense"]}}"#,
            false,
        );
        check::<WorkloadEndpointSpec>(r#"{"metadata":{"labels":{"a":5}}}"#, false);
        check::<NetworkPolicySpec>(
            r#"{"spec":{"ingress":[{"protocol":"TCP"},{"action":5}]}}"#,
            false,
        );
        check::<IpPoolSpec>("[]", false);
        check::<IpPoolSpec>("{", false);
        check::<IpPoolSpec>("{} x", false);
    }
}
