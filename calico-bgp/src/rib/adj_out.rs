//! Adj-RIB-Out: what each peer was told, and what it has to be told next.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use ipnet::IpNet;

use super::export::export_attributes;
use super::table::Peer;
use super::{PeerId, PolicyRoute, Rib, Verdict};
use crate::wire::{Family, PathAttributes};

/// Updates for one peer, in an order that is safe to send: withdrawals first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExportBatch {
    /// Prefixes to withdraw.
    pub withdraw: Vec<IpNet>,
    /// Prefixes to announce, by shared attributes.
    pub announce: Vec<(Arc<PathAttributes>, Vec<IpNet>)>,
    /// Families that are complete after this batch.
    pub end_of_rib: Vec<Family>,
}

impl ExportBatch {
    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.withdraw.is_empty() && self.announce.is_empty() && self.end_of_rib.is_empty()
    }
}

#[derive(Debug)]
pub(super) struct AdjRibOut {
    pub(super) families: Vec<Family>,
    pub(super) advertised: HashMap<IpNet, Arc<PathAttributes>>,
    pub(super) dirty: BTreeSet<IpNet>,
    /// Prefixes to send again even if they did not change.
    pub(super) resend: HashSet<IpNet>,
    /// Families whose first listing is not complete yet.
    pub(super) end_of_rib: Vec<Family>,
}

/// Results of the export of one attribute set, remembered for the length of a batch.
type ExportCache = HashMap<(*const PathAttributes, PeerId, Family), Option<Arc<PathAttributes>>>;

impl Rib {
    /// Sends everything of a family to a peer again (RFC 2918).
    pub fn refresh(&mut self, id: PeerId, family: Family) {
        if let Some(Peer { out: Some(out), .. }) = self.peers.get_mut(&id) {
            let of_family = |p: &&IpNet| Family::of_prefix(p) == family;
            out.dirty.extend(self.table.keys().filter(of_family));
            // What was sent stays known: it may have to be withdrawn before it is sent again.
            out.resend.extend(out.advertised.keys().filter(of_family));
            out.dirty.extend(&out.resend);
        }
    }

    /// Whether a peer has to be told something.
    pub fn has_export(&self, id: PeerId) -> bool {
        let out = self.peers.get(&id).and_then(|p| p.out.as_ref());
        out.is_some_and(|out| !out.dirty.is_empty() || !out.end_of_rib.is_empty())
    }

    /// What a peer has to be told next, from at most `limit` changed prefixes.
    pub fn poll_export(&mut self, id: PeerId, limit: usize) -> ExportBatch {
        let mut batch = ExportBatch::default();
        let Some(mut out) = self.peers.get_mut(&id).and_then(|p| p.out.take()) else {
            return batch;
        };
        let mut cache = ExportCache::new();
        let mut groups: HashMap<*const PathAttributes, usize> = HashMap::new();
        for _ in 0..limit {
            let Some(prefix) = out.dirty.pop_first() else { break };
            let again = out.resend.remove(&prefix);
            let wanted = self.exported(id, &prefix, &mut cache);
            match wanted {
                None => {
                    if out.advertised.remove(&prefix).is_some() {
                        batch.withdraw.push(prefix);
                    }
                }
                Some(attributes) => {
                    let before = out.advertised.insert(prefix, Arc::clone(&attributes));
                    // Interned, but a set may have been dropped and made anew in between.
                    if !again && before.is_some_and(|b| b == attributes) {
                        continue;
                    }
                    let at = *groups.entry(Arc::as_ptr(&attributes)).or_insert_with(|| {
                        batch.announce.push((attributes, Vec::new()));
                        batch.announce.len() - 1
                    });
                    batch.announce[at].1.push(prefix);
                }
            }
        }
        if out.dirty.is_empty() {
            batch.end_of_rib = std::mem::take(&mut out.end_of_rib);
        }
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.out = Some(out);
        }
        batch
    }

    /// What was announced to a peer could not be sent after all.
    pub fn unexport(&mut self, id: PeerId, prefixes: &[IpNet]) {
        if let Some(Peer { out: Some(out), .. }) = self.peers.get_mut(&id) {
            prefixes.iter().for_each(|p| {
                out.advertised.remove(p);
            });
        }
    }

    /// What a peer was told, in no order.
    pub fn advertised(&self, id: PeerId) -> impl Iterator<Item = (&IpNet, &Arc<PathAttributes>)> {
        let out = self.peers.get(&id).and_then(|p| p.out.as_ref());
        out.into_iter().flat_map(|out| &out.advertised)
    }

    /// The best route changed: peers and listeners have to look.
    pub(super) fn note_change(&mut self, prefix: &IpNet) {
        self.changed.insert(*prefix);
        let family = Family::of_prefix(prefix);
        for out in self.peers.values_mut().filter_map(|p| p.out.as_mut()) {
            if out.families.contains(&family) {
                out.dirty.insert(*prefix);
            }
        }
    }

    /// What a peer is to hear of a prefix.
    fn exported(
        &mut self,
        to: PeerId,
        prefix: &IpNet,
        cache: &mut ExportCache,
    ) -> Option<Arc<PathAttributes>> {
        let destination = self.table.get(prefix)?;
        let best = destination.paths.first().filter(|_| destination.active > 0)?;
        // Split horizon: nobody hears back what it said.
        if best.source == to {
            return None;
        }
        let peer = self.peers.get(&to)?;
        let from = self.peers.get(&best.source).map_or(&self.local, |p| &p.facts);
        let family = Family::of_prefix(prefix);
        let key = (Arc::as_ptr(&best.attributes), best.source, family);
        let attributes = match cache.get(&key) {
            Some(known) => known.clone(),
            None => {
                let sent = export_attributes(
                    &self.config,
                    &peer.routing,
                    from,
                    &peer.facts,
                    family,
                    &best.attributes,
                );
                let sent = sent.map(|a| self.store.intern(a));
                cache.insert(key, sent.clone());
                sent
            }
        }?;
        if peer.routing.export.accepts_all() {
            return Some(attributes);
        }
        let route = PolicyRoute { prefix, attributes: &attributes, from, to: Some(&peer.facts) };
        match peer.routing.export.evaluate(&route) {
            Verdict::Accept => Some(attributes),
            Verdict::Reject => None,
            Verdict::Modify(changed) => Some(self.store.intern(*changed)),
        }
    }
}
