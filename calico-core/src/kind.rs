//! The kinds of the `projectcalico.org/v3` API: names, plurals, scope, short names.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// API group and version of every resource in this crate.
pub const API_VERSION: &str = "projectcalico.org/v3";

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident, $name:literal, $plural:literal, $namespaced:literal, [$($alias:literal),*];)*) => {
        /// A kind of resource, as written in a manifest's `kind` field.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[non_exhaustive]
        pub enum Kind {
            $($(#[$doc])* #[serde(rename = $name)] $variant,)*
        }

        impl Kind {
            /// Every kind, in alphabetical order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name in a manifest, such as `IPPool`.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The lower-case plural used in datastore keys and by calicoctl, such as `ippools`.
            #[must_use]
            pub const fn plural(self) -> &'static str {
                match self { $(Self::$variant => $plural,)* }
            }

            /// Whether resources of this kind live in a namespace.
            #[must_use]
            pub const fn is_namespaced(self) -> bool {
                match self { $(Self::$variant => $namespaced,)* }
            }

            /// Further names that calicoctl accepts (lower case), next to kind and plural.
            #[must_use]
            pub const fn aliases(self) -> &'static [&'static str] {
                match self { $(Self::$variant => &[$($alias),*],)* }
            }
        }
    };
}

kinds! {
    /// Settings of the BGP speakers; `default` or `node.<name>`.
    BgpConfiguration, "BGPConfiguration", "bgpconfigurations", false, ["bgpconfig", "bgpconfigs"];
    /// Import and export rules that a peer refers to.
    BgpFilter, "BGPFilter", "bgpfilters", false, ["bgpf", "bgpfs", "bf", "bfs"];
    /// A BGP session or a set of them.
    BgpPeer, "BGPPeer", "bgppeers", false, ["bgpp", "bgpps", "bp", "bps"];
    /// Ownership of an IPAM block.
    BlockAffinity, "BlockAffinity", "blockaffinities", false, ["affinity", "affinities"];
    /// A request for, and the report of, one node's state.
    CalicoNodeStatus, "CalicoNodeStatus", "caliconodestatuses", false, ["nodestatus", "nodestatuses"];
    /// Identity and version of the cluster; only `default`.
    ClusterInformation, "ClusterInformation", "clusterinformations", false, ["clusterinfo", "clusterinfos"];
    /// Settings of the node agent.
    FelixConfiguration, "FelixConfiguration", "felixconfigurations", false, ["felixconfig", "felixconfigs"];
    /// A policy for endpoints of every namespace, and for hosts.
    GlobalNetworkPolicy, "GlobalNetworkPolicy", "globalnetworkpolicies", false, ["gnp", "gnps", "cgnp"];
    /// A labelled list of CIDRs, visible everywhere.
    GlobalNetworkSet, "GlobalNetworkSet", "globalnetworksets", false, ["gnetsets", "gns"];
    /// An interface of a host that policy applies to.
    HostEndpoint, "HostEndpoint", "hostendpoints", false, ["hep", "heps"];
    /// A block of addresses (resource form of the IPAM data).
    IpamBlock, "IPAMBlock", "ipamblocks", false, [];
    /// Settings of IPAM; only `default`.
    IpamConfiguration, "IPAMConfiguration", "ipamconfigurations", false, ["ipamconfig", "ipamconfigs"];
    /// The addresses of one owner (resource form of the IPAM data).
    IpamHandle, "IPAMHandle", "ipamhandles", false, [];
    /// A range that pods get their addresses from.
    IpPool, "IPPool", "ippools", false, ["ipp", "ipps", "pool", "pools"];
    /// Addresses that IPAM must not hand out.
    IpReservation, "IPReservation", "ipreservations", false, ["reservation", "reservations"];
    /// Settings of the cluster-wide controllers; only `default`.
    KubeControllersConfiguration, "KubeControllersConfiguration", "kubecontrollersconfigurations", false,
        ["kubecontrollersconfig", "kubecontrollersconfigs", "kcc", "kccs"];
    /// Which pods stand behind a service: Kubernetes' own EndpointSlice, seen by Calico.
    KubernetesEndpointSlice, "KubernetesEndpointSlice", "kubernetesendpointslices", true, [];
    /// Kubernetes' own Service, seen by Calico. Upstream's plural is its singular.
    KubernetesService, "KubernetesService", "kubernetesservice", true, [];
    /// A workload on its way from one node to another.
    LiveMigration, "LiveMigration", "livemigrations", true, [];
    /// A policy for the endpoints of one namespace.
    NetworkPolicy, "NetworkPolicy", "networkpolicies", true, ["np", "policy", "policies", "pol", "pols", "cnp", "caliconetworkpolicy"];
    /// A labelled list of CIDRs in a namespace.
    NetworkSet, "NetworkSet", "networksets", true, ["netsets"];
    /// A host that runs workloads.
    Node, "Node", "nodes", false, ["no", "nos"];
    /// Rules and labels that endpoints name directly.
    Profile, "Profile", "profiles", false, ["pro", "pros"];
    /// A GlobalNetworkPolicy that is computed but not enforced.
    StagedGlobalNetworkPolicy, "StagedGlobalNetworkPolicy", "stagedglobalnetworkpolicies", false, ["sgnp", "sgnps"];
    /// A Kubernetes NetworkPolicy that is computed but not enforced.
    StagedKubernetesNetworkPolicy, "StagedKubernetesNetworkPolicy", "stagedkubernetesnetworkpolicies", true,
        ["stagedkubernetespolicy", "stagedkubernetespolicies", "sknp", "skpol", "skpols"];
    /// A NetworkPolicy that is computed but not enforced.
    StagedNetworkPolicy, "StagedNetworkPolicy", "stagednetworkpolicies", true,
        ["stagedpolicy", "stagedpolicies", "snp", "snps", "spol", "spols", "scnp"];
    /// An ordered group of policies.
    Tier, "Tier", "tiers", false, [];
    /// One interface of a pod, VM or container.
    WorkloadEndpoint, "WorkloadEndpoint", "workloadendpoints", true, ["wep", "weps"];
}

impl Kind {
    /// Whether programs alone read and write objects of this kind: what Kubernetes or another
    /// orchestrator says of itself. calicoctl neither writes nor exports them, and there is no
    /// CustomResourceDefinition (upstream: internal kinds, outside of the public API).
    #[must_use]
    pub const fn is_internal(self) -> bool {
        matches!(
            self,
            Self::KubernetesEndpointSlice | Self::KubernetesService | Self::LiveMigration
        )
    }
}

/// A name that is no kind, plural or alias.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown resource kind {0:?}; run `calicoctl get --help` for the list of kinds")]
pub struct UnknownKind(pub String);

impl FromStr for Kind {
    type Err = UnknownKind;

    /// Accepts the kind, its plural and its aliases, in any case.
    fn from_str(name: &str) -> Result<Self, UnknownKind> {
        let lower = name.to_ascii_lowercase();
        Self::ALL
            .iter()
            .copied()
            .find(|kind| {
                kind.as_str().eq_ignore_ascii_case(name)
                    || kind.plural() == lower
                    || kind.aliases().contains(&lower.as_str())
            })
            .ok_or_else(|| UnknownKind(name.to_owned()))
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_a_kind_leads_back_to_it() {
        for &kind in Kind::ALL {
            for name in [kind.as_str(), kind.plural()].iter().chain(kind.aliases()) {
                assert_eq!(name.parse(), Ok(kind), "{name}");
            }
        }
        assert!("gadget".parse::<Kind>().is_err());
    }
}
