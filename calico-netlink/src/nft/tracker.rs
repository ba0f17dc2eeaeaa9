//! Desired content of our table against what the kernel is believed to hold, and the smallest
//! batch between the two. Pure: no IO.

mod ahead;
mod build;
mod sizes;

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

use super::batch::Batch;
use super::counts::Counts;
use super::ruleset::{ChainDef, Ruleset, SetDef, SetSpec};
use super::wire::{BaseChain, Element, Family};

/// The desired table, and what of it the kernel does not have yet.
///
/// The cost of a change and of its batch follows the change, not the table.
#[derive(Debug, Clone)]
pub struct Tracker {
    family: Family,
    table: String,
    flags: u32,
    /// Whether the kernel's table is to be replaced as a whole.
    remake: bool,
    desired: Ruleset,
    /// Names (and what cannot be changed in place) of what the kernel holds; `None` when there
    /// is no table.
    kernel: Option<Kernel>,
    dirty_chains: BTreeSet<String>,
    dirty_sets: BTreeMap<String, ElementChanges>,
}

#[derive(Debug, Clone, Default)]
struct Kernel {
    /// The table has objects we do not model: only deleting the table removes them.
    foreign: bool,
    chains: BTreeMap<String, Option<BaseChain>>,
    sets: BTreeMap<String, SetSpec>,
}

/// For each element that differs: whether the kernel is to gain (`true`) or lose it.
type ElementChanges = BTreeMap<Element, bool>;

impl Tracker {
    /// Nothing desired, no table in the kernel.
    pub fn new(family: Family, table: impl Into<String>) -> Self {
        Self {
            family,
            table: table.into(),
            flags: 0,
            remake: false,
            desired: Ruleset::default(),
            kernel: None,
            dirty_chains: BTreeSet::new(),
            dirty_sets: BTreeMap::new(),
        }
    }

    /// Flags that the table is made with (`wire::table_flags`).
    pub fn set_flags(&mut self, flags: u32) {
        self.flags = flags;
    }

    /// Flags that the table is made with.
    pub fn flags(&self) -> u32 {
        self.flags
    }

    /// Has the next batch replace the kernel's table, or no longer so: its flags cannot be changed in
    /// place.
    pub fn set_remake(&mut self, remake: bool) {
        self.remake = remake;
    }

    /// Whether the next batch makes the table with its flags.
    pub fn makes_table(&self) -> bool {
        self.kernel.as_ref().is_none_or(|kernel| self.needs_rebuild(kernel))
    }

    /// What the table is to hold.
    pub fn desired(&self) -> &Ruleset {
        &self.desired
    }

    /// Whether the kernel is believed to have no such table.
    pub fn is_absent(&self) -> bool {
        self.kernel.is_none()
    }

    /// Desires a chain with exactly these rules.
    pub fn put_chain(&mut self, name: &str, chain: ChainDef) {
        if self.desired.chains.get(name) != Some(&chain) {
            self.desired.chains.insert(name.to_owned(), chain);
            self.dirty_chains.insert(name.to_owned());
        }
    }

    /// Desires no such chain.
    pub fn remove_chain(&mut self, name: &str) {
        if self.desired.chains.remove(name).is_some() {
            self.dirty_chains.insert(name.to_owned());
        }
    }

    /// Desires a set with exactly these elements.
    pub fn put_set(&mut self, name: &str, set: SetDef) {
        self.dirty_sets.entry(name.to_owned()).or_default();
        if !self.is_in_kernel(name) {
            // It will be sent whole.
            self.desired.sets.insert(name.to_owned(), set);
            return;
        }
        let old = match self.desired.sets.entry(name.to_owned()) {
            Entry::Vacant(entry) => {
                let spec = set.spec.clone();
                entry.insert(SetDef { spec, elements: BTreeSet::new() }).elements.clone()
            }
            Entry::Occupied(mut entry) => {
                entry.get_mut().spec = set.spec.clone();
                entry.get().elements.clone()
            }
        };
        for gone in old.difference(&set.elements) {
            self.remove_element(name, gone);
        }
        for new in set.elements.difference(&old) {
            self.add_element(name, new.clone());
        }
    }

    /// Only what changes in such a set is sent, so changes are kept.
    fn is_in_kernel(&self, set: &str) -> bool {
        self.kernel.as_ref().is_some_and(|kernel| kernel.sets.contains_key(set))
    }

    /// Desires no such set.
    pub fn remove_set(&mut self, name: &str) {
        let Some(set) = self.desired.sets.remove(name) else { return };
        let changes = self.dirty_sets.entry(name.to_owned()).or_default();
        if self.kernel.as_ref().is_some_and(|kernel| kernel.sets.contains_key(name)) {
            for element in set.elements {
                note(changes, element, false);
            }
        }
    }

    /// Desires an element in a set that is desired; without such a set nothing happens.
    pub fn add_element(&mut self, set: &str, element: Element) {
        let sent_whole = !self.is_in_kernel(set);
        let Some(desired) = self.desired.sets.get_mut(set) else { return };
        if sent_whole {
            desired.elements.insert(element);
            self.dirty_sets.entry(set.to_owned()).or_default();
        } else if desired.elements.insert(element.clone()) {
            note(self.dirty_sets.entry(set.to_owned()).or_default(), element, true);
        }
    }

    /// Desires an element not to be in a set.
    pub fn remove_element(&mut self, set: &str, element: &Element) {
        let sent_whole = !self.is_in_kernel(set);
        if let Some(desired) = self.desired.sets.get_mut(set)
            && desired.elements.remove(element)
        {
            let changes = self.dirty_sets.entry(set.to_owned()).or_default();
            if !sent_whole {
                note(changes, element.clone(), false);
            }
        }
    }

    /// The batch that makes the kernel's table equal to the desired one; empty if it is. Rules
    /// of chains that change count from zero.
    pub fn batch(&self) -> Batch {
        self.batch_keeping(&Counts::default())
    }

    /// Chains whose rules the next batch replaces. What these counted until now is for
    /// [`batch_keeping`](Self::batch_keeping).
    pub fn replaced_chains(&self) -> Vec<&str> {
        let Some(kernel) = &self.kernel else { return Vec::new() };
        let replaced = |name: &&str| {
            kernel.chains.contains_key(*name) && self.desired.chains.contains_key(*name)
        };
        if self.needs_rebuild(kernel) {
            return self.desired.chains.keys().map(String::as_str).filter(replaced).collect();
        }
        self.rewritten(kernel).into_iter().filter(replaced).collect()
    }

    /// Chains that the next batch removes.
    pub fn removed_chains(&self) -> impl Iterator<Item = &str> {
        let kernel = self.kernel.as_ref();
        let removed = move |name: &&String| {
            !self.desired.chains.contains_key(*name)
                && kernel.is_some_and(|kernel| kernel.chains.contains_key(*name))
        };
        self.dirty_chains.iter().filter(removed).map(String::as_str)
    }

    /// As [`batch`](Self::batch), but a rule that stays in a chain that changes goes on counting
    /// from what it counted.
    pub fn batch_keeping(&self, counts: &Counts) -> Batch {
        let mut batch = Batch::new(self.family, self.table.clone());
        match &self.kernel {
            None => self.build_all(&Counts::default(), &mut batch),
            // A hook or a key type cannot be changed in place.
            Some(kernel) if self.needs_rebuild(kernel) => {
                batch.delete_table();
                self.build_all(counts, &mut batch);
            }
            Some(kernel) => self.build_changes(kernel, counts, &mut batch),
        }
        batch
    }

    /// The last [`batch`](Self::batch) is in force.
    pub fn committed(&mut self) {
        let rebuilt = self.kernel.as_ref().is_none_or(|kernel| self.needs_rebuild(kernel));
        if rebuilt {
            let made = Kernel::of(&self.desired, sizes::made);
            self.kernel = Some(made);
        } else if let Some(kernel) = &mut self.kernel {
            for name in &self.dirty_chains {
                match self.desired.chains.get(name) {
                    Some(chain) => kernel.chains.insert(name.clone(), chain.base.clone()),
                    None => kernel.chains.remove(name),
                };
            }
            for name in self.dirty_sets.keys() {
                match self.desired.sets.get(name) {
                    Some(set) => {
                        let spec = match kernel.sets.get(name) {
                            Some(spec) if sizes::fits(spec, set) => spec.clone(),
                            _ => sizes::made(set),
                        };
                        kernel.sets.insert(name.clone(), spec)
                    }
                    None => kernel.sets.remove(name),
                };
            }
        }
        self.remake = false;
        self.dirty_chains.clear();
        self.dirty_sets.clear();
    }

    /// The kernel was read: this is what it holds (`None`: no table). Returns what differs from
    /// the desired content. `foreign` tells that it also holds objects that are not modelled; the
    /// next batch then replaces the table.
    pub fn observed(&mut self, actual: Option<&Ruleset>, foreign: bool) -> Vec<String> {
        self.dirty_chains.clear();
        self.dirty_sets.clear();
        let Some(actual) = actual else {
            self.kernel = None;
            return vec![format!("table {} was missing", self.table)];
        };
        self.kernel = Some(Kernel { foreign, ..Kernel::of(actual, |set| set.spec.clone()) });
        for name in actual.chains.keys().chain(self.desired.chains.keys()) {
            if actual.chains.get(name) != self.desired.chains.get(name) {
                self.dirty_chains.insert(name.clone());
            }
        }
        for name in actual.sets.keys().chain(self.desired.sets.keys()) {
            let (have, want) = (actual.sets.get(name), self.desired.sets.get(name));
            if have == want {
                continue;
            }
            let empty = BTreeSet::new();
            let have = have.map_or(&empty, |set| &set.elements);
            let want = want.map_or(&empty, |set| &set.elements);
            let changes = self.dirty_sets.entry(name.clone()).or_default();
            changes.extend(have.difference(want).map(|element| (element.clone(), false)));
            changes.extend(want.difference(have).map(|element| (element.clone(), true)));
        }
        let mut differences = actual.differences(&self.desired);
        if foreign {
            differences.push(format!("table {} had objects of another program", self.table));
        }
        differences
    }

    fn needs_rebuild(&self, kernel: &Kernel) -> bool {
        let chain_differs =
            |name: &String| match (self.desired.chains.get(name), kernel.chains.get(name)) {
                (Some(desired), Some(base)) => desired.base != *base,
                _ => false,
            };
        let set_differs = |name: &String| match (self.desired.sets.get(name), kernel.sets.get(name))
        {
            (Some(desired), Some(spec)) => desired.spec != *spec,
            _ => false,
        };
        kernel.foreign
            || self.remake
            || self.dirty_chains.iter().any(chain_differs)
            || self.dirty_sets.keys().any(set_differs)
    }
}

impl Kernel {
    /// The kernel when it has this, with such sets.
    fn of(ruleset: &Ruleset, spec: impl Fn(&SetDef) -> SetSpec) -> Self {
        let chains = ruleset.chains.iter();
        let sets = ruleset.sets.iter();
        Self {
            chains: chains.map(|(name, chain)| (name.clone(), chain.base.clone())).collect(),
            sets: sets.map(|(name, set)| (name.clone(), spec(set))).collect(),
            foreign: false,
        }
    }
}

/// A change and its opposite cancel out: the kernel never had the first.
fn note(changes: &mut ElementChanges, element: Element, gain: bool) {
    match changes.entry(element) {
        Entry::Occupied(entry) if *entry.get() != gain => {
            entry.remove();
        }
        Entry::Occupied(_) => {}
        Entry::Vacant(entry) => {
            entry.insert(gain);
        }
    }
}
