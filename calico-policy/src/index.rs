//! The label index: which items match which selectors, kept up to date change by change.
//!
//! An *item* has labels and names *parents* (profiles) whose labels it inherits; its own labels
//! win over a parent's, an earlier parent's over a later one's. A *query* is a selector. Neither
//! side is scanned as a whole, except by a selector that asks for no label at all:
//!
//! - Each query stands under one label (or some values of one label) that an item must have to
//!   match, its *anchor*. A changed item is tested against the queries under its own labels only.
//! - A posting list for each label value says which items have it. A new query is tested against
//!   the items on the shortest list that must contain all its matches.
//! - Each query also stands under every label it mentions. When a parent's labels change, its items
//!   are compared with the queries that mention one of them; often there is none.
//!
//! All of these only prune; the selector itself decides.

mod expr;
mod idset;
mod intern;
mod postings;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use calico_core::selector::Selector;
pub(crate) use idset::IdSet;
pub(crate) use intern::{IdMap, Interner, Symbol};

use expr::Expr;
use postings::{Postings, Restriction};

/// Number of an item; allotted by the caller, dense numbers keep the index small.
pub(crate) type ItemId = u32;
/// Number of a query; allotted by the caller.
pub(crate) type QueryId = u32;

/// Labels of one item, sorted by key: 8 bytes each, plus 16 for the list.
type Labels = Box<[(Symbol, Symbol)]>;

/// An item and a query started or ceased to match.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Change {
    pub(crate) query: QueryId,
    pub(crate) item: ItemId,
    pub(crate) matches: bool,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct LabelIndex {
    items: IdMap<ItemId, Item>,
    parents: IdMap<Symbol, Parent>,
    queries: IdMap<QueryId, Query>,
    /// Items by own label.
    own: Postings,
    /// Parents by label; numbered by [`Parent::id`].
    inherited: Postings,
    parent_of_id: Vec<Option<Symbol>>,
    free_parents: Vec<u32>,
    /// Queries by anchor.
    by_value: IdMap<(Symbol, Symbol), IdSet>,
    by_key: IdMap<Symbol, IdSet>,
    unanchored: IdSet,
    /// Queries by each label that they mention.
    mentions: IdMap<Symbol, IdSet>,
}

/// With more queries to look at than this, an item's own anchors are the shorter way.
const FEW_QUERIES: usize = 16;

/// 56 bytes, 8 for each label, 4 for each parent and for each query that matches.
#[derive(Debug)]
struct Item {
    labels: Labels,
    parents: Box<[Symbol]>,
    /// Sorted.
    matches: Vec<QueryId>,
}

#[derive(Debug)]
struct Parent {
    id: u32,
    labels: Labels,
    items: IdSet,
    /// Whether the profile exists, or is only named by items.
    defined: bool,
}

#[derive(Debug)]
struct Query {
    expr: Expr,
    anchor: Anchor,
    items: IdSet,
}

/// Where a query is looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Anchor {
    None,
    Key(Symbol),
    Values(Symbol, Vec<Symbol>),
}

impl LabelIndex {
    /// Adds an item, or replaces its labels and parents.
    pub(crate) fn put_item(
        &mut self,
        names: &mut Interner,
        id: ItemId,
        labels: &BTreeMap<String, String>,
        parents: &[String],
        changes: &mut Vec<Change>,
    ) {
        let labels = acquire(names, labels);
        let parents: Box<[Symbol]> = parents.iter().map(|name| names.acquire(name)).collect();
        let old = self.items.get_mut(&id).map(|item| {
            let labels = std::mem::replace(&mut item.labels, labels.clone());
            (labels, std::mem::replace(&mut item.parents, parents.clone()))
        });
        if old.as_ref().is_some_and(|old| (&old.0, &old.1) == (&labels, &parents)) {
            release(names, &labels);
            parents.iter().for_each(|parent| names.release(*parent));
            return;
        }
        // The new ones come before the old ones go, so that a parent in both stays.
        self.own.insert(&labels, id);
        for parent in &parents {
            self.parent(names, *parent).items.insert(id);
        }
        if let Some((old_labels, old_parents)) = old {
            let gone = old_labels.iter().filter(|label| labels.binary_search(label).is_err());
            self.own.remove(gone.copied(), id);
            release(names, &old_labels);
            for parent in old_parents {
                if !parents.contains(&parent) {
                    self.leave_parent(names, parent, id);
                }
                names.release(parent);
            }
        } else {
            self.items.insert(id, Item { labels, parents, matches: Vec::new() });
        }
        self.test_item(names, id, changes);
    }

    /// Takes an item out; its matches end.
    pub(crate) fn remove_item(
        &mut self,
        names: &mut Interner,
        id: ItemId,
        changes: &mut Vec<Change>,
    ) {
        let Some(item) = self.items.remove(&id) else { return };
        for query in item.matches {
            if let Some(known) = self.queries.get_mut(&query) {
                known.items.remove(id);
            }
            changes.push(Change { query, item: id, matches: false });
        }
        self.own.remove(item.labels.iter().copied(), id);
        release(names, &item.labels);
        for parent in item.parents {
            self.leave_parent(names, parent, id);
            names.release(parent);
        }
    }

    /// Says which labels items inherit from a parent; `None` if it does not exist (any more).
    pub(crate) fn put_parent(
        &mut self,
        names: &mut Interner,
        name: &str,
        labels: Option<&BTreeMap<String, String>>,
        changes: &mut Vec<Change>,
    ) {
        let symbol = names.acquire(name);
        let new = labels.map_or_else(Box::default, |labels| acquire(names, labels));
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

    /// The queries that match an item, sorted.
    pub(crate) fn queries_of(&self, item: ItemId) -> &[QueryId] {
        self.items.get(&item).map_or(&[], |item| &item.matches)
    }

    /// The items that match a query.
    pub(crate) fn items_of(&self, query: QueryId) -> impl Iterator<Item = ItemId> + '_ {
        self.queries.get(&query).into_iter().flat_map(|query| query.items.iter())
    }

    /// Compares an item with the queries under its labels.
    fn test_item(&mut self, names: &Interner, id: ItemId, changes: &mut Vec<Change>) {
        let Some(item) = self.items.get(&id) else { return };
        let mut now = Vec::new();
        let mut test = |query: QueryId| {
            if self.queries.get(&query).is_some_and(|q| self.matches(names, id, &q.expr)) {
                now.push(query);
            }
        };
        self.unanchored.iter().for_each(&mut test);
        let parents = item.parents.iter().filter_map(|parent| self.parents.get(parent));
        for (key, value) in parents.flat_map(|p| p.labels.iter()).chain(&item.labels).copied() {
            let keyed = self.by_key.get(&key);
            let valued = self.by_value.get(&(key, value));
            keyed.into_iter().chain(valued).flat_map(IdSet::iter).for_each(&mut test);
        }
        // A label that is inherited twice, or overridden, leads to the same query twice.
        now.sort_unstable();
        now.dedup();
        let Some(item) = self.items.get_mut(&id) else { return };
        let before = std::mem::replace(&mut item.matches, now.clone());
        for query in before.iter().filter(|query| now.binary_search(query).is_err()) {
            if let Some(known) = self.queries.get_mut(query) {
                known.items.remove(id);
            }
            changes.push(Change { query: *query, item: id, matches: false });
        }
        for query in now.iter().filter(|query| before.binary_search(query).is_err()) {
            if let Some(known) = self.queries.get_mut(query) {
                known.items.insert(id);
            }
            changes.push(Change { query: *query, item: id, matches: true });
        }
    }

    /// Compares an item with one query.
    fn test_pair(
        &mut self,
        names: &Interner,
        id: ItemId,
        query: QueryId,
        changes: &mut Vec<Change>,
    ) {
        let Some(matches) = self.queries.get(&query).map(|q| self.matches(names, id, &q.expr))
        else {
            return;
        };
        let (Some(item), Some(known)) = (self.items.get_mut(&id), self.queries.get_mut(&query))
        else {
            return;
        };
        match (item.matches.binary_search(&query), matches) {
            (Err(at), true) => {
                item.matches.insert(at, query);
                known.items.insert(id);
            }
            (Ok(at), false) => {
                item.matches.remove(at);
                known.items.remove(id);
            }
            _ => return,
        }
        changes.push(Change { query, item: id, matches });
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

    fn matches(&self, names: &Interner, id: ItemId, expr: &Expr) -> bool {
        let Some(item) = self.items.get(&id) else { return false };
        expr.holds(names, &|key| {
            let parents = item.parents.iter().filter_map(|parent| self.parents.get(parent));
            std::iter::once(&item.labels).chain(parents.map(|parent| &parent.labels)).find_map(
                |labels| {
                    let at = labels.binary_search_by_key(&key, |label| label.0).ok()?;
                    Some(labels[at].1)
                },
            )
        })
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

    /// The parent, made if it is new; then it holds a use of its symbol.
    fn parent(&mut self, names: &mut Interner, symbol: Symbol) -> &mut Parent {
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

    fn parent_by_id(&self, id: u32) -> Option<&Parent> {
        let symbol = self.parent_of_id.get(id as usize).copied().flatten()?;
        self.parents.get(&symbol)
    }

    fn leave_parent(&mut self, names: &mut Interner, symbol: Symbol, item: ItemId) {
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

fn acquire(names: &mut Interner, labels: &BTreeMap<String, String>) -> Labels {
    let mut labels: Labels =
        labels.iter().map(|(key, value)| (names.acquire(key), names.acquire(value))).collect();
    labels.sort_unstable();
    labels
}

fn release(names: &mut Interner, labels: &Labels) {
    for (key, value) in labels {
        names.release(*key);
        names.release(*value);
    }
}
