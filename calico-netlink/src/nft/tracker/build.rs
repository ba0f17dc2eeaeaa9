//! The batch between what the kernel has and what is desired.

use super::super::batch::Batch;
use super::super::counts::Counts;
use super::super::ruleset::{ChainDef, SetDef, SetSpec};
use super::super::wire::Element;
use super::{Kernel, Tracker, sizes};

impl Tracker {
    pub(super) fn build_all(&self, counts: &Counts, batch: &mut Batch) {
        batch.add_table_with(self.flags);
        let sets: Vec<&str> = self.desired.sets.keys().map(String::as_str).collect();
        let chains: Vec<&str> = self.desired.chains.keys().map(String::as_str).collect();
        self.build(&sets, &chains, counts, batch);
    }

    /// Desired sets and chains that the kernel does not have, with what is in them.
    pub(super) fn build(&self, sets: &[&str], chains: &[&str], counts: &Counts, batch: &mut Batch) {
        let sets = || sets.iter().map(|name| (*name, &self.desired.sets[*name]));
        let chains = || chains.iter().map(|name| (*name, &self.desired.chains[*name]));
        for (name, set) in sets() {
            batch.add_set(&sizes::made(set).wire(name));
        }
        for (name, chain) in chains() {
            batch.add_chain(name, chain.base.as_ref());
        }
        for (name, set) in sets() {
            add_elements(batch, name, &set.spec, set.elements.iter());
        }
        for (name, chain) in chains() {
            add_rules(batch, name, chain, counts);
        }
    }

    /// Order matters: what is used is made before its users and unmade after them.
    pub(super) fn build_changes(&self, kernel: &Kernel, counts: &Counts, batch: &mut Batch) {
        let desired = &self.desired;
        for name in self.new_sets(kernel) {
            batch.add_set(&sizes::made(&desired.sets[name]).wire(name));
        }
        let dirty_chains = || self.dirty_chains.iter();
        for name in dirty_chains().filter(|name| !kernel.chains.contains_key(*name)) {
            if let Some(chain) = desired.chains.get(name) {
                batch.add_chain(name, chain.base.as_ref());
            }
        }
        let rewritten = self.rewritten(kernel);
        for name in rewritten.iter().filter(|name| kernel.chains.contains_key(**name)) {
            batch.flush_chain(name);
        }
        let outgrown = self.outgrown(kernel);
        for name in &outgrown {
            batch.delete_set(name);
            batch.add_set(&sizes::made(&desired.sets[*name]).wire(name));
        }
        for (name, changes) in &self.dirty_sets {
            let Some(SetDef { spec, elements }) = desired.sets.get(name) else { continue };
            if !kernel.sets.contains_key(name) || outgrown.contains(name.as_str()) {
                add_elements(batch, name, spec, elements.iter());
                continue;
            }
            let of = |gain| changes.iter().filter(move |(_, g)| **g == gain).map(|(e, _)| e);
            delete_elements(batch, name, spec, of(false));
            add_elements(batch, name, spec, of(true));
        }
        for name in rewritten {
            if let Some(chain) = desired.chains.get(name) {
                add_rules(batch, name, chain, counts);
            }
        }
        let gone_sets = self.dirty_sets.keys().filter(|name| !desired.sets.contains_key(*name));
        for name in gone_sets.filter(|name| kernel.sets.contains_key(*name)) {
            batch.delete_set(name);
        }
        let gone_chains = dirty_chains().filter(|name| !desired.chains.contains_key(*name));
        for name in gone_chains.filter(|name| kernel.chains.contains_key(*name)) {
            batch.delete_chain(name);
        }
    }
}

fn add_rules(batch: &mut Batch, name: &str, chain: &ChainDef, counts: &Counts) {
    let mut counted = counts.of_chain(name);
    for rule in &chain.rules {
        match counted.take(rule) {
            Some(expressions) => batch.add_rule(name, &expressions, &rule.identity),
            None => batch.add_rule(name, &rule.expressions, &rule.identity),
        }
    }
}

fn add_elements<'a>(
    batch: &mut Batch,
    set: &str,
    spec: &SetSpec,
    elements: impl Iterator<Item = &'a Element>,
) {
    if spec.is_plain() {
        return batch.add_elements(set, elements);
    }
    let wire: Vec<_> = elements.flat_map(|element| spec.wire_elements(element)).collect();
    batch.add_elements(set, &wire);
}

fn delete_elements<'a>(
    batch: &mut Batch,
    set: &str,
    spec: &SetSpec,
    elements: impl Iterator<Item = &'a Element>,
) {
    if spec.is_plain() {
        return batch.delete_elements(set, elements);
    }
    let wire: Vec<_> = elements.flat_map(|element| spec.wire_elements(element)).collect();
    batch.delete_elements(set, &wire);
}
