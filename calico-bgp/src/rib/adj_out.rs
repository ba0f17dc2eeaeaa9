//! Adj-RIB-Out: update groups, and which peer is in which.
//!
//! Peers with the same export are told the same, so they are a group while they are equally far.
//! A member that cannot keep up is split off, and comes back when it is as far as the others.

use super::destinations::{Position, Slot};
use super::profile::Profile;
use super::table::Peer;
use super::told::AllTold;
use super::{ExportBatch, PeerFacts, PeerId, PeerRouting, Rib};
use crate::wire::Family;

pub(super) type GroupId = u32;

/// A peer whose session is up.
#[derive(Debug)]
pub(super) struct Listening {
    pub(super) families: Vec<Family>,
    pub(super) group: GroupId,
}

/// A walk through the whole table, for those who need more than the latest changes.
#[derive(Debug, Clone)]
pub(super) struct Backlog {
    pub(super) next: u32,
    pub(super) why: Why,
}

#[derive(Debug, Clone)]
pub(super) enum Why {
    /// The members have just come.
    New,
    /// They want all routes again, of one family if it is given (RFC 2918).
    Again(Option<Family>),
    /// They were told what this would have told them.
    Changed(Box<Profile>),
}

/// Peers that were told the same, and are to be told the same next.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) profile: Profile,
    pub(super) members: Vec<PeerId>,
    /// How far in the log of changes; comes after the backlog.
    pub(super) position: Position,
    pub(super) backlog: Option<Backlog>,
    pub(super) told: AllTold,
    /// Members that have not been told that the first listing of families is complete.
    pub(super) end_of_rib: Vec<(PeerId, Vec<Family>)>,
}

/// Membership.
impl Rib {
    pub(super) fn start_listening(&mut self, id: PeerId, families: Vec<Family>) {
        let Some(profile) = self.profile(id, &families) else { return };
        // Whoever has been told nothing is as far as somebody who has just come.
        let open = |g: &Group| {
            let new = g.backlog.as_ref().is_none_or(|b| matches!(b.why, Why::New));
            new && g.told.is_empty() && g.profile.is_like(&profile)
        };
        let found = self.groups.iter_mut().map(|(gid, g)| (*gid, g)).find(|(_, g)| open(g));
        let end_of_rib = (id, families.clone());
        let gid = match found {
            Some((gid, group)) => {
                group.members.push(id);
                group.end_of_rib.push(end_of_rib);
                gid
            }
            None => self.add_group(Group {
                profile,
                members: vec![id],
                position: self.table.end(),
                backlog: Some(Backlog { next: 0, why: Why::New }),
                told: AllTold::default(),
                end_of_rib: vec![end_of_rib],
            }),
        };
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.out = Some(Listening { families, group: gid });
        }
        self.note_several();
    }

    pub(super) fn stop_listening(&mut self, id: PeerId) {
        let Some(out) = self.peers.get_mut(&id).and_then(|p| p.out.take()) else { return };
        let Some(group) = self.groups.get_mut(&out.group) else { return };
        group.members.retain(|m| *m != id);
        group.end_of_rib.retain(|(m, _)| *m != id);
        if group.members.is_empty() {
            self.groups.remove(&out.group);
            self.note_several();
            self.trim();
        }
    }

    /// What a peer is to hear may have changed; `before` is what decided until now.
    pub(super) fn listen_anew(&mut self, id: PeerId, before: (PeerFacts, PeerRouting)) {
        let Some(out) = self.peers.get(&id).and_then(|p| p.out.as_ref()) else { return };
        let families = out.families.clone();
        let Some(profile) = self.profile(id, &families) else { return };
        let before = Profile { facts: before.0, routing: before.1, families };
        if profile.is_like(&before) {
            return;
        }
        let Some(group) = self.alone(id) else { return };
        group.profile = profile;
        let why = match group.backlog {
            None => Why::Changed(Box::new(before)),
            Some(_) => Why::Again(None),
        };
        group.backlog = Some(Backlog { next: 0, why });
    }

    /// Sends everything of a family to a peer again (RFC 2918).
    pub fn refresh(&mut self, id: PeerId, family: Family) {
        let Some(group) = self.alone(id) else { return };
        let family = group.backlog.is_none().then_some(family);
        group.backlog = Some(Backlog { next: 0, why: Why::Again(family) });
    }

    /// Makes a peer the only member of its group.
    fn alone(&mut self, id: PeerId) -> Option<&mut Group> {
        let gid = self.group_of(id)?;
        let gid =
            if self.groups.get(&gid)?.members.len() > 1 { self.split(gid, &[id])? } else { gid };
        self.groups.get_mut(&gid)
    }

    /// Makes a group of its own of some members.
    pub(super) fn split(&mut self, gid: GroupId, leaving: &[PeerId]) -> Option<GroupId> {
        let group = self.groups.get_mut(&gid)?;
        group.members.retain(|m| !leaving.contains(m));
        let (theirs, ours) = std::mem::take(&mut group.end_of_rib)
            .into_iter()
            .partition(|(m, _)| leaving.contains(m));
        group.end_of_rib = ours;
        let new = Group {
            profile: group.profile.clone(),
            members: leaving.to_vec(),
            position: group.position,
            backlog: group.backlog.clone(),
            told: group.told.clone(),
            end_of_rib: theirs,
        };
        let new = self.add_group(new);
        // A profile that is personal is that of its only member, so it is never split.
        for member in leaving {
            if let Some(Peer { out: Some(out), .. }) = self.peers.get_mut(member) {
                out.group = new;
            }
        }
        Some(new)
    }

    /// Takes other groups into one that are as far as it is and whose members are all ready.
    pub(super) fn merge(&mut self, gid: GroupId, ready: &mut impl FnMut(PeerId) -> bool) {
        let Some(group) = self.groups.get(&gid).filter(|g| g.backlog.is_none()) else { return };
        let equal = |(other, g): (&GroupId, &Group)| {
            let equal = *other != gid
                && g.backlog.is_none()
                && g.position == group.position
                && g.profile.is_like(&group.profile)
                && self.knows_the_same(group, g);
            equal.then_some(*other)
        };
        let equal: Vec<GroupId> = self.groups.iter().filter_map(equal).collect();
        for other in equal {
            let all_ready = |g: &Group| g.members.iter().all(|m| ready(*m));
            if !self.groups.get(&other).is_some_and(all_ready) {
                continue;
            }
            let Some(other) = self.groups.remove(&other) else { continue };
            for member in &other.members {
                if let Some(Peer { out: Some(out), .. }) = self.peers.get_mut(member) {
                    out.group = gid;
                }
            }
            let Some(group) = self.groups.get_mut(&gid) else { return };
            #[cfg(debug_assertions)]
            assert!(group.told.same(&other.told), "who is equally far was told the same");
            group.members.extend(other.members);
            group.end_of_rib.extend(other.end_of_rib);
        }
    }

    /// Whether two groups that are equally far know the same of what they have still to look at.
    /// They do, unless one had its policy changed in the meantime; all else they have been told
    /// by the same rules.
    fn knows_the_same(&self, a: &Group, b: &Group) -> bool {
        let mut position = a.position;
        std::iter::from_fn(|| self.table.follow(&mut position))
            .all(|slot| a.told.agrees(&b.told, slot))
    }

    fn add_group(&mut self, group: Group) -> GroupId {
        let gid = self.next_group;
        self.next_group = self.next_group.wrapping_add(1);
        self.groups.insert(gid, group);
        gid
    }

    pub(super) fn group_of(&self, id: PeerId) -> Option<GroupId> {
        Some(self.peers.get(&id)?.out.as_ref()?.group)
    }

    fn profile(&self, id: PeerId, families: &[Family]) -> Option<Profile> {
        let peer = self.peers.get(&id)?;
        Some(Profile {
            facts: peer.facts.clone(),
            routing: peer.routing.clone(),
            families: families.to_vec(),
        })
    }
}

/// Questions.
impl Rib {
    /// Whether a peer has to be told something.
    pub fn has_export(&self, id: PeerId) -> bool {
        let group = self.group_of(id).and_then(|gid| self.groups.get(&gid));
        group.is_some_and(|g| self.is_behind(g))
    }

    /// Members of each update group that has to be told something.
    pub fn groups_behind(&self) -> impl Iterator<Item = &[PeerId]> {
        self.groups.values().filter(|g| self.is_behind(g)).map(|g| g.members.as_slice())
    }

    fn is_behind(&self, group: &Group) -> bool {
        group.backlog.is_some()
            || group.position != self.table.end()
            || !group.end_of_rib.is_empty()
    }

    /// Whether a group has still to look at a destination.
    pub(super) fn is_pending(&self, group: &Group, slot: Slot) -> bool {
        group.backlog.as_ref().is_some_and(|b| b.next <= slot)
            || self.table.is_pending(slot, group.position)
    }

    pub(super) fn told_count(&self, id: PeerId) -> usize {
        let group = self.group_of(id).and_then(|gid| self.groups.get(&gid));
        group.map_or(0, |g| g.told.count_for(id))
    }
}

/// What concerns the log.
impl Rib {
    /// The best route changed: peers and listeners have to look.
    pub(super) fn note_change(&mut self, slot: Slot) {
        self.table.note_change(slot);
        if self.table.is_long() {
            self.table.compact();
            self.trim();
        }
    }

    pub(super) fn trim(&mut self) {
        let groups = self.groups.values().map(|g| g.position);
        self.table.trim(groups.chain(self.follower));
    }
}

/// One peer at a time, for those who do not want to share what is written for several.
impl Rib {
    /// What a peer has to be told next, from at most `limit` changed prefixes. The peer leaves
    /// its group for that.
    pub fn poll_export(&mut self, id: PeerId, limit: usize) -> ExportBatch {
        self.poll_group(id, limit, |_| false).for_member(id)
    }
}
