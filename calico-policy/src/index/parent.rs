//! Parents: whose labels items inherit.

use std::collections::BTreeMap;

use super::{
    Change, IdSet, Interner, ItemId, LabelIndex, Labels, QueryId, Symbol, acquire, pairs, release,
};

/// With more queries to look at than this, an item's own anchors are the shorter way.
const FEW_QUERIES: usize = 16;

#[derive(Debug)]
pub(super) struct Parent {
    pub(super) id: u32,
    pub(super) labels: Labels,
    pub(super) items: IdSet,
    /// Whether the profile exists, or is only named by items.
    defined: bool,
}

impl LabelIndex {
    /// Says which labels items inherit from a parent; `None` if it does not exist (any more).
    pub(crate) fn put_parent(
        &mut self,
        names: &mut Interner,
        name: &str,
        labels: Option<&BTreeMap<String, String>>,
        changes: &mut Vec<Change>,
    ) {
        let symbol = names.acquire(name);
        let new = labels.map_or_else(Box::default, |labels| acquire(names, pairs(labels)));
        let parent = self.parent(names, symbol);
        let (id, items) = (parent.id, parent.items.clone());
        parent.defined = labels.is_some();
        let old = std::mem::replace(&mut parent.labels, new.clone());
        if old != new {
            self.inherited.insert(&new, id);
            let gone = old.iter().filter(|label| new.binary_search(label).is_err());
            self.inherited.remove(gone.copied(), id);
            let queries = self.mentioning(&old, &new);
            for item in items.iter() {
                if queries.len() > FEW_QUERIES {
                    self.test_item(names, item, changes);
                } else {
                    queries.iter().for_each(|q| self.test_pair(names, item, *q, changes));
                }
            }
        }
        release(names, &old);
        self.forget_parent(names, symbol);
        names.release(symbol);
    }

    /// The queries that mention a label in which the two differ, sorted.
    fn mentioning(&self, old: &Labels, new: &Labels) -> Vec<QueryId> {
        let gone = old.iter().filter(|label| new.binary_search(label).is_err());
        let come = new.iter().filter(|label| old.binary_search(label).is_err());
        let sets = gone.chain(come).filter_map(|(key, _)| self.mentions.get(key));
        let mut queries: Vec<QueryId> = sets.flat_map(IdSet::iter).collect();
        queries.sort_unstable();
        queries.dedup();
        queries
    }

    /// The parent, made if it is new; then it holds a use of its symbol.
    pub(super) fn parent(&mut self, names: &mut Interner, symbol: Symbol) -> &mut Parent {
        self.parents.entry(symbol).or_insert_with(|| {
            names.acquire_again(symbol);
            let id = self.free_parents.pop().unwrap_or_else(|| {
                self.parent_of_id.push(None);
                u32::try_from(self.parent_of_id.len() - 1).expect("fewer than 2^32 profiles")
            });
            self.parent_of_id[id as usize] = Some(symbol);
            Parent { id, labels: Labels::default(), items: IdSet::default(), defined: false }
        })
    }

    pub(super) fn parent_by_id(&self, id: u32) -> Option<&Parent> {
        let symbol = self.parent_of_id.get(id as usize).copied().flatten()?;
        self.parents.get(&symbol)
    }

    pub(super) fn leave_parent(&mut self, names: &mut Interner, symbol: Symbol, item: ItemId) {
        if let Some(parent) = self.parents.get_mut(&symbol) {
            parent.items.remove(item);
        }
        self.forget_parent(names, symbol);
    }

    fn forget_parent(&mut self, names: &mut Interner, symbol: Symbol) {
        let unused = |parent: &Parent| !parent.defined && parent.items.is_empty();
        if self.parents.get(&symbol).is_some_and(unused)
            && let Some(parent) = self.parents.remove(&symbol)
        {
            self.parent_of_id[parent.id as usize] = None;
            self.free_parents.push(parent.id);
            names.release(symbol);
        }
    }
}
