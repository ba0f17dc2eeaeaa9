//! What callers ask for, and what they get.

use std::collections::BTreeMap;
use std::net::IpAddr;

use calico_core::datastore::{Revision, Write};
use calico_core::key::Family;
use calico_core::resource::{AllocationAttribute, AllowedUse};
use ipnet::IpNet;

use crate::error::{IpamError, Shortfall};
use crate::plan::block::Allocation;
use crate::plan::owner::Owner;
use crate::plan::pool::Labels;

/// A request for addresses; see [`Ipam::auto_assign`](crate::Ipam::auto_assign).
#[derive(Debug, Clone)]
pub struct AssignRequest {
    /// The node that the addresses are for. Its blocks are used first.
    pub node: String,
    /// Whose blocks to use, if not the node's.
    pub owner: Option<Owner>,
    /// What releases the addresses again. Without one they can only be released one by one.
    pub handle: Option<String>,
    /// What is recorded with each address: pod, namespace, node, ...
    pub attributes: BTreeMap<String, String>,
    /// Number of IPv4 addresses.
    pub v4: u32,
    /// Number of IPv6 addresses.
    pub v6: u32,
    /// The only IPv4 pools to use, by name or CIDR; empty: those whose selectors match.
    pub v4_pools: Vec<String>,
    /// The only IPv6 pools to use, by name or CIDR; empty: those whose selectors match.
    pub v6_pools: Vec<String>,
    /// Labels of the namespace, for pools with a namespace selector.
    pub namespace: Option<Labels>,
    /// What the addresses are for.
    pub intended_use: AllowedUse,
    /// Blocks that the node may own, if less than the configured limit.
    pub max_blocks: Option<u32>,
    /// Whether addresses that the handle has already count: a repeated request then gets the same
    /// ones again.
    pub reuse: bool,
}

impl AssignRequest {
    /// A request for nothing yet, by `node`.
    #[must_use]
    pub fn new(node: impl Into<String>) -> Self {
        Self {
            node: node.into(),
            owner: None,
            handle: None,
            attributes: BTreeMap::new(),
            v4: 0,
            v6: 0,
            v4_pools: Vec::new(),
            v6_pools: Vec::new(),
            namespace: None,
            intended_use: AllowedUse::Workload,
            max_blocks: None,
            reuse: false,
        }
    }

    /// With this handle.
    #[must_use]
    pub fn handle(mut self, handle: impl Into<String>) -> Self {
        self.handle = Some(handle.into());
        self
    }

    /// With this attribute.
    #[must_use]
    pub fn attribute(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.attributes.insert(key.into(), value.into());
        self
    }

    /// With so many IPv4 addresses.
    #[must_use]
    pub const fn v4(mut self, count: u32) -> Self {
        self.v4 = count;
        self
    }

    /// With so many IPv6 addresses.
    #[must_use]
    pub const fn v6(mut self, count: u32) -> Self {
        self.v6 = count;
        self
    }

    /// Counting what the handle has already.
    #[must_use]
    pub const fn reuse(mut self) -> Self {
        self.reuse = true;
        self
    }

    pub(crate) fn owner(&self) -> Owner {
        self.owner.clone().unwrap_or_else(|| Owner::host(&self.node))
    }

    pub(crate) const fn wanted(&self, family: Family) -> u32 {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }

    pub(crate) fn pools(&self, family: Family) -> &[String] {
        match family {
            Family::V4 => &self.v4_pools,
            Family::V6 => &self.v6_pools,
        }
    }
}

/// A request for one particular address; see [`Ipam::assign_ip`](crate::Ipam::assign_ip).
#[derive(Debug, Clone)]
pub struct AssignIp {
    /// The address.
    pub address: IpAddr,
    /// The node that it is for.
    pub node: String,
    /// Whose block to claim if nobody owns the address's, if not the node's.
    pub owner: Option<Owner>,
    /// What releases it again.
    pub handle: Option<String>,
    /// What is recorded with it.
    pub attributes: BTreeMap<String, String>,
    /// What it is for.
    pub intended_use: AllowedUse,
}

impl AssignIp {
    /// A request by `node` for `address`, for a workload.
    #[must_use]
    pub fn new(node: impl Into<String>, address: IpAddr) -> Self {
        Self {
            address,
            node: node.into(),
            owner: None,
            handle: None,
            attributes: BTreeMap::new(),
            intended_use: AllowedUse::Workload,
        }
    }
}

/// An address that was assigned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// The address.
    pub ip: IpAddr,
    /// Its block.
    pub block: IpNet,
    /// Tells this assignment from later ones of the same address; name it in the release.
    pub sequence: Option<u64>,
}

/// The answer to an [`AssignRequest`]: perhaps fewer addresses than asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Assigned {
    /// IPv4 addresses.
    pub v4: Vec<Address>,
    /// IPv6 addresses.
    pub v6: Vec<Address>,
    /// What is missing, and why: at most one entry per family.
    pub short: Vec<Shortfall>,
}

impl Assigned {
    /// Every address, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = &Address> {
        self.v4.iter().chain(&self.v6)
    }

    /// The answer, if it is complete. What was assigned stays assigned in any case.
    ///
    /// # Errors
    ///
    /// [`IpamError::Exhausted`] if a family has fewer addresses than asked for.
    pub fn complete(self) -> Result<Self, IpamError> {
        match self.short.first() {
            None => Ok(self),
            Some(short) => Err(IpamError::Exhausted(short.clone())),
        }
    }
}

/// What came of one of several requests that were served together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The addresses.
    pub assigned: Result<Assigned, IpamError>,
    /// Revisions of what was to be written along; `None` if that was not done, or only in part: the
    /// caller then writes it itself and sees why.
    pub also: Option<Vec<Revision>>,
}

/// What to write along with the addresses of a request, given its place and what it gets.
pub(crate) type Also<'a> = &'a (dyn Fn(usize, &Assigned) -> Vec<Write> + Send + Sync);

/// One address to release; see [`Ipam::release_ips`](crate::Ipam::release_ips).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// The address.
    pub address: IpAddr,
    /// Release it only from this handle.
    pub handle: Option<String>,
    /// Release only this assignment.
    pub sequence: Option<u64>,
}

impl Release {
    /// Releases `address`, whoever has it.
    #[must_use]
    pub const fn any(address: IpAddr) -> Self {
        Self { address, handle: None, sequence: None }
    }

    /// Releases this assignment: not a later one of the same address.
    #[must_use]
    pub fn exactly(assignment: &Allocation) -> Self {
        Self {
            address: assignment.address,
            handle: assignment.attributes.handle_id.clone(),
            sequence: assignment.sequence,
        }
    }

    /// Releases `address` if `handle` has it.
    #[must_use]
    pub fn of_handle(address: IpAddr, handle: impl Into<String>) -> Self {
        Self { address, handle: Some(handle.into()), sequence: None }
    }
}

/// What a release did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Released {
    /// Addresses that are free now (or cool down).
    pub released: Vec<IpAddr>,
    /// Addresses that nobody had.
    pub unassigned: Vec<IpAddr>,
}

/// An attribute as stored for a request.
pub(crate) fn attribute(
    handle: Option<&str>,
    attributes: &BTreeMap<String, String>,
) -> AllocationAttribute {
    AllocationAttribute {
        handle_id: handle.map(str::to_owned),
        secondary: attributes.clone(),
        ..AllocationAttribute::default()
    }
}

/// A handle as stored: cut at the first carriage return, as upstream does.
pub(crate) fn sane_handle(handle: &str) -> Result<&str, IpamError> {
    let cut = handle.split('\r').next().unwrap_or_default();
    if cut.is_empty() || cut.contains('/') {
        return Err(IpamError::invalid(format!(
            "handle {handle:?} is empty or has a slash; use letters, digits, dots and dashes"
        )));
    }
    Ok(cut)
}

/// Owner of an address in words.
pub(crate) fn describe_owner(attributes: &AllocationAttribute) -> String {
    if let Some(when) = &attributes.released_at {
        return format!("nobody; it rests since {when}");
    }
    let mut text = match &attributes.handle_id {
        Some(handle) => format!("handle {handle}"),
        None => "an owner without handle".to_owned(),
    };
    let details: Vec<String> =
        attributes.secondary.iter().map(|(key, value)| format!("{key}={value}")).collect();
    if !details.is_empty() {
        text = format!("{text} ({})", details.join(", "));
    }
    text
}
