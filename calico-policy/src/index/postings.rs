//! Which numbers have which label.

use calico_core::selector::Selector;

use super::idset::IdSet;
use super::intern::{IdMap, Interner, Symbol};

/// What one label must be for a selector to match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Restriction {
    pub(super) label: Symbol,
    /// One of these values; any value if `None`.
    pub(super) values: Option<Vec<Symbol>>,
}

impl Restriction {
    /// The labels that an item must have to match; empty if one without labels may match.
    /// All texts of the selector are symbols already.
    pub(super) fn of(names: &Interner, selector: &Selector) -> Vec<Self> {
        let restrictions = selector.label_restrictions();
        let present = restrictions.iter().filter(|(_, restriction)| restriction.present);
        present
            .filter_map(|(label, restriction)| {
                let values = restriction.one_of.as_ref();
                let values = values.map(|v| v.iter().filter_map(|v| names.get(v)).collect());
                Some(Self { label: names.get(label)?, values })
            })
            .collect()
    }
}

/// For each label and value, the sorted numbers that have it: about 2 bytes a number for values
/// that many share.
#[derive(Debug, Default)]
pub(super) struct Postings(IdMap<Symbol, IdMap<Symbol, IdSet>>);

impl Postings {
    pub(super) fn insert(&mut self, labels: &[(Symbol, Symbol)], id: u32) {
        for (key, value) in labels {
            self.0.entry(*key).or_default().entry(*value).or_default().insert(id);
        }
    }

    pub(super) fn remove(&mut self, labels: impl Iterator<Item = (Symbol, Symbol)>, id: u32) {
        for (key, value) in labels {
            let Some(values) = self.0.get_mut(&key) else { continue };
            let Some(ids) = values.get_mut(&value) else { continue };
            ids.remove(id);
            if ids.is_empty() {
                values.remove(&value);
                if values.is_empty() {
                    self.0.remove(&key);
                }
            }
        }
    }

    /// The numbers that a restriction admits. Each has one value of a label, so none comes twice.
    pub(super) fn ids<'a>(
        &'a self,
        restriction: &'a Restriction,
    ) -> impl Iterator<Item = u32> + 'a {
        self.sets(restriction).flat_map(IdSet::iter)
    }

    /// How many numbers a restriction admits.
    pub(super) fn count(&self, restriction: &Restriction) -> usize {
        self.sets(restriction).map(IdSet::len).sum()
    }

    fn sets<'a>(&'a self, restriction: &'a Restriction) -> impl Iterator<Item = &'a IdSet> {
        let values = self.0.get(&restriction.label);
        let named: Vec<&IdSet> = match (&restriction.values, values) {
            (Some(wanted), Some(values)) => {
                wanted.iter().filter_map(|value| values.get(value)).collect()
            }
            _ => Vec::new(),
        };
        let every = values.filter(|_| restriction.values.is_none());
        named.into_iter().chain(every.into_iter().flat_map(IdMap::values))
    }
}
