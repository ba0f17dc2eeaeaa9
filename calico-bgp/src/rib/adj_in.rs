//! Adj-RIB-In: taking in what peers say.

use std::sync::Arc;

use ipnet::IpNet;

use super::export::{is_loop, is_routable};
use super::path::Path;
use super::{PeerId, PolicyRoute, Rib, Verdict, leaks};
use crate::wire::{Family, NextHop, NlriList, PathAttributes, Update};

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
        let attributes = self.store.intern(attributes);
        for (_, prefix) in list {
            if is_routable(&prefix) {
                self.put_path(id, prefix, Arc::clone(&attributes));
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

    pub(super) fn put_path(
        &mut self,
        source: PeerId,
        prefix: IpNet,
        received: Arc<PathAttributes>,
    ) {
        let (accepted, attributes) = self.import(source, &prefix, &received);
        if let Some(peer) = self.peers.get_mut(&source) {
            peer.prefixes.insert(prefix);
        }
        let path = Path { source, stale: false, accepted, received, attributes };
        let destination = self.table.entry(prefix).or_default();
        let active = usize::from(destination.active);
        let mut replaced_active = false;
        match destination.paths.iter_mut().enumerate().find(|(_, p)| p.source == source) {
            Some((at, old)) => {
                let same = old.accepted == path.accepted && old.attributes == path.attributes;
                replaced_active = at < active;
                *old = path;
                if same {
                    return;
                }
            }
            None => destination.paths.push(path),
        }
        self.evaluate(&prefix, replaced_active);
    }

    fn import(
        &mut self,
        source: PeerId,
        prefix: &IpNet,
        received: &Arc<PathAttributes>,
    ) -> (bool, Arc<PathAttributes>) {
        let Some(peer) = self.peers.get(&source) else { return (true, Arc::clone(received)) };
        if peer.routing.import.accepts_all() {
            return (true, Arc::clone(received));
        }
        let route = PolicyRoute { prefix, attributes: received, from: &peer.facts, to: None };
        match peer.routing.import.evaluate(&route) {
            Verdict::Accept => (true, Arc::clone(received)),
            Verdict::Reject => (false, Arc::clone(received)),
            Verdict::Modify(attributes) => (true, self.store.intern(*attributes)),
        }
    }

    pub(super) fn import_again(&mut self, id: PeerId, prefix: &IpNet) {
        let received = self
            .table
            .get(prefix)
            .and_then(|d| d.paths.iter().find(|p| p.source == id).map(|p| Arc::clone(&p.received)));
        let Some(received) = received else { return };
        let (accepted, attributes) = self.import(id, prefix, &received);
        if let Some(d) = self.table.get_mut(prefix)
            && let Some(path) = d.paths.iter_mut().find(|p| p.source == id)
        {
            (path.accepted, path.attributes) = (accepted, attributes);
        }
    }
}
