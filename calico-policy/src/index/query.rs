//! Queries: where they stand, and whom they match when they come.

use calico_core::selector::Selector;

use super::expr::Expr;
use super::postings::Restriction;
use super::{Change, IdMap, IdSet, Interner, ItemId, LabelIndex, QueryId, Symbol};

#[derive(Debug)]
pub(super) struct Query {
    pub(super) expr: Expr,
    anchor: Anchor,
    pub(super) items: IdSet,
}

/// Where a query is looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Anchor {
    None,
    Key(Symbol),
    Values(Symbol, Vec<Symbol>),
}

impl LabelIndex {
    /// Adds a query and returns nothing but the changes: one for each item that matches.
    pub(crate) fn add_query(
        &mut self,
        names: &mut Interner,
        id: QueryId,
        selector: &Selector,
        changes: &mut Vec<Change>,
    ) {
        let expr = Expr::acquire(names, selector.expr());
        let restrictions = Restriction::of(names, selector);
        // Parents count for all their items; both sums are estimates that only steer the choice.
        let size = |r: &Restriction| {
            let parents = self.inherited.ids(r).filter_map(|id| self.parent_by_id(id));
            self.own.count(r) + parents.map(|parent| parent.items.len()).sum::<usize>()
        };
        // While the index is still empty, sizes say nothing: then values before mere presence, and
        // what has the fewest queries so far.
        let rank = |r: &Restriction| (size(r), r.values.is_none(), self.queries_under(r));
        let best = restrictions.iter().min_by_key(|r| rank(r));
        let anchor = best.map_or(Anchor::None, |r| match &r.values {
            Some(values) => Anchor::Values(r.label, values.clone()),
            None => Anchor::Key(r.label),
        });
        let mut items = IdSet::default();
        {
            let mut test = |id: ItemId| {
                if self.matches(names, id, &expr) {
                    items.insert(id);
                }
            };
            match best {
                None => self.items.keys().copied().for_each(test),
                Some(restriction) => {
                    self.own.ids(restriction).for_each(&mut test);
                    for parent in self.inherited.ids(restriction) {
                        let parent = self.parent_by_id(parent);
                        parent.into_iter().flat_map(|p| p.items.iter()).for_each(&mut test);
                    }
                }
            }
        }
        for item in items.iter() {
            if let Some(known) = self.items.get_mut(&item)
                && let Err(at) = known.matches.binary_search(&id)
            {
                known.matches.insert(at, id);
            }
            changes.push(Change { query: id, item, matches: true });
        }
        self.anchored(&anchor, |queries| {
            queries.insert(id);
        });
        expr.labels(&mut |label| {
            self.mentions.entry(label).or_default().insert(id);
        });
        self.queries.insert(id, Query { expr, anchor, items });
    }

    /// Takes a query out. No changes are reported: nobody asks any more.
    pub(crate) fn remove_query(&mut self, names: &mut Interner, id: QueryId) {
        let Some(query) = self.queries.remove(&id) else { return };
        self.anchored(&query.anchor, |queries| {
            queries.remove(id);
        });
        for item in query.items.iter() {
            if let Some(known) = self.items.get_mut(&item)
                && let Ok(at) = known.matches.binary_search(&id)
            {
                known.matches.remove(at);
            }
        }
        query.expr.labels(&mut |label| {
            if let Some(queries) = self.mentions.get_mut(&label) {
                queries.remove(id);
                if queries.is_empty() {
                    self.mentions.remove(&label);
                }
            }
        });
        query.expr.release(names);
    }

    /// How many queries stand under a restriction.
    fn queries_under(&self, restriction: &Restriction) -> usize {
        let len = |queries: Option<&IdSet>| queries.map_or(0, IdSet::len);
        match &restriction.values {
            None => len(self.by_key.get(&restriction.label)),
            Some(values) => {
                let each = values.iter().map(|v| len(self.by_value.get(&(restriction.label, *v))));
                each.max().unwrap_or(0)
            }
        }
    }

    fn anchored(&mut self, anchor: &Anchor, change: impl Fn(&mut IdSet)) {
        fn at<K: std::hash::Hash + Eq>(
            map: &mut IdMap<K, IdSet>,
            key: K,
            change: impl Fn(&mut IdSet),
        ) {
            match map.entry(key) {
                std::collections::hash_map::Entry::Occupied(mut entry) => {
                    change(entry.get_mut());
                    if entry.get().is_empty() {
                        entry.remove();
                    }
                }
                std::collections::hash_map::Entry::Vacant(entry) => {
                    change(entry.insert(IdSet::default()));
                }
            }
        }
        match anchor {
            Anchor::None => change(&mut self.unanchored),
            Anchor::Key(key) => at(&mut self.by_key, *key, change),
            Anchor::Values(key, values) => {
                for value in values {
                    at(&mut self.by_value, (*key, *value), &change);
                }
            }
        }
    }
}
