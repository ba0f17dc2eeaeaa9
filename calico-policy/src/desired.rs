//! The sum of updates: the state that a dataplane is asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use calico_core::dataplane::{
    EndpointId, HostEndpoint, HostSettings, Pool, RuleOwner, RuleSet, SetId, SetKind, SetMember,
    TierPolicies, Update, WorkloadEndpoint,
};
use ipnet::IpNet;

use crate::eval::SetLookup;

/// A desired state, built from [`Update`]s.
///
/// It is what a backend believes it should enforce: the subject of [`eval`](crate::eval), and in
/// tests the dataplane that insists on the order that
/// [`Transaction`](calico_core::dataplane::Transaction) promises.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Desired {
    /// Sets and their members.
    pub sets: BTreeMap<SetId, Members>,
    /// Rules of policies and profiles.
    pub rules: BTreeMap<RuleOwner, RuleSet>,
    /// Workload endpoints of this host.
    pub endpoints: BTreeMap<EndpointId, WorkloadEndpoint>,
    /// Host endpoints of this host, by name.
    pub host_endpoints: BTreeMap<Arc<str>, HostEndpoint>,
    /// IP pools.
    pub pools: Vec<Pool>,
    /// Settings of the host.
    pub host: Option<HostSettings>,
    /// Whether the state was declared complete.
    pub in_sync: bool,
    /// What is in sets, for people; see [`Graph::describe_sets`](crate::Graph::describe_sets).
    /// Updates say nothing about it.
    pub descriptions: BTreeMap<SetId, String>,
}

/// What is in a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Members {
    /// What kind of members.
    pub kind: SetKind,
    /// All of them.
    pub members: BTreeSet<SetMember>,
}

/// An update that does not fit the state it meets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Misfit {
    /// A member is twice in a set, was there already, or goes without having been there.
    #[error("set {set}: member {member:?} {problem}")]
    Member {
        /// The set.
        set: SetId,
        /// The member.
        member: SetMember,
        /// What is wrong.
        problem: &'static str,
    },
    /// An object refers to something that is missing.
    #[error("{user} refers to {missing}, which is missing")]
    Missing {
        /// Who refers.
        user: String,
        /// To what.
        missing: String,
    },
    /// Something goes while it is in use.
    #[error("{gone} is removed while {user} refers to it")]
    InUse {
        /// What goes.
        gone: String,
        /// Who still refers to it.
        user: String,
    },
    /// Something goes that is not there.
    #[error("{0} is removed, but was not there")]
    Unknown(String),
}

impl Desired {
    /// Carries out one update.
    ///
    /// # Errors
    ///
    /// [`Misfit`] if the update breaks the promised order or repeats itself; the state is then as
    /// it was before, except for the members of a set named before the bad one.
    pub fn apply(&mut self, update: &Update) -> Result<(), Misfit> {
        match update {
            Update::Set { id, kind, members } => {
                let mut all = BTreeSet::new();
                for &member in members {
                    if !all.insert(member) {
                        return Err(Misfit::member(id, member, "is named twice"));
                    }
                }
                self.sets.insert(id.clone(), Members { kind: *kind, members: all });
            }
            Update::SetDelta { id, added, removed } => {
                let set = self.sets.get_mut(id).ok_or_else(|| Misfit::Missing {
                    user: "a change of members".to_owned(),
                    missing: format!("set {id}"),
                })?;
                for &member in removed {
                    if !set.members.remove(&member) {
                        return Err(Misfit::member(id, member, "goes, but was not there"));
                    }
                }
                for &member in added {
                    if !set.members.insert(member) {
                        return Err(Misfit::member(id, member, "comes, but is there"));
                    }
                }
            }
            Update::SetRemoved(id) => {
                let user = self.rules.iter().find(|(_, rules)| sets_of(rules).any(|s| s == id));
                if let Some((user, _)) = user {
                    return Err(Misfit::in_use(format!("set {id}"), user));
                }
                known(self.sets.remove(id), || format!("set {id}"))?;
            }
            Update::Rules { owner, rules } => {
                if let Some(id) = sets_of(rules).find(|id| !self.sets.contains_key(*id)) {
                    return Err(Misfit::missing(owner, format!("set {id}")));
                }
                self.rules.insert(owner.clone(), rules.clone());
            }
            Update::RulesRemoved(owner) => {
                let user = self.endpoints.values().find(|e| owners_of(e).any(|o| o == *owner));
                if let Some(user) = user {
                    return Err(Misfit::in_use(owner.to_string(), &user.id));
                }
                let user =
                    self.host_endpoints.values().find(|e| host_owners(e).any(|o| o == *owner));
                if let Some(user) = user {
                    return Err(Misfit::in_use(owner.to_string(), &user.name));
                }
                known(self.rules.remove(owner), || owner.to_string())?;
            }
            Update::Endpoint(endpoint) => {
                let missing = owners_of(endpoint).find(|owner| !self.rules.contains_key(owner));
                if let Some(owner) = missing {
                    return Err(Misfit::missing(&endpoint.id, owner.to_string()));
                }
                self.endpoints.insert(endpoint.id.clone(), endpoint.clone());
            }
            Update::EndpointRemoved(id) => {
                known(self.endpoints.remove(id), || format!("endpoint {id}"))?;
            }
            Update::HostEndpoint(endpoint) => {
                let missing = host_owners(endpoint).find(|owner| !self.rules.contains_key(owner));
                if let Some(owner) = missing {
                    return Err(Misfit::missing(&endpoint.name, owner.to_string()));
                }
                self.host_endpoints.insert(endpoint.name.clone(), endpoint.clone());
            }
            Update::HostEndpointRemoved(name) => {
                known(self.host_endpoints.remove(name), || format!("host endpoint {name}"))?;
            }
            Update::Pools(pools) => self.pools.clone_from(pools),
            Update::Host(host) => self.host = Some(host.clone()),
            Update::InSync => self.in_sync = true,
            // Routes come from others, and so may updates that are unknown here.
            _ => {}
        }
        Ok(())
    }

    /// The endpoint that has an address.
    #[must_use]
    pub fn endpoint_of(&self, address: IpAddr) -> Option<&WorkloadEndpoint> {
        let net = IpNet::from(address);
        self.endpoints.values().find(|endpoint| endpoint.addresses.contains(&net))
    }
}

impl SetLookup for Desired {
    fn has_address(&self, set: &SetId, address: IpAddr) -> bool {
        self.sets.get(set).is_some_and(|set| {
            set.members.iter().any(|member| match member {
                SetMember::Net(net) => net.contains(&address),
                SetMember::Port { .. } => false,
            })
        })
    }

    fn has_port(&self, set: &SetId, address: IpAddr, protocol: u8, port: u16) -> bool {
        let member = SetMember::Port { address, protocol, port };
        self.sets.get(set).is_some_and(|set| set.members.contains(&member))
    }

    fn describe(&self, set: &SetId) -> Option<&str> {
        self.descriptions.get(set).map(String::as_str)
    }
}

impl Misfit {
    fn member(set: &SetId, member: SetMember, problem: &'static str) -> Self {
        Self::Member { set: set.clone(), member, problem }
    }

    fn missing(user: &impl ToString, missing: String) -> Self {
        Self::Missing { user: user.to_string(), missing }
    }

    fn in_use(gone: String, user: &impl ToString) -> Self {
        Self::InUse { gone, user: user.to_string() }
    }
}

/// The sets that rules refer to.
pub(crate) fn sets_of(rules: &RuleSet) -> impl Iterator<Item = &SetId> {
    rules.ingress.iter().chain(&rules.egress).flat_map(|rule| {
        [&rule.source, &rule.destination].into_iter().flat_map(|side| {
            [&side.sets, &side.not_sets, &side.port_sets, &side.not_port_sets].into_iter().flatten()
        })
    })
}

/// The policies and profiles that an endpoint refers to.
fn owners_of(endpoint: &WorkloadEndpoint) -> impl Iterator<Item = RuleOwner> + '_ {
    owners(endpoint.tiers.iter(), &endpoint.profiles)
}

/// The policies and profiles that a host endpoint refers to.
fn host_owners(endpoint: &HostEndpoint) -> impl Iterator<Item = RuleOwner> + '_ {
    owners(endpoint.tiers(), &endpoint.profiles)
}

fn owners<'a>(
    tiers: impl Iterator<Item = &'a TierPolicies>,
    profiles: &'a [Arc<str>],
) -> impl Iterator<Item = RuleOwner> {
    let policies = tiers.flat_map(|tier| tier.ingress.iter().chain(&tier.egress));
    let profiles = profiles.iter().cloned().map(RuleOwner::Profile);
    policies.cloned().map(RuleOwner::Policy).chain(profiles)
}

fn known<T>(removed: Option<T>, what: impl FnOnce() -> String) -> Result<(), Misfit> {
    removed.map(drop).ok_or_else(|| Misfit::Unknown(what()))
}
