//! Pools, nodes, and settings of the host.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use calico_core::dataplane::{EndpointToHostAction, HostSettings, Pool, Update};
use calico_core::kind::Kind;
use calico_core::resource::{
    self, FelixConfiguration, FelixConfigurationSpec, IpPool, NatOutgoingExclusions, Node,
};

/// What the dataplane must know besides policy.
#[derive(Debug, Default)]
pub(super) struct Host {
    pools: BTreeMap<String, Pool>,
    /// Addresses by node.
    nodes: BTreeMap<String, Vec<IpAddr>>,
    configs: BTreeMap<String, Box<FelixConfigurationSpec>>,
    sent_pools: Option<Vec<Pool>>,
    sent_settings: Option<HostSettings>,
    /// Nothing was put or removed since the last flush.
    clean: bool,
}

impl Host {
    pub(super) fn put_pool(&mut self, pool: &IpPool) {
        let spec = &pool.spec;
        let pool_of = Pool { cidr: spec.cidr.trunc(), nat_outgoing: spec.nat_outgoing };
        let before = self.pools.insert(pool.name().to_owned(), pool_of);
        self.clean &= before == Some(pool_of);
    }

    pub(super) fn put_node(&mut self, node: &Node) {
        let addresses: Vec<IpAddr> = node.spec.own_addresses().collect();
        let before = self.nodes.insert(node.name().to_owned(), addresses.clone());
        self.clean &= before == Some(addresses);
    }

    pub(super) fn put_config(&mut self, config: &FelixConfiguration) {
        self.configs.insert(config.name().to_owned(), Box::new(config.spec.clone()));
        self.clean = false;
    }

    pub(super) fn remove(&mut self, kind: Kind, name: &str) {
        let known = match kind {
            Kind::IpPool => self.pools.remove(name).is_some(),
            Kind::Node => self.nodes.remove(name).is_some(),
            _ => self.configs.remove(name).is_some(),
        };
        self.clean &= !known;
    }

    pub(super) fn sent_pools(&self) -> &[Pool] {
        self.sent_pools.as_deref().unwrap_or_default()
    }

    pub(super) const fn sent_settings(&self) -> Option<&HostSettings> {
        self.sent_settings.as_ref()
    }

    /// Settings and pools, as far as they changed.
    pub(super) fn flush(&mut self, node: Option<&str>) -> Vec<Update> {
        let mut updates = Vec::new();
        if std::mem::replace(&mut self.clean, true) {
            return updates;
        }
        let settings = self.settings(node);
        if self.sent_settings.as_ref() != Some(&settings) {
            updates.push(Update::Host(settings.clone()));
            self.sent_settings = Some(settings);
        }
        let pools: BTreeSet<Pool> = self.pools.values().copied().collect();
        let pools: Vec<Pool> = pools.into_iter().collect();
        if self.sent_pools.as_ref() != Some(&pools) {
            updates.push(Update::Pools(pools.clone()));
            self.sent_pools = Some(pools);
        }
        updates
    }

    /// A node's own settings win over the cluster's, field by field.
    fn settings(&self, node: Option<&str>) -> HostSettings {
        let own = node.and_then(|node| self.configs.get(&format!("node.{node}")));
        let configs: Vec<_> = own.into_iter().chain(self.configs.get("default")).collect();
        let prefixed = configs.iter().find(|config| !config.interface_prefix.is_empty());
        let prefix = prefixed.and_then(|config| config.interface_prefixes().next());
        let action = configs.iter().find_map(|config| config.default_endpoint_to_host_action);
        let exclusions = configs.iter().find_map(|config| config.nat_outgoing_exclusions);
        let vxlan = configs.iter().find_map(|config| config.allow_vxlan_packets_from_workloads);
        let vxlan_port = configs.iter().find_map(|config| config.vxlan_port);
        let ipip = configs.iter().find_map(|config| config.allow_ipip_packets_from_workloads);
        let addresses: BTreeSet<IpAddr> = self.nodes.values().flatten().copied().collect();
        HostSettings {
            interface_prefix: prefix.unwrap_or("cali").into(),
            endpoint_to_host: match action.unwrap_or_default() {
                resource::EndpointToHostAction::Drop => EndpointToHostAction::Drop,
                resource::EndpointToHostAction::Return => EndpointToHostAction::Return,
                resource::EndpointToHostAction::Accept => EndpointToHostAction::Accept,
            },
            node_addresses: addresses.into_iter().collect(),
            masquerade_spares_nodes: exclusions == Some(NatOutgoingExclusions::IpPoolsAndHostIps),
            vxlan_from_workloads: vxlan.unwrap_or_default(),
            vxlan_port: vxlan_port.unwrap_or_else(|| HostSettings::default().vxlan_port),
            ipip_from_workloads: ipip.unwrap_or_default(),
        }
    }
}
