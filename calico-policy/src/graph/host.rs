//! Pools, nodes, and settings of the host.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use calico_core::dataplane::{EndpointToHostAction, Failsafe, HostSettings, Pool, Update};
use calico_core::kind::Kind;
use calico_core::resource::{
    self, FelixConfiguration, FelixConfigurationSpec, FieldError, IpPool, NatOutgoingExclusions,
    Node, ProtoPort,
};
use calico_core::selector::Selector;

/// Name of the settings for every node, and the beginning of the name of those for one.
const FOR_ALL: &str = "default";
const FOR_ONE: &str = "node.";

/// What the dataplane must know besides policy.
#[derive(Debug, Default)]
pub(super) struct Host {
    pools: BTreeMap<String, Pool>,
    nodes: BTreeMap<String, KnownNode>,
    configs: BTreeMap<String, Config>,
    sent_pools: Option<Vec<Pool>>,
    sent_settings: Option<HostSettings>,
    /// Nothing was put or removed since the last flush.
    clean: bool,
}

/// What settings depend on.
#[derive(Debug, PartialEq)]
struct KnownNode {
    addresses: Vec<IpAddr>,
    labels: BTreeMap<String, String>,
}

#[derive(Debug)]
struct Config {
    spec: Box<FelixConfigurationSpec>,
    /// Which nodes it is for, if its name does not say that.
    nodes: Option<Selector>,
    /// RFC 3339, so that texts sort like times.
    created: Option<String>,
}

impl Host {
    pub(super) fn put_pool(&mut self, pool: &IpPool) {
        let spec = &pool.spec;
        let pool_of = Pool { cidr: spec.cidr.trunc(), nat_outgoing: spec.nat_outgoing };
        let before = self.pools.insert(pool.name().to_owned(), pool_of);
        self.clean &= before == Some(pool_of);
    }

    pub(super) fn put_node(&mut self, node: &Node) {
        let addresses = node.spec.own_addresses().collect();
        let known = KnownNode { addresses, labels: node.metadata.labels.clone() };
        let same = self.nodes.get(node.name()) == Some(&known);
        self.nodes.insert(node.name().to_owned(), known);
        self.clean &= same;
    }

    pub(super) fn put_config(
        &mut self,
        config: &FelixConfiguration,
        warnings: &mut Vec<FieldError>,
    ) -> Result<(), Vec<FieldError>> {
        let (name, text) = (config.name(), config.spec.node_selector.as_str());
        let named = name == FOR_ALL || name.starts_with(FOR_ONE);
        let mut nodes = None;
        if !text.is_empty() {
            let path = "spec.nodeSelector";
            let parsed = text.parse::<Selector>();
            let selector =
                parsed.map_err(|error| vec![FieldError::new(path, error.to_string())])?;
            if named {
                let message = format!("is ignored: the name {name} says which nodes it is for");
                warnings.push(FieldError::new(path, message));
            } else {
                nodes = Some(selector);
            }
        } else if !named {
            let message = "is missing, so these settings are for no node".to_owned();
            warnings.push(FieldError::new("spec.nodeSelector", message));
        }
        let spec = &config.spec;
        let lists = [
            ("spec.failsafeInboundHostPorts", &spec.failsafe_inbound_host_ports),
            ("spec.failsafeOutboundHostPorts", &spec.failsafe_outbound_host_ports),
        ];
        let mut errors = Vec::new();
        for (path, list) in lists {
            for (index, port) in list.iter().flatten().enumerate() {
                let error = |error| FieldError::new(format!("{path}[{index}]"), error);
                errors.extend(failsafe(port).err().map(error));
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let created = config.metadata.creation_timestamp.clone();
        let config = Config { spec: Box::new(config.spec.clone()), nodes, created };
        self.configs.insert(name.to_owned(), config);
        self.clean = false;
        Ok(())
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

    /// Settings for a node, those that win first: its own, those of which the oldest selects it
    /// (by name if they are of one age), then those of the cluster.
    fn configs_of(&self, node: Option<&str>) -> impl Iterator<Item = &FelixConfigurationSpec> {
        let own = node.and_then(|node| self.configs.get(&format!("{FOR_ONE}{node}")));
        let labels = node.and_then(|node| Some(&self.nodes.get(node)?.labels));
        let selecting = self.configs.iter().filter(|(_, config)| {
            let selected = config.nodes.as_ref().zip(labels);
            selected.is_some_and(|(selector, labels)| selector.matches(labels))
        });
        let age = |config: &Config| (config.created.is_none(), config.created.clone());
        let oldest = selecting.min_by_key(|(name, config)| (age(config), name.as_str()));
        let configs = own.into_iter().chain(oldest.map(|(_, config)| config));
        configs.chain(self.configs.get(FOR_ALL)).map(|config| &*config.spec)
    }

    /// Settings that win over others do so field by field.
    fn settings(&self, node: Option<&str>) -> HostSettings {
        let configs: Vec<_> = self.configs_of(node).collect();
        let prefixed = configs.iter().find(|config| !config.interface_prefix.is_empty());
        let prefix = prefixed.and_then(|config| config.interface_prefixes().next());
        let action = configs.iter().find_map(|config| config.default_endpoint_to_host_action);
        let exclusions = configs.iter().find_map(|config| config.nat_outgoing_exclusions);
        let vxlan = configs.iter().find_map(|config| config.allow_vxlan_packets_from_workloads);
        let vxlan_port = configs.iter().find_map(|config| config.vxlan_port);
        let ipip = configs.iter().find_map(|config| config.allow_ipip_packets_from_workloads);
        let inbound = configs.iter().find_map(|c| c.failsafe_inbound_host_ports.as_ref());
        let outbound = configs.iter().find_map(|c| c.failsafe_outbound_host_ports.as_ref());
        let addresses: BTreeSet<IpAddr> =
            self.nodes.values().flat_map(|node| &node.addresses).copied().collect();
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
            failsafe_inbound: inbound
                .map_or_else(|| Failsafe::INBOUND.into(), |ports| failsafes(ports)),
            failsafe_outbound: outbound
                .map_or_else(|| Failsafe::OUTBOUND.into(), |ports| failsafes(ports)),
        }
    }
}

/// Those that make sense; others were refused at the door.
fn failsafes(ports: &[ProtoPort]) -> Vec<Failsafe> {
    ports.iter().filter_map(|port| failsafe(port).ok()).collect()
}

fn failsafe(port: &ProtoPort) -> Result<Failsafe, String> {
    let protocol = match port.protocol.to_ascii_lowercase().as_str() {
        "" | "tcp" => 6,
        "udp" => 17,
        other => return Err(format!("protocol is {other:?}; write TCP or UDP")),
    };
    let net = match port.net.as_str() {
        "" => None,
        text => {
            let net = text.parse::<resource::Cidr>();
            let net = net.map_err(|error| format!("net {text:?} is no prefix: {error}"))?;
            Some(net.0.trunc())
        }
    };
    Ok(Failsafe { protocol, port: port.port, net })
}
