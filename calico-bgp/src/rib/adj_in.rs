//! Adj-RIB-In: taking in what peers say.

use std::sync::Arc;

use hashbrown::HashSet;
use ipnet::IpNet;

use super::destinations::Slot;
use super::export::{is_loop, is_routable};
use super::intern::Interned;
use super::path::Path;
use super::source::SourceId;
use super::{PeerId, PeerKind, PolicyRoute, Rib, Verdict, leaks};
use crate::wire::{Community, Family, NextHop, NlriList, PathAttributes, Update};

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

    /// A path is gone; `last` of those of the peer to this destination.
    fn remove(&mut self, slot: Slot, last: bool) {
        self.count -= 1;
        if let Some(listed) = self.listed.as_mut().filter(|_| last) {
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
        let rules = &peer.routing.as_rules;
        let looped = is_loop(&self.config, &self.clusters, rules, &peer.facts, &attributes);
        if peer.routing.honor_graceful_shutdown
            && peer.facts.kind == PeerKind::External
            && attributes.has_community(Community::GRACEFUL_SHUTDOWN)
        {
            attributes.local_pref = Some(0);
        }
        let foreign = !rules.starts_at(&peer.facts, &attributes);
        if !usable || looped || foreign || !leaks::receive(&peer.facts, &mut attributes) {
            self.withdraw_list(id, list);
            return;
        }
        peer.routing.as_rules.enter(&mut attributes.as_path, &peer.facts);
        let attributes = self.store.numbered(attributes);
        for (path_id, prefix) in list {
            if is_routable(&prefix) {
                self.put_path(id, path_id, prefix, &attributes);
            }
        }
    }

    fn withdraw_list(&mut self, id: PeerId, list: &NlriList) {
        for (path_id, prefix) in list {
            self.remove_path(id, path_id, &prefix);
        }
    }

    fn speaks(&self, id: PeerId, family: Family) -> bool {
        let out = self.peers.get(&id).and_then(|p| p.out.as_ref());
        out.is_some_and(|out| out.families.contains(&family))
    }

    pub(super) fn put_path(
        &mut self,
        id: PeerId,
        path_id: u32,
        prefix: IpNet,
        received: &Interned,
    ) {
        let (accepted, attributes) = self.import(id, &prefix, received);
        let new = |source| Path::new(source, Arc::clone(&received.set), attributes, accepted);
        let known = self.sources.find(id, path_id);
        let slot = self.table.find_or_add(prefix);
        let destination = self.table.get_mut(slot);
        let active = destination.active();
        let old = destination.paths.iter_mut().enumerate().find(|(_, p)| Some(p.source) == known);
        let mut replaced_active = false;
        if let Some((at, old)) = old {
            let path = new(old.source);
            let same = old.accepted() == path.accepted() && old.serial() == path.serial();
            replaced_active = at < active;
            *old = path;
            if same {
                return;
            }
        } else {
            if path_id != 0 && !self.may_add_path(id, slot) {
                return;
            }
            let path = new(self.sources.acquire(id, path_id));
            let destination = self.table.get_mut(slot);
            destination.paths.push(path);
            if destination.paths.len() == 1 {
                self.table.note_occupied(slot, true);
            }
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.sent.add(slot);
            }
        }
        self.evaluate(slot, replaced_active);
    }

    /// Takes away a path. Returns whether it was there.
    pub(super) fn remove_path(&mut self, id: PeerId, path_id: u32, prefix: &IpNet) -> bool {
        let Some(source) = self.sources.find(id, path_id) else { return false };
        self.table.find(prefix).is_some_and(|slot| self.remove_path_at(source, slot))
    }

    fn remove_path_at(&mut self, source: SourceId, slot: Slot) -> bool {
        let destination = self.table.get_mut(slot);
        let Some(at) = destination.paths.iter().position(|p| p.source == source) else {
            return false;
        };
        let active = at < destination.active();
        destination.paths.remove(at);
        let gone = destination.paths.is_empty();
        let id = self.sources.peer(source);
        self.sources.release(source);
        let last = !self.table.get(slot).paths.iter().any(|p| self.peer_of(p) == id);
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.sent.remove(slot, last);
        }
        if active || self.several {
            self.evaluate(slot, active);
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
                let of_peer =
                    |slot: &Slot| self.table.get(*slot).paths.iter().any(|p| self.peer_of(p) == id);
                self.table.occupied().filter(of_peer).collect()
            }
            None => Vec::new(),
        }
    }

    /// The paths of a peer to a destination.
    fn paths_at(&self, id: PeerId, slot: Slot) -> impl Iterator<Item = &Path> {
        self.table.get(slot).paths.iter().filter(move |p| self.peer_of(p) == id)
    }

    /// Marks the paths of a peer to a destination as left over.
    pub(super) fn mark_stale_at(&mut self, id: PeerId, slot: Slot) {
        let Self { table, sources, .. } = self;
        let paths = table.get_mut(slot).paths.iter_mut();
        paths.filter(|p| sources.peer(p.source) == id).for_each(Path::mark_stale);
    }

    pub(super) fn drop_paths(&mut self, id: PeerId, gone: impl Fn(&IpNet, &Path) -> bool) {
        for slot in self.slots_of(id) {
            let prefix = self.table.get(slot).prefix;
            let next =
                |rib: &Self| rib.paths_at(id, slot).find(|p| gone(&prefix, p)).map(|p| p.source);
            while let Some(source) = next(self) {
                self.remove_path_at(source, slot);
            }
        }
    }

    fn import(&mut self, source: PeerId, prefix: &IpNet, received: &Interned) -> (bool, Interned) {
        let Some(peer) = self.peers.get(&source) else { return (true, received.clone()) };
        if peer.routing.import.accepts_all() {
            return (true, received.clone());
        }
        let from = &peer.facts;
        let route =
            PolicyRoute { prefix, attributes: &received.set, from, to: None, local_pref: None };
        match peer.routing.import.evaluate(&route) {
            Verdict::Accept => (true, received.clone()),
            Verdict::Reject => (false, received.clone()),
            Verdict::Modify(attributes) => (true, self.store.numbered(*attributes)),
        }
    }

    /// Runs the import policy again on the paths of a peer for which `other` has attributes.
    pub(super) fn import_again(
        &mut self,
        id: PeerId,
        slot: Slot,
        other: impl Fn(&Path) -> Option<PathAttributes>,
    ) {
        let prefix = self.table.get(slot).prefix;
        let again = self.paths_at(id, slot).filter_map(|path| Some((path.source, other(path)?)));
        for (source, received) in again.collect::<Vec<_>>() {
            let received = self.store.numbered(received);
            let (accepted, attributes) = self.import(id, &prefix, &received);
            let mut paths = self.table.get_mut(slot).paths.iter_mut();
            if let Some(path) = paths.find(|p| p.source == source) {
                let stale = path.stale();
                *path = Path::new(source, received.set, attributes, accepted);
                if stale {
                    path.mark_stale();
                }
            }
            self.evaluate(slot, true);
        }
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
