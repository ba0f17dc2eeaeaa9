//! Settings of the node agent.

use super::choices::choices;
use super::object::object;
use super::{
    Errors, GoDuration, LogSeverity, NoStatus, ObjectMeta, ProgramClusterRoutes, Resource, Spec,
    Toggle,
};
use crate::kind::Kind;

mod known;

pub use self::known::OTHER_FELIX_FIELDS;

/// Settings of the node agent; named `default`, `node.<name>`, or anything with a node selector.
pub type FelixConfiguration = Resource<FelixConfigurationSpec>;

object! {
    /// Settings of the node agent. Unset fields leave upstream's default in force.
    ///
    /// Fields of [`OTHER_FELIX_FIELDS`] are known, too, and kept in `unknown` as written.
    pub struct FelixConfigurationSpec, also OTHER_FELIX_FIELDS {
        /// Nodes it is for; not in `default` and `node.<name>`.
        pub node_selector: String = "nodeSelector",
        /// Beginnings of workload interface names, separated by commas; `cali` when unset.
        pub interface_prefix: String = "interfacePrefix",
        /// Interfaces to leave alone, separated by commas; `kube-ipvs0` when unset.
        pub interface_exclude: String = "interfaceExclude",
        /// Beginning or pattern of interfaces whose MTU counts.
        pub mtu_iface_pattern: String = "mtuIfacePattern",
        /// What happens to traffic from workloads to their own host after policy.
        pub default_endpoint_to_host_action: Option<EndpointToHostAction> =
            "defaultEndpointToHostAction",
        /// Whether IPv6 is programmed; yes when unset.
        pub ipv6_support: Option<bool> = "ipv6Support",
        /// Destinations that get no masquerade.
        pub nat_outgoing_exclusions: Option<NatOutgoingExclusions> = "natOutgoingExclusions",
        /// Source address of masqueraded traffic, instead of the interface's.
        pub nat_outgoing_address: String = "natOutgoingAddress",
        /// Source ports of masqueraded traffic, as written.
        pub nat_port_range: Option<serde_json::Value> = "natPortRange",
        /// Whether workloads may use foreign source addresses on request.
        pub workload_source_spoofing: Option<SourceSpoofing> = "workloadSourceSpoofing",
        /// Whether forwarding is switched on in the kernel.
        pub ip_forwarding: Option<Toggle> = "ipForwarding",
        /// Whether floating addresses are programmed.
        pub floating_ips: Option<Toggle> = "floatingIPs",
        /// Least severity that is logged to the standard output.
        pub log_severity_screen: Option<LogSeverity> = "logSeverityScreen",
        /// Least severity that is logged to a file.
        pub log_severity_file: Option<LogSeverity> = "logSeverityFile",
        /// Least severity that is logged to syslog.
        pub log_severity_sys: Option<LogSeverity> = "logSeveritySys",
        /// The file that is logged to.
        pub log_file_path: String = "logFilePath",
        /// Whether metrics are served.
        pub prometheus_metrics_enabled: Option<bool> = "prometheusMetricsEnabled",
        /// Address of the metrics; all when unset.
        pub prometheus_metrics_host: String = "prometheusMetricsHost",
        /// Port of the metrics; 9091 when unset.
        pub prometheus_metrics_port: Option<u16> = "prometheusMetricsPort",
        /// Whether health is served.
        pub health_enabled: Option<bool> = "healthEnabled",
        /// Address of the health service; `localhost` when unset.
        pub health_host: Option<String> = "healthHost",
        /// Port of the health service; 9099 when unset.
        pub health_port: Option<u16> = "healthPort",
        /// Ports of the host that stay open whatever policy says; unset is upstream's list.
        pub failsafe_inbound_host_ports: Option<Vec<ProtoPort>> = "failsafeInboundHostPorts",
        /// Ports the host may reach whatever policy says; unset is upstream's list.
        pub failsafe_outbound_host_ports: Option<Vec<ProtoPort>> = "failsafeOutboundHostPorts",
        /// Whether eBPF is used.
        pub bpf_enabled: Option<bool> = "bpfEnabled",
        /// Whether the IP-in-IP device is made; by the pools when unset.
        pub ipip_enabled: Option<bool> = "ipipEnabled",
        /// MTU of the IP-in-IP device; 0 is automatic.
        pub ipip_mtu: Option<u32> = "ipipMTU",
        /// Whether the VXLAN devices are made; by the pools when unset.
        pub vxlan_enabled: Option<bool> = "vxlanEnabled",
        /// MTU of the IPv4 VXLAN device; 0 is automatic.
        pub vxlan_mtu: Option<u32> = "vxlanMTU",
        /// MTU of the IPv6 VXLAN device; 0 is automatic.
        pub vxlan_mtu_v6: Option<u32> = "vxlanMTUV6",
        /// UDP port of VXLAN; 4789 when unset.
        pub vxlan_port: Option<u16> = "vxlanPort",
        /// VXLAN network identifier; 4096 when unset.
        pub vxlan_vni: Option<u32> = "vxlanVNI",
        /// Whether IPv4 between nodes is encrypted.
        pub wireguard_enabled: Option<bool> = "wireguardEnabled",
        /// Whether IPv6 between nodes is encrypted.
        pub wireguard_enabled_v6: Option<bool> = "wireguardEnabledV6",
        /// MTU of the IPv4 WireGuard device; 0 is automatic.
        pub wireguard_mtu: Option<u32> = "wireguardMTU",
        /// The mark in the kernel's table of route protocols; 3 (boot) when unset.
        pub device_route_protocol: Option<u8> = "deviceRouteProtocol",
        /// Source address hint of workload routes.
        pub device_route_source_address: String = "deviceRouteSourceAddress",
        /// Source address hint of IPv6 workload routes.
        pub device_route_source_address_ipv6: String = "deviceRouteSourceAddressIPv6",
        /// Whether routes of others over workload interfaces are removed; yes when unset.
        pub remove_external_routes: Option<bool> = "removeExternalRoutes",
        /// Whether the agent leaves routes alone.
        pub route_sync_disabled: Option<bool> = "routeSyncDisabled",
        /// Which cluster routes the agent puts into the kernel.
        pub program_cluster_routes: Option<ProgramClusterRoutes> = "programClusterRoutes",
        /// Kernel metric of IPv4 routes; 1024 when unset.
        pub ipv4_normal_route_priority: Option<u32> = "ipv4NormalRoutePriority",
        /// Kernel metric of IPv6 routes; 1024 when unset.
        pub ipv6_normal_route_priority: Option<u32> = "ipv6NormalRoutePriority",
        /// Route tables the agent may use.
        pub route_table_ranges: Vec<RouteTableRange> = "routeTableRanges",
        /// Deprecated form of `routeTableRanges`; not both.
        pub route_table_range: Option<RouteTableRange> = "routeTableRange",
        /// Time between looks at the kernel's routes; 90 s when unset.
        pub route_refresh_interval: Option<GoDuration> = "routeRefreshInterval",
        /// Time between looks at the kernel's interfaces; 90 s when unset.
        pub interface_refresh_interval: Option<GoDuration> = "interfaceRefreshInterval",
        /// Whether nftables is used.
        pub nftables_mode: Option<NftablesMode> = "nftablesMode",
        /// Time between looks at the kernel's nftables; 3 minutes when unset.
        pub nftables_refresh_interval: Option<GoDuration> = "nftablesRefreshInterval",
        /// What happens to allowed traffic: accepted at once, or left to later chains.
        pub nftables_filter_allow_action: Option<AllowAction> = "nftablesFilterAllowAction",
        /// What happens to denied traffic.
        pub nftables_filter_deny_action: Option<DenyAction> = "nftablesFilterDenyAction",
        /// Packet mark bits the agent may use; 0xffff0000 when unset.
        pub nftables_mark_mask: Option<u32> = "nftablesMarkMask",
        /// Packet mark bits the agent may use; 0xffff0000 when unset.
        pub iptables_mark_mask: Option<u32> = "iptablesMarkMask",
        /// Whether packets that conntrack finds invalid are let through.
        pub disable_conntrack_invalid_check: Option<bool> = "disableConntrackInvalidCheck",
        /// Whether workloads may send VXLAN.
        pub allow_vxlan_packets_from_workloads: Option<bool> = "allowVXLANPacketsFromWorkloads",
        /// Whether workloads may send IP-in-IP.
        pub allow_ipip_packets_from_workloads: Option<bool> = "allowIPIPPacketsFromWorkloads",
        /// Hosts outside the cluster that may send IP-in-IP and VXLAN.
        pub external_nodes_list: Vec<String> = "externalNodesList",
        /// Whether the state of endpoints is written to the store.
        pub endpoint_reporting_enabled: Option<bool> = "endpointReportingEnabled",
        /// Where the state of endpoints is written to files.
        pub endpoint_status_path_prefix: String = "endpointStatusPathPrefix",
        /// Where the policy-sync socket is.
        pub policy_sync_path_prefix: String = "policySyncPathPrefix",
        /// Time between reports of the agent's state; 30 s when unset.
        pub reporting_interval: Option<GoDuration> = "reportingInterval",
        /// Time between flow log reports; 5 minutes when unset.
        pub flow_logs_flush_interval: Option<GoDuration> = "flowLogsFlushInterval",
    }

    /// A port that stays open.
    pub struct ProtoPort {
        /// `TCP` or `UDP`; TCP when empty.
        pub protocol: String = "protocol",
        /// The number.
        pub port: u16 = "port" (required),
        /// Only for this range.
        pub net: String = "net",
    }

    /// A range of route tables, both ends included.
    pub struct RouteTableRange {
        /// Lowest table.
        pub min: u32 = "min" (required),
        /// Highest table.
        pub max: u32 = "max" (required),
    }
}

choices! {
    /// What happens to traffic from workloads to their own host after policy.
    #[derive(Default)]
    pub enum EndpointToHostAction ignoring case {
        /// It is dropped.
        #[default]
        Drop = "Drop",
        /// It goes on to the host's own rules.
        Return = "Return",
        /// It is accepted.
        Accept = "Accept",
    }

    /// Destinations that get no masquerade.
    #[derive(Default)]
    pub enum NatOutgoingExclusions {
        /// The pools.
        #[default]
        IpPoolsOnly = "IPPoolsOnly",
        /// The pools and the nodes.
        IpPoolsAndHostIps = "IPPoolsAndHostIPs",
    }

    /// Whether workloads may use foreign source addresses on request.
    #[derive(Default)]
    pub enum SourceSpoofing ignoring case {
        /// No.
        #[default]
        Disabled = "Disabled",
        /// Any.
        Any = "Any",
    }

    /// Whether nftables is used.
    #[derive(Default)]
    pub enum NftablesMode {
        /// No.
        Disabled = "Disabled",
        /// Yes.
        Enabled = "Enabled",
        /// If kube-proxy uses it.
        #[default]
        Auto = "Auto",
    }

    /// What happens to allowed traffic.
    #[derive(Default)]
    pub enum AllowAction ignoring case {
        /// It is accepted at once.
        #[default]
        Accept = "Accept",
        /// Later chains decide.
        Return = "Return",
    }

    /// What happens to denied traffic.
    #[derive(Default)]
    pub enum DenyAction ignoring case {
        /// It is dropped.
        #[default]
        Drop = "Drop",
        /// It is answered with an error.
        Reject = "Reject",
    }
}

impl FelixConfigurationSpec {
    /// Beginnings of workload interface names: as set, else `cali`.
    pub fn interface_prefixes(&self) -> impl Iterator<Item = &str> {
        let text =
            if self.interface_prefix.is_empty() { "cali" } else { self.interface_prefix.as_str() };
        text.split(',').map(str::trim).filter(|prefix| !prefix.is_empty())
    }

    /// What happens to traffic from workloads to their own host: as set, else Drop.
    #[must_use]
    pub fn default_endpoint_to_host_action(&self) -> EndpointToHostAction {
        self.default_endpoint_to_host_action.unwrap_or_default()
    }

    /// Whether IPv6 is programmed: as set, else yes.
    #[must_use]
    pub fn ipv6_support(&self) -> bool {
        self.ipv6_support.unwrap_or(true)
    }

    /// Destinations that get no masquerade: as set, else the pools.
    #[must_use]
    pub fn nat_outgoing_exclusions(&self) -> NatOutgoingExclusions {
        self.nat_outgoing_exclusions.unwrap_or_default()
    }
}

impl Spec for FelixConfigurationSpec {
    const KIND: Kind = Kind::FelixConfiguration;
    type Status = NoStatus;

    fn validate(&self, metadata: &ObjectMeta, errors: &mut Errors) {
        super::validate::felix(self, metadata, errors);
    }
}
