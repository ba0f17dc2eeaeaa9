//! Pools, nodes, and settings of the host.

mod settings;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use calico_core::dataplane::{
    EndpointId, HostSettings, Marking, Pool, Translation, Tunnels, Update,
};
use calico_core::felix::{Layers, Local, Settings};
use calico_core::kind::Kind;
use calico_core::resource::{
    BgpConfiguration, EncapMode, FelixConfiguration, FieldError, IpPool, Node, Toggle,
};
use ipnet::IpNet;

/// What the dataplane must know besides policy.
#[derive(Debug, Default)]
pub(super) struct Host {
    pools: BTreeMap<String, Pool>,
    /// How packets of each pool are wrapped.
    wraps: BTreeMap<String, Tunnels>,
    nodes: BTreeMap<String, KnownNode>,
    layers: Layers,
    /// What the layers come to, since one of them or this node's labels changed.
    effective: Option<Settings>,
    /// The node whose settings these are; empty if it is none.
    own: Option<Box<str>>,
    sent_pools: Option<Vec<Pool>>,
    sent_settings: Option<HostSettings>,
    services: BTreeSet<IpNet>,
    floating: BTreeMap<EndpointId, Vec<Translation>>,
    sent_floating: Vec<Translation>,
    markings: BTreeMap<EndpointId, Vec<Marking>>,
    sent_markings: Vec<Marking>,
    /// Nothing was put or removed since the last flush.
    clean: bool,
}

/// What settings depend on.
#[derive(Debug, PartialEq)]
struct KnownNode {
    addresses: Vec<IpAddr>,
    labels: BTreeMap<String, String>,
}

impl Host {
    pub(super) fn put_pool(&mut self, pool: &IpPool) {
        let spec = &pool.spec;
        let pool_of = Pool { cidr: spec.cidr.trunc(), nat_outgoing: spec.nat_outgoing };
        let before = self.pools.insert(pool.name().to_owned(), pool_of);
        self.clean &= before == Some(pool_of);
        let vxlan = spec.vxlan_mode() != EncapMode::Never;
        let tunnels = Tunnels {
            vxlan_v4: vxlan && !spec.is_ipv6(),
            vxlan_v6: vxlan && spec.is_ipv6(),
            ipip: spec.ipip_mode() != EncapMode::Never && !spec.is_ipv6(),
        };
        self.clean &= self.wraps.insert(pool.name().to_owned(), tunnels) == Some(tunnels);
    }

    pub(super) fn put_node(&mut self, node: &Node) {
        let addresses = node.spec.own_addresses().collect();
        let known = KnownNode { addresses, labels: node.metadata.labels.clone() };
        let before = self.nodes.get(node.name());
        let labels_changed = before.is_none_or(|before| before.labels != known.labels);
        let same = before == Some(&known);
        self.nodes.insert(node.name().to_owned(), known);
        // The labels of one node may be what settings select.
        let is_own = self.own.as_deref().is_none_or(|own| own == node.name());
        if labels_changed && is_own {
            self.effective = None;
        }
        self.clean &= same;
    }

    /// Those of `default` count, as upstream's.
    pub(super) fn put_services(&mut self, config: &BgpConfiguration) {
        if config.name() != "default" {
            return;
        }
        let spec = &config.spec;
        let lists = [
            &spec.service_cluster_ips,
            &spec.service_external_ips,
            &spec.service_load_balancer_ips,
        ];
        let nets = lists.into_iter().flatten().filter_map(|service| service.cidr);
        self.set_services(nets.map(|net| net.trunc()).collect());
    }

    fn set_services(&mut self, services: BTreeSet<IpNet>) {
        self.clean &= self.services == services;
        self.services = services;
    }

    /// An endpoint of this node has these floating addresses.
    pub(super) fn set_floating(&mut self, id: &EndpointId, floating: Vec<Translation>) {
        let before = if floating.is_empty() {
            self.floating.remove(id).unwrap_or_default()
        } else {
            self.floating.insert(id.clone(), floating.clone()).unwrap_or_default()
        };
        self.clean &= before == floating;
    }

    /// Packets of an endpoint of this node carry these code points.
    pub(super) fn set_markings(&mut self, id: &EndpointId, markings: Vec<Marking>) {
        let before = if markings.is_empty() {
            self.markings.remove(id).unwrap_or_default()
        } else {
            self.markings.insert(id.clone(), markings.clone()).unwrap_or_default()
        };
        self.clean &= before == markings;
    }

    /// What this host says itself.
    pub(super) fn set_local(&mut self, local: Local) {
        self.layers.set_local(local);
        self.effective = None;
        self.clean = false;
    }

    pub(super) fn put_config(
        &mut self,
        config: &FelixConfiguration,
        warnings: &mut Vec<FieldError>,
    ) -> Result<(), Vec<FieldError>> {
        let spec = &config.spec;
        let lists = [
            ("spec.failsafeInboundHostPorts", &spec.failsafe_inbound_host_ports),
            ("spec.failsafeOutboundHostPorts", &spec.failsafe_outbound_host_ports),
        ];
        let mut errors = Vec::new();
        for (path, list) in lists {
            for (index, port) in list.iter().flatten().enumerate() {
                let error = |error| FieldError::new(format!("{path}[{index}]"), error);
                errors.extend(settings::failsafe(port).err().map(error));
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        if let Some(bits) = spec.unknown.get("nftablesMarkMask").and_then(|value| value.as_u64()) {
            let least = HostSettings::MARK_BITS;
            if bits.count_ones() < least || bits > u64::from(u32::MAX) {
                let message = format!("must be 32 bits, at least {least} of them set");
                return Err(vec![FieldError::new("spec.nftablesMarkMask", message)]);
            }
        }
        warnings.extend(self.layers.put(config).map_err(|error| vec![error])?);
        self.effective = None;
        self.clean = false;
        Ok(())
    }

    pub(super) fn remove(&mut self, kind: Kind, name: &str) {
        if kind == Kind::BgpConfiguration {
            if name == "default" {
                self.set_services(BTreeSet::new());
            }
            return;
        }
        let known = match kind {
            Kind::IpPool => {
                self.wraps.remove(name);
                self.pools.remove(name).is_some()
            }
            Kind::Node => self.nodes.remove(name).is_some(),
            _ => self.layers.remove(name),
        };
        // Removed settings count no more, and neither do those for labels of a removed node.
        if known && kind != Kind::IpPool {
            self.effective = None;
        }
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
        let enabled = self.effective(node).spec.floating_ips == Some(Toggle::Enabled);
        // An address that several endpoints claim belongs to one of them.
        let all = self.floating.values().flatten().filter(|_| enabled);
        let by_external: BTreeMap<IpAddr, Translation> =
            all.rev().map(|translation| (translation.external, *translation)).collect();
        let floating: Vec<Translation> = by_external.into_values().collect();
        if self.sent_floating != floating {
            updates.push(Update::Translations(floating.clone()));
            self.sent_floating = floating;
        }
        let all = self.markings.values().flatten().rev();
        let by_source: BTreeMap<IpAddr, Marking> =
            all.map(|marking| (marking.source, *marking)).collect();
        let markings: Vec<Marking> = by_source.into_values().collect();
        if self.sent_markings != markings {
            updates.push(Update::Markings(markings.clone()));
            self.sent_markings = markings;
        }
        updates
    }

    /// The settings that hold on `node`.
    pub(super) fn effective(&mut self, node: Option<&str>) -> &Settings {
        let name = node.unwrap_or_default();
        if self.own.as_deref() != Some(name) {
            self.own = Some(name.into());
        }
        self.effective.get_or_insert_with(|| {
            self.layers.effective(name, self.nodes.get(name).map(|node| &node.labels))
        })
    }

    fn settings(&mut self, node: Option<&str>) -> HostSettings {
        let addresses: BTreeSet<IpAddr> =
            self.nodes.values().flat_map(|node| &node.addresses).copied().collect();
        let service_cidrs = self.services.iter().copied().collect();
        let asked = |of: fn(&Tunnels) -> bool| self.wraps.values().any(of);
        let asked = [asked(|t| t.vxlan_v4), asked(|t| t.vxlan_v6), asked(|t| t.ipip)];
        HostSettings {
            node_addresses: addresses.into_iter().collect(),
            service_cidrs,
            ..settings::of(self.effective(node), asked)
        }
    }
}

#[cfg(test)]
mod tests {
    use calico_core::dataplane::{DenyAction, LogLimit, OutgoingNat, PortRange};
    use calico_core::resource;

    use super::*;

    fn settings(variables: &[(&str, &str)]) -> HostSettings {
        let mut host = Host::default();
        host.set_local(Local::default().environment(variables.iter().copied()));
        let updates = host.flush(Some("n1"));
        let found = updates.into_iter().find_map(|update| match update {
            Update::Host(settings) => Some(settings),
            _ => None,
        });
        found.expect("settings are told of at first")
    }

    #[test]
    fn settings_of_outgoing_traffic_and_of_logs_reach_the_dataplane() {
        assert_eq!(settings(&[]), HostSettings::default());
        let settings = settings(&[
            ("FELIX_NATOUTGOINGADDRESS", "192.0.2.7"),
            ("FELIX_NATPORTRANGE", "32768:65535"),
            ("FELIX_IPTABLESNATOUTGOINGINTERFACEFILTER", "eth+"),
            ("FELIX_LOGACTIONRATELIMIT", "100/minute"),
            ("FELIX_LOGACTIONRATELIMITBURST", "9"),
            ("FELIX_DISABLECONNTRACKINVALIDCHECK", "true"),
        ]);
        assert_eq!(
            settings,
            HostSettings {
                outgoing_nat: OutgoingNat {
                    address: Some([192, 0, 2, 7].into()),
                    ports: Some(PortRange { first: 32768, last: 65535 }),
                    interface: Some("eth+".into()),
                },
                log_limit: Some(LogLimit { packets: 100, seconds: 60, burst: 9 }),
                invalid_meets_policy: true,
                ..HostSettings::default()
            }
        );
    }

    #[test]
    fn settings_of_tunnels_marks_and_denials_reach_the_dataplane() {
        let settings = settings(&[
            ("FELIX_VXLANENABLED", "true"),
            ("FELIX_IPINIPENABLED", "true"),
            ("FELIX_EXTERNALNODESCIDRLIST", "192.0.2.7,198.51.100.9/24"),
            ("FELIX_NFTABLESMARKMASK", "0x1f00"),
            ("FELIX_NFTABLESFILTERDENYACTION", "reject"),
        ]);
        let nets = ["192.0.2.7/32", "198.51.100.0/24"].map(|net| net.parse().unwrap());
        let expected = HostSettings {
            tunnels: Tunnels { vxlan_v4: true, vxlan_v6: false, ipip: true },
            external_nodes: nets.into(),
            mark_mask: 0x1f00,
            deny: DenyAction::Reject,
            ..HostSettings::default()
        };
        assert_eq!(settings, expected);
    }

    #[test]
    fn tunnels_are_those_that_pools_ask_for() {
        let mut host = Host::default();
        let mut of = |cidr: &str, vxlan, ipip| {
            let mut pool = IpPool::new("p", resource::IpPoolSpec::default());
            pool.spec.cidr = cidr.parse().unwrap();
            (pool.spec.vxlan_mode, pool.spec.ipip_mode) = (vxlan, ipip);
            host.put_pool(&pool);
            let settings = host.settings(None).tunnels;
            (settings.vxlan_v4, settings.vxlan_v6, settings.ipip)
        };
        let near = Some(EncapMode::CrossSubnet);
        assert_eq!(of("10.0.0.0/16", None, None), (false, false, false));
        assert_eq!(of("10.0.0.0/16", near, None), (true, false, false));
        assert_eq!(of("10.0.0.0/16", None, near), (false, false, true));
        assert_eq!(of("fd00::/48", near, None), (false, true, false));
        host.remove(Kind::IpPool, "p");
        assert_eq!(host.settings(None).tunnels, Tunnels::default());
    }

    #[test]
    fn what_makes_no_sense_counts_as_not_set() {
        for (name, value) in [
            ("FELIX_NATPORTRANGE", "0"),
            ("FELIX_NATPORTRANGE", "9:7"),
            ("FELIX_LOGACTIONRATELIMIT", "100/fortnight"),
            ("FELIX_NATOUTGOINGADDRESS", "fd00::1"),
            ("FELIX_NFTABLESMARKMASK", "0xf0"),
            ("FELIX_EXTERNALNODESCIDRLIST", "everywhere"),
        ] {
            assert_eq!(settings(&[(name, value)]), HostSettings::default(), "{name}={value}");
        }
    }
}
