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
mod parent;
mod postings;
mod query;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

pub(crate) use idset::IdSet;
pub(crate) use intern::{IdMap, Interner, Symbol};

use expr::Expr;
use parent::Parent;
use postings::Postings;
use query::Query;

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

/// 56 bytes, 8 for each label, 4 for each parent and for each query that matches.
#[derive(Debug)]
struct Item {
    labels: Labels,
    parents: Box<[Symbol]>,
    /// Sorted.
    matches: Vec<QueryId>,
}

impl LabelIndex {
    /// Adds an item, or replaces its labels and parents.
    pub(crate) fn put_item<'a>(
        &mut self,
        names: &mut Interner,
        id: ItemId,
        labels: impl Iterator<Item = (&'a str, &'a str)>,
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
}

fn acquire<'a>(names: &mut Interner, labels: impl Iterator<Item = (&'a str, &'a str)>) -> Labels {
    let mut labels: Labels =
        labels.map(|(key, value)| (names.acquire(key), names.acquire(value))).collect();
    labels.sort_unstable();
    labels
}

/// Labels as the index takes them.
pub(crate) fn pairs(
    labels: &BTreeMap<String, String>,
) -> impl Iterator<Item = (&str, &str)> + Clone {
    labels.iter().map(|(key, value)| (&**key, &**value))
}

fn release(names: &mut Interner, labels: &Labels) {
    for (key, value) in labels {
        names.release(*key);
        names.release(*value);
    }
}
