//! Which host endpoint each interface of the host is. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use calico_core::dataplane::{HostEndpoint, HostInterface};

/// Names and addresses of the host's interfaces.
pub(super) type Interfaces = BTreeMap<Arc<str>, BTreeSet<IpAddr>>;

/// Host endpoints, and the interfaces there are.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    endpoints: BTreeMap<Arc<str>, HostEndpoint>,
    interfaces: Interfaces,
    told: BTreeSet<Arc<str>>,
}

/// Who protects what.
#[derive(Debug, Default)]
pub(super) struct Resolved<'a> {
    /// By interface.
    pub(super) named: BTreeMap<Arc<str>, &'a HostEndpoint>,
    /// For every other interface that leads to no workload.
    pub(super) all: Option<&'a HostEndpoint>,
}

impl Hosts {
    pub(super) fn is_empty(&self) -> bool {
        self.endpoints.is_empty()
    }

    /// True if that changes anything.
    pub(super) fn put(&mut self, endpoint: HostEndpoint) -> bool {
        let name = Arc::clone(&endpoint.name);
        self.endpoints.get(&name) != Some(&endpoint) && {
            self.endpoints.insert(name, endpoint);
            true
        }
    }

    /// True if there was such an endpoint.
    pub(super) fn remove(&mut self, name: &str) -> bool {
        self.endpoints.remove(name).is_some()
    }

    /// True if that may change who protects what.
    pub(super) fn set_interfaces(&mut self, interfaces: Interfaces) -> bool {
        let changed = self.interfaces != interfaces;
        self.interfaces = interfaces;
        changed && self.asks_for_interfaces()
    }

    /// Whether one is found by address.
    pub(super) fn asks_for_interfaces(&self) -> bool {
        let by_address = |e: &HostEndpoint| matches!(e.interface, HostInterface::Addressed(_));
        self.endpoints.values().any(by_address)
    }

    /// A name counts more than addresses, these more than "all"; of equals the first by name.
    /// Interfaces that start with `workloads` are no host endpoints.
    pub(super) fn resolve(&self, workloads: &str) -> Resolved<'_> {
        let mut resolved = Resolved::default();
        for endpoint in self.endpoints.values() {
            match &endpoint.interface {
                HostInterface::Named(name) if !name.starts_with(workloads) => {
                    resolved.named.entry(Arc::clone(name)).or_insert(endpoint);
                }
                HostInterface::All => resolved.all = resolved.all.or(Some(endpoint)),
                _ => {}
            }
        }
        for (name, addresses) in &self.interfaces {
            if name.starts_with(workloads) || resolved.named.contains_key(name) {
                continue;
            }
            let has_one = |endpoint: &&HostEndpoint| match &endpoint.interface {
                HostInterface::Addressed(expected) => {
                    expected.iter().any(|address| addresses.contains(address))
                }
                _ => false,
            };
            if let Some(endpoint) = self.endpoints.values().find(has_one) {
                resolved.named.insert(Arc::clone(name), endpoint);
            }
        }
        resolved
    }

    /// Endpoints that have come to protect nothing, each told once: as long as none of the
    /// expected addresses is there, or when another endpoint has the interface.
    pub(super) fn idle(&mut self, workloads: &str) -> Vec<(Arc<str>, String)> {
        let resolved = self.resolve(workloads);
        let mut active: BTreeSet<Arc<str>> =
            resolved.named.values().map(|endpoint| Arc::clone(&endpoint.name)).collect();
        active.extend(resolved.all.map(|endpoint| Arc::clone(&endpoint.name)));
        // Addresses are read only when the first endpoint asks for them.
        let unread = |e: &HostEndpoint| {
            matches!(e.interface, HostInterface::Addressed(_)) && self.interfaces.is_empty()
        };
        let idle = self.endpoints.values().filter(|e| !active.contains(&e.name) && !unread(e));
        let idle: Vec<_> = idle
            .map(|endpoint| {
                let reason = match &endpoint.interface {
                    HostInterface::Addressed(_) => {
                        format!("this host has not {}", endpoint.interface)
                    }
                    HostInterface::Named(name) if name.starts_with(workloads) => {
                        format!("{name} leads to a workload")
                    }
                    other => format!("another host endpoint is {other}"),
                };
                (Arc::clone(&endpoint.name), reason)
            })
            .collect();
        let told = idle.iter().map(|(name, _)| Arc::clone(name)).collect();
        let before = std::mem::replace(&mut self.told, told);
        idle.into_iter().filter(|(name, _)| !before.contains(name)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(name: &str, interface: HostInterface) -> HostEndpoint {
        HostEndpoint {
            name: name.into(),
            interface,
            local: Vec::new(),
            forward: Vec::new(),
            pre_dnat: Vec::new(),
            untracked: Vec::new(),
            profiles: Vec::new(),
        }
    }

    #[test]
    fn a_name_counts_more_than_an_address_and_that_more_than_all() {
        let address: IpAddr = [192, 0, 2, 1].into();
        let mut hosts = Hosts::default();
        hosts.put(endpoint("z-all", HostInterface::All));
        hosts.put(endpoint("b-named", HostInterface::Named("eth0".into())));
        hosts.put(endpoint("a-addressed", HostInterface::Addressed(vec![address])));
        hosts.put(endpoint("c-named", HostInterface::Named("eth0".into())));
        hosts.put(endpoint("d-pod", HostInterface::Named("cali1".into())));
        let names = |hosts: &Hosts| -> Vec<String> {
            let resolved = hosts.resolve("cali");
            assert_eq!(&*resolved.all.unwrap().name, "z-all");
            resolved.named.iter().map(|(i, e)| format!("{i} {}", e.name)).collect()
        };
        assert_eq!(names(&hosts), ["eth0 b-named"]);
        let both = ["eth0", "eth1"].map(|name| (name.into(), [address].into()));
        assert!(hosts.set_interfaces(both.into()));
        assert_eq!(names(&hosts), ["eth0 b-named", "eth1 a-addressed"]);
        let idle: Vec<_> = hosts.idle("cali").into_iter().map(|(name, _)| name).collect();
        assert_eq!(idle, ["c-named".into(), Arc::from("d-pod")]);
        assert!(hosts.idle("cali").is_empty(), "told already");
        hosts.remove("b-named");
        assert_eq!(names(&hosts), ["eth0 c-named", "eth1 a-addressed"]);
    }
}
