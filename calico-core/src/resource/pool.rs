//! IP pools and reservations.

use ipnet::IpNet;

use super::choices::choices;
use super::object::object;
use super::{Cidr, Errors, NoStatus, ObjectMeta, Resource, Spec};
use crate::kind::Kind;

/// A range that pods get their addresses from.
pub type IpPool = Resource<IpPoolSpec>;

/// Addresses that IPAM must not hand out by itself.
pub type IpReservation = Resource<IpReservationSpec>;

object! {
    /// What a pool offers, to whom, and how its traffic travels.
    pub struct IpPoolSpec {
        /// The range; cannot change after creation.
        pub cidr: IpNet = "cidr" (required),
        /// VXLAN between nodes.
        pub vxlan_mode: Option<EncapMode> = "vxlanMode",
        /// IP-in-IP between nodes; IPv4 only, and not together with VXLAN.
        pub ipip_mode: Option<EncapMode> = "ipipMode",
        /// Whether traffic that leaves the pools gets the node's address.
        pub nat_outgoing: bool = "natOutgoing",
        /// Whether IPAM leaves the pool alone.
        pub disabled: bool = "disabled",
        /// Whether BGP keeps the pool's routes to itself.
        pub disable_bgp_export: bool = "disableBGPExport",
        /// Prefix length of the blocks given to nodes; see [`IpPoolSpec::block_size`].
        pub block_size: u8 = "blockSize",
        /// Nodes that may take blocks; empty means all.
        pub node_selector: String = "nodeSelector",
        /// Namespaces that may take addresses; empty means all.
        pub namespace_selector: String = "namespaceSelector",
        /// What addresses are for; see [`IpPoolSpec::allowed_uses`].
        pub allowed_uses: Vec<AllowedUse> = "allowedUses",
        /// Whether pods get addresses without asking for this pool.
        pub assignment_mode: Option<AssignmentMode> = "assignmentMode",
    }

    /// What the pool controller reports.
    pub struct IpPoolStatus {
        /// Conditions; `Allocatable` says whether IPAM uses the pool.
        pub conditions: Vec<Condition> = "conditions",
    }

    /// One observation about a resource, as in Kubernetes.
    pub struct Condition {
        /// What is observed, such as `Allocatable` or `Ready`.
        pub kind: String = "type" (required),
        /// `True`, `False` or `Unknown`.
        pub status: String = "status" (required),
        /// The generation of the spec that was looked at.
        pub observed_generation: i64 = "observedGeneration",
        /// When the status last changed, RFC 3339.
        pub last_transition_time: Option<String> = "lastTransitionTime" (always),
        /// One word for programs.
        pub reason: String = "reason" (always),
        /// A sentence for people.
        pub message: String = "message" (always),
    }

    /// Addresses to hold back.
    pub struct IpReservationSpec {
        /// Ranges that automatic assignment skips.
        pub reserved_cidrs: Vec<Cidr> = "reservedCIDRs",
    }
}

choices! {
    /// When packets between nodes are encapsulated.
    #[derive(Default)]
    pub enum EncapMode {
        /// Never: the network routes pod addresses.
        #[default]
        Never = "Never",
        /// Always.
        Always = "Always",
        /// Only towards nodes of another subnet.
        CrossSubnet = "CrossSubnet",
    }

    /// What an address of a pool may be used for.
    pub enum AllowedUse {
        /// Pods.
        Workload = "Workload",
        /// Tunnel devices of nodes.
        Tunnel = "Tunnel",
        /// Services of type LoadBalancer.
        LoadBalancer = "LoadBalancer",
    }

    /// Whether a pool is used without being asked for.
    #[derive(Default)]
    pub enum AssignmentMode {
        /// Yes.
        #[default]
        Automatic = "Automatic",
        /// Only when a pod or its namespace names the pool.
        Manual = "Manual",
    }
}

impl IpPoolSpec {
    /// Uses of a pool that names none.
    pub const DEFAULT_USES: &'static [AllowedUse] = &[AllowedUse::Workload, AllowedUse::Tunnel];

    /// A pool of this range, all else default.
    #[must_use]
    pub fn new(cidr: IpNet) -> Self {
        Self { cidr, ..Self::default() }
    }

    /// Whether this is an IPv6 pool.
    #[must_use]
    pub const fn is_ipv6(&self) -> bool {
        matches!(self.cidr, IpNet::V6(_))
    }

    /// Prefix length of the pool's blocks: as set, else 26 (IPv4) or 122 (IPv6).
    #[must_use]
    pub const fn block_size(&self) -> u8 {
        match (self.block_size, self.is_ipv6()) {
            (0, false) => 26,
            (0, true) => 122,
            (size, _) => size,
        }
    }

    /// When IP-in-IP is used.
    #[must_use]
    pub fn ipip_mode(&self) -> EncapMode {
        self.ipip_mode.unwrap_or_default()
    }

    /// When VXLAN is used.
    #[must_use]
    pub fn vxlan_mode(&self) -> EncapMode {
        self.vxlan_mode.unwrap_or_default()
    }

    /// What addresses are for: as set, else workloads and tunnels.
    #[must_use]
    pub const fn allowed_uses(&self) -> &[AllowedUse] {
        if self.allowed_uses.is_empty() { Self::DEFAULT_USES } else { self.allowed_uses.as_slice() }
    }

    /// Whether the pool is used without being asked for.
    #[must_use]
    pub fn assignment_mode(&self) -> AssignmentMode {
        self.assignment_mode.unwrap_or_default()
    }

    /// The nodes that may take blocks: as set, else `all()`.
    #[must_use]
    pub fn node_selector(&self) -> &str {
        if self.node_selector.is_empty() { "all()" } else { &self.node_selector }
    }
}

impl Spec for IpPoolSpec {
    const KIND: Kind = Kind::IpPool;
    type Status = IpPoolStatus;

    fn validate(&self, _metadata: &ObjectMeta, errors: &mut Errors) {
        super::validate::ip_pool(self, errors);
    }

    fn apply_defaults(&mut self) {
        self.block_size = self.block_size();
        self.ipip_mode.get_or_insert_default();
        self.vxlan_mode.get_or_insert_default();
        self.assignment_mode.get_or_insert_default();
        self.node_selector = self.node_selector().to_owned();
        self.allowed_uses = self.allowed_uses().to_vec();
    }
}

impl Spec for IpReservationSpec {
    const KIND: Kind = Kind::IpReservation;
    type Status = NoStatus;
}
