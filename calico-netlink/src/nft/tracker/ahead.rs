//! What is made before anything leads to it.
//!
//! A packet keeps to the rules as they were when it came to its hook, but finds elements of sets
//! as they are now (`nft_do_chain` and `nft_set_elem_active` of Linux). So it could be led by a
//! new element to a chain that is new, too, and has no rules for it yet, and come back without
//! a verdict. Chains that maps are about to lead to come with a commit of their own.

use std::collections::BTreeSet;

use super::super::batch::Batch;
use super::super::counts::Counts;
use super::super::ruleset::RuleDef;
use super::{Kernel, Tracker, sizes};

impl Tracker {
    /// The batch to commit before [`batch_keeping`](Tracker::batch_keeping): new chains, and new
    /// sets for their rules to ask. `None` if no map that the kernel has is to lead to one.
    pub fn batch_ahead(&self, counts: &Counts) -> Option<Batch> {
        let kernel = self.kernel.as_ref().filter(|kernel| !self.needs_rebuild(kernel))?;
        let leads = self.dirty_sets.iter().any(|(name, changes)| {
            kernel.sets.get(name).is_some_and(|spec| spec.verdict_map)
                && changes.values().any(|gain| *gain)
        });
        let chains = self.new_chains(kernel);
        if !leads || chains.is_empty() {
            return None;
        }
        let mut batch = Batch::new(self.family, self.table.clone());
        self.build(&self.new_sets(kernel), &chains, counts, &mut batch);
        Some(batch)
    }

    /// The last [`batch_ahead`](Tracker::batch_ahead) is in force.
    pub fn committed_ahead(&mut self) {
        let Some(kernel) = &self.kernel else { return };
        let owned = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect::<Vec<_>>();
        let (chains, sets) = (owned(self.new_chains(kernel)), owned(self.new_sets(kernel)));
        self.are_in_kernel(chains, sets);
    }

    fn are_in_kernel(&mut self, chains: Vec<String>, sets: Vec<String>) {
        let Some(kernel) = &mut self.kernel else { return };
        for name in chains {
            self.dirty_chains.remove(&name);
            kernel.chains.insert(name, None);
        }
        for name in sets {
            self.dirty_sets.remove(&name);
            let spec = sizes::made(&self.desired.sets[&name]);
            kernel.sets.insert(name, spec);
        }
    }

    /// Whether the kernel is believed to have what is desired, no more and no less.
    pub fn is_settled(&self) -> bool {
        !self.makes_table() && self.dirty_chains.is_empty() && self.dirty_sets.is_empty()
    }

    /// A batch of new chains and sets that ask for nothing but each other and what the kernel has,
    /// to be committed while others are being made: nothing leads to them yet. They count as
    /// committed at once; if they are not, the kernel is to be read
    /// ([`observed`](Tracker::observed)).
    pub fn take_ahead(&mut self) -> Option<Batch> {
        let kernel = self.kernel.as_ref().filter(|kernel| !self.needs_rebuild(kernel))?;
        let mut sets = self.new_sets(kernel);
        sets.retain(|name| !self.desired.sets[*name].spec.verdict_map);
        let mut chains: BTreeSet<&str> = self.new_chains(kernel).into_iter().collect();
        let known = |set: &str| kernel.sets.contains_key(set) || sets.binary_search(&set).is_ok();
        // Without those that ask for one that has to wait, until all that is left can do.
        loop {
            let there = |chain: &str| kernel.chains.contains_key(chain) || chains.contains(chain);
            let waits = |name: &&&str| {
                let rules = &self.desired.chains[**name].rules;
                let needs = |rule: &RuleDef| {
                    rule.sets().any(|set| !known(set)) || !rule.chains().all(there)
                };
                rules.iter().any(needs)
            };
            let waiting: Vec<&str> = chains.iter().filter(waits).copied().collect();
            if waiting.is_empty() {
                break;
            }
            waiting.iter().for_each(|name| _ = chains.remove(name));
        }
        if sets.is_empty() && chains.is_empty() {
            return None;
        }
        let mut batch = Batch::new(self.family, self.table.clone());
        let chains: Vec<&str> = chains.into_iter().collect();
        self.build(&sets, &chains, &Counts::default(), &mut batch);
        let owned = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect();
        let (chains, sets) = (owned(chains), owned(sets));
        self.are_in_kernel(chains, sets);
        Some(batch)
    }

    /// Chains without a hook that the kernel does not have.
    fn new_chains(&self, kernel: &Kernel) -> Vec<&str> {
        let new = self.dirty_chains.iter().filter(|name| !kernel.chains.contains_key(*name));
        let hookless = |name: &&String| {
            self.desired.chains.get(*name).is_some_and(|chain| chain.base.is_none())
        };
        new.filter(hookless).map(String::as_str).collect()
    }

    pub(super) fn new_sets(&self, kernel: &Kernel) -> Vec<&str> {
        let new = self.dirty_sets.keys().filter(|name| !kernel.sets.contains_key(*name));
        new.filter(|name| self.desired.sets.contains_key(*name)).map(String::as_str).collect()
    }
}
