//! What rules counted, to be carried over when their chain is written anew, be it in other
//! [`parts`]. Pure.

use std::collections::HashMap;

use super::parts;
use super::ruleset::RuleDef;
use super::wire::{Expr, Rule};

/// What the rules of some chains counted, parts of a chain taken together.
#[derive(Debug, Clone, Default)]
pub struct Counts(HashMap<String, Vec<Counted>>);

#[derive(Debug, Clone)]
struct Counted {
    rule: RuleDef,
    expressions: Vec<Expr>,
}

/// What the rules of one chain counted and no new rule has taken over yet.
#[derive(Debug)]
pub(super) struct OfChain<'a> {
    chain: &'a str,
    left: Vec<&'a Counted>,
}

impl Counts {
    /// Adds a rule as the kernel has it. One that counted nothing has nothing to carry over.
    pub(super) fn add(&mut self, rule: Rule) {
        let counts = |e: &Expr| matches!(e, Expr::Counter { packets: 1.., .. });
        if !rule.expressions.iter().any(counts) {
            return;
        }
        let (chain, expressions) = (rule.chain.clone(), rule.expressions.clone());
        let rule = parts::outside(&chain, &RuleDef::without_counts(rule));
        let whole = parts::whole_of(&chain).to_owned();
        self.0.entry(whole).or_default().push(Counted { rule, expressions });
    }

    /// Identity, packets and bytes of the rules of a chain that counted anything.
    pub(crate) fn sums(&self, chain: &str) -> impl Iterator<Item = (&str, u64, u64)> {
        self.0.get(chain).into_iter().flatten().filter_map(|counted| {
            let count = counted.expressions.iter().find_map(|expression| match expression {
                Expr::Counter { packets, bytes } => Some((*packets, *bytes)),
                _ => None,
            });
            count.map(|(packets, bytes)| (counted.rule.identity.as_str(), packets, bytes))
        })
    }

    pub(super) fn of_chain<'a>(&'a self, chain: &'a str) -> OfChain<'a> {
        let left = self.0.get(parts::whole_of(chain)).into_iter().flatten().collect();
        OfChain { chain, left }
    }
}

impl RuleDef {
    /// A rule of the kernel as it was made, before it counted anything.
    pub(super) fn without_counts(rule: Rule) -> Self {
        let zeroed = rule.expressions.into_iter().map(|expression| match expression {
            Expr::Counter { .. } => Expr::COUNTER,
            other => other,
        });
        Self { identity: rule.userdata.identity, expressions: zeroed.collect() }
    }
}

impl OfChain<'_> {
    /// The expressions of this rule with what its equal counted; of several equals, in order.
    pub(super) fn take(&mut self, rule: &RuleDef) -> Option<Vec<Expr>> {
        if self.left.is_empty() {
            return None;
        }
        let outside = parts::outside(self.chain, rule);
        let at = self.left.iter().position(|counted| counted.rule == outside)?;
        let counted = self.left.remove(at);
        let counters = counted.expressions.iter().filter(|e| matches!(e, Expr::Counter { .. }));
        let mut counters = counters.cloned();
        let with_count = |expression: &Expr| match expression {
            Expr::Counter { .. } => counters.next().unwrap_or(Expr::COUNTER),
            other => other.clone(),
        };
        Some(rule.expressions.iter().map(with_count).collect())
    }
}
