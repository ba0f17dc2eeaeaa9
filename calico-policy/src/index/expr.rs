//! Selectors over symbols.

use std::sync::Arc;

use calico_core::selector;

use super::intern::{Interner, Symbol};

/// A selector whose labels and compared values are symbols.
///
/// A label that is missing makes every leaf false, except the negative ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Expr {
    /// Everything.
    All,
    /// The label has one of these values (sorted).
    In(Symbol, Box<[Symbol]>),
    /// The label is missing or has none of these values (sorted).
    NotIn(Symbol, Box<[Symbol]>),
    /// The label is there.
    Has(Symbol),
    /// The label's value stands in this relation to a text.
    Text(Symbol, TextTest, Arc<str>),
    /// The opposite.
    Not(Box<Self>),
    /// All of them.
    And(Box<[Self]>),
    /// At least one of them.
    Or(Box<[Self]>),
}

/// How a label's value relates to a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TextTest {
    Contains,
    StartsWith,
    EndsWith,
}

impl Expr {
    /// Takes a use of each symbol in it; [`release`](Self::release) gives them back.
    pub(crate) fn acquire(names: &mut Interner, expr: &selector::Expr) -> Self {
        use selector::Expr as Source;
        let text = |names: &mut Interner, key: &str, test, value: &str| {
            Self::Text(names.acquire(key), test, value.into())
        };
        let operands = |names: &mut Interner, operands: &[Source]| {
            operands.iter().map(|operand| Self::acquire(names, operand)).collect()
        };
        let values = |names: &mut Interner, values: &[Box<str>]| {
            let mut values: Box<[Symbol]> = values.iter().map(|v| names.acquire(v)).collect();
            values.sort_unstable();
            values
        };
        match expr {
            Source::All | Source::Global => Self::All,
            Source::Has(key) => Self::Has(names.acquire(key)),
            Source::Equal(key, value) => {
                Self::In(names.acquire(key), [names.acquire(value)].into())
            }
            Source::NotEqual(key, value) => {
                Self::NotIn(names.acquire(key), [names.acquire(value)].into())
            }
            Source::In(key, list) => Self::In(names.acquire(key), values(names, list)),
            Source::NotIn(key, list) => Self::NotIn(names.acquire(key), values(names, list)),
            Source::Contains(key, value) => text(names, key, TextTest::Contains, value),
            Source::StartsWith(key, value) => text(names, key, TextTest::StartsWith, value),
            Source::EndsWith(key, value) => text(names, key, TextTest::EndsWith, value),
            Source::Not(operand) => Self::Not(Box::new(Self::acquire(names, operand))),
            Source::And(list) => Self::And(operands(names, list)),
            Source::Or(list) => Self::Or(operands(names, list)),
        }
    }

    /// Whether it holds for labels read by `label`.
    pub(crate) fn holds(
        &self,
        names: &Interner,
        label: &impl Fn(Symbol) -> Option<Symbol>,
    ) -> bool {
        match self {
            Self::All => true,
            Self::In(key, values) => {
                label(*key).is_some_and(|value| values.binary_search(&value).is_ok())
            }
            Self::NotIn(key, values) => {
                label(*key).is_none_or(|value| values.binary_search(&value).is_err())
            }
            Self::Has(key) => label(*key).is_some(),
            Self::Text(key, test, text) => label(*key).is_some_and(|value| {
                let value = names.text(value);
                match test {
                    TextTest::Contains => value.contains(&**text),
                    TextTest::StartsWith => value.starts_with(&**text),
                    TextTest::EndsWith => value.ends_with(&**text),
                }
            }),
            Self::Not(inner) => !inner.holds(names, label),
            Self::And(parts) => parts.iter().all(|part| part.holds(names, label)),
            Self::Or(parts) => parts.iter().any(|part| part.holds(names, label)),
        }
    }

    /// Names every label that it mentions, maybe more than once.
    pub(crate) fn labels(&self, name: &mut impl FnMut(Symbol)) {
        match self {
            Self::All => {}
            Self::In(key, _) | Self::NotIn(key, _) | Self::Has(key) | Self::Text(key, ..) => {
                name(*key);
            }
            Self::Not(inner) => inner.labels(name),
            Self::And(parts) | Self::Or(parts) => parts.iter().for_each(|p| p.labels(name)),
        }
    }

    /// Gives the symbols back.
    pub(crate) fn release(&self, names: &mut Interner) {
        match self {
            Self::All => {}
            Self::In(key, values) | Self::NotIn(key, values) => {
                names.release(*key);
                values.iter().for_each(|value| names.release(*value));
            }
            Self::Has(key) | Self::Text(key, ..) => names.release(*key),
            Self::Not(inner) => inner.release(names),
            Self::And(parts) | Self::Or(parts) => {
                parts.iter().for_each(|part| part.release(names));
            }
        }
    }
}
