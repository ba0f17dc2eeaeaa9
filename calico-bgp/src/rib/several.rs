//! Several paths to one destination on one session (RFC 7911).

use super::adj_out::{Group, Why};
use super::destinations::Slot;
use super::export::Exporter;
use super::told::{Told, ToldPath};
use super::walk::Walk;
use super::{PeerId, Rib};
use crate::wire::Family;

/// How many paths to each destination a peer is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum SendPaths {
    /// The best, as without ADD-PATH.
    #[default]
    Best,
    /// At most so many, in the order of preference. Paths that the peer told itself count, too,
    /// but are not told back.
    UpTo(u16),
    /// All that can be used.
    All,
}

/// What a family has of ADD-PATH (RFC 7911), if the peer agrees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AddPathFamily {
    /// The family.
    pub family: Family,
    /// Paths to one destination that the peer may tell; more are left out. With 0 it may not use
    /// path identifiers at all.
    pub receive: u16,
    /// Paths that it is told.
    pub send: SendPaths,
}

impl AddPathFamily {
    /// Up to 64 paths to a destination are taken in, and all are told.
    pub const fn both(family: Family) -> Self {
        Self { family, receive: 64, send: SendPaths::All }
    }

    /// The same with other numbers, as far as the session is concerned.
    pub(crate) fn offer(&self) -> Self {
        let send = if self.send == SendPaths::Best { self.send } else { SendPaths::All };
        Self { receive: self.receive.min(1), send, ..*self }
    }
}

impl Rib {
    /// Whether a peer may have one more path to a destination.
    pub(super) fn may_add_path(&mut self, id: PeerId, slot: Slot) -> bool {
        let destination = self.table.get(slot);
        let family = Family::of_prefix(&destination.prefix);
        let theirs = destination.paths.iter().filter(|p| self.peer_of(p) == id).count();
        let free = destination.paths.is_empty();
        let Some(peer) = self.peers.get_mut(&id) else { return false };
        let rule = peer.routing.add_path.iter().find(|f| f.family == family);
        let may = theirs < rule.map_or(0, |f| f.receive.into());
        peer.left_out += u64::from(!may);
        if !may && free {
            // Its slot was taken for this path.
            self.table.release_unused(slot);
        }
        may
    }

    /// Looks anew whether any peer is told more than the best paths.
    pub(super) fn note_several(&mut self) {
        self.several = self.groups.values().any(|g| g.profile.tells_several());
    }
}

impl Walk<'_> {
    /// Compares the paths that a group knows of a destination with those it is to know.
    pub(super) fn tell_paths(&mut self, group: &mut Group, slot: Slot, why: &Why, most: usize) {
        let destination = self.rib.table.get(slot);
        let prefix = destination.prefix;
        let mut now = Vec::new();
        // Who is told all needs no order.
        let in_order = (most != usize::MAX).then(|| self.rib.by_preference(&destination.paths));
        let all = (most == usize::MAX).then(|| self.rib.usable(&destination.paths));
        for path in in_order.into_iter().flatten().chain(all.into_iter().flatten()) {
            if now.len() >= most {
                break;
            }
            let Ok(sent) = self.exporter.export(self.rib, &group.profile, &prefix, path) else {
                continue;
            };
            let told = Told::new(self.rib.peer_of(path), path.serial());
            let told = ToldPath { id: path.source, told };
            now.push(told);
            let before = group.told.paths(slot).iter().find(|b| b.id == told.id).copied();
            let known = before == Some(told);
            let same = || match why {
                Why::New => true,
                Why::Again(_) => false,
                Why::Changed(earlier) => {
                    let before = Exporter::default().export(self.rib, earlier, &prefix, path);
                    before.as_ref() == Ok(&sent)
                }
            };
            if known && same() {
                continue;
            }
            let item = (told.id.path_id(), prefix);
            let to = self.all_but(told.told.source);
            self.batch.announce_path(sent, to, item);
            // A number that has gone over to another peer: that one must forget what it heard.
            if before.is_some_and(|b| b.told.source != told.told.source)
                && let super::Audience::AllBut(source) = to
            {
                self.batch.withdraw_path(super::Audience::Only(source), item);
            }
        }
        let kept: Vec<_> = now.iter().map(|n| n.id).collect();
        for before in group.told.set_paths(slot, now) {
            if !kept.contains(&before.id) {
                let to = self.all_but(before.told.source);
                self.batch.withdraw_path(to, (before.id.path_id(), prefix));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ipnet::IpNet;

    use super::super::tests::{V4, announce, attributes, facts, net, rib, withdraw};
    use super::super::{ExportBatch, PeerFacts, PeerKind, PeerRouting};
    use super::*;
    use crate::wire::{NlriList, PathAttributes, Update};

    const PREFIX: &str = "10.0.0.0/24";

    /// Peers 1 to 3 are plain clients, 4 is told several paths, 5 may tell several.
    fn table(send: SendPaths) -> Rib {
        let mut rib = rib(&[PeerKind::Client; 5]);
        let add_path = vec![AddPathFamily { family: V4, receive: 2, send }];
        let routing = PeerRouting { add_path, ..Default::default() };
        for peer in [4, 5] {
            rib.set_routing(PeerId(peer), PeerKind::Client, routing.clone());
        }
        let mut facts = facts(4, PeerKind::Client);
        facts.traits.format.add_path_send.push(V4);
        up(&mut rib, 4, facts);
        rib
    }

    fn up(rib: &mut Rib, peer: u32, facts: PeerFacts) {
        rib.peer_up(PeerId(peer), facts, vec![V4]);
        rib.poll_export(PeerId(peer), 100);
    }

    fn prefer(hop: u8, local_pref: u32) -> PathAttributes {
        PathAttributes { local_pref: Some(local_pref), ..attributes(hop, &[]) }
    }

    fn tell(rib: &mut Rib, path_id: u32, told: Option<PathAttributes>) {
        let nlri = NlriList::from_paths(V4, [(path_id, net(PREFIX))]);
        let update = match told {
            Some(a) => Update { announced: nlri, attributes: Some(a), ..Default::default() },
            None => Update { withdrawn: nlri, ..Default::default() },
        };
        rib.handle_update(PeerId(5), &update);
    }

    /// Identifiers and last octets of next hops that are announced, and identifiers withdrawn.
    fn heard(batch: &ExportBatch) -> (Vec<(u32, u8)>, Vec<u32>) {
        let hop = |a: &PathAttributes| match a.next_hop.unwrap().address() {
            std::net::IpAddr::V4(a) => a.octets()[3],
            std::net::IpAddr::V6(_) => panic!("no IPv6 here"),
        };
        let mut announced: Vec<_> = batch
            .announce_paths
            .iter()
            .flat_map(|(a, paths)| paths.iter().map(|(id, _)| (*id, hop(a))))
            .collect();
        announced.sort_unstable();
        assert!(batch.announce.is_empty() && batch.withdraw.is_empty(), "all have identifiers");
        (announced, batch.withdraw_paths.iter().map(|(id, _): &(u32, IpNet)| *id).collect())
    }

    #[test]
    fn all_paths_come_and_go_each_by_its_identifier() {
        let mut rib = table(SendPaths::All);
        let poll = |rib: &mut Rib| heard(&rib.poll_export(PeerId(4), 100));
        announce(&mut rib, 1, PREFIX, prefer(1, 100));
        announce(&mut rib, 2, PREFIX, prefer(2, 200));
        assert_eq!(poll(&mut rib), (vec![(2, 1), (3, 2)], vec![]));
        // A path behind the best changes: only it is told again, under the same identifier.
        announce(&mut rib, 1, PREFIX, prefer(1, 101));
        assert_eq!(poll(&mut rib), (vec![(2, 1)], vec![]));
        announce(&mut rib, 3, PREFIX, prefer(3, 1));
        assert_eq!(poll(&mut rib), (vec![(4, 3)], vec![]));
        withdraw(&mut rib, 2, PREFIX);
        assert_eq!(poll(&mut rib), (vec![], vec![3]), "the others stay as they are");
        assert_eq!(rib.counts(PeerId(4)), (0, 2));
        assert_eq!(rib.advertised(PeerId(4)).len(), 2);
        assert_eq!(rib.poll_change(), Some(net(PREFIX)));
        // What happens behind the best path is no news for who follows that.
        announce(&mut rib, 3, PREFIX, prefer(3, 2));
        assert_eq!(rib.poll_change(), None);
        assert_eq!(poll(&mut rib), (vec![(4, 3)], vec![]));
        // Plain peers hear of the best path alone.
        let plain = rib.poll_export(PeerId(2), 100);
        assert!(plain.announce_paths.is_empty() && plain.announce.len() == 1);
        rib.peer_down(PeerId(1), &[]);
        rib.peer_down(PeerId(3), &[]);
        let (announced, mut withdrawn) = poll(&mut rib);
        withdrawn.sort_unstable();
        assert_eq!((announced, withdrawn), (vec![], vec![2, 4]));
        assert!(rib.is_empty());
    }

    #[test]
    fn the_best_few_are_told_in_the_order_of_preference() {
        let mut rib = table(SendPaths::UpTo(2));
        let poll = |rib: &mut Rib| heard(&rib.poll_export(PeerId(4), 100));
        for peer in 1..=3u8 {
            announce(&mut rib, peer.into(), PREFIX, prefer(peer, u32::from(peer) * 100));
        }
        assert_eq!(poll(&mut rib), (vec![(3, 2), (4, 3)], vec![]));
        withdraw(&mut rib, 3, PREFIX);
        assert_eq!(poll(&mut rib), (vec![(2, 1)], vec![4]), "the third moves up");
        let add_path = vec![AddPathFamily { family: V4, receive: 0, send: SendPaths::UpTo(1) }];
        let routing = PeerRouting { add_path, ..Default::default() };
        rib.set_routing(PeerId(4), PeerKind::Client, routing);
        assert_eq!(poll(&mut rib), (vec![], vec![2]), "fewer, on the same session");
    }

    #[test]
    fn several_paths_of_one_peer_are_taken_in_up_to_its_limit() {
        let mut rib = table(SendPaths::All);
        let poll = |rib: &mut Rib| heard(&rib.poll_export(PeerId(4), 100));
        tell(&mut rib, 7, Some(prefer(11, 100)));
        tell(&mut rib, 8, Some(prefer(12, 100)));
        tell(&mut rib, 9, Some(prefer(13, 100)));
        assert_eq!((rib.counts(PeerId(5)).0, rib.left_out(PeerId(5))), (2, 1));
        let view = rib.route(&net(PREFIX)).unwrap();
        let ids: Vec<u32> = view.paths.iter().map(|p| p.path_id).collect();
        assert_eq!(ids, [7, 8]);
        assert_eq!(view.paths[0].decided_by, super::super::Decision::PathId);
        assert_eq!(rib.best(&net(PREFIX)).unwrap().next_hops.len(), 2, "they share traffic");
        let (announced, _) = poll(&mut rib);
        let told: Vec<u8> = announced.iter().map(|(_, hop)| *hop).collect();
        assert_eq!(told, [11, 12]);
        assert!(announced[0].0 != announced[1].0);
        tell(&mut rib, 7, None);
        assert_eq!(poll(&mut rib), (vec![], vec![announced[0].0]));
        tell(&mut rib, 9, None);
        tell(&mut rib, 8, None);
        assert!(rib.is_empty());
        assert_eq!(poll(&mut rib), (vec![], vec![announced[1].0]));
    }

    #[test]
    fn a_restart_keeps_the_paths_that_are_told_again() {
        let mut rib = table(SendPaths::All);
        tell(&mut rib, 1, Some(prefer(11, 100)));
        tell(&mut rib, 2, Some(prefer(12, 100)));
        rib.peer_down(PeerId(5), &[V4]);
        assert_eq!(rib.counts(PeerId(5)).0, 2);
        up(&mut rib, 5, facts(5, PeerKind::Client));
        tell(&mut rib, 2, Some(prefer(12, 100)));
        rib.sweep_stale(PeerId(5), V4);
        let view = rib.route(&net(PREFIX)).unwrap();
        assert_eq!(view.paths.iter().map(|p| p.path_id).collect::<Vec<_>>(), [2]);
    }
}
