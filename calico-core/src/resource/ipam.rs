//! IPAM data: the JSON kept in etcd and embedded stores, and the resource form of Kubernetes.

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::choices::choices;
use super::object::object;
use super::{Errors, NoStatus, ObjectMeta, Path, Resource, Spec};
use crate::kind::Kind;

/// Settings of IPAM; only the name `default` is used.
pub type IpamConfiguration = Resource<IpamConfigurationSpec>;

/// A block of addresses, in resource form; see [`AllocationBlock`] for the stored form.
pub type IpamBlock = Resource<IpamBlockSpec>;

/// The addresses of one owner, in resource form; see [`IpamHandle`] for the stored form.
pub type IpamHandleResource = Resource<IpamHandleSpec>;

/// A claim on a block, in resource form; see [`BlockAffinityValue`] for the stored form.
pub type BlockAffinity = Resource<BlockAffinitySpec>;

object! {
    /// A block as kept under `/calico/ipam/v2/assignment/...`.
    pub struct AllocationBlock {
        /// The addresses of the block.
        pub cidr: IpNet = "cidr" (required),
        /// Owner: `host:<node>`, `virtual:<name>`, or none.
        pub affinity: Option<String> = "affinity" (always),
        /// When the owner claimed it, RFC 3339.
        pub affinity_claim_time: Option<String> = "affinity_claim_time",
        /// For each ordinal of the block, the index into `attributes` of its owner.
        pub allocations: Vec<Option<u32>> = "allocations" (always),
        /// Free ordinals, in the order in which they will be given out.
        pub unallocated: Vec<u32> = "unallocated" (always),
        /// The owners; allocations with equal attributes share an entry.
        pub attributes: Vec<AllocationAttribute> = "attributes" (always),
        /// Grows by one with each write; starts at the creation time in nanoseconds.
        pub sequence_number: u64 = "sequenceNumber" (always),
        /// For each assigned ordinal (decimal), the sequence number of its assignment.
        pub sequence_number_for_allocation: BTreeMap<String, u64> =
            "sequenceNumberForAllocation" (always),
        /// Whether deletion has begun.
        pub deleted: bool = "deleted" (always),
        /// Deprecated way to write `affinity`: the bare node name.
        pub host_affinity: Option<String> = "hostAffinity",
    }

    /// Who owns one or more addresses of a block.
    pub struct AllocationAttribute {
        /// The handle that releases them together.
        pub handle_id: Option<String> = "handle_id",
        /// What the owner said about itself: pod, namespace, node, ...
        pub secondary: BTreeMap<String, String> = "secondary",
        /// The second owner while a virtual machine moves.
        pub alternate_owner_attrs: BTreeMap<String, String> = "alternateOwnerAttrs",
        /// When it was released, RFC 3339, while the address cools down.
        pub released_at: Option<String> = "releasedAt",
    }

    /// A handle as kept under `/calico/ipam/v2/handle/<id>`.
    pub struct IpamHandle {
        /// Number of addresses in each block, by CIDR.
        pub block: BTreeMap<String, u32> = "block" (always),
        /// Whether deletion has begun.
        pub deleted: bool = "deleted" (always),
    }

    /// An affinity as kept under `/calico/ipam/v2/host/<node>/ipv4/block/<cidr>`.
    pub struct BlockAffinityValue {
        /// How far the claim has come.
        pub state: Option<AffinityState> = "state",
        /// Whether deletion has begun.
        pub deleted: bool = "deleted" (always),
    }

    /// IPAM settings as kept under `/calico/ipam/v2/config`.
    pub struct IpamConfig {
        /// Whether nodes may never borrow from blocks of others.
        pub strict_affinity: bool = "strict_affinity" (always),
        /// Whether nodes claim blocks by themselves.
        pub auto_allocate_blocks: Option<bool> = "auto_allocate_blocks",
        /// Blocks a node may own; 0 is no limit.
        pub max_blocks_per_host: u32 = "maxBlocksPerHost",
        /// Whether virtual machines keep their address.
        pub kube_virt_vm_address_persistence: Option<Persistence> = "kubeVirtVMAddressPersistence",
        /// Seconds before a released address is given out again.
        pub ip_cooldown_seconds: u32 = "ipCooldownSeconds",
    }

    /// Settings of IPAM.
    pub struct IpamConfigurationSpec {
        /// Whether nodes may never borrow from blocks of others.
        pub strict_affinity: bool = "strictAffinity" (always),
        /// Blocks a node may own; 0 is no limit.
        pub max_blocks_per_host: u32 = "maxBlocksPerHost",
        /// Whether nodes claim blocks by themselves; true when unset.
        pub auto_allocate_blocks: Option<bool> = "autoAllocateBlocks",
        /// Whether virtual machines keep their address.
        pub kube_virt_vm_address_persistence: Option<Persistence> = "kubeVirtVMAddressPersistence",
        /// Seconds before a released address is given out again, at most 1200.
        pub ip_cooldown_seconds: u32 = "ipCooldownSeconds",
    }

    /// A block, in resource form.
    pub struct IpamBlockSpec {
        /// The addresses of the block.
        pub cidr: IpNet = "cidr" (required),
        /// Owner: `host:<node>`, `virtual:<name>`, or none.
        pub affinity: Option<String> = "affinity",
        /// When the owner claimed it, RFC 3339.
        pub affinity_claim_time: Option<String> = "affinityClaimTime",
        /// For each ordinal of the block, the index into `attributes` of its owner.
        pub allocations: Vec<Option<u32>> = "allocations" (always),
        /// Free ordinals, in the order in which they will be given out.
        pub unallocated: Vec<u32> = "unallocated" (always),
        /// The owners; allocations with equal attributes share an entry.
        pub attributes: Vec<AllocationAttribute> = "attributes" (always),
        /// Grows by one with each write.
        pub sequence_number: u64 = "sequenceNumber",
        /// For each assigned ordinal (decimal), the sequence number of its assignment.
        pub sequence_number_for_allocation: BTreeMap<String, u64> = "sequenceNumberForAllocation",
        /// Whether deletion has begun.
        pub deleted: bool = "deleted",
        /// Deprecated and ignored.
        pub strict_affinity: bool = "strictAffinity" (always),
    }

    /// A handle, in resource form.
    pub struct IpamHandleSpec {
        /// The handle.
        pub handle_id: String = "handleID" (required),
        /// Number of addresses in each block, by CIDR.
        pub block: BTreeMap<String, u32> = "block" (always),
        /// Whether deletion has begun.
        pub deleted: bool = "deleted",
    }

    /// A claim on a block, in resource form.
    pub struct BlockAffinitySpec {
        /// How far the claim has come.
        pub state: Option<AffinityState> = "state" (required),
        /// The owner.
        pub node: String = "node" (required),
        /// What the owner is; a host when unset.
        pub affinity_type: Option<AffinityType> = "type",
        /// The block.
        pub cidr: IpNet = "cidr" (required),
        /// Whether deletion has begun.
        pub deleted: bool = "deleted" (always),
    }
}

choices! {
    /// How far a claim on a block has come.
    pub enum AffinityState {
        /// Wanted; the block may not exist yet, or may belong to another.
        Pending = "pending",
        /// The block exists and names this owner.
        Confirmed = "confirmed",
        /// Being given up.
        PendingDeletion = "pendingDeletion",
    }

    /// What the owner of a block is.
    #[derive(Default)]
    pub enum AffinityType {
        /// A node.
        #[default]
        Host = "host",
        /// Something without a host, such as the load balancer controller.
        Virtual = "virtual",
    }

    /// Whether virtual machines keep their address over restarts and moves.
    #[derive(Default)]
    pub enum Persistence {
        /// They do.
        #[default]
        Enabled = "Enabled",
        /// Each new pod gets a new address.
        Disabled = "Disabled",
    }
}

impl AllocationBlock {
    /// The block's owner: its affinity, or the node of the deprecated field.
    #[must_use]
    pub fn owner(&self) -> Option<String> {
        let older = || self.host_affinity.as_ref().map(|node| format!("host:{node}"));
        self.affinity.clone().or_else(older)
    }

    /// The sequence number at which `ordinal` was assigned, or 0.
    #[must_use]
    pub fn sequence_number_of(&self, ordinal: u32) -> u64 {
        self.sequence_number_for_allocation.get(&ordinal.to_string()).copied().unwrap_or(0)
    }
}

impl BlockAffinityValue {
    /// Reads the stored value, of which the empty one stands for `{}`.
    ///
    /// # Errors
    /// No JSON, or not of this shape.
    pub fn from_stored(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        if bytes.is_empty() { Ok(Self::default()) } else { serde_json::from_slice(bytes) }
    }
}

impl IpamConfig {
    /// Whether nodes claim blocks by themselves: as set, else yes.
    #[must_use]
    pub fn auto_allocate_blocks(&self) -> bool {
        self.auto_allocate_blocks.unwrap_or(true)
    }
}

impl IpamConfigurationSpec {
    /// Whether nodes claim blocks by themselves: as set, else yes.
    #[must_use]
    pub fn auto_allocate_blocks(&self) -> bool {
        self.auto_allocate_blocks.unwrap_or(true)
    }
}

impl From<&IpamConfigurationSpec> for IpamConfig {
    fn from(spec: &IpamConfigurationSpec) -> Self {
        Self {
            strict_affinity: spec.strict_affinity,
            auto_allocate_blocks: Some(spec.auto_allocate_blocks()),
            max_blocks_per_host: spec.max_blocks_per_host,
            kube_virt_vm_address_persistence: spec.kube_virt_vm_address_persistence,
            ip_cooldown_seconds: spec.ip_cooldown_seconds,
            unknown: spec.unknown.clone(),
        }
    }
}

impl From<&IpamConfig> for IpamConfigurationSpec {
    fn from(config: &IpamConfig) -> Self {
        Self {
            strict_affinity: config.strict_affinity,
            auto_allocate_blocks: Some(config.auto_allocate_blocks()),
            max_blocks_per_host: config.max_blocks_per_host,
            kube_virt_vm_address_persistence: config.kube_virt_vm_address_persistence,
            ip_cooldown_seconds: config.ip_cooldown_seconds,
            unknown: config.unknown.clone(),
        }
    }
}

impl Spec for IpamConfigurationSpec {
    const KIND: Kind = Kind::IpamConfiguration;
    type Status = NoStatus;

    fn validate(&self, _metadata: &ObjectMeta, errors: &mut Errors) {
        super::validate::ipam_configuration(self, errors);
    }

    fn apply_defaults(&mut self) {
        self.auto_allocate_blocks.get_or_insert(true);
        self.kube_virt_vm_address_persistence.get_or_insert_default();
    }
}

impl Spec for IpamBlockSpec {
    const KIND: Kind = Kind::IpamBlock;
    type Status = NoStatus;
}

impl Spec for IpamHandleSpec {
    const KIND: Kind = Kind::IpamHandle;
    type Status = NoStatus;
}

impl Spec for BlockAffinitySpec {
    const KIND: Kind = Kind::BlockAffinity;
    type Status = NoStatus;

    fn validate(&self, _metadata: &ObjectMeta, errors: &mut Errors) {
        errors.require(
            !self.deleted,
            &Path::Root.key("spec").key("deleted"),
            "is set by the system only; remove it",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::Field;
    use super::*;

    /// The stored text is read and written without a change.
    fn check<T: Field + PartialEq + std::fmt::Debug>(text: &str) -> T {
        let value: T = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&value).unwrap(), text);
        value
    }

    #[test]
    fn stored_forms_have_upstreams_names_and_order() {
        let block: AllocationBlock = check(concat!(
            r#"{"cidr":"10.0.0.0/30","affinity":"host:n","allocations":[0,null,null,null],"#,
            r#""unallocated":[1,2,3],"attributes":[{"handle_id":"h","secondary":{"node":"n"}}],"#,
            r#""sequenceNumber":1700000000000000001,"#,
            r#""sequenceNumberForAllocation":{"0":1700000000000000000},"deleted":false}"#,
        ));
        assert_eq!(block.allocations, [Some(0), None, None, None]);
        assert_eq!(block.owner().as_deref(), Some("host:n"));
        assert_eq!(block.sequence_number_of(0), 1_700_000_000_000_000_000);
        assert_eq!(block.sequence_number_of(1), 0);

        let handle: IpamHandle = check(r#"{"block":{"10.0.0.0/26":1},"deleted":false}"#);
        assert_eq!(handle.block["10.0.0.0/26"], 1);
        let affinity: BlockAffinityValue = check(r#"{"state":"confirmed","deleted":false}"#);
        assert_eq!(affinity.state, Some(AffinityState::Confirmed));
        let config: IpamConfig =
            check(r#"{"strict_affinity":true,"auto_allocate_blocks":false,"maxBlocksPerHost":3}"#);
        assert_eq!(IpamConfig::from(&IpamConfigurationSpec::from(&config)), config);
    }

    #[test]
    fn older_and_empty_forms_are_read() {
        let block: AllocationBlock = serde_json::from_str(
            r#"{"cidr":"10.0.0.0/30","affinity":null,"hostAffinity":"n","attributes":null}"#,
        )
        .unwrap();
        assert_eq!(block.owner().as_deref(), Some("host:n"));
        let empty = BlockAffinityValue::default();
        assert_eq!(BlockAffinityValue::from_stored(b"").unwrap(), empty);
        assert_eq!(BlockAffinityValue::from_stored(br#"{"state":""}"#).unwrap(), empty);
        assert!(BlockAffinityValue::from_stored(br#"{"state":"maybe"}"#).is_err());
    }
}
