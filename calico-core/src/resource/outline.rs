//! What of a workload endpoint matters to nodes other than its own.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};

use super::straight::{Is, Top, TopKey, expect};
use super::workload::selected;
use super::{Cidr, Spec as _, WorkloadEndpointPort, WorkloadEndpointSpec};
use crate::key::Key;
use crate::kind::API_VERSION;

/// What of a workload endpoint matters to nodes other than its own: a member of sets, with labels,
/// addresses and named ports.
///
/// A node knows every endpoint of the cluster, and nearly all of them are elsewhere. This is read
/// in a few allocations, where a [`WorkloadEndpoint`](super::WorkloadEndpoint) takes two for each of
/// its labels.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EndpointOutline {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<Cidr>,
    /// Its ports that rules may name.
    pub ports: Vec<WorkloadEndpointPort>,
    /// Profiles, whose labels it inherits.
    pub profiles: Vec<String>,
    labels: LabelList,
    orchestrator: String,
    service_account: String,
}

impl EndpointOutline {
    /// Reads the stored text of an endpoint. `None` if it is one of `node` itself, which has to know
    /// all of it, and if the text is not that of a workload endpoint: who reads all of it says what is
    /// wrong. Of what only its own node uses, nothing is looked at.
    ///
    /// The name under which it is stored counts, not the one in its metadata.
    #[must_use]
    pub fn read(key: &Key, text: &str, node: &str) -> Option<Self> {
        let Key::Resource { kind: WorkloadEndpointSpec::KIND, namespace, name } = key else {
            return None;
        };
        let mut outline = Self::default();
        let mut reader = serde_json::Deserializer::from_str(text);
        let is_own = Document { outline: &mut outline, node, size: text.len() }
            .deserialize(&mut reader)
            .ok()?;
        reader.end().ok()?;
        if is_own {
            return None;
        }
        outline.labels.tidy();
        outline.namespace = namespace.clone().unwrap_or_default();
        outline.name.clone_from(name);
        Some(outline)
    }

    /// Its name in a datastore.
    #[must_use]
    pub fn key(&self) -> Key {
        Key::resource(WorkloadEndpointSpec::KIND, Some(&self.namespace), &self.name)
    }

    /// Its labels as selectors see them; see
    /// [`WorkloadEndpoint::selector_labels`](super::WorkloadEndpoint::selector_labels). Each once, in
    /// no particular order.
    pub fn selector_label_pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        selected(self.labels.iter(), &self.namespace, &self.orchestrator, &self.service_account)
    }
}

/// Labels in one text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct LabelList {
    /// Keys and values, one after the other.
    text: String,
    /// Where each key and its value end in it.
    ends: Vec<(u32, u32)>,
}

impl LabelList {
    fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut from = 0;
        self.ends.iter().map(move |(key, value)| {
            let (key, value) = (*key as usize, *value as usize);
            let begin = std::mem::replace(&mut from, value);
            (&self.text[begin..key], &self.text[key..value])
        })
    }

    /// Where the text ends. Texts of stored objects are shorter than 4 GiB.
    fn end(&self) -> u32 {
        u32::try_from(self.text.len()).unwrap_or(u32::MAX)
    }

    /// Of a label that is named twice, the last counts. They are written in order as a rule.
    fn tidy(&mut self) {
        if self.iter().is_sorted_by(|(one, _), (other, _)| one < other) {
            return;
        }
        let labels: BTreeMap<&str, &str> = self.iter().collect();
        let mut tidy = Self::default();
        for (key, value) in labels {
            tidy.text.push_str(key);
            let end = tidy.end();
            tidy.text.push_str(value);
            tidy.ends.push((end, tidy.end()));
        }
        *self = tidy;
    }
}

/// Reads a document; says whether the endpoint is one of `node`.
struct Document<'a> {
    outline: &'a mut EndpointOutline,
    node: &'a str,
    /// Bytes of the document.
    size: usize,
}

impl<'de> DeserializeSeed<'de> for Document<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Document<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a workload endpoint")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<bool, A::Error> {
        let mut is_own = self.node.is_empty();
        while let Some(key) = map.next_key_seed(TopKey)? {
            match key {
                Top::Kind => {
                    expect(map.next_value_seed(Is(WorkloadEndpointSpec::KIND.as_str()))?)?;
                }
                Top::ApiVersion => expect(map.next_value_seed(Is(API_VERSION))?)?,
                Top::Metadata => map.next_value_seed(Metadata(self.outline, self.size))?,
                Top::Spec => is_own = map.next_value_seed(Spec(self.outline, self.node))?,
                Top::Status | Top::Other(_) => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(is_own)
    }
}

struct Metadata<'a>(&'a mut EndpointOutline, usize);

impl<'de> DeserializeSeed<'de> for Metadata<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Metadata<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("metadata")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(is_labels) = map.next_key_seed(Is("labels"))? {
            if is_labels {
                self.0.labels = LabelList::default();
                self.0.labels.text.reserve(self.1);
                map.next_value_seed(Labels(&mut self.0.labels))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

struct Labels<'a>(&'a mut LabelList);

impl<'de> DeserializeSeed<'de> for Labels<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Labels<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("labels")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while map.next_key_seed(Append(&mut self.0.text))?.is_some() {
            let end = self.0.end();
            map.next_value_seed(Append(&mut self.0.text))?;
            self.0.ends.push((end, self.0.end()));
        }
        Ok(())
    }
}

/// Appends a text.
struct Append<'a>(&'a mut String);

impl<'de> DeserializeSeed<'de> for Append<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Append<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text")
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.0.push_str(text);
        Ok(())
    }
}

/// Says whether the endpoint is one of this node.
struct Spec<'a>(&'a mut EndpointOutline, &'a str);

impl<'de> DeserializeSeed<'de> for Spec<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Spec<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a spec")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<bool, A::Error> {
        let (outline, mut is_own) = (self.0, self.1.is_empty());
        while let Some(key) = map.next_key_seed(SpecKey)? {
            match key {
                SpecField::Node => is_own = map.next_value_seed(Is(self.1))?,
                SpecField::Networks => {
                    outline.addresses = map.next_value::<Option<_>>()?.unwrap_or_default();
                }
                SpecField::Ports => {
                    outline.ports = map.next_value::<Option<_>>()?.unwrap_or_default();
                }
                SpecField::Profiles => {
                    outline.profiles = map.next_value::<Option<_>>()?.unwrap_or_default();
                }
                SpecField::Orchestrator => {
                    outline.orchestrator = map.next_value::<Option<_>>()?.unwrap_or_default();
                }
                SpecField::ServiceAccount => {
                    outline.service_account = map.next_value::<Option<_>>()?.unwrap_or_default();
                }
                SpecField::Other => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(is_own)
    }
}

enum SpecField {
    Node,
    Networks,
    Ports,
    Profiles,
    Orchestrator,
    ServiceAccount,
    Other,
}

struct SpecKey;

impl<'de> DeserializeSeed<'de> for SpecKey {
    type Value = SpecField;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<SpecField, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for SpecKey {
    type Value = SpecField;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name")
    }

    fn visit_str<E>(self, key: &str) -> Result<SpecField, E> {
        Ok(match key {
            "node" => SpecField::Node,
            "ipNetworks" => SpecField::Networks,
            "ports" => SpecField::Ports,
            "profiles" => SpecField::Profiles,
            "orchestrator" => SpecField::Orchestrator,
            "serviceAccountName" => SpecField::ServiceAccount,
            _ => SpecField::Other,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datastore::{Entry, Revision};
    use crate::kind::Kind;
    use crate::resource::WorkloadEndpoint;

    fn entry(text: &str) -> Entry {
        let key = Key::resource(Kind::WorkloadEndpoint, Some("prod"), "n2-k8s-web-eth0");
        Entry { key, value: text.into(), revision: Revision(1) }
    }

    /// The outline agrees with what is read of all of the endpoint.
    fn check(text: &str) -> EndpointOutline {
        let entry = entry(text);
        let outline = EndpointOutline::read(&entry.key, &entry.value, "n1").unwrap();
        let mut whole: WorkloadEndpoint = entry.decode().unwrap();
        whole.metadata.namespace = "prod".to_owned();
        let labels: Vec<_> = outline.selector_label_pairs().collect();
        let map: BTreeMap<String, String> =
            labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        assert_eq!(labels.len(), map.len(), "each once");
        assert_eq!(map, whole.selector_labels(), "{text}");
        assert_eq!(outline.addresses, whole.spec.ip_networks);
        assert_eq!(outline.ports, whole.spec.ports);
        assert_eq!(outline.profiles, whole.spec.profiles);
        assert_eq!(outline.key(), entry.key);
        outline
    }

    #[test]
    fn the_outline_is_what_all_of_it_says() {
        check(
            r#"{"kind":"WorkloadEndpoint","apiVersion":"projectcalico.org/v3",
            "metadata":{"name":"other","namespace":"other","uid":"u","annotations":{"a":"b"},
            "labels":{"app":"web","text":"a \"quoted\" \u00e9","projectcalico.org/namespace":"forged",
            "pcns.team":"reserved","projectcalico.org/serviceaccount":"replaced"}},
            "spec":{"orchestrator":"k8s","node":"n2","pod":"web","containerID":"c","endpoint":"eth0",
            "serviceAccountName":"robot","ipNetworks":["10.0.0.1/32","fd00::1"],
            "profiles":["kns.prod","ksa.prod.robot"],"interfaceName":"cali1","mac":"ee:ee:ee:ee:ee:ee",
            "ports":[{"name":"http","protocol":"TCP","port":80}],"qosControls":{"dscp":"EF"}}}"#,
        );
        check(
            r#"{"spec":{"node":"n2","ports":null,"ipNetworks":null},"metadata":{"labels":null}}"#,
        );
        check(r#"{"spec":{},"metadata":{}}"#);
        check("{}");
    }

    #[test]
    fn labels_out_of_order_or_named_twice_are_those_of_all_of_it() {
        let twice = check(r#"{"metadata":{"labels":{"b":"1","a":"2","b":"3"}}}"#);
        assert_eq!(twice.labels.ends.len(), 2);
        check(r#"{"metadata":{"labels":{"a":"1","a":"2"}}}"#);
        check(r#"{"metadata":{"labels":{"c":"1","b":"","a":""}}}"#);
    }

    #[test]
    fn the_nodes_own_and_what_is_wrong_are_left_to_who_reads_all_of_it() {
        let read = |text: &str, node: &str| {
            EndpointOutline::read(&entry(text).key, text, node).map(|found| found.name)
        };
        assert_eq!(read(r#"{"spec":{"node":"n1"}}"#, "n1"), None);
        assert_eq!(read(r#"{"spec":{"node":"n1"}}"#, "n2").unwrap(), "n2-k8s-web-eth0");
        for wrong in [
            r#"{"kind":"Node"}"#,
            r#"{"apiVersion":"v1"}"#,
            r#"{"metadata":{"labels":{"a":5}}}"#,
            r#"{"metadata":{"labels":[]}}"#,
            r#"{"spec":{"node":"n2","ipNetworks":["nonsense"]}}"#,
            r#"{"spec":{"node":"n2","ports":[{"port":"many"}]}}"#,
            r#"{"spec":{"node":5}}"#,
            r#"{"spec":{"node":"n2"}} and more"#,
            "{",
            "5",
        ] {
            assert_eq!(read(wrong, "n1"), None, "{wrong}");
        }
        let node = Key::resource(Kind::Node, None, "n2");
        assert_eq!(EndpointOutline::read(&node, "{}", "n1"), None);
    }
}
