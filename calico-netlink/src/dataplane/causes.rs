//! From a reported prefix back to what decided.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock};

use calico_core::dataplane::{Direction, Rule, Verdict, VerdictCause, VerdictEvent};

use super::style::Marks;
use super::{lower, names};
use crate::nft::nflog::Packet;

/// What the prefixes of the rules in force mean. Clones share their content: the dataplane
/// writes, the reader of reports reads.
#[derive(Debug, Clone, Default)]
pub(super) struct Causes(Arc<RwLock<Content>>);

#[derive(Debug, Default)]
struct Content {
    marks: Marks,
    by_prefix: HashMap<String, VerdictCause>,
    prefixes: BTreeMap<String, Vec<String>>,
}

impl Causes {
    /// Marks of reported packets have these bits.
    pub(super) fn set_marks(&self, marks: Marks) {
        self.write().marks = marks;
    }

    /// The chain has these rules.
    pub(super) fn rules(&self, chain: &str, rules: &[Rule]) {
        self.forget(chain);
        let mut content = self.write();
        let mut prefixes = Vec::new();
        for rule in rules {
            if let Some(prefix) = lower::report_prefix(rule) {
                content.by_prefix.insert(prefix.clone(), VerdictCause::Rule(rule.id.clone()));
                prefixes.push(prefix);
            }
        }
        if !prefixes.is_empty() {
            content.prefixes.insert(chain.to_owned(), prefixes);
        }
    }

    /// The chain is gone.
    pub(super) fn forget(&self, chain: &str) {
        let mut content = self.write();
        for prefix in content.prefixes.remove(chain).unwrap_or_default() {
            content.by_prefix.remove(&prefix);
        }
    }

    /// There is a tier of this name. Tiers are few and never forgotten.
    pub(super) fn end_of_tier(&self, direction: Direction, tier: &Arc<str>) {
        let prefix = names::end_of_tier_prefix(direction, tier);
        let tier = || VerdictCause::EndOfTier(tier.clone());
        self.write().by_prefix.entry(prefix).or_insert_with(tier);
    }

    /// What a reported packet means; `None` for a prefix that is not (or no longer) ours.
    pub(super) fn event(
        &self,
        packet: &Packet,
        interface_name: impl Fn(u32) -> Option<String>,
    ) -> Option<VerdictEvent> {
        let flow = packet.flow?;
        let direction = match packet.group {
            names::GROUP_INGRESS => Direction::Ingress,
            names::GROUP_EGRESS => Direction::Egress,
            _ => return None,
        };
        let closed = matches!(
            packet.prefix.as_str(),
            names::SPOOFED | names::ENCAPSULATED | names::UNKNOWN_FROM | names::UNKNOWN_TO
        );
        let content = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let at_host = packet.mark & content.marks.host != 0 && !closed;
        let index = match direction {
            _ if packet.prefix == names::FOREIGN_TUNNEL => packet.input?,
            Direction::Ingress if at_host => packet.input?,
            Direction::Egress if at_host => packet.output?,
            Direction::Ingress => packet.output?,
            Direction::Egress => packet.input?,
        };
        let interface: Arc<str> = interface_name(index)?.into();
        let cause = match packet.prefix.as_str() {
            names::SPOOFED => VerdictCause::Spoofed,
            names::ENCAPSULATED => VerdictCause::Encapsulated,
            names::FOREIGN_TUNNEL => VerdictCause::ForeignTunnel,
            names::UNKNOWN_FROM | names::UNKNOWN_TO => VerdictCause::UnknownEndpoint,
            prefix if prefix == names::no_profile_prefix(direction) => VerdictCause::NoProfileMatch,
            prefix => content.by_prefix.get(prefix)?.clone(),
        };
        let verdict =
            if packet.prefix.starts_with('L') { Verdict::Logged } else { Verdict::Denied };
        Some(VerdictEvent { verdict, cause, direction, interface, flow })
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Content> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}
