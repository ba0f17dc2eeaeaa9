//! What rules counted, to be carried over when their chain is written anew. Pure.

use std::collections::HashMap;

use super::ruleset::RuleDef;
use super::wire::{Expr, Rule};

/// What the rules of some chains counted.
#[derive(Debug, Clone, Default)]
pub struct Counts(HashMap<String, Vec<Counted>>);

#[derive(Debug, Clone)]
struct Counted {
    rule: RuleDef,
    expressions: Vec<Expr>,
}

/// What the rules of one chain counted and no new rule has taken over yet.
#[derive(Debug)]
pub(super) struct OfChain<'a>(Vec<&'a Counted>);

impl Counts {
    /// Adds a rule as the kernel has it. One that counted nothing has nothing to carry over.
    pub(super) fn add(&mut self, rule: Rule) {
        let counts = |e: &Expr| matches!(e, Expr::Counter { packets: 1.., .. });
        if !rule.expressions.iter().any(counts) {
            return;
        }
        let (chain, expressions) = (rule.chain.clone(), rule.expressions.clone());
        let counted = Counted { rule: RuleDef::without_counts(rule), expressions };
        self.0.entry(chain).or_default().push(counted);
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

    pub(super) fn of_chain(&self, chain: &str) -> OfChain<'_> {
        OfChain(self.0.get(chain).into_iter().flatten().collect())
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
        let at = self.0.iter().position(|counted| counted.rule == *rule)?;
        Some(self.0.remove(at).expressions.clone())
    }
}
