//! Reading a table back.

use std::collections::HashSet;
use std::time::Duration;

use super::counts::Counts;
use super::error::Error;
use super::ruleset::{RuleDef, Ruleset};
use super::socket::Socket;
use super::wire::{Expr, Family, Generation, Object, msg};

/// Another program that changes the ruleset in a loop must not keep us reading for ever.
const ATTEMPTS: usize = 20;

/// A set of so few members fits one datagram of a dump, during which its table does not grow.
const SURELY_WHOLE: usize = 256;
/// Of more chains, one dump of all rules is cheaper.
const FEW_CHAINS: usize = 64;

/// Pause for a hash table to finish growing.
const GROWING: Duration = Duration::from_millis(5);

/// Packets and bytes that one rule counted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuleCounter {
    /// Chain of the rule.
    pub chain: String,
    /// What the rule was made from.
    pub identity: String,
    /// Packets that reached its counter.
    pub packets: u64,
    /// Their bytes, network header included.
    pub bytes: u64,
}

impl Socket {
    /// Reads a whole table, `None` when there is none, and the generation that was read. The
    /// third value tells of objects this crate does not model.
    ///
    /// # Errors
    /// [`Error::GenerationChanged`] when others kept changing the ruleset while it was read.
    pub async fn read_table(
        &mut self,
        family: Family,
        table: &str,
    ) -> Result<(Option<Ruleset>, Generation, bool), Error> {
        for _ in 0..ATTEMPTS {
            let before = self.generation().await?;
            let read = self.read_once(family, table).await;
            let stable = self.generation().await? == before;
            match read {
                // The dumps belong to one state only if no commit came between them.
                Ok(objects) if stable => {
                    let Some(objects) = objects else { return Ok((None, before, false)) };
                    let (ruleset, foreign) = Ruleset::from_objects(objects);
                    return Ok((Some(ruleset), before, foreign));
                }
                Err(error) if stable && !matches!(error, Error::GenerationChanged) => {
                    return Err(error);
                }
                _ => {}
            }
        }
        Err(Error::GenerationChanged)
    }

    /// What the rules of a table counted, in the kernel's order.
    ///
    /// # Errors
    /// See [`Socket::read_table`].
    pub async fn rule_counters(
        &mut self,
        family: Family,
        table: &str,
    ) -> Result<Vec<RuleCounter>, Error> {
        for _ in 0..ATTEMPTS {
            match self.dump(msg::GET_RULE, family, |w| w.string(1, table)).await {
                Ok(objects) => return Ok(objects.into_iter().filter_map(counter).collect()),
                Err(Error::GenerationChanged) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::GenerationChanged)
    }

    /// The rules of a chain, without what they counted; none if there is no such chain.
    ///
    /// # Errors
    /// See [`Socket::read_table`].
    pub async fn rules(
        &mut self,
        family: Family,
        table: &str,
        chain: &str,
    ) -> Result<Vec<RuleDef>, Error> {
        for _ in 0..ATTEMPTS {
            let of_chain = |w: &mut super::wire::Writer| {
                w.string(1, table);
                w.string(2, chain);
            };
            let objects = match self.dump(msg::GET_RULE, family, of_chain).await {
                Err(Error::GenerationChanged) => continue,
                read => read?,
            };
            let mut rules = Vec::new();
            for object in objects {
                let Object::Rule(rule) = object else { continue };
                // A kernel that does not narrow the dump tells of all chains.
                if rule.chain == chain && rule.table == table {
                    rules.push(RuleDef::without_counts(rule));
                }
            }
            return Ok(rules);
        }
        Err(Error::GenerationChanged)
    }

    /// What the rules of these chains counted. One that is not there counted nothing.
    ///
    /// # Errors
    /// See [`Socket::read_table`].
    pub async fn counts(
        &mut self,
        family: Family,
        table: &str,
        chains: &[&str],
    ) -> Result<Counts, Error> {
        let mut counts = Counts::default();
        let rules = |objects: Vec<Object>| {
            objects.into_iter().filter_map(|object| match object {
                Object::Rule(rule) => Some(rule),
                _ => None,
            })
        };
        if chains.len() > FEW_CHAINS {
            let all = self.dump(msg::GET_RULE, family, |w| w.string(1, table)).await?;
            let wanted: HashSet<&str> = chains.iter().copied().collect();
            rules(all).filter(|r| wanted.contains(r.chain.as_str())).for_each(|r| counts.add(r));
            return Ok(counts);
        }
        for chain in chains {
            let of_chain = |w: &mut super::wire::Writer| {
                w.string(1, table);
                w.string(2, chain);
            };
            rules(self.dump(msg::GET_RULE, family, of_chain).await?).for_each(|r| counts.add(r));
        }
        Ok(counts)
    }

    async fn read_once(
        &mut self,
        family: Family,
        table: &str,
    ) -> Result<Option<Vec<Object>>, Error> {
        let tables = self.dump(msg::GET_TABLE, family, |_| {}).await?;
        if !tables.iter().any(|o| matches!(o, Object::Table(found) if found.name == table)) {
            return Ok(None);
        }
        // The kernel narrows dumps of chains by family only.
        let chains = self.dump(msg::GET_CHAIN, family, |_| {}).await?;
        let mut objects: Vec<_> = chains
            .into_iter()
            .filter(|o| matches!(o, Object::Chain(chain) if chain.table == table))
            .collect();
        objects.extend(self.dump(msg::GET_RULE, family, |w| w.string(1, table)).await?);
        let sets = self.dump(msg::GET_SET, family, |w| w.string(1, table)).await?;
        for object in &sets {
            let Object::Set(set) = object else { continue };
            objects.extend(self.read_elements(family, table, &set.name).await?);
        }
        objects.extend(sets);
        Ok(Some(objects))
    }

    /// The kernel grows a hash table in the background, and a dump that meets it growing skips
    /// members. So a large set is read until two readings agree.
    async fn read_elements(
        &mut self,
        family: Family,
        table: &str,
        set: &str,
    ) -> Result<Vec<Object>, Error> {
        let mut last: Option<(usize, Vec<Object>)> = None;
        for attempt in 0..ATTEMPTS {
            let filter = |w: &mut super::wire::Writer| {
                w.string(1, table);
                w.string(2, set);
            };
            let objects = self.dump(msg::GET_SET_ELEM, family, filter).await?;
            let members = members(&objects);
            let agrees = last.as_ref().is_some_and(|(n, last)| *n == members && *last == objects);
            if members <= SURELY_WHOLE || agrees {
                return Ok(objects);
            }
            last = Some((members, objects));
            if attempt > 0 {
                tokio::time::sleep(GROWING).await;
            }
        }
        Err(Error::GenerationChanged)
    }
}

fn members(objects: &[Object]) -> usize {
    let of = |object: &Object| match object {
        Object::Elements(elements) => elements.elements.len(),
        _ => 0,
    };
    objects.iter().map(of).sum()
}

fn counter(object: Object) -> Option<RuleCounter> {
    let Object::Rule(rule) = object else { return None };
    let (packets, bytes) = rule.expressions.iter().find_map(|expression| match expression {
        Expr::Counter { packets, bytes } => Some((*packets, *bytes)),
        _ => None,
    })?;
    Some(RuleCounter { chain: rule.chain, identity: rule.userdata.identity, packets, bytes })
}
