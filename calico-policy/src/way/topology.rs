//! Where endpoints are, and which addresses nodes have.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use calico_core::dataplane::EndpointId;
use calico_core::key::Key;
use calico_core::kind::Kind;

use crate::input::{Input, Object};

/// What of a cluster no dataplane has to know, and a [`Desired`](crate::desired::Desired) state
/// does not say: the nodes of endpoints, and the nodes' own addresses.
///
/// Feed it what the [`Graph`](crate::Graph) is fed; it passes over what it has no use for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Topology {
    workloads: BTreeMap<EndpointId, Arc<str>>,
    /// By name: the node, and the addresses that are expected there.
    hosts: BTreeMap<Arc<str>, (Arc<str>, Vec<IpAddr>)>,
    nodes: BTreeMap<Arc<str>, Vec<IpAddr>>,
}

impl Topology {
    /// Takes in one change.
    pub fn handle(&mut self, input: &Input) {
        match input {
            Input::Put(Object::WorkloadEndpoint(it)) => {
                let id = EndpointId { namespace: it.namespace().into(), name: it.name().into() };
                self.workloads.insert(id, it.spec.node.as_str().into());
            }
            Input::Put(Object::HostEndpoint(it)) => {
                let place = (it.spec.node.as_str().into(), it.spec.expected_ips.clone());
                self.hosts.insert(it.name().into(), place);
            }
            Input::Put(Object::Node(it)) => {
                let addresses = it.spec.own_addresses().collect();
                self.nodes.insert(it.name().into(), addresses);
            }
            Input::Put(_) => {}
            Input::Remove(key) => self.remove(key),
        }
    }

    fn remove(&mut self, key: &Key) {
        let Key::Resource { kind, namespace, name } = key else { return };
        match kind {
            Kind::WorkloadEndpoint => {
                let namespace = namespace.as_deref().unwrap_or_default().into();
                self.workloads.remove(&EndpointId { namespace, name: name.as_str().into() });
            }
            Kind::HostEndpoint => drop(self.hosts.remove(name.as_str())),
            Kind::Node => drop(self.nodes.remove(name.as_str())),
            _ => {}
        }
    }

    /// The node of a workload.
    #[must_use]
    pub fn node_of(&self, workload: &EndpointId) -> Option<&Arc<str>> {
        self.workloads.get(workload)
    }

    /// The node with this address: as a host endpoint of it expects, or as the node itself has told.
    #[must_use]
    pub fn node_with(&self, address: IpAddr) -> Option<&Arc<str>> {
        let expects = self.hosts.values().find(|(_, expected)| expected.contains(&address));
        let has = || self.nodes.iter().find(|(_, own)| own.contains(&address));
        expects.map(|(node, _)| node).or_else(|| has().map(|(node, _)| node))
    }

    /// The addresses that a host endpoint expects its interface to have.
    #[must_use]
    pub fn expected(&self, host_endpoint: &str) -> &[IpAddr] {
        self.hosts.get(host_endpoint).map_or(&[], |(_, expected)| expected)
    }

    /// The host endpoints of a node, by name.
    pub fn host_endpoints(&self, node: &str) -> impl Iterator<Item = &Arc<str>> {
        self.hosts.iter().filter(move |(_, (at, _))| **at == *node).map(|(name, _)| name)
    }

    /// The addresses that nodes have told, and those that host endpoints expect.
    pub fn node_addresses(&self) -> impl Iterator<Item = IpAddr> {
        let expected = self.hosts.values().flat_map(|(_, expected)| expected);
        self.nodes.values().flatten().chain(expected).copied()
    }

    /// Nodes that have host endpoints, each with its addresses: those that it has told, and those
    /// that its host endpoints expect.
    #[must_use]
    pub fn protected_nodes(&self) -> BTreeMap<Arc<str>, Vec<IpAddr>> {
        let mut found: BTreeMap<Arc<str>, Vec<IpAddr>> = BTreeMap::new();
        for (node, expected) in self.hosts.values() {
            let own = self.nodes.get(node).into_iter().flatten();
            let addresses = found.entry(Arc::clone(node)).or_default();
            for address in own.chain(expected) {
                if !addresses.contains(address) {
                    addresses.push(*address);
                }
            }
        }
        found
    }
}
