//! What the kernel refused is left out until it changes, or until it is tried again; whatever
//! needs it is closed, and says so.

use std::collections::{BTreeMap, BTreeSet};

use calico_core::dataplane::{EndpointId, RuleOwner, SetId};

use super::names;
use super::state::State;
use crate::nft::{Refusal, SetDef, parts};

/// What is left out, and the kernel's words.
#[derive(Debug, Default)]
pub(super) struct Refused {
    owners: BTreeMap<RuleOwner, String>,
    endpoints: BTreeMap<EndpointId, String>,
    sets: BTreeMap<SetId, RefusedSet>,
}

/// A set that is left out.
#[derive(Debug)]
struct RefusedSet {
    /// What it would be.
    parts: Vec<(String, SetDef)>,
    /// Whose rules were left out with it.
    owners: BTreeSet<RuleOwner>,
}

impl Refused {
    pub(super) fn owner(&self, owner: &RuleOwner) -> Option<&str> {
        self.owners.get(owner).map(String::as_str)
    }

    pub(super) fn endpoint(&self, id: &EndpointId) -> Option<&str> {
        self.endpoints.get(id).map(String::as_str)
    }

    /// The owner has other rules now. True if the earlier ones were left out.
    pub(super) fn forget_owner(&mut self, owner: &RuleOwner) -> bool {
        self.owners.remove(owner).is_some()
    }

    pub(super) fn forget_endpoint(&mut self, id: &EndpointId) {
        self.endpoints.remove(id);
    }
}

impl State {
    /// Leaves out what was refused. False if that cannot be told, or cannot be left out.
    pub(super) fn isolate(&mut self, refusals: &[Refusal]) -> bool {
        let mut found = false;
        for refusal in refusals {
            let Some(subject) = &refusal.subject else { continue };
            let chain = match subject.kind {
                "chain" => subject.name.as_str(),
                // Its chain, then its identity in parentheses.
                "rule" => subject.name.split(" (").next().unwrap_or_default(),
                "set" | "elements of set" => {
                    found |= self.isolate_set(&subject.name, &refusal.to_string());
                    continue;
                }
                _ => continue,
            };
            let reason = refusal.to_string();
            found |= self.isolate_rules(chain, &reason)
                || self.isolate_limits(chain, &reason)
                || self.isolate_endpoints(chain, &reason);
        }
        if found {
            self.apply(calico_core::dataplane::Transaction::default());
        }
        found
    }

    /// Everything that was left out is wanted again.
    pub(super) fn retry_refused(&mut self) {
        let sets: Vec<SetId> = self.refused.sets.keys().cloned().collect();
        sets.iter().for_each(|id| self.take_back_set(id));
        let Refused { owners, endpoints, .. } = std::mem::take(&mut self.refused);
        if sets.is_empty() && owners.is_empty() && endpoints.is_empty() {
            return;
        }
        for owner in owners.into_keys() {
            self.rules_changed(owner, true);
        }
        self.dirty_endpoints.extend(endpoints.into_keys());
        self.apply(calico_core::dataplane::Transaction::default());
    }

    /// A set that policy uses is left out with the rules that look it up. The sets of the base chains
    /// cannot be left out.
    fn isolate_set(&mut self, name: &str, reason: &str) -> bool {
        let named = |id: &&SetId| names::sets(id).iter().any(|(_, of)| of == name);
        let Some(id) = self.known_sets().keys().find(named).cloned() else { return false };
        if self.refused.sets.contains_key(&id) {
            return false;
        }
        let desired = &self.table.desired().sets;
        let part = |(_, name): (_, String)| Some((name.clone(), desired.get(&name)?.clone()));
        let parts = names::sets(&id).into_iter().filter_map(part).collect();
        let owners: BTreeSet<RuleOwner> =
            self.recheck.users_of(&id).map(|(owner, _)| owner.clone()).collect();
        for owner in &owners {
            self.refused.owners.insert(owner.clone(), reason.to_owned());
            self.rules_changed(owner.clone(), true);
        }
        self.leave_out_set(&id);
        self.refused.sets.insert(id, RefusedSet { parts, owners });
        true
    }

    /// The set, if it was left out, and the rules that look it up are wanted again.
    pub(super) fn take_back_set(&mut self, id: &SetId) {
        let Some(RefusedSet { parts, owners }) = self.refused.sets.remove(id) else { return };
        for (name, set) in parts {
            self.transient.remove(&name);
            self.table.put_set(&name, set);
        }
        for owner in owners {
            if self.refused.forget_owner(&owner) {
                self.rules_changed(owner, true);
            }
        }
    }

    fn isolate_rules(&mut self, chain: &str, reason: &str) -> bool {
        let keys = self.users.keys().chain(self.of_hosts.used());
        let named = |(owner, direction): &&(RuleOwner, _)| {
            names::rules_chain(owner, *direction) == parts::whole_of(chain)
                && self.refused.owner(owner).is_none()
        };
        let owners: BTreeSet<RuleOwner> =
            keys.filter(named).map(|(owner, _)| owner.clone()).collect();
        for owner in &owners {
            self.refused.owners.insert(owner.clone(), reason.to_owned());
            self.rules_changed(owner.clone(), true);
        }
        !owners.is_empty()
    }

    fn isolate_endpoints(&mut self, chain: &str, reason: &str) -> bool {
        let led = self.shared.led_to(chain).filter_map(|interface| self.interfaces.get(interface));
        let ids: Vec<EndpointId> = led.cloned().collect();
        for id in &ids {
            self.refused.endpoints.insert(id.clone(), reason.to_owned());
            self.dirty_endpoints.insert(id.clone());
        }
        !ids.is_empty()
    }
}
