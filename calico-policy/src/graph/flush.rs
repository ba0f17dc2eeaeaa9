//! From what changed to updates, in the order that a dataplane needs.

use std::cmp::Ordering;
use std::sync::Arc;

use calico_core::dataplane::{DefaultAction, EndpointId, TierPolicies, Update, WorkloadEndpoint};
use calico_core::resource::{SourceSpoofing, TierAction};

use super::endpoints::Local;
use super::policies::Policy;
use super::{Active, Graph};
use crate::index::QueryId;
use crate::rules::{Compiled, Content};

impl Graph {
    /// What changed since the last flush, in the order that
    /// [`Transaction`](calico_core::dataplane::Transaction) asks for: sets, rules, endpoints, then
    /// removals of endpoints, rules, sets.
    ///
    /// Something that changed back meanwhile is not mentioned. [`Update::InSync`] is up to the
    /// caller, who knows when the first listing is complete.
    pub fn flush(&mut self) -> Vec<Update> {
        let mut updates = self.host.flush(self.node.as_deref());
        let (rules, rules_removed) = self.flush_rules();
        let sets = self.sets.flush(&mut self.names);
        for query in &sets.queries {
            self.everyone.remove_query(&mut self.names, *query);
        }
        for (service, set) in &sets.services {
            self.leave_service(service, *set);
        }
        let (endpoints, endpoints_removed) = self.flush_endpoints();
        let (hosts, hosts_removed) = self.flush_host_endpoints();
        let endpoints = [endpoints, hosts, endpoints_removed, hosts_removed].concat();
        for part in [sets.changed, rules, endpoints, rules_removed, sets.removed] {
            updates.extend(part);
        }
        updates
    }

    fn flush_rules(&mut self) -> (Vec<Update>, Vec<Update>) {
        let (mut changed, mut removed) = (Vec::new(), Vec::new());
        for owner in std::mem::take(&mut self.dirty.owners) {
            let Some(wanted) = self.wanted(&owner) else {
                if let Some(active) = self.sent.rules.remove(&owner) {
                    active.sets.iter().for_each(|set| self.sets.release(set));
                    removed.push(Update::RulesRemoved(owner));
                }
                continue;
            };
            if self.sent.rules.get(&owner).is_some_and(|active| active.rules == wanted.rules) {
                continue;
            }
            self.acquire_sets(&wanted);
            let rules = (*wanted.rules).clone();
            let sets = wanted.sets.iter().map(|set| set.id.clone()).collect();
            let active = Active { rules: wanted.rules, sets };
            if let Some(before) = self.sent.rules.insert(owner.clone(), active) {
                before.sets.iter().for_each(|set| self.sets.release(set));
            }
            changed.push(Update::Rules { owner, rules });
        }
        (changed, removed)
    }

    fn acquire_sets(&mut self, compiled: &Compiled) {
        let mut changes = Vec::new();
        for spec in &compiled.sets {
            let Some(query) = self.sets.acquire(&mut self.names, spec) else { continue };
            match &spec.content {
                Content::Labels { selector, .. } => {
                    self.everyone.add_query(&mut self.names, query, selector, &mut changes);
                }
                Content::Service { service, .. } => self.watch_service(service, query),
            }
        }
        self.apply_members(&changes);
    }

    /// Whether workloads may use foreign source addresses that their endpoint names
    /// (`workloadSourceSpoofing`); those that do are looked at when it changes.
    fn flush_spoofing(&mut self) {
        let settings = self.host.effective(self.node.as_deref());
        let allowed = settings.spec.workload_source_spoofing == Some(SourceSpoofing::Any);
        if self.spoofing != allowed {
            self.spoofing = allowed;
            let concerned = self.locals.iter().filter(|(_, it)| !it.allowed_sources.is_empty());
            self.dirty.endpoints.extend(concerned.map(|(id, _)| id.clone()));
        }
    }

    fn flush_endpoints(&mut self) -> (Vec<Update>, Vec<Update>) {
        self.flush_spoofing();
        let (mut changed, mut removed) = (Vec::new(), Vec::new());
        for id in std::mem::take(&mut self.dirty.endpoints) {
            let Some(local) = self.locals.get(&id) else {
                if self.sent.endpoints.remove(&id).is_some() {
                    removed.push(Update::EndpointRemoved(id));
                }
                continue;
            };
            let endpoint = self.resolve(&id, local);
            if self.sent.endpoints.get(&id) != Some(&endpoint) {
                self.sent.endpoints.insert(id, endpoint.clone());
                changed.push(Update::Endpoint(endpoint));
            }
        }
        (changed, removed)
    }

    /// An endpoint with its policies in order.
    fn resolve(&self, id: &EndpointId, local: &Local) -> WorkloadEndpoint {
        WorkloadEndpoint {
            id: id.clone(),
            interface: Arc::clone(&local.interface),
            addresses: local.addresses.clone(),
            allowed_sources: match self.spoofing {
                true => local.allowed_sources.clone(),
                false => Vec::new(),
            },
            limits: local.limits,
            tiers: self.tiers_of(self.residents.queries_of(local.item), |_| true),
            profiles: local.profiles.clone(),
        }
    }

    /// The policies of these numbers that are `wanted`, in order of evaluation.
    pub(super) fn tiers_of(
        &self,
        policies: &[QueryId],
        wanted: impl Fn(&Policy) -> bool,
    ) -> Vec<TierPolicies> {
        let known = policies.iter().filter_map(|query| self.policies.get(query));
        let mut policies: Vec<&Policy> = known.filter(|policy| wanted(policy)).collect();
        policies.sort_by(|a, b| {
            self.compare_tiers(&a.tier, &b.tier)
                .then_with(|| a.order.total_cmp(&b.order))
                .then_with(|| a.tie().cmp(&b.tie()))
        });
        let mut tiers: Vec<TierPolicies> = Vec::new();
        for policy in policies {
            if tiers.last().is_none_or(|tier| tier.tier != policy.tier) {
                tiers.push(TierPolicies {
                    tier: Arc::clone(&policy.tier),
                    default_action: self.default_action(&policy.tier),
                    ingress: Vec::new(),
                    egress: Vec::new(),
                });
            }
            let Some(tier) = tiers.last_mut() else { continue };
            if policy.ingress {
                tier.ingress.push(policy.id.clone());
            }
            if policy.egress {
                tier.egress.push(policy.id.clone());
            }
        }
        tiers
    }

    /// By order, then by name; tiers that nobody defined come last.
    fn compare_tiers(&self, a: &Arc<str>, b: &Arc<str>) -> Ordering {
        let rank = |name| match self.tiers.get(name) {
            Some(tier) => (false, tier.order),
            None => (true, 0.0),
        };
        let (a_rank, b_rank) = (rank(a), rank(b));
        a_rank.0.cmp(&b_rank.0).then(a_rank.1.total_cmp(&b_rank.1)).then_with(|| a.cmp(b))
    }

    fn default_action(&self, tier: &str) -> DefaultAction {
        match self.tiers.get(tier).map(|tier| tier.action) {
            Some(TierAction::Pass) => DefaultAction::Pass,
            Some(TierAction::Deny) | None => DefaultAction::Deny,
        }
    }
}
