//! One block: who has which address, and which address comes next.
//!
//! [`Block`] wraps the stored [`AllocationBlock`] and keeps its parts consistent. Nothing here
//! reads a clock or a store.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use calico_core::datastore::{Entry, StoreError};
use calico_core::key::Key;
use calico_core::resource::{AllocationAttribute, AllocationBlock};
use ipnet::IpNet;

pub use super::allocation::{Allocation, Cooldown, NotReleased, ReleaseCheck};
use super::geometry::{block_len, nth_address, ordinal};
use super::owner::Owner;
use super::reserved::Reserved;
use super::time::{parse_rfc3339, rfc3339};

/// A block of addresses.
#[derive(Debug, Clone, PartialEq)]
pub struct Block {
    data: AllocationBlock,
}

impl Block {
    /// A block without assignments; `None` if `cidr` is too large for a block.
    #[must_use]
    pub fn new(cidr: IpNet, owner: Option<&Owner>, now: SystemTime) -> Option<Self> {
        let len = block_len(&cidr)?;
        let nanos = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        Some(Self {
            data: AllocationBlock {
                cidr: cidr.trunc(),
                affinity: owner.map(ToString::to_string),
                affinity_claim_time: owner.map(|_| rfc3339(now)),
                allocations: vec![None; len as usize],
                unallocated: (0..len).collect(),
                sequence_number: u64::try_from(nanos).unwrap_or(u64::MAX),
                ..AllocationBlock::default()
            },
        })
    }

    /// Reads a stored block. A list of free ordinals that contradicts the assignments is put
    /// right: the assignments count.
    ///
    /// # Errors
    ///
    /// [`StoreError::BadObject`] if it is no block, or its assignments make no sense.
    pub fn read(entry: &Entry) -> Result<Self, StoreError> {
        let mut data: AllocationBlock = entry.decode()?;
        let bad = |reason: String| StoreError::bad_object(&entry.key, &reason);
        if entry.key != Key::Block(data.cidr) {
            return Err(bad(format!("it describes block {}", data.cidr)));
        }
        let len = block_len(&data.cidr)
            .filter(|len| *len as usize == data.allocations.len())
            .ok_or_else(|| bad(format!("{} allocations", data.allocations.len())))?;
        if let Some(index) =
            data.allocations.iter().flatten().find(|i| **i as usize >= data.attributes.len())
        {
            return Err(bad(format!(
                "an allocation refers to attribute {index}, which is missing"
            )));
        }
        if data.affinity.is_none() {
            // Written before owners other than hosts existed.
            data.affinity = data.host_affinity.take().map(|node| Owner::host(node).to_string());
        }
        repair_free_list(&mut data, len);
        Ok(Self { data })
    }

    /// Its addresses.
    #[must_use]
    pub const fn cidr(&self) -> IpNet {
        self.data.cidr
    }

    /// The stored form.
    #[must_use]
    pub const fn data(&self) -> &AllocationBlock {
        &self.data
    }

    /// The owner, if any.
    #[must_use]
    pub fn owner(&self) -> Option<Owner> {
        Owner::parse(self.data.affinity.as_deref()?)
    }

    /// Whether `owner` owns the block.
    #[must_use]
    pub fn is_owned_by(&self, owner: &Owner) -> bool {
        self.data.affinity.as_deref().is_some_and(|affinity| {
            affinity.strip_prefix(owner.kind.as_str()).and_then(|rest| rest.strip_prefix(':'))
                == Some(&owner.name)
        })
    }

    /// Takes the owner away.
    pub fn disown(&mut self) {
        self.data.affinity = None;
        self.data.affinity_claim_time = None;
    }

    /// Number of addresses.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.data.allocations.len()
    }

    /// Whether no address is assigned or cooling down.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.data.unallocated.len() == self.data.allocations.len()
    }

    /// Number of addresses that are neither assigned nor cooling down.
    #[must_use]
    pub const fn free(&self) -> usize {
        self.data.unallocated.len()
    }

    /// Number of assigned addresses, without those that cool down.
    #[must_use]
    pub fn in_use(&self) -> usize {
        self.allocations().filter(|a| a.attributes.released_at.is_none()).count()
    }

    /// Every address that is assigned or cools down, in order of address.
    pub fn allocations(&self) -> impl Iterator<Item = Allocation> + '_ {
        self.data.allocations.iter().zip(0_u32..).filter_map(|(index, n)| {
            let attributes = self.data.attributes.get((*index)? as usize)?.clone();
            let address = nth_address(&self.data.cidr, n)?;
            let sequence =
                self.data.sequence_number_for_allocation.get(n.to_string().as_str()).copied();
            Some(Allocation { address, attributes, sequence })
        })
    }

    /// Who has `ip`; `None` if nobody.
    #[must_use]
    pub fn allocation(&self, ip: IpAddr) -> Option<Allocation> {
        let n = ordinal(&self.data.cidr, ip)?;
        let attributes = self.attributes_of(n)?.clone();
        let sequence =
            self.data.sequence_number_for_allocation.get(n.to_string().as_str()).copied();
        Some(Allocation { address: ip, attributes, sequence })
    }

    /// Addresses assigned under `handle`, in order of address.
    #[must_use]
    pub fn of_handle(&self, handle: &str) -> Vec<IpAddr> {
        (0_u32..)
            .zip(&self.data.allocations)
            .filter(|(n, _)| self.handle_of(*n) == Some(handle))
            .filter_map(|(n, _)| nth_address(&self.data.cidr, n))
            .collect()
    }

    /// Assigns up to `count` addresses that are not `reserved`, the longest free ones first.
    pub fn assign(
        &mut self,
        count: usize,
        to: &AllocationAttribute,
        reserved: &Reserved,
    ) -> Vec<Allocation> {
        let cidr = self.data.cidr;
        let mut picked = Vec::new();
        for (place, n) in self.data.unallocated.iter().enumerate() {
            if picked.len() == count {
                break;
            }
            let Some(ip) = nth_address(&cidr, *n) else { continue };
            if !reserved.contains(ip) {
                picked.push((place, *n, ip));
            }
        }
        // From the back, so that the places in front stay right.
        for (place, _, _) in picked.iter().rev() {
            self.data.unallocated.remove(*place);
        }
        picked.into_iter().map(|(_, n, ip)| self.record(n, ip, to)).collect()
    }

    /// Assigns this address.
    ///
    /// # Errors
    ///
    /// Who has it, if anybody. An address outside of the block counts as assigned to nobody known.
    pub fn assign_ip(
        &mut self,
        ip: IpAddr,
        to: &AllocationAttribute,
    ) -> Result<Allocation, AllocationAttribute> {
        let n = ordinal(&self.data.cidr, ip).ok_or_else(AllocationAttribute::default)?;
        if let Some(attributes) = self.attributes_of(n) {
            return Err(attributes.clone());
        }
        self.data.unallocated.retain(|free| *free != n);
        Ok(self.record(n, ip, to))
    }

    /// Changes what is recorded of the owners of `ip`; handle and sequence stay. Nothing if nobody
    /// has it.
    pub fn set_owners(
        &mut self,
        ip: IpAddr,
        first: &BTreeMap<String, String>,
        second: &BTreeMap<String, String>,
    ) {
        let Some(n) = ordinal(&self.data.cidr, ip) else { return };
        let Some(mut attributes) = self.attributes_of(n).cloned() else { return };
        attributes.secondary.clone_from(first);
        attributes.alternate_owner_attrs.clone_from(second);
        let index = self.intern(&attributes);
        self.data.allocations[n as usize] = Some(index);
        self.drop_unused_attributes();
    }

    /// Makes what `ip` is assigned for a new assignment of the same owner: whoever knows the one
    /// before can no longer release it. Nothing if nobody has it.
    pub fn renew(&mut self, ip: IpAddr) {
        let assigned = ordinal(&self.data.cidr, ip).filter(|n| self.attributes_of(*n).is_some());
        if let Some(n) = assigned {
            let sequence = self.data.sequence_number;
            self.data.sequence_number_for_allocation.insert(n.to_string(), sequence);
        }
    }

    /// Releases `ip` if `check` holds.
    ///
    /// # Errors
    ///
    /// What did not hold; nothing is changed then.
    pub fn release(
        &mut self,
        ip: IpAddr,
        check: &ReleaseCheck,
        cooldown: Cooldown,
        now: SystemTime,
    ) -> Result<AllocationAttribute, NotReleased> {
        let n = ordinal(&self.data.cidr, ip).ok_or(NotReleased::Unassigned)?;
        let attributes = match self.attributes_of(n) {
            Some(attributes) if attributes.released_at.is_none() => attributes.clone(),
            _ => return Err(NotReleased::Unassigned),
        };
        if check.handle.is_some() && check.handle != attributes.handle_id {
            return Err(NotReleased::OtherHandle(attributes.handle_id));
        }
        let sequence =
            self.data.sequence_number_for_allocation.get(n.to_string().as_str()).copied();
        if check.sequence.is_some() && check.sequence != sequence {
            return Err(NotReleased::Reassigned(sequence));
        }
        self.free_ordinals(&[n], cooldown, now);
        Ok(attributes)
    }

    /// Releases everything of `handle`.
    pub fn release_handle(
        &mut self,
        handle: &str,
        cooldown: Cooldown,
        now: SystemTime,
    ) -> Vec<IpAddr> {
        let ips = self.of_handle(handle);
        let ordinals: Vec<u32> =
            ips.iter().filter_map(|ip| ordinal(&self.data.cidr, *ip)).collect();
        self.free_ordinals(&ordinals, cooldown, now);
        ips
    }

    /// Frees addresses that have cooled down, those released first in front; returns how many.
    pub fn thaw(&mut self, cooldown: Cooldown, now: SystemTime) -> usize {
        if self.data.attributes.iter().all(|attributes| attributes.released_at.is_none()) {
            return 0;
        }
        let mut due: Vec<(SystemTime, u32)> = (0_u32..)
            .zip(&self.data.allocations)
            .filter_map(|(n, _)| {
                let released = self.attributes_of(n)?.released_at.as_deref()?;
                // A time nobody can read must not keep the address for ever.
                let released = parse_rfc3339(released).unwrap_or(UNIX_EPOCH);
                (released + cooldown.rest <= now).then_some((released, n))
            })
            .collect();
        due.sort_unstable();
        let ordinals: Vec<u32> = due.into_iter().map(|(_, n)| n).collect();
        self.free_ordinals(&ordinals, Cooldown::default(), now);
        ordinals.len()
    }

    /// The JSON text of the next write: as stored, with the sequence number one higher.
    #[must_use]
    pub fn next_write(&mut self) -> String {
        self.data.sequence_number = self.data.sequence_number.wrapping_add(1);
        json(&self.data)
    }

    fn attributes_of(&self, n: u32) -> Option<&AllocationAttribute> {
        let index = (*self.data.allocations.get(n as usize)?)?;
        self.data.attributes.get(index as usize)
    }

    fn handle_of(&self, n: u32) -> Option<&str> {
        self.attributes_of(n)?.handle_id.as_deref()
    }

    /// Notes the owner of an ordinal that was just taken off the free list.
    fn record(&mut self, n: u32, address: IpAddr, to: &AllocationAttribute) -> Allocation {
        let index = self.intern(to);
        self.data.allocations[n as usize] = Some(index);
        let sequence = self.data.sequence_number;
        self.data.sequence_number_for_allocation.insert(n.to_string(), sequence);
        Allocation { address, attributes: to.clone(), sequence: Some(sequence) }
    }

    fn intern(&mut self, attributes: &AllocationAttribute) -> u32 {
        let known = self.data.attributes.iter().position(|known| known == attributes);
        let index = known.unwrap_or_else(|| {
            self.data.attributes.push(attributes.clone());
            self.data.attributes.len() - 1
        });
        u32::try_from(index).unwrap_or(u32::MAX)
    }

    fn free_ordinals(&mut self, ordinals: &[u32], cooldown: Cooldown, now: SystemTime) {
        if ordinals.is_empty() {
            return;
        }
        let resting = (!cooldown.rest.is_zero()).then(|| {
            self.intern(&AllocationAttribute {
                released_at: Some(rfc3339(now)),
                ..AllocationAttribute::default()
            })
        });
        for n in ordinals {
            self.data.allocations[*n as usize] = resting;
            self.data.sequence_number_for_allocation.remove(n.to_string().as_str());
            if resting.is_none() {
                self.data.unallocated.push(*n);
            }
        }
        self.drop_unused_attributes();
    }

    fn drop_unused_attributes(&mut self) {
        let mut used = vec![false; self.data.attributes.len()];
        for index in self.data.allocations.iter().flatten() {
            used[*index as usize] = true;
        }
        if used.iter().all(|used| *used) {
            return;
        }
        let mut next = 0;
        let moved: Vec<u32> = used
            .iter()
            .map(|used| {
                let at = next;
                next += u32::from(*used);
                at
            })
            .collect();
        for index in self.data.allocations.iter_mut().flatten() {
            *index = moved[*index as usize];
        }
        let mut used = used.into_iter();
        self.data.attributes.retain(|_| used.next().unwrap_or(false));
    }
}

/// JSON text of a value of the resource model.
pub(crate) fn json(value: &impl serde::Serialize) -> String {
    // Only maps with other keys than text, or a failing `Serialize`, can fail; there are none.
    serde_json::to_string(value).expect("the resource model has a JSON form")
}

fn repair_free_list(data: &mut AllocationBlock, len: u32) {
    let mut free: Vec<bool> = data.allocations.iter().map(Option::is_none).collect();
    // Keeps the first mention of each ordinal that is free; clears the flag so that a second is
    // dropped. What is left then was missing and comes last.
    data.unallocated.retain(|n| free.get_mut(*n as usize).is_some_and(std::mem::take));
    data.unallocated.extend((0..len).filter(|n| free[*n as usize]));
}

#[cfg(test)]
#[path = "block_tests.rs"]
mod tests;
