//! What a selector certainly demands of labels: the key of an index over selectors.

use std::collections::{BTreeMap, BTreeSet};

use super::Expr;

/// Restrictions by label; a label that is not listed may be anything.
pub type LabelRestrictions<'a> = BTreeMap<&'a str, LabelRestriction<'a>>;

/// What one label must look like for a selector to match.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelRestriction<'a> {
    /// The label must be there.
    pub present: bool,
    /// The label must not be there; together with `present` nothing can match.
    pub absent: bool,
    /// Its value must be one of these; an empty set means that nothing can match.
    pub one_of: Option<BTreeSet<&'a str>>,
}

impl<'a> LabelRestriction<'a> {
    fn present(one_of: Option<BTreeSet<&'a str>>) -> Self {
        Self { present: true, absent: false, one_of }
    }

    /// Whether no label at all satisfies this.
    #[must_use]
    pub fn is_impossible(&self) -> bool {
        (self.present && self.absent) || self.one_of.as_ref().is_some_and(BTreeSet::is_empty)
    }

    /// Both must hold.
    fn and(self, other: Self) -> Self {
        let one_of = match (self.one_of, other.one_of) {
            (Some(a), Some(b)) => Some(a.intersection(&b).copied().collect()),
            (a, b) => a.or(b),
        };
        Self { present: self.present || other.present, absent: self.absent || other.absent, one_of }
    }

    /// One of the two must hold; `None` if that restricts nothing.
    fn or(self, other: Self) -> Option<Self> {
        let present = self.present && other.present;
        let absent = self.absent && other.absent;
        let one_of = match (self.one_of, other.one_of) {
            (Some(a), Some(b)) if present => Some(a.union(&b).copied().collect()),
            _ => None,
        };
        (present || absent).then_some(Self { present, absent, one_of })
    }
}

pub(super) fn restrictions(expr: &Expr) -> LabelRestrictions<'_> {
    let single = |name, restriction| BTreeMap::from([(name, restriction)]);
    match expr {
        Expr::Has(name)
        | Expr::Contains(name, _)
        | Expr::StartsWith(name, _)
        | Expr::EndsWith(name, _) => single(&**name, LabelRestriction::present(None)),
        Expr::Equal(name, value) => {
            single(name, LabelRestriction::present(Some(BTreeSet::from([&**value]))))
        }
        Expr::In(name, values) => {
            let values = values.iter().map(|value| &**value).collect();
            single(name, LabelRestriction::present(Some(values)))
        }
        Expr::Not(operand) => match &**operand {
            Expr::Has(name) => {
                single(name, LabelRestriction { absent: true, ..LabelRestriction::default() })
            }
            // `!(a == 'b')` says nothing about a's presence.
            _ => BTreeMap::new(),
        },
        Expr::And(operands) => {
            let mut all = LabelRestrictions::new();
            for (name, restriction) in operands.iter().flat_map(restrictions) {
                let so_far = all.remove(name).unwrap_or_default();
                all.insert(name, so_far.and(restriction));
            }
            all
        }
        Expr::Or(operands) => {
            let mut each = operands.iter().map(restrictions);
            let first = each.next().unwrap_or_default();
            each.fold(first, |common, mut next| {
                common
                    .into_iter()
                    .filter_map(|(name, a)| Some((name, a.or(next.remove(name)?)?)))
                    .collect()
            })
        }
        Expr::All | Expr::Global | Expr::NotEqual(..) | Expr::NotIn(..) => BTreeMap::new(),
    }
}
