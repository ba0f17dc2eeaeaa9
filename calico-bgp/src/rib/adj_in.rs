//! Adj-RIB-In: taking in what peers say.

use std::sync::Arc;

use hashbrown::HashSet;
use ipnet::IpNet;

use super::destinations::Slot;
use super::export::{is_loop, is_routable};
use super::intern::Interned;
use super::path::Path;
use super::{PeerId, PolicyRoute, Rib, Verdict, leaks};
use crate::wire::{Family, NextHop, NlriList, PathAttributes, Update};

/// A peer with more destinations has no list of them: then a look through the whole table costs
/// little more than one through the list.
const LISTED_MAX: usize = 1024;

/// The destinations that have a path of a peer.
#[derive(Debug)]
pub(super) struct Sent {
    count: usize,
    /// `None` if there are too many.
    listed: Option<HashSet<Slot>>,
}

impl Default for Sent {
    fn default() -> Self {
        Self { count: 0, listed: Some(HashSet::new()) }
    }
}

impl Sent {
    pub(super) const fn count(&self) -> usize {
        self.count
    }

    fn add(&mut self, slot: Slot) {
        self.count += 1;
        if let Some(listed) = &mut self.listed {
            listed.insert(slot);
            if listed.len() > LISTED_MAX {
                self.listed = None;
            }
        }
    }

    fn remove(&mut self, slot: Slot) {
        self.count -= 1;
        if let Some(listed) = &mut self.listed {
            listed.remove(&slot);
        }
        if self.count == 0 {
            *self = Self::default();
        }
    }
}

impl Rib {
    /// Takes in an UPDATE of a peer; families that were not negotiated are ignored.
    pub fn handle_update(&mut self, id: PeerId, update: &Update) {
        let lists = [Some(&update.withdrawn), update.mp_unreach.as_ref()];
        for list in lists.into_iter().flatten() {
            self.withdraw_list(id, list);
        }
        let Some(attributes) = &update.attributes else { return };
        let reach = update.mp_reach.as_ref().map(|r| (&r.nlri, r.next_hop));
        let classic = (&update.announced, attributes.next_hop);
        for (list, next_hop) in reach.into_iter().chain([classic]) {
            if update.treat_as_withdraw() {
                self.withdraw_list(id, list);
            } else {
                self.announce_list(id, list, attributes, next_hop);
            }
        }
    }
}

impl Rib {
    fn announce_list(
        &mut self,
        id: PeerId,
        list: &NlriList,
        attributes: &PathAttributes,
        next_hop: Option<NextHop>,
    ) {
        if list.is_empty() || !self.speaks(id, list.family()) {
            return;
        }
        let Some(peer) = self.peers.get(&id) else { return };
        let mut attributes = PathAttributes { next_hop, ..attributes.clone() };
        let usable = next_hop.is_some_and(|h| {
            let a = h.address();
            !(a.is_unspecified()
                || a.is_multicast()
                || a.is_loopback() && !peer.facts.address.is_loopback())
        });
        let looped = is_loop(&self.config, &peer.routing.as_rules, &peer.facts, &attributes);
        if !usable || looped || !leaks::receive(&peer.facts, &mut attributes) {
            self.withdraw_list(id, list);
            return;
        }
        let attributes = self.store.numbered(attributes);
        for (_, prefix) in list {
            if is_routable(&prefix) {
                self.put_path(id, prefix, &attributes);
            }
        }
    }

    fn withdraw_list(&mut self, id: PeerId, list: &NlriList) {
        for (_, prefix) in list {
            self.remove_path(id, &prefix);
        }
    }

    fn speaks(&self, id: PeerId, family: Family) -> bool {
        let out = self.peers.get(&id).and_then(|p| p.out.as_ref());
        out.is_some_and(|out| out.families.contains(&family))
    }

    pub(super) fn put_path(&mut self, source: PeerId, prefix: IpNet, received: &Interned) {
        let (accepted, attributes) = self.import(source, &prefix, received);
        let path = Path::new(source, Arc::clone(&received.set), attributes, accepted);
        let slot = self.table.find_or_add(prefix);
        let destination = self.table.get_mut(slot);
        let active = usize::from(destination.active);
        let mut replaced_active = false;
        match destination.paths.iter_mut().enumerate().find(|(_, p)| p.source == source) {
            Some((at, old)) => {
                let same = old.accepted() == path.accepted() && old.serial() == path.serial();
                replaced_active = at < active;
                *old = path;
                if same {
                    return;
                }
            }
            None => {
                destination.paths.push(path);
                if destination.paths.len() == 1 {
                    self.table.note_occupied(slot, true);
                }
                if let Some(peer) = self.peers.get_mut(&source) {
                    peer.sent.add(slot);
                }
            }
        }
        self.evaluate(slot, replaced_active);
    }

    /// Takes away a path. Returns whether it was there.
    pub(super) fn remove_path(&mut self, source: PeerId, prefix: &IpNet) -> bool {
        self.table.find(prefix).is_some_and(|slot| self.remove_path_at(source, slot))
    }

    fn remove_path_at(&mut self, source: PeerId, slot: Slot) -> bool {
        let destination = self.table.get_mut(slot);
        let Some(at) = destination.paths.iter().position(|p| p.source == source) else {
            return false;
        };
        let active = at < usize::from(destination.active);
        destination.paths.remove(at);
        let gone = destination.paths.is_empty();
        if let Some(peer) = self.peers.get_mut(&source) {
            peer.sent.remove(slot);
        }
        if active {
            self.evaluate(slot, true);
        }
        if gone {
            self.table.note_occupied(slot, false);
        }
        true
    }

    /// The destinations that have a path of a peer.
    pub(super) fn slots_of(&self, id: PeerId) -> Vec<Slot> {
        match self.peers.get(&id).map(|p| &p.sent) {
            Some(Sent { listed: Some(listed), .. }) => listed.iter().copied().collect(),
            Some(_) => {
                let of_peer = |slot: &Slot| self.path_at(id, *slot).is_some();
                self.table.occupied().filter(of_peer).collect()
            }
            None => Vec::new(),
        }
    }

    pub(super) fn path_at(&self, id: PeerId, slot: Slot) -> Option<&Path> {
        self.table.get(slot).paths.iter().find(|p| p.source == id)
    }

    pub(super) fn path_at_mut(&mut self, id: PeerId, slot: Slot) -> Option<&mut Path> {
        self.table.get_mut(slot).paths.iter_mut().find(|p| p.source == id)
    }

    pub(super) fn drop_paths(&mut self, id: PeerId, gone: impl Fn(&IpNet, &Path) -> bool) {
        for slot in self.slots_of(id) {
            let prefix = &self.table.get(slot).prefix;
            if self.path_at(id, slot).is_some_and(|path| gone(prefix, path)) {
                self.remove_path_at(id, slot);
            }
        }
    }

    fn import(&mut self, source: PeerId, prefix: &IpNet, received: &Interned) -> (bool, Interned) {
        let Some(peer) = self.peers.get(&source) else { return (true, received.clone()) };
        if peer.routing.import.accepts_all() {
            return (true, received.clone());
        }
        let route = PolicyRoute { prefix, attributes: &received.set, from: &peer.facts, to: None };
        match peer.routing.import.evaluate(&route) {
            Verdict::Accept => (true, received.clone()),
            Verdict::Reject => (false, received.clone()),
            Verdict::Modify(attributes) => (true, self.store.numbered(*attributes)),
        }
    }

    /// Runs the import policy on a path again, with other attributes if they are given.
    pub(super) fn import_again(&mut self, id: PeerId, slot: Slot, other: Option<PathAttributes>) {
        let Some(path) = self.path_at(id, slot) else { return };
        let stale = path.stale();
        let received = other.unwrap_or_else(|| PathAttributes::clone(&path.received));
        let received = self.store.numbered(received);
        let prefix = self.table.get(slot).prefix;
        let (accepted, attributes) = self.import(id, &prefix, &received);
        if let Some(path) = self.path_at_mut(id, slot) {
            *path = Path::new(id, received.set, attributes, accepted);
            if stale {
                path.mark_stale();
            }
        }
        self.evaluate(slot, true);
    }

    /// Everybody has to look again at the paths of a peer: it is not what it was.
    pub(super) fn renew_paths(&mut self, id: PeerId) {
        // The same attributes mean something else now, also those of a path that is just gone.
        self.groups.values_mut().for_each(|g| g.told.outdate_from(id));
        for slot in self.slots_of(id) {
            self.evaluate(slot, true);
        }
    }
}
