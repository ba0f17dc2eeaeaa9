//! What the API server tells of a collection: pages of listings, lines of watches, objects.

use calico_core::datastore::{Entry, Revision};
use calico_core::key::Key;
use serde::Deserialize;
use serde_json::Value;

use super::failure::Failure;
use super::objects::Object;
use super::source::{Source, What};
use crate::conversion::{
    AdminNetworkPolicy, ApiGroup, BaselineAdminNetworkPolicy, ClusterNetworkPolicy, EndpointSlice,
    KubernetesMeta, KubernetesNetworkPolicy, KubernetesNode, Namespace, Pod, Service,
    ServiceAccount, VirtualMachineMigration,
};

/// How objects are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reading {
    pub(super) group: ApiGroup,
    pub(super) use_pod_cidr: bool,
    pub(super) interface_prefix: String,
}

/// What an object of a collection is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Read {
    Object(Entry),
    /// Something that readers must not see (any more).
    Hidden(Key),
    /// Nothing of Calico's.
    Other,
    /// Something that nobody understands; with a key if readers are to take it for deleted.
    Bad {
        path: String,
        reason: String,
        key: Option<Key>,
    },
}

/// A part of a listing.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) items: Vec<Read>,
    pub(super) revision: Revision,
    /// Where the next page starts; empty if there is none.
    pub(super) next: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ListMeta {
    resource_version: String,
    #[serde(rename = "continue")]
    next: String,
}

/// A line of a watch.
#[derive(Debug)]
pub(super) enum Event {
    Written { at: Revision, what: Read },
    Deleted { at: Revision, what: Read },
    Bookmark { at: Revision, listed: bool },
    Error(Failure),
}

/// Marks the bookmark after the objects that a watch starts with.
pub(super) const LISTED: &str = "k8s.io/initial-events-end";

pub(super) fn revision(text: &str) -> Result<Revision, String> {
    text.parse().map_err(|_no_number| format!("resourceVersion {text:?} is no number"))
}

impl Source {
    /// Reads a page of a listing.
    pub(super) fn page(&self, text: &str, reading: &Reading) -> Result<Page, String> {
        match self.what {
            What::Custom(_) | What::Ipam(_) => self.page_of::<Value>(text, reading),
            What::Nodes => self.page_of::<KubernetesNode>(text, reading),
            What::Pods => self.page_of::<Pod>(text, reading),
            What::Namespaces => self.page_of::<Namespace>(text, reading),
            What::Accounts => self.page_of::<ServiceAccount>(text, reading),
            What::Policies => self.page_of::<KubernetesNetworkPolicy>(text, reading),
            What::ClusterPolicies => self.page_of::<ClusterNetworkPolicy>(text, reading),
            What::AdminPolicies => self.page_of::<AdminNetworkPolicy>(text, reading),
            What::BaselinePolicies => self.page_of::<BaselineAdminNetworkPolicy>(text, reading),
            What::Services => self.page_of::<Service>(text, reading),
            What::Slices => self.page_of::<EndpointSlice>(text, reading),
            What::Migrations => self.page_of::<VirtualMachineMigration>(text, reading),
        }
    }

    fn page_of<T: Object>(&self, text: &str, reading: &Reading) -> Result<Page, String> {
        #[derive(Deserialize)]
        struct List<T> {
            #[serde(default)]
            metadata: ListMeta,
            items: Option<Vec<T>>,
        }
        let (metadata, items) = match serde_json::from_str::<List<T>>(text) {
            Ok(list) => {
                let items = list.items.unwrap_or_default();
                (list.metadata, items.into_iter().map(|item| item.read(self, reading)).collect())
            }
            // One odd object must not hide the others.
            Err(error) => {
                let list: List<Value> =
                    serde_json::from_str(text).map_err(|_again| format!("no list: {error}"))?;
                let items = list.items.unwrap_or_default();
                let one = |item| self.object_of::<T>(item, reading);
                (list.metadata, items.into_iter().map(one).collect())
            }
        };
        let revision = revision(&metadata.resource_version)?;
        Ok(Page { items, revision, next: metadata.next })
    }

    fn object_of<T: Object>(&self, item: Value, reading: &Reading) -> Read {
        let path = self.path_of(&item["metadata"], reading.group);
        match serde_json::from_value::<T>(item) {
            Ok(item) => item.read(self, reading),
            Err(error) => Read::Bad { path, reason: error.to_string(), key: None },
        }
    }

    /// Reads one object.
    pub(super) fn read(&self, text: &str, reading: &Reading) -> Result<Read, String> {
        let object: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
        Ok(match self.what {
            What::Custom(_) | What::Ipam(_) => object.read(self, reading),
            What::Nodes => self.object_of::<KubernetesNode>(object, reading),
            What::Pods => self.object_of::<Pod>(object, reading),
            What::Namespaces => self.object_of::<Namespace>(object, reading),
            What::Accounts => self.object_of::<ServiceAccount>(object, reading),
            What::Policies => self.object_of::<KubernetesNetworkPolicy>(object, reading),
            What::ClusterPolicies => self.object_of::<ClusterNetworkPolicy>(object, reading),
            What::AdminPolicies => self.object_of::<AdminNetworkPolicy>(object, reading),
            What::BaselinePolicies => self.object_of::<BaselineAdminNetworkPolicy>(object, reading),
            What::Services => self.object_of::<Service>(object, reading),
            What::Slices => self.object_of::<EndpointSlice>(object, reading),
            What::Migrations => self.object_of::<VirtualMachineMigration>(object, reading),
        })
    }

    /// Reads one line of a watch.
    pub(super) fn event(&self, line: &str, reading: &Reading) -> Result<Event, String> {
        match self.what {
            What::Custom(_) | What::Ipam(_) => self.event_of::<Value>(line, reading),
            What::Nodes => self.event_of::<KubernetesNode>(line, reading),
            What::Pods => self.event_of::<Pod>(line, reading),
            What::Namespaces => self.event_of::<Namespace>(line, reading),
            What::Accounts => self.event_of::<ServiceAccount>(line, reading),
            What::Policies => self.event_of::<KubernetesNetworkPolicy>(line, reading),
            What::ClusterPolicies => self.event_of::<ClusterNetworkPolicy>(line, reading),
            What::AdminPolicies => self.event_of::<AdminNetworkPolicy>(line, reading),
            What::BaselinePolicies => self.event_of::<BaselineAdminNetworkPolicy>(line, reading),
            What::Services => self.event_of::<Service>(line, reading),
            What::Slices => self.event_of::<EndpointSlice>(line, reading),
            What::Migrations => self.event_of::<VirtualMachineMigration>(line, reading),
        }
    }

    fn event_of<T: Object>(&self, line: &str, reading: &Reading) -> Result<Event, String> {
        #[derive(Deserialize)]
        struct Line<T> {
            #[serde(rename = "type")]
            kind: String,
            object: T,
        }
        let line = match serde_json::from_str::<Line<T>>(line) {
            Ok(Line { kind, object }) if kind != "ERROR" => {
                let at = revision(object.version())?;
                return Ok(match kind.as_str() {
                    "BOOKMARK" => Event::Bookmark { at, listed: object.ends_listing() },
                    "DELETED" => Event::Deleted { at, what: object.read(self, reading) },
                    _ => Event::Written { at, what: object.read(self, reading) },
                });
            }
            _ => serde_json::from_str::<Line<Value>>(line).map_err(|error| error.to_string())?,
        };
        if line.kind == "ERROR" {
            let status = serde_json::from_value(line.object).map_err(|error| error.to_string())?;
            return Ok(Event::Error(Failure::of_status(&status)));
        }
        let at = revision(line.object.version())?;
        if line.kind == "BOOKMARK" {
            // It is an object without fields, which for some kinds is not what their type holds.
            return Ok(Event::Bookmark { at, listed: line.object.ends_listing() });
        }
        let what = self.object_of::<T>(line.object, reading);
        Ok(match line.kind.as_str() {
            "DELETED" => Event::Deleted { at, what },
            _ => Event::Written { at, what },
        })
    }

    pub(super) fn path_of(&self, metadata: &Value, group: ApiGroup) -> String {
        let text = |field: &str| metadata[field].as_str().unwrap_or_default().to_owned();
        let namespace = Some(text("namespace")).filter(|namespace| !namespace.is_empty());
        Self { what: self.what, namespace, name: Some(text("name")) }.object(group)
    }

    /// As [`Self::path_of`], of what is not JSON any more.
    pub(super) fn path_from(&self, meta: &KubernetesMeta, group: ApiGroup) -> String {
        let namespace = Some(meta.namespace.clone()).filter(|namespace| !namespace.is_empty());
        Self { what: self.what, namespace, name: Some(meta.name.clone()) }.object(group)
    }
}

#[cfg(test)]
mod tests {
    use calico_core::kind::Kind;

    use super::super::failure::FailureKind;
    use super::*;

    fn reading() -> Reading {
        Reading { group: ApiGroup::Crd, use_pod_cidr: false, interface_prefix: "cali".to_owned() }
    }

    #[test]
    fn a_page_survives_an_odd_object() {
        let pods = Source::all(What::Pods);
        let text = r#"{"metadata": {"resourceVersion": "9", "continue": "c"}, "items": [
            {"metadata": {"name": "bad", "namespace": "x"}, "spec": {"nodeName": 7}},
            {"metadata": {"name": "p", "namespace": "x", "resourceVersion": "3"}, "spec": {"nodeName": "n"}},
            {"metadata": {"name": "q", "namespace": "x", "resourceVersion": "3"}}]}"#;
        let page = pods.page(text, &reading()).unwrap();
        assert_eq!((page.revision, &*page.next), (Revision(9), "c"));
        let Read::Bad { path, .. } = &page.items[0] else { panic!("{:?}", page.items[0]) };
        assert_eq!(path, "/api/v1/namespaces/x/pods/bad");
        let Read::Object(entry) = &page.items[1] else { panic!("{:?}", page.items[1]) };
        assert_eq!(entry.key.name(), "n-k8s-p-eth0");
        assert_eq!(page.items[2], Read::Other);
        assert!(pods.page("<html>", &reading()).is_err());
    }

    #[test]
    fn lines_of_a_watch_are_understood() {
        let pools = Source::all(What::Custom(Kind::IpPool));
        let event = |line: &str| pools.event(line, &reading()).unwrap();
        let line = r#"{"type":"BOOKMARK","object":{"kind":"IPPool","metadata":{"resourceVersion":"5",
            "annotations":{"k8s.io/initial-events-end":"true"}}}}"#;
        assert!(matches!(event(line), Event::Bookmark { at: Revision(5), listed: true }));
        let line = r#"{"type":"BOOKMARK","object":{"kind":"Pod","metadata":{"resourceVersion":"5"},
            "spec":{"containers":null},"status":{}}}"#;
        let event_of_pods = Source::all(What::Pods).event(line, &reading()).unwrap();
        assert!(matches!(event_of_pods, Event::Bookmark { at: Revision(5), listed: false }));
        let line = r#"{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired"}}"#;
        assert!(matches!(event(line), Event::Error(failure)
            if failure.kind == FailureKind::Expired));
        let line = r#"{"type":"DELETED","object":{"metadata":{"name":"a","resourceVersion":"6"}}}"#;
        assert!(matches!(event(line), Event::Deleted { at: Revision(6), what: Read::Object(_) }));
        let line = r#"{"type":"ADDED","object":{"metadata":{"name":"","resourceVersion":"6"}}}"#;
        assert!(matches!(event(line), Event::Written { what: Read::Bad { .. }, .. }));
    }
}
