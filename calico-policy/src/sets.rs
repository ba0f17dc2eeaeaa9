//! The IP sets that active rules need: who uses them, what is in them, what changed.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use calico_core::dataplane::{SetId, SetKind, SetMember, Update};
use ipnet::IpNet;

use crate::desired::Members;
use crate::index::{IdMap, Interner, QueryId, Symbol};
use crate::rules::{Content, ServiceName, SetSpec};

/// What an item of the label index puts into the sets that it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Contribution {
    /// A workload endpoint.
    Endpoint {
        /// 17 bytes each.
        addresses: Box<[IpAddr]>,
        /// 8 bytes each.
        ports: Box<[NamedPort]>,
    },
    /// A network set.
    Nets(Box<[IpNet]>),
    /// A part of what stands behind a service.
    Slice {
        /// 17 bytes each.
        addresses: Box<[IpAddr]>,
        /// Protocol and port, 4 bytes each.
        ports: Box<[(u8, u16)]>,
    },
}

/// A port of an endpoint that rules may call by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct NamedPort {
    pub(crate) name: Symbol,
    pub(crate) protocol: u8,
    pub(crate) port: u16,
}

/// What of its items is in a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// Their addresses.
    Addresses,
    /// Their addresses with every port.
    Ports,
    /// Their addresses with the port of this name and protocol.
    Named(PortFilter),
}

/// Which ports of the selected endpoints are in a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PortFilter {
    pub(crate) name: Symbol,
    pub(crate) protocol: u8,
}

impl Contribution {
    /// What goes into a set of such parts.
    pub(crate) fn members(&self, part: Part) -> Vec<SetMember> {
        let whole = |addresses: &[IpAddr]| {
            addresses.iter().map(|address| SetMember::Net((*address).into())).collect()
        };
        let each = |addresses: &[IpAddr], protocol: u8, port: u16| {
            let of = |address: &IpAddr| SetMember::Port { address: *address, protocol, port };
            addresses.iter().map(of).collect::<Vec<_>>()
        };
        match (self, part) {
            (Self::Endpoint { addresses, .. } | Self::Slice { addresses, .. }, Part::Addresses) => {
                whole(addresses)
            }
            (Self::Endpoint { addresses, ports }, Part::Named(filter)) => ports
                .iter()
                .filter(|port| (port.name, port.protocol) == (filter.name, filter.protocol))
                .flat_map(|port| each(addresses, port.protocol, port.port))
                .collect(),
            (Self::Slice { addresses, ports }, Part::Ports) => ports
                .iter()
                .flat_map(|(protocol, port)| each(addresses, *protocol, *port))
                .collect(),
            (Self::Nets(nets), Part::Addresses) => {
                nets.iter().map(|net| SetMember::Net(*net)).collect()
            }
            (Self::Nets(_) | Self::Slice { .. }, Part::Named(_))
            | (Self::Nets(_) | Self::Endpoint { .. }, Part::Ports) => Vec::new(),
        }
    }
}

/// Sets by the number of their query in the label index.
#[derive(Debug, Default)]
pub(crate) struct Sets {
    numbers: HashMap<SetId, QueryId>,
    sets: IdMap<QueryId, Set>,
    free: Vec<QueryId>,
    /// Sets to look at in the next flush.
    dirty: BTreeSet<QueryId>,
}

#[derive(Debug)]
struct Set {
    id: SetId,
    /// What is in it, for people.
    description: Box<str>,
    part: Part,
    /// The service that it is of; if of none, it has a query in the label index.
    service: Option<ServiceName>,
    /// Policies and profiles that use it.
    users: u32,
    /// How many items contribute a member: two endpoints may have the same address, and the
    /// member stays until the last of them goes. About 32 bytes a member.
    members: HashMap<SetMember, u32>,
    /// Members touched since the last flush, and whether they were in the set then.
    touched: HashMap<SetMember, bool>,
    /// Whether the dataplane knows the set.
    sent: bool,
}

impl Sets {
    /// One more user of a set. `Some` if it is new: then the caller adds the query of this number
    /// to the index, or what stands behind the service to the set.
    pub(crate) fn acquire(&mut self, names: &mut Interner, spec: &SetSpec) -> Option<QueryId> {
        let id = &spec.id;
        if let Some(set) = self.numbers.get(id).and_then(|number| self.sets.get_mut(number)) {
            set.users += 1;
            return None;
        }
        let (part, service) = match &spec.content {
            Content::Labels { port: None, .. } => (Part::Addresses, None),
            Content::Labels { port: Some((name, protocol)), .. } => {
                let filter = PortFilter { name: names.acquire(name), protocol: *protocol };
                (Part::Named(filter), None)
            }
            Content::Service { service, ports } => {
                let part = if *ports { Part::Ports } else { Part::Addresses };
                (part, Some(ServiceName::clone(service)))
            }
        };
        let number = self
            .free
            .pop()
            .unwrap_or_else(|| u32::try_from(self.sets.len()).expect("fewer than 2^32 sets"));
        let set = Set {
            id: id.clone(),
            description: spec.to_string().into(),
            part,
            service,
            users: 1,
            members: HashMap::new(),
            touched: HashMap::new(),
            sent: false,
        };
        self.sets.insert(number, set);
        self.numbers.insert(id.clone(), number);
        self.dirty.insert(number);
        Some(number)
    }

    /// One user less. A set without users goes in the next flush, unless somebody comes before.
    pub(crate) fn release(&mut self, id: &SetId) {
        let Some(&number) = self.numbers.get(id) else { return };
        if let Some(set) = self.sets.get_mut(&number) {
            set.users -= 1;
            if set.users == 0 {
                self.dirty.insert(number);
            }
        }
    }

    /// An item of this contribution joins (`true`) or leaves a set.
    pub(crate) fn change(&mut self, number: QueryId, item: &Contribution, joins: bool) {
        let Some(set) = self.sets.get_mut(&number) else { return };
        for member in item.members(set.part) {
            let count = set.members.get(&member).copied().unwrap_or(0);
            let after = if joins { count + 1 } else { count.saturating_sub(1) };
            if after == 0 {
                set.members.remove(&member);
            } else {
                set.members.insert(member, after);
            }
            if (count == 0) != (after == 0) && set.sent {
                set.touched.entry(member).or_insert(count > 0);
                self.dirty.insert(number);
            }
        }
    }

    /// What the dataplane must learn: sets and members that come, and sets that go. The queries
    /// of the latter are returned for removal from the index, those of services as such.
    pub(crate) fn flush(&mut self, names: &mut Interner) -> SetChanges {
        let mut changes = SetChanges::default();
        for number in std::mem::take(&mut self.dirty) {
            let Some(set) = self.sets.get_mut(&number) else { continue };
            if set.users == 0 {
                if set.sent {
                    changes.removed.push(Update::SetRemoved(set.id.clone()));
                }
                if let Part::Named(filter) = set.part {
                    names.release(filter.name);
                }
                match set.service.take() {
                    Some(service) => changes.services.push((service, number)),
                    None => changes.queries.push(number),
                }
                self.numbers.remove(&set.id);
                self.sets.remove(&number);
                self.free.push(number);
            } else if set.sent {
                changes.changed.extend(set.delta());
            } else {
                set.sent = true;
                changes.changed.push(set.whole());
            }
        }
        changes
    }

    /// What is in each set, for people.
    pub(crate) fn describe(&self) -> impl Iterator<Item = (&SetId, &str)> {
        self.sets.values().map(|set| (&set.id, &*set.description))
    }

    /// The sets that were sent, with their members as of now.
    pub(crate) fn sent(&self) -> impl Iterator<Item = (SetId, Members)> {
        self.sets.values().filter(|set| set.sent).map(|set| {
            let members = set.members.keys().copied().collect();
            (set.id.clone(), Members { kind: set.kind(), members })
        })
    }

    /// Number of sets.
    pub(crate) fn len(&self) -> usize {
        self.sets.len()
    }
}

/// See [`Sets::flush`].
#[derive(Debug, Default)]
pub(crate) struct SetChanges {
    pub(crate) changed: Vec<Update>,
    pub(crate) removed: Vec<Update>,
    pub(crate) queries: Vec<QueryId>,
    /// Sets of services that go.
    pub(crate) services: Vec<(ServiceName, QueryId)>,
}

impl Set {
    fn whole(&self) -> Update {
        let mut members: Vec<SetMember> = self.members.keys().copied().collect();
        members.sort_unstable();
        Update::Set { id: self.id.clone(), kind: self.kind(), members }
    }

    const fn kind(&self) -> SetKind {
        match (self.part, &self.service) {
            (Part::Named(_) | Part::Ports, _) => SetKind::AddressPort,
            (Part::Addresses, Some(_)) => SetKind::Address,
            // A network set with a wide prefix may join a selector's set at any time.
            (Part::Addresses, None) => SetKind::Net,
        }
    }

    fn delta(&mut self) -> Option<Update> {
        let (mut added, mut removed) = (Vec::new(), Vec::new());
        for (member, before) in std::mem::take(&mut self.touched) {
            match (before, self.members.contains_key(&member)) {
                (false, true) => added.push(member),
                (true, false) => removed.push(member),
                _ => {}
            }
        }
        added.sort_unstable();
        removed.sort_unstable();
        let something = !added.is_empty() || !removed.is_empty();
        something.then(|| Update::SetDelta { id: self.id.clone(), added, removed })
    }
}

#[cfg(test)]
mod tests {
    use calico_core::selector::Selector;

    use super::*;

    fn endpoint(address: &str) -> Contribution {
        let addresses = [address.parse().unwrap()].into();
        Contribution::Endpoint { addresses, ports: Box::default() }
    }

    fn member(address: &str) -> SetMember {
        SetMember::Net(address.parse::<IpAddr>().unwrap().into())
    }

    fn spec() -> SetSpec {
        let content = Content::Labels { selector: Selector::all(), port: None };
        SetSpec { id: SetId::from("s:x"), content }
    }

    #[test]
    fn a_member_stays_until_its_last_endpoint_goes() {
        let (mut sets, mut names, spec) = (Sets::default(), Interner::default(), spec());
        let set = sets.acquire(&mut names, &spec).unwrap();
        assert_eq!(sets.acquire(&mut names, &spec), None);
        sets.change(set, &endpoint("10.0.0.1"), true);
        let id = spec.id.clone();
        let members = vec![member("10.0.0.1")];
        let whole = Update::Set { id: id.clone(), kind: SetKind::Net, members };
        assert_eq!(sets.flush(&mut names).changed, [whole]);

        sets.change(set, &endpoint("10.0.0.1"), true);
        sets.change(set, &endpoint("10.0.0.1"), false);
        assert_eq!(sets.flush(&mut names).changed, []);

        sets.change(set, &endpoint("10.0.0.2"), true);
        sets.change(set, &endpoint("10.0.0.1"), false);
        let (added, removed) = (vec![member("10.0.0.2")], vec![member("10.0.0.1")]);
        let delta = Update::SetDelta { id: id.clone(), added, removed };
        assert_eq!(sets.flush(&mut names).changed, [delta]);

        sets.release(&id);
        assert_eq!(sets.flush(&mut names).removed, []);
        sets.release(&id);
        let last = sets.flush(&mut names);
        assert_eq!((last.removed, last.queries), (vec![Update::SetRemoved(id)], vec![set]));
    }

    #[test]
    fn a_set_that_is_wanted_again_before_the_flush_never_goes() {
        let (mut sets, mut names, spec) = (Sets::default(), Interner::default(), spec());
        let set = sets.acquire(&mut names, &spec).unwrap();
        sets.flush(&mut names);
        sets.release(&spec.id);
        assert_eq!(sets.acquire(&mut names, &spec), None);
        sets.change(set, &endpoint("10.0.0.1"), true);
        let changes = sets.flush(&mut names);
        assert_eq!((changes.changed.len(), changes.removed.len()), (1, 0));
    }
}
