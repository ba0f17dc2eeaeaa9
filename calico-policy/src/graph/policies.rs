//! Policies and profiles: which exist, and who uses them.

use std::sync::Arc;

use calico_core::dataplane::{Action, Direction, PolicyId, Rule, RuleId, RuleOwner, RuleSet};
use calico_core::kind::Kind;
use calico_core::resource::{
    DEFAULT_ALLOW_PROFILE, FieldError, GlobalNetworkPolicy, NetworkPolicy, PerformanceHint,
    PolicyType, Profile, Resource, Spec,
};
use calico_core::selector::{self, Selector};

use super::{Compiled, Graph};
use crate::index::{ItemId, QueryId};
use crate::rules::compile;

/// A policy, whether or not it selects an endpoint of this node.
#[derive(Debug)]
pub(super) struct Policy {
    pub(super) id: PolicyId,
    pub(super) tier: Arc<str>,
    /// Infinite if unset: such policies come last.
    pub(super) order: f64,
    pub(super) ingress: bool,
    pub(super) egress: bool,
    /// Wanted in the dataplane even if no local endpoint is selected.
    pub(super) always: bool,
    pub(super) stage: Stage,
    pub(super) selector: Selector,
    pub(super) compiled: Compiled,
}

/// When a policy judges packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// At workloads, and at hosts for their own packets.
    Normal {
        /// At hosts, for forwarded packets as well.
        on_forward: bool,
    },
    /// At hosts only, before destinations are translated.
    PreDnat,
    /// At hosts only, before connections are tracked.
    Untracked,
}

/// A profile that exists, is used, or both.
#[derive(Debug, Default)]
pub(super) struct ProfileState {
    pub(super) compiled: Option<Compiled>,
    /// How often local endpoints name it.
    pub(super) users: usize,
}

impl Policy {
    pub(super) fn owner(&self) -> RuleOwner {
        RuleOwner::Policy(self.id.clone())
    }

    pub(super) const fn is_for_workloads(&self) -> bool {
        matches!(self.stage, Stage::Normal { .. })
    }

    /// What upstream breaks ties by.
    pub(super) fn tie(&self) -> String {
        let namespace = self.id.namespace.as_deref().unwrap_or_default();
        format!("{}/{namespace}/{}", self.id.name, self.id.kind)
    }
}

impl Graph {
    pub(super) fn put_network_policy(
        &mut self,
        policy: &NetworkPolicy,
        warnings: &mut Vec<FieldError>,
    ) -> Result<(), Vec<FieldError>> {
        let spec = &policy.spec;
        let id = policy_id(policy);
        let namespace = policy.namespace();
        let selector = selector::policy_selector(spec, namespace).map_err(|error| vec![error])?;
        let owner = RuleOwner::Policy(id.clone());
        let compiled = compile(&owner, namespace, [&spec.ingress, &spec.egress], warnings)?;
        self.put_policy(Policy {
            id,
            tier: spec.tier().into(),
            order: spec.order.unwrap_or(f64::INFINITY),
            ingress: spec.applies_to(PolicyType::Ingress),
            egress: spec.applies_to(PolicyType::Egress),
            always: is_always_needed(&spec.performance_hints),
            stage: Stage::Normal { on_forward: false },
            selector,
            compiled,
        });
        Ok(())
    }

    pub(super) fn put_global_network_policy(
        &mut self,
        policy: &GlobalNetworkPolicy,
        warnings: &mut Vec<FieldError>,
    ) -> Result<(), Vec<FieldError>> {
        let spec = &policy.spec;
        let id = policy_id(policy);
        let selector = selector::global_policy_selector(spec).map_err(|error| vec![error])?;
        let owner = RuleOwner::Policy(id.clone());
        let compiled = compile(&owner, "", [&spec.ingress, &spec.egress], warnings)?;
        self.put_policy(Policy {
            id,
            tier: spec.tier().into(),
            order: spec.order.unwrap_or(f64::INFINITY),
            ingress: spec.applies_to(PolicyType::Ingress),
            egress: spec.applies_to(PolicyType::Egress),
            always: is_always_needed(&spec.performance_hints),
            stage: match (spec.do_not_track, spec.pre_dnat) {
                (true, _) => Stage::Untracked,
                (false, true) => Stage::PreDnat,
                (false, false) => Stage::Normal { on_forward: spec.apply_on_forward },
            },
            selector,
            compiled,
        });
        Ok(())
    }

    fn put_policy(&mut self, policy: Policy) {
        let known = self.policy_numbers.get(&policy.id).copied();
        let number = known.unwrap_or_else(|| {
            let number = self.free_policies.pop().unwrap_or_else(|| {
                QueryId::try_from(self.policies.len()).expect("fewer than 2^32 policies")
            });
            self.policy_numbers.insert(policy.id.clone(), number);
            number
        });
        self.dirty.owners.insert(policy.owner());
        self.touch_selected(number);
        let (for_workloads, selector) = (policy.is_for_workloads(), policy.selector.clone());
        let before = self.policies.insert(number, policy);
        let same = before.as_ref().is_some_and(|before| {
            (before.is_for_workloads(), &before.selector) == (for_workloads, &selector)
        });
        if same {
            return;
        }
        self.forget_query(number);
        let mut changes = Vec::new();
        if for_workloads {
            self.residents.add_query(&mut self.names, number, &selector, &mut changes);
        }
        self.host_residents.add_query(&mut self.names, number, &selector, &mut changes);
        self.apply_selections(&changes);
    }

    fn forget_query(&mut self, number: QueryId) {
        self.residents.remove_query(&mut self.names, number);
        self.host_residents.remove_query(&mut self.names, number);
    }

    /// The local endpoints that a policy selects, of both sorts.
    fn selected(&self, number: QueryId) -> impl Iterator<Item = ItemId> + '_ {
        self.residents.items_of(number).chain(self.host_residents.items_of(number))
    }

    pub(super) fn remove_policy(&mut self, id: &PolicyId) {
        let Some(number) = self.policy_numbers.remove(id) else { return };
        self.touch_selected(number);
        self.forget_query(number);
        self.policies.remove(&number);
        self.free_policies.push(number);
        self.dirty.owners.insert(RuleOwner::Policy(id.clone()));
    }

    /// Has the endpoints that a policy selects looked at in the next flush.
    fn touch_selected(&mut self, number: QueryId) {
        let selected: Vec<_> = self.selected(number).collect();
        selected.into_iter().for_each(|item| self.touch(item));
    }

    pub(super) fn put_profile(
        &mut self,
        profile: &Profile,
        warnings: &mut Vec<FieldError>,
    ) -> Result<(), Vec<FieldError>> {
        if profile.name() == DEFAULT_ALLOW_PROFILE {
            // Read only.
            return Ok(());
        }
        let compiled = compile_profile(profile, warnings)?;
        let name: Arc<str> = profile.name().into();
        self.profiles.entry(Arc::clone(&name)).or_default().compiled = Some(compiled);
        self.dirty.owners.insert(RuleOwner::Profile(name));
        let labels = Some(&profile.spec.labels_to_apply);
        self.put_inherited(profile.name(), labels);
        Ok(())
    }

    pub(super) fn remove_profile(&mut self, name: &str) {
        if let Some(profile) = self.profiles.get_mut(name) {
            profile.compiled = None;
            if profile.users == 0 {
                self.profiles.remove(name);
            }
            self.dirty.owners.insert(RuleOwner::Profile(name.into()));
            self.put_inherited(name, None);
        }
    }

    fn put_inherited(
        &mut self,
        name: &str,
        labels: Option<&std::collections::BTreeMap<String, String>>,
    ) {
        let mut changes = Vec::new();
        self.everyone.put_parent(&mut self.names, name, labels, &mut changes);
        self.apply_members(&changes);
        changes.clear();
        self.residents.put_parent(&mut self.names, name, labels, &mut changes);
        self.host_residents.put_parent(&mut self.names, name, labels, &mut changes);
        self.apply_selections(&changes);
    }

    pub(super) fn use_profile(&mut self, name: &Arc<str>) {
        let profile = self.profiles.entry(Arc::clone(name)).or_default();
        profile.users += 1;
        if profile.users == 1 {
            self.dirty.owners.insert(RuleOwner::Profile(Arc::clone(name)));
        }
    }

    pub(super) fn leave_profile(&mut self, name: &Arc<str>) {
        let Some(profile) = self.profiles.get_mut(name) else { return };
        profile.users -= 1;
        if profile.users == 0 {
            self.dirty.owners.insert(RuleOwner::Profile(Arc::clone(name)));
            if profile.compiled.is_none() {
                self.profiles.remove(name);
            }
        }
    }

    /// The rules of a policy or profile, if the dataplane needs them.
    pub(super) fn wanted(&self, owner: &RuleOwner) -> Option<Compiled> {
        match owner {
            RuleOwner::Policy(id) => {
                let number = *self.policy_numbers.get(id)?;
                let policy = self.policies.get(&number)?;
                let used = policy.always || self.selected(number).next().is_some();
                used.then(|| policy.compiled.clone())
            }
            RuleOwner::Profile(name) => {
                let profile = self.profiles.get(name).filter(|profile| profile.users > 0)?;
                let compiled = profile.compiled.clone();
                Some(compiled.unwrap_or_else(|| undefined_profile(name)))
            }
        }
    }
}

/// The rules of a profile that no resource describes: one of them is built in and allows
/// everything, any other denies everything.
fn undefined_profile(name: &Arc<str>) -> Compiled {
    let is_built_in = &**name == DEFAULT_ALLOW_PROFILE;
    let action = if is_built_in { Action::Allow } else { Action::Deny };
    let owner = RuleOwner::Profile(Arc::clone(name));
    let rules =
        |direction| vec![Rule::any(RuleId { owner: owner.clone(), direction, index: 0 }, action)];
    let rules = RuleSet { ingress: rules(Direction::Ingress), egress: rules(Direction::Egress) };
    Compiled { rules: Arc::new(rules), sets: Box::default() }
}

fn compile_profile(
    profile: &Profile,
    warnings: &mut Vec<FieldError>,
) -> Result<Compiled, Vec<FieldError>> {
    let owner = RuleOwner::Profile(profile.name().into());
    compile(&owner, "", [&profile.spec.ingress, &profile.spec.egress], warnings)
}

fn policy_id<S: Spec>(policy: &Resource<S>) -> PolicyId {
    let kind: Kind = S::KIND;
    let namespace = kind.is_namespaced().then(|| policy.namespace().into());
    PolicyId { kind, namespace, name: policy.name().into() }
}

fn is_always_needed(hints: &[PerformanceHint]) -> bool {
    hints.contains(&PerformanceHint::AssumeNeededOnEveryNode)
}
