//! Objects by path, at little more than their own size.
//!
//! A path is `/calico/resources/v3/projectcalico.org/<kind>/` and a name, or much the same for
//! IPAM's data. The first part is kept once for all objects that share it, and no parsed key is
//! kept at all: reading one from its path costs no more than copying it.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use crate::datastore::{Entry, Revision};
use crate::key::{Key, Scope};
use crate::kind::Kind;

/// Objects in the order of paths.
#[derive(Debug, Default)]
pub(super) struct Objects {
    /// No name of a group is the beginning of another's: their order is that of the paths.
    groups: BTreeMap<Box<str>, Group>,
    count: usize,
}

#[derive(Debug)]
struct Group {
    /// The kind, if it is one of resources.
    kind: Option<Kind>,
    slots: BTreeMap<Box<str>, Slot>,
}

/// What is known of an object besides its path.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Slot {
    value: Arc<str>,
    revision: Revision,
}

impl Objects {
    pub(super) const fn len(&self) -> usize {
        self.count
    }

    /// The revision of an object.
    pub(super) fn revision(&self, key: &Key) -> Option<Revision> {
        self.slot(key).map(|slot| slot.revision)
    }

    pub(super) fn get(&self, key: &Key) -> Option<Entry> {
        let slot = self.slot(key)?;
        let (key, value) = (key.clone(), Arc::clone(&slot.value));
        Some(Entry { key, value, revision: slot.revision })
    }

    fn slot(&self, key: &Key) -> Option<&Slot> {
        let path = key.to_string();
        let (group, name) = path.split_at(split(&path, key.kind()));
        self.groups.get(group)?.slots.get(name)
    }

    /// Adds or replaces an object. One whose path does not lead back to its key is left out.
    pub(super) fn insert(&mut self, entry: Entry) {
        let Entry { key, value, revision } = entry;
        let path = key.to_string();
        let kind = key.kind();
        if kind.is_none() && path.parse().as_ref() != Ok(&key) {
            return;
        }
        let (group, name) = path.split_at(split(&path, kind));
        let slot = Slot { value, revision };
        let before = match self.groups.get_mut(group) {
            Some(group) => match group.slots.get_mut(name) {
                Some(there) => Some(std::mem::replace(there, slot)),
                None => group.slots.insert(name.into(), slot),
            },
            None => {
                let slots = BTreeMap::from([(name.into(), slot)]);
                self.groups.insert(group.into(), Group { kind, slots });
                None
            }
        };
        self.count += usize::from(before.is_none());
    }

    pub(super) fn remove(&mut self, key: &Key) {
        let path = key.to_string();
        let (name, rest) = path.split_at(split(&path, key.kind()));
        let Some(group) = self.groups.get_mut(name) else { return };
        self.count -= usize::from(group.slots.remove(rest).is_some());
        if group.slots.is_empty() {
            self.groups.remove(name);
        }
    }

    /// Every object.
    pub(super) fn entries(&self) -> impl Iterator<Item = Entry> {
        self.groups.iter().flat_map(|(name, group)| {
            group.slots.iter().filter_map(|(rest, slot)| entry(name, group, rest, slot))
        })
    }

    /// Bytes of paths and values.
    pub(super) fn bytes(&self) -> usize {
        let mut bytes = 0;
        for (name, group) in &self.groups {
            let slots = group.slots.iter();
            bytes += slots.map(|(rest, s)| name.len() + rest.len() + s.value.len()).sum::<usize>();
        }
        bytes
    }

    /// The objects of `scope`.
    pub(super) fn list(&self, scope: &Scope) -> Vec<Entry> {
        let mut entries = Vec::new();
        for prefix in scope.prefixes() {
            let whole = self.groups.range::<str, _>((Bound::Included(&*prefix), Bound::Unbounded));
            for (name, group) in whole.take_while(|(name, _)| name.starts_with(&*prefix)) {
                entries.reserve(group.slots.len());
                let found = group.slots.iter().filter_map(|(at, s)| entry(name, group, at, s));
                entries.extend(found.filter(|entry| scope.contains(&entry.key)));
            }
            // Or it is a part of one group.
            let before = self.groups.range::<str, _>((Bound::Unbounded, Bound::Excluded(&*prefix)));
            if let Some((name, group)) = before.last()
                && let Some(rest) = prefix.strip_prefix(&**name)
            {
                let part = group.slots.range::<str, _>((Bound::Included(rest), Bound::Unbounded));
                let part = part.take_while(|(at, _)| at.starts_with(rest));
                let found = part.filter_map(|(at, slot)| entry(name, group, at, slot));
                entries.extend(found.filter(|entry| scope.contains(&entry.key)));
            }
        }
        entries
    }

    /// What must happen for `self` to become `new`: keys that go, and objects that were written.
    pub(super) fn difference(&self, new: &Self) -> (Vec<Key>, Vec<Entry>) {
        let find = |objects: &Self, name: &str, rest: &str| -> Option<Slot> {
            objects.groups.get(name)?.slots.get(rest).cloned()
        };
        let (mut gone, mut written) = (Vec::new(), Vec::new());
        for (name, group) in &self.groups {
            let slots = group.slots.iter().filter(|(rest, _)| find(new, name, rest).is_none());
            gone.extend(slots.filter_map(|(rest, slot)| Some(entry(name, group, rest, slot)?.key)));
        }
        for (name, group) in &new.groups {
            let slots = group.slots.iter();
            let slots = slots.filter(|(rest, slot)| find(self, name, rest).as_ref() != Some(slot));
            written.extend(slots.filter_map(|(rest, slot)| entry(name, group, rest, slot)));
        }
        (gone, written)
    }
}

/// How much of a path is its group's.
fn split(path: &str, kind: Option<Kind>) -> usize {
    // The name of a resource is what follows its kind; of IPAM's data, what follows the next part.
    // One object has no more than that.
    let parts = if kind.is_some() { 6 } else { 5 };
    path.match_indices('/').nth(parts - 1).map_or(path.len(), |(at, _)| at + 1)
}

fn entry(name: &str, group: &Group, rest: &str, slot: &Slot) -> Option<Entry> {
    let key = match group.kind {
        Some(kind) if kind.is_namespaced() => {
            let (namespace, name) = rest.split_once('/')?;
            Key::Resource { kind, namespace: Some(namespace.to_owned()), name: name.to_owned() }
        }
        Some(kind) => Key::Resource { kind, namespace: None, name: rest.to_owned() },
        None => [name, rest].concat().parse().ok()?,
    };
    Some(Entry { key, value: Arc::clone(&slot.value), revision: slot.revision })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::key::OwnerType;

    fn keys() -> impl Strategy<Value = Key> {
        // Names around the separator, whose order must be that of whole paths.
        let name = "[a-b.0-]{1,3}";
        let net = (0..4u8, 24..27u8).prop_map(|(c, length)| {
            let address = std::net::Ipv4Addr::new(10, 0, c, 0);
            ipnet::IpNet::from(ipnet::Ipv4Net::new_assert(address, length)).trunc()
        });
        prop_oneof![
            name.prop_map(|name| Key::resource(Kind::IpPool, None, &name)),
            (name, name).prop_map(|(ns, name)| Key::resource(
                Kind::NetworkPolicy,
                Some(&ns),
                &name
            )),
            (name, name).prop_map(|(ns, name)| Key::resource(Kind::NetworkSet, Some(&ns), &name)),
            name.prop_map(Key::Handle),
            name.prop_map(Key::IpamHost),
            net.clone().prop_map(Key::Block),
            (name, net).prop_map(|(owner, block)| Key::Affinity {
                owner_type: OwnerType::Host,
                owner,
                block
            }),
            Just(Key::IpamConfig),
        ]
    }

    fn scopes(key: &Key) -> Vec<Scope> {
        let mut scopes = vec![
            Scope::All,
            Scope::Kind(Kind::IpPool),
            Scope::Kind(Kind::NetworkPolicy),
            Scope::Blocks,
            Scope::Affinities,
            Scope::Handles,
            Scope::One(key.clone()),
        ];
        if let Key::Resource { kind, namespace: Some(namespace), .. } = key {
            scopes.push(Scope::Namespace(*kind, namespace.clone()));
        }
        if let Key::Affinity { owner, .. } = key {
            scopes.push(Scope::AffinitiesOf(owner.clone()));
        }
        scopes
    }

    proptest! {
        #[test]
        fn it_is_a_map_in_the_order_of_paths(steps in prop::collection::vec((keys(), any::<bool>()), 1..60)) {
            let (mut objects, mut model) = (Objects::default(), BTreeMap::new());
            for (at, (key, is_there)) in steps.iter().enumerate() {
                let entry = Entry {
                    key: key.clone(),
                    value: at.to_string().into(),
                    revision: Revision(at as u64),
                };
                if *is_there {
                    objects.insert(entry.clone());
                    model.insert(key.to_string(), entry);
                } else {
                    objects.remove(key);
                    model.remove(&key.to_string());
                }
            }
            prop_assert_eq!(objects.len(), model.len());
            prop_assert_eq!(objects.entries().collect::<Vec<_>>(), model.values().cloned().collect::<Vec<_>>());
            for (key, _) in &steps {
                prop_assert_eq!(objects.get(key), model.get(&key.to_string()).cloned());
                for scope in scopes(key) {
                    let expected: Vec<_> = model.values().filter(|entry| scope.contains(&entry.key)).cloned().collect();
                    prop_assert_eq!(objects.list(&scope), expected, "{}", scope);
                }
            }
            prop_assert_eq!(objects.difference(&objects), (Vec::new(), Vec::new()));
            let (gone, written) = objects.difference(&Objects::default());
            prop_assert_eq!((gone.len(), written.len()), (model.len(), 0));
        }
    }

    #[test]
    fn a_key_that_cannot_be_stored_is_left_out() {
        let mut objects = Objects::default();
        let key = Key::Block("10.0.0.1/26".parse().unwrap());
        objects.insert(Entry { key, value: "{}".into(), revision: Revision(1) });
        assert_eq!(objects.len(), 0);
    }
}
