//! Adj-RIB-Out: what a group has to be told next.

use std::sync::Arc;

use hashbrown::HashMap;
use ipnet::IpNet;

use super::adj_out::{Group, GroupId, Why};
use super::destinations::Slot;
use super::export::Exporter;
use super::path::Path;
use super::source::SourceId;
use super::told::Told;
use super::{Audience, GroupBatch, PeerId, Rib};
use crate::wire::{Family, PathAttributes, PathNlri};

impl Rib {
    /// What the group of a peer has to be told next, from at most `limit` changed prefixes.
    /// Other members that are not `ready` leave the group, and ready ones that are as far join.
    pub fn poll_group(
        &mut self,
        id: PeerId,
        limit: usize,
        mut ready: impl FnMut(PeerId) -> bool,
    ) -> GroupBatch {
        let Some(gid) = self.group_of(id) else { return GroupBatch::default() };
        self.split_busy(gid, |m| m == id || ready(m));
        self.merge(gid, &mut ready);
        let Some(mut group) = self.groups.remove(&gid) else { return GroupBatch::default() };
        let batch = self.walk(gid, &mut group, limit);
        self.groups.insert(gid, group);
        self.trim();
        batch
    }

    /// What was announced to the group of a peer could not be sent after all.
    pub fn unexport(&mut self, id: PeerId, prefixes: &[IpNet]) {
        let Some(group) = self.group_of(id).and_then(|gid| self.groups.get_mut(&gid)) else {
            return;
        };
        for slot in prefixes.iter().filter_map(|p| self.table.find(p)) {
            group.told.set(slot, None);
        }
    }

    /// The same for paths with identifiers (RFC 7911).
    pub fn unexport_paths(&mut self, id: PeerId, paths: &[PathNlri]) {
        let Some(group) = self.group_of(id).and_then(|gid| self.groups.get_mut(&gid)) else {
            return;
        };
        for (path_id, prefix) in paths {
            let Some(slot) = self.table.find(prefix) else { continue };
            let gone = SourceId::of_path_id(*path_id);
            let mut told = group.told.paths(slot).to_vec();
            told.retain(|t| t.id != gone);
            group.told.set_paths(slot, told);
        }
    }

    fn split_busy(&mut self, gid: GroupId, mut ready: impl FnMut(PeerId) -> bool) {
        let Some(group) = self.groups.get(&gid) else { return };
        let busy: Vec<PeerId> = group.members.iter().copied().filter(|m| !ready(*m)).collect();
        if !busy.is_empty() {
            self.split(gid, &busy);
        }
    }

    fn walk(&self, gid: GroupId, group: &mut Group, limit: usize) -> GroupBatch {
        let mut walk =
            Walk { rib: self, gid, batch: Batch::default(), exporter: Exporter::default() };
        let mut left = limit;
        while let Some(mut backlog) = group.backlog.take() {
            if left == 0 {
                group.backlog = Some(backlog);
                break;
            }
            let slot = backlog.next;
            if slot >= self.table.slots() {
                break;
            }
            backlog.next += 1;
            let destination = self.table.get(slot);
            let meant = match &backlog.why {
                Why::Again(Some(family)) => Family::of_prefix(&destination.prefix) == *family,
                _ => true,
            };
            if meant && self.table.is_pending(slot, group.position) {
                // It comes with the log, and must not be passed over there as known.
                group.told.outdate(slot);
            } else if meant && !destination.paths.is_empty() {
                left -= 1;
                walk.tell(group, slot, &backlog.why);
            }
            group.backlog = Some(backlog);
        }
        if group.backlog.is_none() {
            let mut position = group.position;
            while left > 0
                && let Some(slot) = self.table.follow(&mut position)
            {
                left -= 1;
                walk.tell(group, slot, &Why::New);
            }
            group.position = position;
        }
        let mut batch = walk.batch.finish();
        if group.backlog.is_none() && group.position == self.table.end() {
            batch.end_of_rib = std::mem::take(&mut group.end_of_rib);
        }
        batch.members = group.members.clone();
        batch
    }
}

/// One batch in the making.
pub(super) struct Walk<'a> {
    pub(super) rib: &'a Rib,
    gid: GroupId,
    pub(super) batch: Batch,
    pub(super) exporter: Exporter,
}

impl Walk<'_> {
    /// Compares what a group knows of a destination with what it is to know.
    fn tell(&mut self, group: &mut Group, slot: Slot, why: &Why) {
        let destination = self.rib.table.get(slot);
        if let Some(most) = group.profile.several(Family::of_prefix(&destination.prefix)) {
            return self.tell_paths(group, slot, why, most);
        }
        let best = destination.paths.first().filter(|_| destination.active() > 0);
        let before = group.told.get(slot);
        let known = before.is_some() && before == best.map(|best| self.told(best));
        if known && matches!(why, Why::New) {
            return;
        }
        let prefix = &destination.prefix;
        let exporter = &mut self.exporter;
        let sent =
            best.and_then(|best| exporter.export(self.rib, &group.profile, prefix, best).ok());
        let (Some(best), Some(sent)) = (best, sent) else {
            if let Some(before) = group.told.set(slot, None) {
                let to = self.all_but(before.source);
                self.batch.withdraw(to, *prefix);
            }
            return;
        };
        if let Why::Changed(earlier) = why
            && known
            && Exporter::default().export(self.rib, earlier, prefix, best).as_ref() == Ok(&sent)
        {
            return;
        }
        let told = self.told(best);
        group.told.set(slot, Some(told));
        let to = self.all_but(told.source);
        self.batch.announce(sent, to, *prefix);
        // The source itself must forget what it heard from others.
        if before.is_some_and(|b| b.source != told.source)
            && let Audience::AllBut(source) = to
        {
            self.batch.withdraw(Audience::Only(source), *prefix);
        }
    }

    fn told(&self, path: &Path) -> Told {
        Told::new(self.rib.peer_of(path), path.serial())
    }

    /// Split horizon: nobody hears back what it said.
    pub(super) fn all_but(&self, source: PeerId) -> Audience {
        if self.rib.group_of(source) == Some(self.gid) {
            Audience::AllBut(source)
        } else {
            Audience::All
        }
    }
}

/// Collects prefixes by what goes with them.
#[derive(Default)]
pub(super) struct Batch {
    batch: GroupBatch,
    announced: HashMap<(*const PathAttributes, Audience), usize>,
    announced_paths: HashMap<(*const PathAttributes, Audience), usize>,
    withdrawn: HashMap<Audience, usize>,
    /// Routes with the same attributes come in rows.
    last: Option<(*const PathAttributes, Audience, usize)>,
}

impl Batch {
    fn announce(&mut self, attributes: Arc<PathAttributes>, to: Audience, prefix: IpNet) {
        let set = Arc::as_ptr(&attributes);
        let announce = &mut self.batch.announce;
        let at = match self.last {
            Some((last, audience, at)) if last == set && audience == to => at,
            _ => *self.announced.entry((set, to)).or_insert_with(|| {
                announce.push((attributes, to, Vec::new()));
                announce.len() - 1
            }),
        };
        self.last = Some((set, to, at));
        announce[at].2.push(prefix);
    }

    pub(super) fn announce_path(
        &mut self,
        attributes: Arc<PathAttributes>,
        to: Audience,
        path: PathNlri,
    ) {
        let announce = &mut self.batch.announce_paths;
        let set = Arc::as_ptr(&attributes);
        let at = *self.announced_paths.entry((set, to)).or_insert_with(|| {
            announce.push((attributes, to, Vec::new()));
            announce.len() - 1
        });
        announce[at].2.push(path);
    }

    pub(super) fn withdraw_path(&mut self, to: Audience, path: PathNlri) {
        let withdraw = &mut self.batch.withdraw_paths;
        match withdraw.iter_mut().find(|(other, _)| *other == to) {
            Some((_, paths)) => paths.push(path),
            None => withdraw.push((to, vec![path])),
        }
    }

    fn withdraw(&mut self, to: Audience, prefix: IpNet) {
        let withdraw = &mut self.batch.withdraw;
        let at = *self.withdrawn.entry(to).or_insert_with(|| {
            withdraw.push((to, Vec::new()));
            withdraw.len() - 1
        });
        withdraw[at].1.push(prefix);
    }

    fn finish(self) -> GroupBatch {
        self.batch
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{announce, attributes, facts, ip, net, rib, withdraw};
    use super::super::{PeerKind, PeerRouting};
    use super::*;

    const ALL: [PeerId; 3] = [PeerId(1), PeerId(2), PeerId(3)];

    fn clients() -> Rib {
        let mut rib = rib(&[PeerKind::Client; 3]);
        assert!(rib.poll_group(ALL[0], 10, |_| true).is_empty());
        rib
    }

    fn hops(batch: &GroupBatch, member: PeerId) -> Vec<(usize, usize)> {
        let batch = batch.for_member(member);
        vec![(batch.announce.iter().map(|(_, p)| p.len()).sum(), batch.withdraw.len())]
    }

    #[test]
    fn a_group_is_told_once_and_nobody_hears_what_it_said() {
        let mut rib = clients();
        announce(&mut rib, 1, "10.0.0.0/24", attributes(1, &[]));
        let batch = rib.poll_group(ALL[1], 10, |_| true);
        assert_eq!(batch.members.len(), 3);
        assert_eq!(ALL.map(|m| hops(&batch, m)), [[(0, 0)], [(1, 0)], [(1, 0)]]);
        // A better one from another member: its teller forgets, the first one hears.
        let better = PathAttributes { local_pref: Some(200), ..attributes(2, &[]) };
        announce(&mut rib, 2, "10.0.0.0/24", better);
        let batch = rib.poll_group(ALL[0], 10, |_| true);
        assert_eq!(ALL.map(|m| hops(&batch, m)), [[(1, 0)], [(0, 1)], [(1, 0)]]);
        withdraw(&mut rib, 2, "10.0.0.0/24");
        withdraw(&mut rib, 1, "10.0.0.0/24");
        let batch = rib.poll_group(ALL[0], 10, |_| true);
        assert_eq!(ALL.map(|m| hops(&batch, m)), [[(0, 1)], [(0, 0)], [(0, 1)]]);
        assert_eq!(rib.counts(ALL[2]), (0, 0));
    }

    #[test]
    fn a_busy_member_goes_its_own_way_and_comes_back() {
        let mut rib = clients();
        announce(&mut rib, 1, "10.0.0.0/24", attributes(1, &[]));
        let batch = rib.poll_group(ALL[0], 10, |m| m != ALL[2]);
        assert_eq!(batch.members, ALL[..2]);
        assert!(rib.has_export(ALL[2]) && !rib.has_export(ALL[1]));
        let batch = rib.poll_group(ALL[2], 10, |_| true);
        assert_eq!((batch.members.len(), hops(&batch, ALL[2])), (1, vec![(1, 0)]));
        announce(&mut rib, 1, "10.0.1.0/24", attributes(1, &[]));
        assert_eq!(rib.poll_group(ALL[2], 10, |_| true).members.len(), 3);
        assert_eq!(rib.groups_behind().count(), 0);
    }

    #[test]
    fn what_a_source_is_counts_also_for_routes_that_come_again() {
        let mut rib = rib(&[PeerKind::Internal, PeerKind::Client]);
        announce(&mut rib, 2, "10.0.0.0/24", attributes(2, &[]));
        assert_eq!(rib.poll_export(ALL[0], 10).announce.len(), 1);
        withdraw(&mut rib, 2, "10.0.0.0/24");
        rib.set_routing(ALL[1], PeerKind::Internal, PeerRouting::default());
        announce(&mut rib, 2, "10.0.0.0/24", attributes(2, &[]));
        assert_eq!(rib.poll_export(ALL[0], 10).withdraw, [net("10.0.0.0/24")]);
    }

    #[test]
    fn different_exports_are_different_groups() {
        let mut rib = rib(&[PeerKind::Client, PeerKind::Internal, PeerKind::External]);
        let mut other = facts(1, PeerKind::Client);
        other.local_address = Some(ip(253).into());
        rib.add_peer(PeerId(4), other.clone(), PeerRouting::default());
        rib.peer_up(PeerId(4), other, vec![Family::IPV4_UNICAST]);
        announce(&mut rib, 3, "10.0.0.0/24", attributes(3, &[7]));
        assert_eq!(rib.groups_behind().count(), 4);
    }
}
