//! What is read of a cluster for a decision.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;

use calico_core::key::OwnerType;
use calico_core::resource::{AllocationAttribute, WorkloadEndpointSpec};
use ipnet::IpNet;

use crate::plan::block::Block;
use crate::plan::owner::Owner;

/// One look at a cluster.
///
/// The order in which its parts are read matters: blocks *first*. Then a write of a block at the
/// revision of the look fails if anybody has taken an address of it into use since, even if
/// nodes and endpoints were read from an outdated copy.
#[derive(Debug, Clone, Default)]
pub struct Look {
    /// Every block that can be read.
    pub blocks: Vec<Block>,
    /// Every claim, whatever its state.
    pub claims: Vec<(Owner, IpNet)>,
    /// Names of the nodes that have a resource.
    pub nodes: BTreeSet<String>,
    /// What runs.
    pub endpoints: Endpoints,
}

impl Look {
    /// Whether any address or block belongs to a node that is gone: only then endpoints matter.
    #[must_use]
    pub fn leaves_anything(&self) -> bool {
        let gone =
            |owner: &Owner| owner.kind == OwnerType::Host && !self.nodes.contains(&owner.name);
        let of_gone = |attributes: &AllocationAttribute| {
            attributes.secondary.get("node").is_some_and(|node| !self.nodes.contains(node))
        };
        self.claims.iter().any(|(owner, _)| gone(owner))
            || self.blocks.iter().any(|block| {
                block.owner().is_some_and(|owner| gone(&owner))
                    || block.data().attributes.iter().any(of_gone)
            })
    }
}

/// Workload endpoints, as far as they matter.
#[derive(Debug, Clone, Default)]
pub struct Endpoints {
    addresses: HashSet<IpAddr>,
    containers: HashSet<String>,
    /// Node, namespace and name of pods.
    pods: HashSet<(String, String, String)>,
    by_node: BTreeMap<String, usize>,
    unreadable: bool,
}

impl Endpoints {
    /// Takes in one endpoint.
    pub fn add(&mut self, namespace: &str, endpoint: &WorkloadEndpointSpec) {
        self.addresses.extend(endpoint.ip_networks.iter().map(|cidr| cidr.0.addr()));
        if !endpoint.container_id.is_empty() {
            self.containers.insert(endpoint.container_id.clone());
        }
        let node = &endpoint.node;
        if !endpoint.pod.is_empty() {
            self.pods.insert((node.clone(), namespace.to_owned(), endpoint.pod.clone()));
        }
        *self.by_node.entry(node.clone()).or_default() += 1;
    }

    /// Takes in an endpoint that cannot be read. It may be anybody's, so that nothing is freed.
    pub fn add_unreadable(&mut self) {
        self.unreadable = true;
    }

    /// Whether any endpoint has this address, on whatever node.
    #[must_use]
    pub fn have_address(&self, ip: IpAddr) -> bool {
        self.unreadable || self.addresses.contains(&ip)
    }

    /// Whether any endpoint is this container's.
    #[must_use]
    pub fn have_container(&self, id: &str) -> bool {
        self.containers.contains(id)
    }

    /// Whether there is an endpoint of this pod on this node. On another node it is another pod,
    /// with another address.
    #[must_use]
    pub fn have_pod(&self, node: &str, namespace: &str, pod: &str) -> bool {
        let pod = (node.to_owned(), namespace.to_owned(), pod.to_owned());
        self.unreadable || self.pods.contains(&pod)
    }

    /// Whether there is an endpoint on this node, or one that nobody can read.
    #[must_use]
    pub fn any_on(&self, node: &str) -> bool {
        self.unreadable || self.by_node.contains_key(node)
    }
}
