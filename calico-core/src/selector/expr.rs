//! The expression of a selector: evaluation and canonical text.

use std::fmt;

use super::Labels;

/// A selector's expression.
///
/// `And` and `Or` have at least two operands; the values of sets are sorted and unique; a
/// `Not` holds no `Not`. The constructors keep it so.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Expr {
    /// `all()`.
    All,
    /// `global()`: like `all()` to the evaluator; only namespace selectors give it a meaning.
    Global,
    /// `has(name)`.
    Has(Box<str>),
    /// `name == "value"`.
    Equal(Box<str>, Box<str>),
    /// `name != "value"`.
    NotEqual(Box<str>, Box<str>),
    /// `name in {"value", ...}`.
    In(Box<str>, Box<[Box<str>]>),
    /// `name not in {"value", ...}`.
    NotIn(Box<str>, Box<[Box<str>]>),
    /// `name contains "value"`.
    Contains(Box<str>, Box<str>),
    /// `name starts with "value"`.
    StartsWith(Box<str>, Box<str>),
    /// `name ends with "value"`.
    EndsWith(Box<str>, Box<str>),
    /// `!x`.
    Not(Box<Self>),
    /// `(x && y && ...)`.
    And(Vec<Self>),
    /// `(x || y || ...)`.
    Or(Vec<Self>),
}

impl Expr {
    /// `name == "value"`.
    pub fn equal(name: impl Into<Box<str>>, value: impl Into<Box<str>>) -> Self {
        Self::Equal(name.into(), value.into())
    }

    /// `has(name)`.
    pub fn has(name: impl Into<Box<str>>) -> Self {
        Self::Has(name.into())
    }

    /// `name in {values}`.
    pub fn one_of<V: Into<Box<str>>>(
        name: impl Into<Box<str>>,
        values: impl IntoIterator<Item = V>,
    ) -> Self {
        Self::In(name.into(), set(values))
    }

    /// `!x`; two negations cancel out.
    #[must_use]
    pub fn negate(self) -> Self {
        match self {
            Self::Not(inner) => *inner,
            other => Self::Not(Box::new(other)),
        }
    }

    /// `x && y && ...`; nothing matches everything, a single operand stands for itself.
    #[must_use]
    pub fn all_of(mut operands: Vec<Self>) -> Self {
        match operands.len() {
            0 => Self::All,
            1 => operands.remove(0),
            _ => Self::And(operands),
        }
    }

    /// Whether something with these labels is selected.
    pub fn matches(&self, labels: &(impl Labels + ?Sized)) -> bool {
        match self {
            Self::All | Self::Global => true,
            Self::Has(name) => labels.get(name).is_some(),
            Self::Equal(name, value) => labels.get(name) == Some(value),
            Self::NotEqual(name, value) => labels.get(name) != Some(value),
            Self::In(name, values) => labels.get(name).is_some_and(|v| contains(values, v)),
            Self::NotIn(name, values) => !labels.get(name).is_some_and(|v| contains(values, v)),
            Self::Contains(name, part) => labels.get(name).is_some_and(|v| v.contains(&**part)),
            Self::StartsWith(name, part) => {
                labels.get(name).is_some_and(|v| v.starts_with(&**part))
            }
            Self::EndsWith(name, part) => labels.get(name).is_some_and(|v| v.ends_with(&**part)),
            Self::Not(operand) => !operand.matches(labels),
            Self::And(operands) => operands.iter().all(|operand| operand.matches(labels)),
            Self::Or(operands) => operands.iter().any(|operand| operand.matches(labels)),
        }
    }

    /// The same expression with each part that is no operator replaced by `f` of it.
    #[must_use]
    pub fn map_leaves(&self, f: &impl Fn(&Self) -> Self) -> Self {
        let each = |operands: &[Self]| operands.iter().map(|o| o.map_leaves(f)).collect();
        match self {
            Self::Not(operand) => operand.map_leaves(f).negate(),
            Self::And(operands) => Self::And(each(operands)),
            Self::Or(operands) => Self::Or(each(operands)),
            leaf => f(leaf),
        }
    }

    /// The same expression over labels whose names all begin with `prefix`.
    #[must_use]
    pub fn with_label_prefix(&self, prefix: &str) -> Self {
        let add = |name: &str| format!("{prefix}{name}").into_boxed_str();
        self.map_leaves(&|leaf| match leaf.clone() {
            Self::Has(name) => Self::Has(add(&name)),
            Self::Equal(name, value) => Self::Equal(add(&name), value),
            Self::NotEqual(name, value) => Self::NotEqual(add(&name), value),
            Self::In(name, values) => Self::In(add(&name), values),
            Self::NotIn(name, values) => Self::NotIn(add(&name), values),
            Self::Contains(name, value) => Self::Contains(add(&name), value),
            Self::StartsWith(name, value) => Self::StartsWith(add(&name), value),
            Self::EndsWith(name, value) => Self::EndsWith(add(&name), value),
            other => other,
        })
    }
}

/// Values of a set: sorted, each once.
pub(super) fn set<V: Into<Box<str>>>(values: impl IntoIterator<Item = V>) -> Box<[Box<str>]> {
    let mut values: Vec<Box<str>> = values.into_iter().map(Into::into).collect();
    values.sort_unstable();
    values.dedup();
    values.into()
}

fn contains(values: &[Box<str>], value: &str) -> bool {
    values.binary_search_by(|candidate| (**candidate).cmp(value)).is_ok()
}

impl fmt::Display for Expr {
    /// The canonical text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all()"),
            Self::Global => f.write_str("global()"),
            Self::Has(name) => write!(f, "has({name})"),
            Self::Equal(name, value) => write!(f, "{name} == {}", Quoted(value)),
            Self::NotEqual(name, value) => write!(f, "{name} != {}", Quoted(value)),
            Self::Contains(name, value) => write!(f, "{name} contains {}", Quoted(value)),
            Self::StartsWith(name, value) => write!(f, "{name} starts with {}", Quoted(value)),
            Self::EndsWith(name, value) => write!(f, "{name} ends with {}", Quoted(value)),
            Self::In(name, values) => write!(f, "{name} in {}", Set(values)),
            Self::NotIn(name, values) => write!(f, "{name} not in {}", Set(values)),
            Self::Not(operand) => write!(f, "!{operand}"),
            Self::And(operands) => joined(f, operands, " && "),
            Self::Or(operands) => joined(f, operands, " || "),
        }
    }
}

fn joined(f: &mut fmt::Formatter<'_>, operands: &[Expr], operator: &str) -> fmt::Result {
    f.write_str("(")?;
    for (index, operand) in operands.iter().enumerate() {
        if index > 0 {
            f.write_str(operator)?;
        }
        write!(f, "{operand}")?;
    }
    f.write_str(")")
}

/// Text in double quotes, or in single ones if it holds a double one: there are no escapes.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quote = if self.0.contains('"') { '\'' } else { '"' };
        write!(f, "{quote}{}{quote}", self.0)
    }
}

struct Set<'a>(&'a [Box<str>]);

impl fmt::Display for Set<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (index, value) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            Quoted(value).fmt(f)?;
        }
        f.write_str("}")
    }
}
