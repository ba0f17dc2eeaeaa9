//! Chains in the desired state, and the sets that are there as long as chains look them up.

use std::collections::BTreeSet;

use super::matches::Constant;
use super::state::State;
use crate::nft::{ChainDef, RuleDef};

impl State {
    pub(super) fn put_chain(&mut self, name: &str, chain: ChainDef, constants: Vec<Constant>) {
        for (set, definition) in constants {
            if !self.table.desired().sets.contains_key(&set) {
                self.table.put_set(&set, definition);
            }
            self.transient.insert(set);
        }
        for set in looked_up(&chain.rules) {
            *self.lookups.entry(set).or_default() += 1;
        }
        self.release_lookups(name);
        self.table.put_chain(name, chain);
    }

    pub(super) fn remove_chain(&mut self, name: &str) {
        self.release_lookups(name);
        self.table.remove_chain(name);
    }

    /// The chain as it was no longer looks up its sets; those that nobody needs go.
    fn release_lookups(&mut self, chain: &str) {
        let Some(old) = self.table.desired().chains.get(chain) else { return };
        for set in looked_up(&old.rules) {
            let Some(count) = self.lookups.get_mut(&set) else { continue };
            *count -= 1;
            if *count == 0 {
                self.lookups.remove(&set);
                if self.transient.remove(&set) {
                    self.table.remove_set(&set);
                }
            }
        }
    }
}

fn looked_up(rules: &[RuleDef]) -> BTreeSet<String> {
    rules.iter().flat_map(RuleDef::sets).map(str::to_owned).collect()
}
