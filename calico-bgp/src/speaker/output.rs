//! Writing UPDATEs: once for each update group, whatever the number of its members.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use ipnet::IpNet;

use super::peer::Peer;
use super::{ConnectionId, Speaker, SpeakerEvent};
use crate::rib::{Audience, GroupBatch, PeerId};
use crate::wire::{
    EncodeError, Family, Message, Nlri, PathNlri, Update, UpdateContext, UpdatePacker,
};

/// Changed prefixes looked at in one go.
const EXPORT_BATCH: usize = 8192;
/// A peer with more octets than this waiting for it is told nothing more until it has fetched
/// them all; others of its group go on without it.
const LAG_MAX: usize = 1 << 20;
/// Batches in one go for a peer that is to hear nothing of any of them.
const SILENT_BATCHES: usize = 16;

impl Speaker {
    /// Bytes for a connection: whole messages. Ask only when it can take some: UPDATEs are
    /// written here, from the table as it is now.
    pub fn poll_transmit(&mut self, id: ConnectionId) -> Option<Bytes> {
        let peer = self.peers.get(&id.peer)?;
        if self.deferral.is_none() && peer.peering.established_serial() == Some(id.serial) {
            for _ in 0..SILENT_BATCHES {
                let fetched = self.peers.get(&id.peer).is_some_and(Peer::has_fetched_all);
                if !fetched || !self.rib.has_export(id.peer) {
                    break;
                }
                self.flush(id.peer);
            }
        }
        self.poll_written(id)
    }

    /// Like [`poll_transmit`](Self::poll_transmit), but only what has been written before: for
    /// drivers that leave the writing to [`poll_writable`](Self::poll_writable), so that all
    /// connections get one batch before any gets the next.
    pub fn poll_written(&mut self, id: ConnectionId) -> Option<Bytes> {
        self.peers.get_mut(&id.peer)?.peering.poll_transmit(id.serial)
    }

    /// The next connection that may have something to send; writes the next batches when there
    /// is none. A driver with few connections can as well ask
    /// [`poll_transmit`](Self::poll_transmit) for all of them. A connection that takes nothing
    /// now has to be asked again when it does.
    pub fn poll_writable(&mut self) -> Option<ConnectionId> {
        loop {
            if let Some(id) = self.writable.pop_first() {
                return Some(id);
            }
            if self.deferral.is_some() {
                return None;
            }
            let peers = &self.peers;
            let idle = |m: &&PeerId| peers.get(m).is_some_and(Peer::has_fetched_all);
            let behind = self.rib.groups_behind();
            let due: Vec<PeerId> =
                behind.filter_map(|members| members.iter().find(idle)).copied().collect();
            if due.is_empty() {
                return None;
            }
            due.into_iter().for_each(|id| self.flush(id));
        }
    }

    /// Writes what the group of a peer has to be told next.
    fn flush(&mut self, id: PeerId) {
        let peers = &self.peers;
        let ready =
            |m: PeerId| peers.get(&m).is_some_and(|p| p.peering.pending_output() <= LAG_MAX);
        let batch = self.rib.poll_group(id, EXPORT_BATCH, ready);
        let Some(negotiated) = peers.get(&id).and_then(|p| p.negotiated.as_deref()) else {
            return;
        };
        let (chunk, failures) = Chunk::write(&batch, &negotiated.context, &negotiated.families);
        for Failure { to, prefixes, paths, error } in failures {
            self.rib.unexport(id, &prefixes);
            self.rib.unexport_paths(id, &paths);
            for member in batch.members.iter().filter(|m| to.includes(**m)) {
                let Some(peer) = self.peers.get(member) else { continue };
                let (peer, routes) = (peer.key(), prefixes.len() + paths.len());
                self.events.push_back(SpeakerEvent::NotSent { peer, routes, error });
            }
        }
        for (member, families) in &batch.end_of_rib {
            if let Some(peer) = self.peers.get_mut(member) {
                peer.listed.extend(families);
            }
        }
        for member in &batch.members {
            let Some(peer) = self.peers.get_mut(member) else { continue };
            let Some(serial) = peer.peering.established_serial() else { continue };
            let mut any = chunk.hand_out(*member, |bytes| peer.peering.push_output(bytes));
            peer.counters.batches_sent += u64::from(any);
            if !peer.refreshing.is_empty() && !self.rib.has_export(*member) {
                for family in std::mem::take(&mut peer.refreshing) {
                    any |= peer.peering.send_refresh_mark(family, true);
                }
            }
            if any {
                self.writable.insert(ConnectionId { peer: *member, serial });
            }
        }
    }
}

/// Routes whose attributes leave no room in a message.
struct Failure {
    to: Audience,
    prefixes: Vec<IpNet>,
    /// With identifiers, if they have them.
    paths: Vec<PathNlri>,
    error: EncodeError,
}

/// The messages of a batch.
struct Chunk {
    /// For all, but for the ranges in `holes`.
    common: Bytes,
    holes: HashMap<PeerId, Vec<Range<usize>>>,
    /// For one, after all others.
    own: HashMap<PeerId, Bytes>,
}

impl Chunk {
    fn write(
        batch: &GroupBatch,
        context: &UpdateContext,
        families: &[Family],
    ) -> (Self, Vec<Failure>) {
        let mut writer = Writer::default();
        for family in families {
            let packer = UpdatePacker::new(context, *family);
            for (to, prefixes) in &batch.withdraw {
                writer.withdraw(&packer, *to, &of_family(prefixes, *family));
            }
            for (attributes, to, prefixes) in &batch.announce {
                let prefixes = of_family(prefixes, *family);
                if prefixes.is_empty() {
                    continue;
                }
                let written = writer.write(*to, |out| packer.announce(attributes, &prefixes, out));
                if let Err(error) = written {
                    // The peers must not keep an older version of what they cannot be told.
                    writer.withdraw(&packer, *to, &prefixes);
                    let prefixes = prefixes.into_owned();
                    writer.failures.push(Failure { to: *to, prefixes, paths: Vec::new(), error });
                }
            }
            for (to, paths) in &batch.withdraw_paths {
                writer.withdraw(&packer, *to, &of_family(paths, *family));
            }
            for (attributes, to, paths) in &batch.announce_paths {
                let paths = of_family(paths, *family);
                if paths.is_empty() {
                    continue;
                }
                let written = writer.write(*to, |out| packer.announce(attributes, &paths, out));
                if let Err(error) = written {
                    writer.withdraw(&packer, *to, &paths);
                    let (prefixes, paths) = (Vec::new(), paths.into_owned());
                    writer.failures.push(Failure { to: *to, prefixes, paths, error });
                }
            }
        }
        for (member, families) in &batch.end_of_rib {
            for family in families {
                let mark = Message::Update(Update::end_of_rib(*family));
                let fits = writer.write(Audience::Only(*member), |out| mark.encode(context, out));
                debug_assert!(fits.is_ok(), "an End-of-RIB marker always fits");
            }
        }
        writer.finish()
    }

    /// Gives a member what is for it; returns whether that is anything.
    fn hand_out(&self, member: PeerId, mut give: impl FnMut(Bytes)) -> bool {
        let mut any = false;
        let mut give = |bytes: Bytes| {
            if !bytes.is_empty() {
                any = true;
                give(bytes);
            }
        };
        let mut from = 0;
        for hole in self.holes.get(&member).into_iter().flatten() {
            give(self.common.slice(from..hole.start));
            from = hole.end;
        }
        give(self.common.slice(from..));
        self.own.get(&member).into_iter().for_each(|own| give(own.clone()));
        any
    }
}

#[derive(Default)]
struct Writer {
    common: BytesMut,
    holes: HashMap<PeerId, Vec<Range<usize>>>,
    own: HashMap<PeerId, BytesMut>,
    failures: Vec<Failure>,
}

impl Writer {
    fn write(
        &mut self,
        to: Audience,
        message: impl FnOnce(&mut BytesMut) -> Result<(), EncodeError>,
    ) -> Result<(), EncodeError> {
        match to {
            Audience::All => message(&mut self.common),
            Audience::Only(member) => message(self.own.entry(member).or_default()),
            Audience::AllBut(member) => {
                let start = self.common.len();
                let written = message(&mut self.common);
                let hole = start..self.common.len();
                let holes = self.holes.entry(member).or_default();
                match holes.last_mut().filter(|last| last.end == start) {
                    Some(last) => last.end = hole.end,
                    None => holes.push(hole),
                }
                written
            }
        }
    }

    fn withdraw(&mut self, packer: &UpdatePacker<'_>, to: Audience, prefixes: &[impl Nlri]) {
        let fits = self.write(to, |out| packer.withdraw(prefixes, out));
        debug_assert!(fits.is_ok(), "a withdrawal always fits");
    }

    fn finish(self) -> (Chunk, Vec<Failure>) {
        let own = self.own.into_iter().map(|(member, bytes)| (member, bytes.freeze())).collect();
        (Chunk { common: self.common.freeze(), holes: self.holes, own }, self.failures)
    }
}

/// The prefixes of a family; without a copy if there are no others.
fn of_family<N: Nlri>(prefixes: &[N], family: Family) -> Cow<'_, [N]> {
    let of = |p: &&N| Family::of_prefix(p.prefix()) == family;
    if prefixes.iter().all(|p| of(&p)) {
        prefixes.into()
    } else {
        prefixes.iter().filter(of).copied().collect::<Vec<_>>().into()
    }
}
