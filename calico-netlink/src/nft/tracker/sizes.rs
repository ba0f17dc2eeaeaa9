//! How many elements a set is made for.
//!
//! A set that is made for a number of elements is a hash table of one size in the kernel: it takes
//! elements, and finds them, in a third less time than one that grows, but not more than that
//! number (`ENFILE`). So sets that are large at once are made for more than they have, and a set
//! that outgrows this is replaced, in one batch with the rules that look it up: they name it, and a
//! packet under way has the old set as long as it has the old rules. Few elements, ranges and maps
//! are left to sets that grow: elements of a map that goes are found no longer even by packets
//! under way (`nft_map_deactivate` of Linux).

use std::collections::BTreeSet;

use super::super::ruleset::{RuleDef, SetDef, SetSpec};
use super::{Kernel, Tracker};

/// Fewer elements are not worth a table of their own size.
const FEW: usize = 64;

/// The set to make for these elements.
pub(super) fn made(set: &SetDef) -> SetSpec {
    let SetDef { spec, elements } = set;
    let large = !spec.interval && !spec.verdict_map && elements.len() >= FEW;
    let size = match spec.size {
        Some(size) if elements.len() <= size as usize => Some(size),
        None if !large => None,
        _ => room(elements.len()),
    };
    SetSpec { size, ..spec.clone() }
}

/// Room for at least a quarter more: three quarters of as many buckets as the kernel makes for it
/// (`nft_hash_buckets`).
fn room(elements: usize) -> Option<u32> {
    let buckets = elements.checked_mul(5)?.div_ceil(3).checked_next_power_of_two()?;
    u32::try_from(buckets / 4 * 3).ok()
}

/// Whether the kernel's set has room for these elements.
pub(super) fn fits(have: &SetSpec, set: &SetDef) -> bool {
    have.size.is_none_or(|size| set.elements.len() <= size as usize)
}

impl Tracker {
    /// Sets that the kernel has, but too small.
    pub(super) fn outgrown(&self, kernel: &Kernel) -> BTreeSet<&str> {
        let too_small = |name: &&str| match (kernel.sets.get(*name), self.desired.sets.get(*name)) {
            (Some(have), Some(set)) => !fits(have, set),
            _ => false,
        };
        self.dirty_sets.keys().map(String::as_str).filter(too_small).collect()
    }

    /// Chains whose rules the next batch writes: those that change, and those that look up a set
    /// that has to be replaced.
    pub(super) fn rewritten(&self, kernel: &Kernel) -> BTreeSet<&str> {
        let mut chains: BTreeSet<&str> = self.dirty_chains.iter().map(String::as_str).collect();
        let outgrown = self.outgrown(kernel);
        if !outgrown.is_empty() {
            let looks_up = |rule: &RuleDef| rule.sets().any(|set| outgrown.contains(set));
            let users = self.desired.chains.iter().filter(|(_, c)| c.rules.iter().any(looks_up));
            chains.extend(users.map(|(name, _)| name.as_str()));
        }
        chains
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nft::wire::{Element, KeyType};

    #[test]
    fn large_sets_have_room_for_more() {
        let set = |elements: u32| SetDef {
            spec: SetSpec::set([KeyType::Ipv4]),
            elements: (0..elements).map(|n| Element::key(n.to_be_bytes())).collect(),
        };
        assert_eq!(made(&set(63)).size, None);
        assert_eq!(made(&set(64)).size, Some(96));
        assert_eq!(made(&set(1000)).size, Some(1536));
        for elements in [64, 76, 77, 78, 1000, 1228, 1229, 5000] {
            let size = made(&set(elements)).size.unwrap();
            assert!(size >= elements + elements / 5, "{elements}: {size}");
            assert!(size <= elements * 3, "{elements}: {size}");
        }
        let full = SetSpec { size: Some(100), ..SetSpec::set([KeyType::Ipv4]) };
        assert!(fits(&full, &set(100)) && !fits(&full, &set(101)));
        assert!(fits(&SetSpec::set([KeyType::Ipv4]), &set(101)));
    }
}
