//! Pools, nodes, and settings of the host.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use calico_core::dataplane::{
    DenyAction, EndpointId, EndpointToHostAction, Failsafe, HostSettings, LogLimit, Marking,
    OutgoingNat, Pool, PortRange, ServiceLoop, Translation, Tunnels, Update,
};
use calico_core::felix::{Layers, Local, Settings};
use calico_core::kind::Kind;
use calico_core::resource::{
    self, BgpConfiguration, EncapMode, FelixConfiguration, FelixConfigurationSpec, FieldError,
    IpPool, NatOutgoingExclusions, Node, ProtoPort, Toggle,
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
                errors.extend(failsafe(port).err().map(error));
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
        let settings = self.effective(node);
        let service_loop = match text(settings, "serviceLoopPrevention").as_deref() {
            Some(text) if text.eq_ignore_ascii_case("Reject") => ServiceLoop::Reject,
            Some(text) if text.eq_ignore_ascii_case("Disabled") => ServiceLoop::Allowed,
            _ => ServiceLoop::Drop,
        };
        let spec = &settings.spec;
        let inbound = spec.failsafe_inbound_host_ports.as_ref();
        let outbound = spec.failsafe_outbound_host_ports.as_ref();
        HostSettings {
            interface_prefix: spec.interface_prefixes().next().unwrap_or("cali").into(),
            endpoint_to_host: match spec.default_endpoint_to_host_action() {
                resource::EndpointToHostAction::Drop => EndpointToHostAction::Drop,
                resource::EndpointToHostAction::Return => EndpointToHostAction::Return,
                resource::EndpointToHostAction::Accept => EndpointToHostAction::Accept,
            },
            node_addresses: addresses.into_iter().collect(),
            masquerade_spares_nodes: spec.nat_outgoing_exclusions()
                == NatOutgoingExclusions::IpPoolsAndHostIps,
            vxlan_from_workloads: spec.allow_vxlan_packets_from_workloads.unwrap_or_default(),
            vxlan_port: spec.vxlan_port.unwrap_or_else(|| HostSettings::default().vxlan_port),
            ipip_from_workloads: spec.allow_ipip_packets_from_workloads.unwrap_or_default(),
            failsafe_inbound: inbound
                .map_or_else(|| Failsafe::INBOUND.into(), |ports| failsafes(ports)),
            failsafe_outbound: outbound
                .map_or_else(|| Failsafe::OUTBOUND.into(), |ports| failsafes(ports)),
            service_loop,
            service_cidrs,
            outgoing_nat: outgoing_nat(settings),
            log_limit: log_limit(settings),
            invalid_meets_policy: text(settings, "disableConntrackInvalidCheck").as_deref()
                == Some("true"),
            tunnels: tunnels(spec, asked),
            external_nodes: list(settings, "externalNodesList"),
            mark_mask: bits(settings, "nftablesMarkMask")
                .unwrap_or_else(|| HostSettings::default().mark_mask),
            deny: match text(settings, "nftablesFilterDenyAction").as_deref() {
                Some(text) if text.eq_ignore_ascii_case("Reject") => DenyAction::Reject,
                _ => DenyAction::Drop,
            },
        }
    }
}

/// A parameter that is set to something else than its default, as text.
fn text(settings: &Settings, name: &str) -> Option<String> {
    let (_, value, _) = settings.changed().find(|(field, ..)| *field == name)?;
    Some(value.as_str().map_or_else(|| value.to_string(), str::to_owned))
}

/// As pools ask for, unless the settings say otherwise. They say nothing of VXLAN over IPv6 without
/// a pool.
fn tunnels(spec: &FelixConfigurationSpec, [vxlan_v4, vxlan_v6, ipip]: [bool; 3]) -> Tunnels {
    Tunnels {
        vxlan_v4: spec.vxlan_enabled.unwrap_or(vxlan_v4),
        vxlan_v6: vxlan_v6 && spec.vxlan_enabled != Some(false),
        ipip: spec.ipip_enabled.unwrap_or(ipip),
    }
}

/// Addresses and prefixes; those that cannot be read count as not said.
fn list(settings: &Settings, name: &str) -> Vec<IpNet> {
    let value = settings.changed().find(|(field, ..)| *field == name).map(|(_, value, _)| value);
    let texts = value.and_then(|value| value.as_array()).into_iter().flatten();
    let nets = texts.filter_map(|text| text.as_str()?.parse::<resource::Cidr>().ok());
    nets.map(|net| net.0.trunc()).collect()
}

/// Bits of a mark, if they are enough of them.
fn bits(settings: &Settings, name: &str) -> Option<u32> {
    let (_, value, _) = settings.changed().find(|(field, ..)| *field == name)?;
    let bits = u32::try_from(value.as_u64()?).ok()?;
    (bits.count_ones() >= HostSettings::MARK_BITS).then_some(bits)
}

/// What cannot be read counts as not set; it was named at the door.
fn outgoing_nat(settings: &Settings) -> OutgoingNat {
    let range = |text: String| {
        let (first, last) = text.split_once(':').unwrap_or((&text, &text));
        let range = PortRange { first: first.parse().ok()?, last: last.parse().ok()? };
        // 0 is upstream's default: any port.
        (1..=range.last).contains(&range.first).then_some(range)
    };
    let interface = text(settings, "iptablesNATOutgoingInterfaceFilter");
    OutgoingNat {
        address: text(settings, "natOutgoingAddress").and_then(|text| text.parse().ok()),
        ports: text(settings, "natPortRange").and_then(range),
        interface: interface.filter(|name| !name.is_empty()).map(Into::into),
    }
}

/// `100/minute`, as upstream writes it.
fn log_limit(settings: &Settings) -> Option<LogLimit> {
    let rate = text(settings, "logActionRateLimit")?;
    let (packets, unit) = rate.split_once('/')?;
    let seconds = match unit {
        "second" => 1,
        "minute" => 60,
        "hour" => 60 * 60,
        "day" => 24 * 60 * 60,
        _ => return None,
    };
    let burst = text(settings, "logActionRateLimitBurst").and_then(|text| text.parse().ok());
    Some(LogLimit { packets: packets.parse().ok()?, seconds, burst: burst.unwrap_or(5) })
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

#[cfg(test)]
mod tests {
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
