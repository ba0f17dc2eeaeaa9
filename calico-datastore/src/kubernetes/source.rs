//! Which collections of the API hold a [`Scope`], and where they are.

use calico_core::key::{Key, Scope};
use calico_core::kind::Kind;
use calico_core::resource::EndpointName;

use crate::conversion::custom::{OLDER_POLICY_PREFIX, is_custom, is_policy};
use crate::conversion::ipam;
use crate::conversion::{
    ADMIN_POLICY_PREFIX, ApiGroup, BASELINE_POLICY_PREFIX, CLUSTER_POLICY_PREFIX,
    NETWORK_POLICY_PREFIX, ProfileSource, profile_source,
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
}
