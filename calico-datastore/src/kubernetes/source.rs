//! Which collections of the API hold a [`Scope`], and what their objects say.

use std::sync::Arc;

use calico_core::datastore::{Entry, Revision};
use calico_core::key::{Key, Scope};
use calico_core::kind::Kind;
use calico_core::resource::{EndpointName, GlobalNetworkPolicy, Resource, Spec};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::conversion::custom::{OLDER_POLICY_PREFIX, from_custom, is_custom, is_policy};
use crate::conversion::ipam;
use crate::conversion::{
    ADMIN_POLICY_PREFIX, AdminNetworkPolicy, ApiGroup, BASELINE_POLICY_PREFIX,
    BaselineAdminNetworkPolicy, CLUSTER_POLICY_PREFIX, ClusterNetworkPolicy, Converted,
    EndpointSlice, KubernetesMeta, KubernetesNetworkPolicy, KubernetesNode, NETWORK_POLICY_PREFIX,
    Namespace, Pod, ProfileSource, Service, ServiceAccount, VirtualMachineMigration,
    admin_network_policy, baseline_admin_network_policy, cluster_network_policy,
    kubernetes_endpoint_slice, kubernetes_service, live_migration, namespace_profile,
    network_policy, node, profile_source, service_account_profile, workload_endpoint,
};

/// Where policies of the whole cluster were before they had one kind.
const V1ALPHA1: &str = "/apis/policy.networking.k8s.io/v1alpha1";

/// What a collection holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum What {
    /// Custom resources, as resources.
    Custom(Kind),
    /// Custom resources, as IPAM's data.
    Ipam(Kind),
    Nodes,
    Pods,
    Namespaces,
    Accounts,
    Policies,
    ClusterPolicies,
    AdminPolicies,
    BaselinePolicies,
    Services,
    Slices,
    Migrations,
}

/// Collections that a cluster may have or not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Optional {
    /// Cluster-wide policies of Kubernetes.
    pub(super) cluster_policies: bool,
    /// What was before them.
    pub(super) admin_policies: bool,
    /// What was before them, at the other end of the tiers.
    pub(super) baseline_policies: bool,
    /// KubeVirt's migrations.
    pub(super) migrations: bool,
}

impl Optional {
    const fn has(self, what: What) -> bool {
        match what {
            What::ClusterPolicies => self.cluster_policies,
            What::AdminPolicies => self.admin_policies,
            What::BaselinePolicies => self.baseline_policies,
            What::Migrations => self.migrations,
            _ => true,
        }
    }
}

/// A collection of the API, or a part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) what: What,
    pub(super) namespace: Option<String>,
    /// The one object that is meant, by its name in Kubernetes.
    pub(super) name: Option<String>,
}

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

impl Source {
    pub(super) const fn all(what: What) -> Self {
        Self { what, namespace: None, name: None }
    }

    /// The collections that hold `scope`.
    pub(super) fn of(scope: &Scope, optional: Optional) -> Vec<Self> {
        let mut sources = match scope {
            Scope::All => {
                let ipam = [Kind::IpamBlock, Kind::BlockAffinity, Kind::IpamHandle];
                let custom = Kind::ALL.iter().copied().filter(|kind| is_custom(*kind));
                let custom = custom.map(|kind| match kind {
                    Kind::IpamConfiguration => What::Ipam(kind),
                    kind if ipam.contains(&kind) => What::Ipam(kind),
                    kind => What::Custom(kind),
                });
                let views = [
                    What::Nodes,
                    What::Pods,
                    What::Namespaces,
                    What::Accounts,
                    What::Policies,
                    What::ClusterPolicies,
                    What::AdminPolicies,
                    What::BaselinePolicies,
                    What::Services,
                    What::Slices,
                    What::Migrations,
                ];
                custom.chain(views).map(Self::all).collect()
            }
            Scope::Kind(kind) => of_kind(*kind).into_iter().map(Self::all).collect(),
            Scope::Namespace(kind, namespace) if kind.is_namespaced() => {
                let of = |what| Self { namespace: Some(namespace.clone()), ..Self::all(what) };
                of_kind(*kind).into_iter().map(of).collect()
            }
            Scope::Namespace(..) => Vec::new(),
            Scope::Blocks => vec![Self::all(What::Ipam(Kind::IpamBlock))],
            Scope::Affinities | Scope::AffinitiesOf(_) => {
                vec![Self::all(What::Ipam(Kind::BlockAffinity))]
            }
            Scope::Handles => vec![Self::all(What::Ipam(Kind::IpamHandle))],
            Scope::One(key) => Self::of_key(key).into_iter().collect(),
            _ => Vec::new(),
        };
        sources.retain(|source| optional.has(source.what));
        sources
    }

    /// The one object that holds `key`; `None` if nothing in Kubernetes can.
    pub(super) fn of_key(key: &Key) -> Option<Self> {
        let one = |what, namespace: Option<&str>, name: &str| {
            let namespace = namespace.map(str::to_owned);
            Some(Self { what, namespace, name: Some(name.to_owned()) })
        };
        if let (Some(kind), Some(name)) = (ipam::kind_of(key), ipam::name_of(key)) {
            return one(What::Ipam(kind), None, &name);
        }
        let Key::Resource { kind, namespace, name } = key else { return None };
        let namespace = namespace.as_deref();
        match kind {
            Kind::Node => one(What::Nodes, None, name),
            Kind::WorkloadEndpoint => {
                let parts: EndpointName = name.parse().ok()?;
                let ours = parts.orchestrator == "k8s" && parts.endpoint == "eth0";
                ours.then(|| one(What::Pods, namespace, &parts.workload))?
            }
            Kind::Profile => match profile_source(name)? {
                ProfileSource::Namespace(name) => one(What::Namespaces, None, &name),
                ProfileSource::ServiceAccount { namespace, name } => {
                    one(What::Accounts, Some(&namespace), &name)
                }
            },
            Kind::NetworkPolicy if name.starts_with(NETWORK_POLICY_PREFIX) => {
                one(What::Policies, namespace, &name[NETWORK_POLICY_PREFIX.len()..])
            }
            Kind::GlobalNetworkPolicy if name.starts_with(CLUSTER_POLICY_PREFIX) => {
                one(What::ClusterPolicies, None, &name[CLUSTER_POLICY_PREFIX.len()..])
            }
            Kind::GlobalNetworkPolicy if name.starts_with(ADMIN_POLICY_PREFIX) => {
                one(What::AdminPolicies, None, &name[ADMIN_POLICY_PREFIX.len()..])
            }
            Kind::GlobalNetworkPolicy if name.starts_with(BASELINE_POLICY_PREFIX) => {
                one(What::BaselinePolicies, None, &name[BASELINE_POLICY_PREFIX.len()..])
            }
            Kind::KubernetesService => one(What::Services, namespace, name),
            Kind::KubernetesEndpointSlice => one(What::Slices, namespace, name),
            Kind::LiveMigration => one(What::Migrations, namespace, name),
            kind => one(What::Custom(*kind), namespace, name),
        }
    }

    /// The same object under the name that upstream stored it before v3.32, if it may have one.
    pub(super) fn older(&self, group: ApiGroup) -> Option<Self> {
        match (self.what, &self.name) {
            (What::Custom(kind), Some(name)) if group == ApiGroup::Crd && is_policy(kind) => {
                Some(Self { name: Some(format!("{OLDER_POLICY_PREFIX}{name}")), ..self.clone() })
            }
            _ => None,
        }
    }

    /// The path of the collection.
    pub(super) fn collection(&self, group: ApiGroup) -> String {
        let (base, plural) = match self.what {
            What::Custom(kind) | What::Ipam(kind) => {
                (format!("/apis/{}", group.api_version()), group.plural(kind))
            }
            What::Nodes => ("/api/v1".to_owned(), "nodes"),
            What::Pods => ("/api/v1".to_owned(), "pods"),
            What::Namespaces => ("/api/v1".to_owned(), "namespaces"),
            What::Accounts => ("/api/v1".to_owned(), "serviceaccounts"),
            What::Policies => ("/apis/networking.k8s.io/v1".to_owned(), "networkpolicies"),
            What::ClusterPolicies => {
                ("/apis/policy.networking.k8s.io/v1alpha2".to_owned(), "clusternetworkpolicies")
            }
            What::AdminPolicies => (V1ALPHA1.to_owned(), "adminnetworkpolicies"),
            What::BaselinePolicies => (V1ALPHA1.to_owned(), "baselineadminnetworkpolicies"),
            What::Services => ("/api/v1".to_owned(), "services"),
            What::Slices => ("/apis/discovery.k8s.io/v1".to_owned(), "endpointslices"),
            What::Migrations => {
                ("/apis/kubevirt.io/v1".to_owned(), "virtualmachineinstancemigrations")
            }
        };
        match &self.namespace {
            Some(namespace) => format!("{base}/namespaces/{}/{plural}", escaped(namespace)),
            None => format!("{base}/{plural}"),
        }
    }

    /// The path of the one object that is meant.
    pub(super) fn object(&self, group: ApiGroup) -> String {
        let name = self.name.as_deref().unwrap_or_default();
        format!("{}/{}", self.collection(group), escaped(name))
    }

    /// What selects the one object that is meant, as a parameter of a listing.
    pub(super) fn selector(&self) -> String {
        match &self.name {
            Some(name) => format!("&fieldSelector=metadata.name%3D{}", escaped(name)),
            None => String::new(),
        }
    }

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
            return Ok(Event::Error(super::failure::Failure::of_status(&status)));
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

    fn path_of(&self, metadata: &Value, group: ApiGroup) -> String {
        let text = |field: &str| metadata[field].as_str().unwrap_or_default().to_owned();
        let namespace = Some(text("namespace")).filter(|namespace| !namespace.is_empty());
        Self { what: self.what, namespace, name: Some(text("name")) }.object(group)
    }

    /// As [`Self::path_of`], of what is not JSON any more.
    fn path_from(&self, meta: &KubernetesMeta, group: ApiGroup) -> String {
        let namespace = Some(meta.namespace.clone()).filter(|namespace| !namespace.is_empty());
        Self { what: self.what, namespace, name: Some(meta.name.clone()) }.object(group)
    }
}

fn of_kind(kind: Kind) -> Vec<What> {
    match kind {
        Kind::Node => vec![What::Nodes],
        Kind::WorkloadEndpoint => vec![What::Pods],
        Kind::Profile => vec![What::Namespaces, What::Accounts],
        Kind::NetworkPolicy => vec![What::Custom(kind), What::Policies],
        Kind::GlobalNetworkPolicy => vec![
            What::Custom(kind),
            What::ClusterPolicies,
            What::AdminPolicies,
            What::BaselinePolicies,
        ],
        Kind::KubernetesService => vec![What::Services],
        Kind::KubernetesEndpointSlice => vec![What::Slices],
        Kind::LiveMigration => vec![What::Migrations],
        kind => vec![What::Custom(kind)],
    }
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
    Error(super::failure::Failure),
}

/// Marks the bookmark after the objects that a watch starts with.
const LISTED: &str = "k8s.io/initial-events-end";

pub(super) fn revision(text: &str) -> Result<Revision, String> {
    text.parse().map_err(|_no_number| format!("resourceVersion {text:?} is no number"))
}

/// An object of the API that Calico sees as one of its own.
trait Object: DeserializeOwned {
    fn version(&self) -> &str;
    fn ends_listing(&self) -> bool;
    fn read(self, source: &Source, reading: &Reading) -> Read;
}

fn seen<S: Spec>(
    source: &Source,
    meta: &KubernetesMeta,
    reading: &Reading,
    found: Resource<S>,
) -> Read {
    match revision(&meta.resource_version) {
        Ok(revision) => Read::Object(Entry { key: found.key(), value: found.to_json(), revision }),
        Err(reason) => Read::Bad { path: source.path_from(meta, reading.group), reason, key: None },
    }
}

/// What could not be carried over is for who wrote the object; it says it at each reading.
fn told<T>(source: &Source, meta: &KubernetesMeta, reading: &Reading, found: Converted<T>) -> T {
    if !found.problems.is_empty() {
        let path = source.path_from(meta, reading.group);
        tracing::debug!(path, problems = ?found.problems, "not everything can be carried over");
    }
    found.resource
}

/// A policy of the whole cluster, under the name that it has among Calico's own.
fn cluster_wide(
    source: &Source,
    meta: &KubernetesMeta,
    reading: &Reading,
    prefix: &str,
    found: Result<Converted<GlobalNetworkPolicy>, String>,
) -> Read {
    let name = format!("{prefix}{}", meta.name);
    match found {
        Ok(found) => {
            let mut found = told(source, meta, reading, found);
            found.metadata.name = name;
            seen(source, meta, reading, found)
        }
        Err(reason) => {
            let key = Some(Key::resource(Kind::GlobalNetworkPolicy, None, &name));
            Read::Bad { path: source.path_from(meta, reading.group), reason, key }
        }
    }
}

macro_rules! typed {
    ($type:ty, $this:ident, $source:ident, $reading:ident => $read:expr) => {
        impl Object for $type {
            fn version(&self) -> &str {
                &self.metadata.resource_version
            }

            fn ends_listing(&self) -> bool {
                self.metadata.annotations.get(LISTED).is_some_and(|word| word == "true")
            }

            fn read(self, $source: &Source, $reading: &Reading) -> Read {
                let $this = self;
                $read
            }
        }
    };
}

typed!(KubernetesNode, this, source, reading => {
    let found = told(source, &this.metadata, reading, node(&this, reading.use_pod_cidr));
    seen(source, &this.metadata, reading, found)
});
typed!(Pod, this, source, reading => {
    match workload_endpoint(&this, &reading.interface_prefix) {
        Some(found) => {
            let found = told(source, &this.metadata, reading, found);
            seen(source, &this.metadata, reading, found)
        }
        None => Read::Other,
    }
});
typed!(Namespace, this, source, reading => {
    seen(source, &this.metadata, reading, namespace_profile(&this))
});
typed!(ServiceAccount, this, source, reading => {
    seen(source, &this.metadata, reading, service_account_profile(&this))
});
typed!(KubernetesNetworkPolicy, this, source, reading => {
    let mut found = told(source, &this.metadata, reading, network_policy(&this));
    found.metadata.name = format!("{NETWORK_POLICY_PREFIX}{}", found.metadata.name);
    seen(source, &this.metadata, reading, found)
});
typed!(ClusterNetworkPolicy, this, source, reading => {
    cluster_wide(source, &this.metadata, reading, CLUSTER_POLICY_PREFIX, cluster_network_policy(&this))
});
typed!(AdminNetworkPolicy, this, source, reading => {
    cluster_wide(source, &this.metadata, reading, ADMIN_POLICY_PREFIX, admin_network_policy(&this))
});
typed!(BaselineAdminNetworkPolicy, this, source, reading => {
    let found = baseline_admin_network_policy(&this);
    cluster_wide(source, &this.metadata, reading, BASELINE_POLICY_PREFIX, found)
});
typed!(Service, this, source, reading => {
    seen(source, &this.metadata, reading, kubernetes_service(&this))
});
typed!(EndpointSlice, this, source, reading => {
    seen(source, &this.metadata, reading, kubernetes_endpoint_slice(&this))
});
typed!(VirtualMachineMigration, this, source, reading => {
    let meta = &this.metadata;
    match live_migration(&this) {
        Some(found) => seen(source, meta, reading, found),
        // It may have been one a moment ago.
        None => Read::Hidden(Key::resource(Kind::LiveMigration, Some(&meta.namespace), &meta.name)),
    }
});

impl Object for Value {
    fn version(&self) -> &str {
        self["metadata"]["resourceVersion"].as_str().unwrap_or_default()
    }

    fn ends_listing(&self) -> bool {
        self["metadata"]["annotations"][LISTED] == "true"
    }

    fn read(self, source: &Source, reading: &Reading) -> Read {
        let path = source.path_of(&self["metadata"], reading.group);
        let found =
            revision(self.version()).and_then(|at| Ok((at, custom(source, reading, self)?)));
        match found {
            Ok((_, (key, _, true))) => Read::Hidden(key),
            Ok((revision, (key, value, false))) => {
                if !key.is_storable() {
                    let reason = format!("{key} cannot be the name of an object");
                    return Read::Bad { path, reason, key: None };
                }
                Read::Object(Entry { key, value, revision })
            }
            Err(reason) => Read::Bad { path, reason, key: None },
        }
    }
}

/// Key, text, and whether it is being deleted.
fn custom(
    source: &Source,
    reading: &Reading,
    object: Value,
) -> Result<(Key, Arc<str>, bool), String> {
    let resource = |kind, object| {
        from_custom(reading.group, kind, object).map(|(key, value)| (key, value, false))
    };
    match source.what {
        // The settings of IPAM have one name; what has another is somebody's own.
        What::Ipam(kind @ Kind::IpamConfiguration)
            if object["metadata"]["name"].as_str() != Some("default") =>
        {
            resource(kind, object)
        }
        What::Ipam(kind) => ipam::from_custom(kind, &object)
            .map(|found| (found.key, found.value.into(), found.deleted)),
        What::Custom(kind) => resource(kind, object),
        _ => Err("it is no custom resource".to_owned()),
    }
}

/// A name as a part of a path or parameter: names in Kubernetes need no more than this.
pub(super) fn escaped(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(byte));
            }
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading() -> Reading {
        Reading { group: ApiGroup::Crd, use_pod_cidr: false, interface_prefix: "cali".to_owned() }
    }

    #[test]
    fn keys_are_found_where_upstream_has_them() {
        let check = |path: &str, expected: &str| {
            let source = Source::of_key(&path.parse().unwrap()).unwrap();
            assert_eq!(source.object(ApiGroup::Crd), expected);
        };
        const V3: &str = "/calico/resources/v3/projectcalico.org";
        let group = "/apis/crd.projectcalico.org/v1";
        check(&format!("{V3}/ippools/a"), &format!("{group}/ippools/a"));
        check(&format!("{V3}/ipamconfigurations/default"), &format!("{group}/ipamconfigs/default"));
        check(
            &format!("{V3}/networkpolicies/prod/web"),
            &format!("{group}/namespaces/prod/networkpolicies/web"),
        );
        check(
            &format!("{V3}/networkpolicies/prod/knp.default.web"),
            "/apis/networking.k8s.io/v1/namespaces/prod/networkpolicies/web",
        );
        check(
            &format!("{V3}/globalnetworkpolicies/kcnp.web"),
            "/apis/policy.networking.k8s.io/v1alpha2/clusternetworkpolicies/web",
        );
        check(
            &format!("{V3}/globalnetworkpolicies/kanp.adminnetworkpolicy.web"),
            &format!("{V1ALPHA1}/adminnetworkpolicies/web"),
        );
        check(
            &format!("{V3}/globalnetworkpolicies/kbanp.baselineadminnetworkpolicy.default"),
            &format!("{V1ALPHA1}/baselineadminnetworkpolicies/default"),
        );
        check(&format!("{V3}/nodes/n1"), "/api/v1/nodes/n1");
        check(&format!("{V3}/profiles/kns.prod"), "/api/v1/namespaces/prod");
        check(
            &format!("{V3}/profiles/ksa.prod.web"),
            "/api/v1/namespaces/prod/serviceaccounts/web",
        );
        check(
            &format!("{V3}/workloadendpoints/prod/n--1-k8s-web--0-eth0"),
            "/api/v1/namespaces/prod/pods/web-0",
        );
        check(&format!("{V3}/kubernetesservice/prod/web"), "/api/v1/namespaces/prod/services/web");
        check(
            &format!("{V3}/kubernetesendpointslices/prod/web-x"),
            "/apis/discovery.k8s.io/v1/namespaces/prod/endpointslices/web-x",
        );
        check(
            &format!("{V3}/livemigrations/prod/move"),
            "/apis/kubevirt.io/v1/namespaces/prod/virtualmachineinstancemigrations/move",
        );
        check(
            "/calico/ipam/v2/assignment/ipv4/block/10.0.0.0-26",
            &format!("{group}/ipamblocks/10-0-0-0-26"),
        );
        check("/calico/ipam/v2/config", &format!("{group}/ipamconfigs/default"));
        for none in [
            format!("{V3}/profiles/mine"),
            format!("{V3}/workloadendpoints/prod/n-cni-x-eth0"),
            "/calico/ipam/v2/host/n1".to_owned(),
        ] {
            assert_eq!(Source::of_key(&none.parse().unwrap()), None, "{none}");
        }
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
            if failure.kind == super::super::failure::FailureKind::Expired));
        let line = r#"{"type":"DELETED","object":{"metadata":{"name":"a","resourceVersion":"6"}}}"#;
        assert!(matches!(event(line), Event::Deleted { at: Revision(6), what: Read::Object(_) }));
        let line = r#"{"type":"ADDED","object":{"metadata":{"name":"","resourceVersion":"6"}}}"#;
        assert!(matches!(event(line), Event::Written { what: Read::Bad { .. }, .. }));
    }
}
