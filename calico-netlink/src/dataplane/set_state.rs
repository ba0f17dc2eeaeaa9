//! Sets in the desired state.

use std::collections::BTreeSet;

use calico_core::dataplane::{SetId, SetKind, SetMember};
use calico_core::key::Family;

use super::elements::{element, net, net_elements};
use super::lower::address_key;
use super::names;
use super::state::State;
use crate::nft::wire::KeyType;
use crate::nft::{SetDef, SetSpec};

impl State {
    pub(super) fn put_set(&mut self, id: SetId, kind: SetKind, members: Vec<SetMember>) {
        self.take_back_set(&id);
        self.nets.remove(&id);
        self.meet_families(&members);
        if kind == SetKind::Net {
            self.nets.insert(id.clone(), members.iter().filter_map(net).collect());
        }
        for (family, name) in names::sets(&id) {
            if !self.families.has(family) {
                continue;
            }
            let spec = set_spec(kind, family);
            let elements = match self.nets.get(&id) {
                Some(nets) => net_elements(family, nets),
                None => members.iter().filter_map(|member| element(family, member)).collect(),
            };
            self.transient.remove(&name);
            self.table.put_set(&name, SetDef { spec, elements });
        }
        self.sets.insert(id, kind);
    }

    /// Rules look up sets of a family once one of these has members.
    fn meet_families(&mut self, members: &[SetMember]) {
        for family in self.families.meet(members) {
            for (id, kind) in &self.sets {
                let spec = set_spec(*kind, family);
                let elements = BTreeSet::new();
                self.table.put_set(&names::set(&id.0, family), SetDef { spec, elements });
            }
            self.dirty_rules.extend(self.recheck.looking_up().cloned());
        }
    }

    pub(super) fn change_set(
        &mut self,
        id: &SetId,
        added: Vec<SetMember>,
        removed: Vec<SetMember>,
    ) {
        self.take_back_set(id);
        self.meet_families(&added);
        if let Some(nets) = self.nets.get_mut(id) {
            for net in removed.iter().filter_map(net) {
                nets.remove(&net);
            }
            nets.extend(added.iter().filter_map(net));
            for (family, name) in names::sets(id) {
                if !self.families.has(family) {
                    continue;
                }
                let spec = SetSpec::intervals(address_key(family));
                let elements = net_elements(family, &*nets);
                self.table.put_set(&name, SetDef { spec, elements });
            }
            return;
        }
        for (family, name) in names::sets(id) {
            for element in removed.iter().filter_map(|member| element(family, member)) {
                self.table.remove_element(&name, &element);
            }
            for element in added.iter().filter_map(|member| element(family, member)) {
                self.table.add_element(&name, element);
            }
        }
    }

    pub(super) fn remove_set(&mut self, id: &SetId) {
        if self.sets.remove(id).is_none() {
            return;
        }
        self.take_back_set(id);
        self.nets.remove(id);
        self.leave_out_set(id);
    }

    /// The set goes from the table, at the latest with the last chain that looks it up.
    pub(super) fn leave_out_set(&mut self, id: &SetId) {
        for (_, name) in names::sets(id) {
            if self.lookups.contains_key(&name) {
                self.transient.insert(name);
            } else {
                self.table.remove_set(&name);
            }
        }
    }
}

fn set_spec(kind: SetKind, family: Family) -> SetSpec {
    let key = address_key(family);
    match kind {
        SetKind::Net => SetSpec::intervals(key),
        SetKind::AddressPort => SetSpec::set([key, KeyType::Proto, KeyType::Service]),
        _ => SetSpec::set([key]),
    }
}
