//! What a block says of one address, and what its release insists on.

use std::net::IpAddr;
use std::time::Duration;

use calico_core::resource::AllocationAttribute;

/// Who has an address.
#[derive(Debug, Clone, PartialEq)]
pub struct Allocation {
    /// The address.
    pub address: IpAddr,
    /// Its owner, as recorded; only `released_at` is set while the address cools down.
    pub attributes: AllocationAttribute,
    /// Counts assignments of this block; tells a later assignment of the address from this one.
    pub sequence: Option<u64>,
}

impl Allocation {
    /// Whether a virtual machine has it, which keeps it when its pods go, or two pods of one: only
    /// an orchestrator knows when such an address is nobody's.
    #[must_use]
    pub fn is_of_machine(&self) -> bool {
        let attributes = &self.attributes;
        let handle = attributes.handle_id.as_deref().unwrap_or_default();
        let said = |name: &str| attributes.secondary.contains_key(name);
        handle.contains(".vmi.")
            || said("vmi-name")
            || said("vm-uid")
            || !attributes.alternate_owner_attrs.is_empty()
    }
}

/// What a release insists on. Empty: nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReleaseCheck {
    /// The address must be assigned under this handle.
    pub handle: Option<String>,
    /// The address must not have been assigned anew since.
    pub sequence: Option<u64>,
}

/// Why an address was not released.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotReleased {
    /// Nobody has it.
    Unassigned,
    /// Another handle has it.
    OtherHandle(Option<String>),
    /// It was released and assigned anew; this is its sequence number.
    Reassigned(Option<u64>),
}

/// When a released address may be given out again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cooldown {
    /// How long it rests; zero frees it at once.
    pub rest: Duration,
}
