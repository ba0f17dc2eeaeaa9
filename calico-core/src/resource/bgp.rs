//! BGP: cluster-wide settings and peers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::choices::choices;
use super::object::object;
use super::{AsNumber, Errors, GoDuration, NoStatus, ObjectMeta, Resource, Spec, Toggle};
use crate::kind::Kind;

/// Settings of the BGP speakers; named `default` or `node.<name>`.
pub type BgpConfiguration = Resource<BgpConfigurationSpec>;

/// A BGP session, or a set of them.
pub type BgpPeer = Resource<BgpPeerSpec>;

object! {
    /// Settings of the BGP speakers.
    pub struct BgpConfigurationSpec {
        /// Least severity that is logged.
        pub log_severity_screen: Option<LogSeverity> = "logSeverityScreen",
        /// Whether every node peers with every other; yes when unset. Only in `default`.
        pub node_to_node_mesh_enabled: Option<bool> = "nodeToNodeMeshEnabled",
        /// AS number of nodes that state none; 64512 when unset. Only in `default`.
        pub as_number: Option<AsNumber> = "asNumber",
        /// Load balancer ranges to announce.
        pub service_load_balancer_ips: Vec<ServiceCidr> = "serviceLoadBalancerIPs",
        /// Whether ranges are announced rather than single addresses.
        pub service_load_balancer_aggregation: Option<Toggle> = "serviceLoadBalancerAggregation",
        /// External address ranges of services to announce.
        pub service_external_ips: Vec<ServiceCidr> = "serviceExternalIPs",
        /// Cluster address ranges of services to announce.
        pub service_cluster_ips: Vec<ServiceCidr> = "serviceClusterIPs",
        /// Names for communities.
        pub communities: Vec<Community> = "communities",
        /// Communities that routes inside a range get.
        pub prefix_advertisements: Vec<PrefixAdvertisement> = "prefixAdvertisements",
        /// TCP port; 179 when unset.
        pub listen_port: Option<u16> = "listenPort",
        /// Password of the mesh sessions.
        pub node_mesh_password: Option<BgpPassword> = "nodeMeshPassword",
        /// Restart time (RFC 4724) of the mesh sessions.
        pub node_mesh_max_restart_time: Option<GoDuration> = "nodeMeshMaxRestartTime",
        /// Addresses to listen on.
        pub bind_mode: Option<BindMode> = "bindMode",
        /// Interfaces whose routes are not learned; `*` stands for any characters.
        pub ignored_interfaces: Vec<String> = "ignoredInterfaces",
        /// Address that a node answers on towards its own workloads.
        pub local_workload_peering_ip_v4: Option<Ipv4Addr> = "localWorkloadPeeringIPV4",
        /// Address that a node answers on towards its own workloads.
        pub local_workload_peering_ip_v6: Option<Ipv6Addr> = "localWorkloadPeeringIPV6",
        /// Which cluster routes BGP puts into the kernel.
        pub program_cluster_routes: Option<ProgramClusterRoutes> = "programClusterRoutes",
        /// Kernel metric of IPv4 routes, 1 to 2147483646; 1024 when unset.
        pub ipv4_normal_route_priority: Option<u32> = "ipv4NormalRoutePriority",
        /// Kernel metric of IPv6 routes, 1 to 2147483646; 1024 when unset.
        pub ipv6_normal_route_priority: Option<u32> = "ipv6NormalRoutePriority",
    }

    /// A range of service addresses.
    pub struct ServiceCidr {
        /// The range.
        pub cidr: Option<IpNet> = "cidr",
    }

    /// A name for a community.
    pub struct Community {
        /// The name.
        pub name: String = "name",
        /// `aa:nn` (RFC 1997) or `aa:nn:mm` (RFC 8092).
        pub value: String = "value",
    }

    /// Communities that routes inside a range get.
    pub struct PrefixAdvertisement {
        /// The range.
        pub cidr: Option<IpNet> = "cidr",
        /// Names or values of communities.
        pub communities: Vec<String> = "communities",
    }

    /// Where a session's password is kept.
    pub struct BgpPassword {
        /// The Kubernetes secret.
        pub secret_key_ref: Option<SecretKeyRef> = "secretKeyRef",
    }

    /// One entry of a Kubernetes secret.
    pub struct SecretKeyRef {
        /// Name of the secret.
        pub name: String = "name",
        /// The entry.
        pub key: String = "key" (required),
        /// Whether it may be missing.
        pub optional: Option<bool> = "optional",
    }

    /// Who peers with whom, and how.
    pub struct BgpPeerSpec {
        /// The node of the session; with no selector either, all nodes.
        pub node: String = "node",
        /// Nodes of the session.
        pub node_selector: String = "nodeSelector",
        /// The peer: `IP`, `IP:port` or `[IPv6]:port`.
        pub peer_ip: String = "peerIP",
        /// The peer's AS number.
        pub as_number: AsNumber = "asNumber",
        /// AS number that the node pretends to have.
        pub local_as_number: Option<AsNumber> = "localASNumber",
        /// Nodes to peer with, instead of an address.
        pub peer_selector: String = "peerSelector",
        /// Deprecated: as `nextHopMode: Keep`.
        pub keep_original_next_hop: bool = "keepOriginalNextHop",
        /// Next hop of the routes sent.
        pub next_hop_mode: Option<NextHopMode> = "nextHopMode",
        /// Password of the session (RFC 2385).
        pub password: Option<BgpPassword> = "password",
        /// Address to connect from.
        pub source_address: Option<SourceAddress> = "sourceAddress",
        /// Restart time (RFC 4724).
        pub max_restart_time: Option<GoDuration> = "maxRestartTime",
        /// Time between keepalives; the hold time is three times this.
        pub keepalive_time: Option<GoDuration> = "keepaliveTime",
        /// How often the own AS number may stand in a path.
        pub num_allowed_local_as_numbers: Option<i32> = "numAllowedLocalASNumbers",
        /// Hops to the peer for TTL security (RFC 5082).
        pub ttl_security: Option<u8> = "ttlSecurity",
        /// Gateway to a peer outside the node's subnets.
        pub reachable_by: String = "reachableBy",
        /// BGPFilters, in order.
        pub filters: Vec<String> = "filters",
        /// Workloads of the node to peer with, instead of an address.
        pub local_workload_selector: String = "localWorkloadSelector",
        /// Whether selected peers get the mirror session by themselves.
        pub reverse_peering: Option<ReversePeering> = "reversePeering",
    }
}

choices! {
    /// Least severity that is logged.
    pub enum LogSeverity ignoring case {
        /// Everything.
        Trace = "Trace",
        /// For developers.
        Debug = "Debug",
        /// For operators.
        Info = "Info",
        /// Something is off.
        Warning = "Warning",
        /// Something failed.
        Error = "Error",
        /// The program cannot go on.
        Fatal = "Fatal",
    }

    /// Addresses a speaker listens on.
    #[derive(Default)]
    pub enum BindMode {
        /// All.
        #[default]
        None = "None",
        /// The node's own.
        NodeIp = "NodeIP",
    }

    /// Which cluster routes a component puts into the kernel.
    pub enum ProgramClusterRoutes {
        /// All.
        Enabled = "Enabled",
        /// None.
        Disabled = "Disabled",
        /// Those of pools with IP-in-IP.
        EnabledIpipOnly = "EnabledIPIPOnly",
        /// Those of pools without encapsulation.
        EnabledNoEncapOnly = "EnabledNoEncapOnly",
    }

    /// Next hop of the routes sent to a peer.
    #[derive(Default)]
    pub enum NextHopMode {
        /// BGP's usual rule.
        #[default]
        Auto = "Auto",
        /// The node itself.
        SelfNextHop = "Self",
        /// As learned.
        Keep = "Keep",
    }

    /// Address to connect to a peer from.
    #[derive(Default)]
    pub enum SourceAddress {
        /// The node's own.
        #[default]
        UseNodeIp = "UseNodeIP",
        /// Whichever the kernel picks.
        None = "None",
    }

    /// Whether selected peers get the mirror session by themselves.
    #[derive(Default)]
    pub enum ReversePeering {
        /// Yes.
        #[default]
        Auto = "Auto",
        /// No: another BGPPeer says so.
        Manual = "Manual",
    }
}

impl BgpConfigurationSpec {
    /// AS number of clusters that state none.
    pub const DEFAULT_AS_NUMBER: AsNumber = AsNumber(64_512);

    /// Whether every node peers with every other: as set, else yes.
    #[must_use]
    pub fn node_to_node_mesh_enabled(&self) -> bool {
        self.node_to_node_mesh_enabled.unwrap_or(true)
    }

    /// AS number of nodes that state none.
    #[must_use]
    pub fn as_number(&self) -> AsNumber {
        self.as_number.unwrap_or(Self::DEFAULT_AS_NUMBER)
    }

    /// TCP port: as set, else 179.
    #[must_use]
    pub fn listen_port(&self) -> u16 {
        self.listen_port.unwrap_or(179)
    }
}

impl BgpPeerSpec {
    /// The peer's address and, where given, port.
    #[must_use]
    pub fn peer_address(&self) -> Option<(IpAddr, Option<u16>)> {
        parse_peer(&self.peer_ip)
    }

    /// Next hop of the routes sent: as set, else by the deprecated flag.
    #[must_use]
    pub fn next_hop_mode(&self) -> NextHopMode {
        match self.next_hop_mode {
            Some(mode) => mode,
            None if self.keep_original_next_hop => NextHopMode::Keep,
            None => NextHopMode::Auto,
        }
    }
}

/// Reads `IP`, `IPv4:port` or `[IPv6]:port`.
pub(crate) fn parse_peer(text: &str) -> Option<(IpAddr, Option<u16>)> {
    if let Ok(address) = text.parse() {
        return Some((address, None));
    }
    let socket: std::net::SocketAddr = text.parse().ok()?;
    Some((socket.ip(), Some(socket.port())))
}

impl Spec for BgpConfigurationSpec {
    const KIND: Kind = Kind::BgpConfiguration;
    type Status = NoStatus;

    fn validate(&self, metadata: &ObjectMeta, errors: &mut Errors) {
        super::validate::bgp_configuration(self, metadata, errors);
    }

    fn apply_defaults(&mut self) {
        self.log_severity_screen.get_or_insert(LogSeverity::Info);
        self.service_load_balancer_aggregation.get_or_insert(Toggle::Enabled);
    }
}

impl Spec for BgpPeerSpec {
    const KIND: Kind = Kind::BgpPeer;
    type Status = NoStatus;

    fn validate(&self, _metadata: &ObjectMeta, errors: &mut Errors) {
        super::validate::bgp_peer(self, errors);
    }
}
