use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::host::Failsafe;
use super::limits::Limits;
use super::rule::{PolicyId, PortRange};

/// Identity of a workload endpoint: namespace and name of its WorkloadEndpoint resource.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EndpointId {
    /// Namespace.
    pub namespace: Arc<str>,
    /// Name, such as `node1-k8s-web-eth0`.
    pub name: Arc<str>,
}

impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What happens at the end of a tier in which policies selected the endpoint and none decided.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum DefaultAction {
    /// Drop.
    #[default]
    Deny,
    /// Go on with the next tier.
    Pass,
}

/// The policies of one tier that select an endpoint, in order of evaluation.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TierPolicies {
    /// The tier.
    pub tier: Arc<str>,
    /// At its end.
    pub default_action: DefaultAction,
    /// Policies with rules for packets to the endpoint. If empty, the tier is skipped for them.
    pub ingress: Vec<PolicyId>,
    /// Policies with rules for packets from the endpoint. If empty, the tier is skipped for them.
    pub egress: Vec<PolicyId>,
}

/// One interface of a workload on this host.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WorkloadEndpoint {
    /// Its identity.
    pub id: EndpointId,
    /// The host's side of it, such as `cali1234567890a`; at most 15 bytes.
    pub interface: Arc<str>,
    /// Its addresses, as prefixes of full length.
    pub addresses: Vec<IpNet>,
    /// Source prefixes it may use besides its addresses.
    pub allowed_sources: Vec<IpNet>,
    /// Limits of its traffic.
    pub limits: Limits,
    /// Tiers in order of evaluation; only those with a policy that selects it.
    pub tiers: Vec<TierPolicies>,
    /// Profiles in order of evaluation.
    pub profiles: Vec<Arc<str>>,
}

/// An IP pool, as packets see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pool {
    /// Its addresses.
    pub cidr: IpNet,
    /// Whether traffic from it to outside of all pools is masqueraded.
    pub nat_outgoing: bool,
}

/// What happens to a packet from a workload to its own host, after the workload's own policy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum EndpointToHostAction {
    /// Drop it (upstream's default).
    #[default]
    Drop,
    /// Let the host's own rules decide.
    Return,
    /// Accept it.
    Accept,
}

/// What happens to packets to addresses of services that no service takes: they would go round
/// between this host and the router that sends them here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ServiceLoop {
    /// Drop them (upstream's default).
    #[default]
    Drop,
    /// Refuse them, with an answer.
    Reject,
    /// Forward them.
    Allowed,
}

/// A floating address: outside the one, inside the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Translation {
    /// What packets come to.
    pub external: IpAddr,
    /// The workload's own address, of the same family.
    pub internal: IpAddr,
}

/// What happens to packets that policy denies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum DenyAction {
    /// They are dropped (upstream's default).
    #[default]
    Drop,
    /// They are refused, with an answer: port unreachable.
    Reject,
}

/// How packets between nodes may be wrapped; in others from outside they would pass policy unseen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Tunnels {
    /// VXLAN over IPv4.
    pub vxlan_v4: bool,
    /// VXLAN over IPv6.
    pub vxlan_v6: bool,
    /// IP-in-IP.
    pub ipip: bool,
}

/// Settings of the host that the dataplane needs.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostSettings {
    /// Interfaces whose names start so belong to workloads. Upstream's default: `cali`.
    pub interface_prefix: Arc<str>,
    /// For packets from a workload to this host.
    pub endpoint_to_host: EndpointToHostAction,
    /// Addresses of this host and of the other nodes of the cluster.
    pub node_addresses: Vec<IpAddr>,
    /// Whether masquerading spares traffic to nodes too, not only to pools.
    pub masquerade_spares_nodes: bool,
    /// Whether workloads may send VXLAN, in which packets would pass policy unseen.
    pub vxlan_from_workloads: bool,
    /// The UDP port of VXLAN. Upstream's default: 4789 (RFC 7348).
    pub vxlan_port: u16,
    /// Whether workloads may send IP-in-IP, in which packets would pass policy unseen.
    pub ipip_from_workloads: bool,
    /// Ports of the host that stay open whatever policy says.
    pub failsafe_inbound: Vec<Failsafe>,
    /// Ports that the host may reach whatever policy says.
    pub failsafe_outbound: Vec<Failsafe>,
    /// For packets that are forwarded to [`service_cidrs`](Self::service_cidrs): no service has
    /// taken them, or their destination would be another by then.
    pub service_loop: ServiceLoop,
    /// Where services have their addresses, as far as they are announced.
    pub service_cidrs: Vec<IpNet>,
    /// How outgoing traffic of pools is translated.
    pub outgoing_nat: OutgoingNat,
    /// How often the rules with action Log may report; absent: every packet.
    pub log_limit: Option<LogLimit>,
    /// Whether packets that connection tracking finds invalid meet policy as others do, and are
    /// not dropped before.
    pub invalid_meets_policy: bool,
    /// What is wrapped so is taken from [nodes](Self::node_addresses) and from
    /// [`external_nodes`](Self::external_nodes) only.
    pub tunnels: Tunnels,
    /// Where there are nodes of the cluster that have no Node resource.
    pub external_nodes: Vec<IpNet>,
    /// Bits of packets' and connections' marks that are ours; the default holds if they are fewer
    /// than [`MARK_BITS`](Self::MARK_BITS). Upstream's default: 0xffff0000.
    pub mark_mask: u32,
    /// For packets from and to workloads that policy denies. Those of host endpoints are dropped.
    pub deny: DenyAction,
}

impl HostSettings {
    /// How many bits of marks a dataplane may need.
    pub const MARK_BITS: u32 = 5;
}

/// How outgoing traffic of pools is translated: by default to the address of the interface by which
/// it leaves, to any port, whichever the interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct OutgoingNat {
    /// Translate IPv4 to this address.
    pub address: Option<Ipv4Addr>,
    /// Translate TCP and UDP to these ports.
    pub ports: Option<PortRange>,
    /// Only on interfaces of this name; with `+` at its end: whose names start so.
    pub interface: Option<Arc<str>>,
}

/// So many in so many seconds, after a burst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LogLimit {
    /// Packets.
    pub packets: u64,
    /// Seconds: 1, 60, 3600 or 86400.
    pub seconds: u64,
    /// Packets at once.
    pub burst: u32,
}

impl Default for HostSettings {
    fn default() -> Self {
        Self {
            interface_prefix: "cali".into(),
            endpoint_to_host: EndpointToHostAction::default(),
            node_addresses: Vec::new(),
            masquerade_spares_nodes: false,
            vxlan_from_workloads: false,
            vxlan_port: 4789,
            ipip_from_workloads: false,
            failsafe_inbound: Failsafe::INBOUND.into(),
            failsafe_outbound: Failsafe::OUTBOUND.into(),
            service_loop: ServiceLoop::default(),
            service_cidrs: Vec::new(),
            outgoing_nat: OutgoingNat::default(),
            log_limit: None,
            invalid_meets_policy: false,
            tunnels: Tunnels::default(),
            external_nodes: Vec::new(),
            mark_mask: 0xffff_0000,
            deny: DenyAction::default(),
        }
    }
}
