//! Workload endpoints in the desired state.

use std::collections::BTreeSet;
use std::sync::Arc;

use calico_core::dataplane::{Direction, EndpointId, RuleOwner, WorkloadEndpoint};
use ipnet::IpNet;

use super::state::{DIRECTIONS, State, of};
use super::{endpoint, lower};

impl State {
    pub(super) fn render_endpoint(&mut self, id: &EndpointId) {
        for key in self.uses.remove(id).unwrap_or_default() {
            if let Some(users) = self.users.get_mut(&key) {
                users.remove(id);
                if users.is_empty() {
                    self.users.remove(&key);
                    self.dirty_rules.insert(key);
                }
            }
        }
        self.failed.remove(id);
        let endpoint = self.endpoints.get(id).cloned();
        let addresses: BTreeSet<_> =
            endpoint.iter().flat_map(|e| &e.addresses).map(IpNet::addr).collect();
        let before = self.addresses.remove(id).unwrap_or_default();
        if !before.is_empty() {
            self.recheck.endpoints.insert(id.clone());
        }
        self.released.extend(before.difference(&addresses));
        if !addresses.is_empty() {
            self.addresses.insert(id.clone(), addresses);
        }
        if let Some(held) = self.interface_of.get(id).cloned()
            && endpoint.as_ref().map(|endpoint| &endpoint.interface) != Some(&held)
        {
            self.release_interface(&held);
        }
        let Some(endpoint) = endpoint else { return };
        if let Some(reason) = self.refused.endpoint(id) {
            self.failed.insert(id.clone(), format!("the kernel refused {reason}"));
            self.release_interface(&endpoint.interface);
            return;
        }
        if !endpoint.interface.starts_with(self.host.interface_prefix.as_ref()) {
            let prefix = &self.host.interface_prefix;
            let reason = format!(
                "its interface {} does not start with {prefix}, so no policy would apply to it",
                endpoint.interface
            );
            self.failed.insert(id.clone(), reason);
            return;
        }
        // The newest claim holds: the other endpoint's workload must be gone.
        if let Some(other) = self.interfaces.insert(endpoint.interface.clone(), id.clone())
            && other != *id
        {
            let reason = format!("its interface {} now belongs to {id}", endpoint.interface);
            self.interface_of.remove(&other);
            self.failed.insert(other, reason);
        }
        self.interface_of.insert(id.clone(), endpoint.interface.clone());
        self.put_endpoint(&endpoint);
    }

    fn put_endpoint(&mut self, endpoint: &WorkloadEndpoint) {
        let id = &endpoint.id;
        let mut uses = BTreeSet::new();
        self.place_limits(endpoint);
        for direction in DIRECTIONS {
            let known = |owner: &RuleOwner| self.has_rules(owner);
            let open = |owner: &RuleOwner| {
                self.rules.get(owner).and_then(|rules| lower::allow_all(of(rules, direction)))
            };
            let rendered =
                endpoint::chain(endpoint, direction, &self.host, &self.limits, known, open);
            let refused = endpoint::owners(endpoint, direction)
                .find_map(|owner| Some((self.refused.owner(&owner)?.to_owned(), owner)));
            if let Some((reason, owner)) = refused {
                self.failed
                    .insert(id.clone(), format!("{owner} is refused by the kernel {reason}"));
            } else if let Some(owner) = endpoint::first_missing_policy(endpoint, direction, known) {
                self.failed.insert(id.clone(), format!("{owner} is not known"));
            }
            for owner in endpoint::owners(endpoint, direction) {
                let key = (owner, direction);
                let users = self.users.entry(key.clone()).or_default();
                if users.is_empty() {
                    self.dirty_rules.insert(key.clone());
                }
                users.insert(id.clone());
                uses.insert(key);
            }
            for tier in &endpoint.tiers {
                self.causes.end_of_tier(direction, &tier.tier);
            }
            match direction {
                Direction::Ingress => self.place_to(endpoint, rendered),
                Direction::Egress => self.place_from(endpoint, rendered),
            }
        }
        self.uses.insert(id.clone(), uses);
    }

    fn release_interface(&mut self, interface: &Arc<str>) {
        if let Some(id) = self.interfaces.remove(interface) {
            self.interface_of.remove(&id);
        }
        self.displace(interface);
        self.displace_limits(interface);
    }
}
