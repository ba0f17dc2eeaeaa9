//! Loc-RIB: choosing the best path of a destination and those that share its traffic.

use super::decision::{Candidate, Decision, compare};
use super::destinations::Slot;
use super::path::Path;
use super::source::SourceId;
use super::{PeerKind, Rib};

impl Rib {
    /// Chooses the best path again. With `force`, peers and listeners look again even if the
    /// choice is the same: an active path was replaced or removed, or its source changed.
    pub(super) fn evaluate(&mut self, slot: Slot, force: bool) {
        let destination = self.table.get_mut(slot);
        let mut paths = std::mem::take(&mut destination.paths);
        // The sources tell: whoever replaces or removes an active path says so with `force`. A
        // destination with one path, the common case, allocates nothing here.
        let active = destination.active().min(paths.len());
        let mut before = paths[..active].iter().map(|p| p.source);
        let best_before = before.next();
        let others_before: Vec<SourceId> = before.collect();
        let active = self.rank(&mut paths);
        let mut after = paths[..active].iter().map(|p| p.source);
        let same = !force && after.next() == best_before && after.eq(others_before);
        let destination = self.table.get_mut(slot);
        destination.set_active(active);
        destination.paths = paths;
        if !same {
            destination.note_news();
        }
        if !same || self.several {
            self.note_change(slot);
        }
    }

    pub(super) fn candidate<'a>(&'a self, path: &'a Path) -> Option<Candidate<'a>> {
        let igp_metric = self.igp_metric(path).filter(|_| path.accepted())?;
        let peer = self.facts(self.peer_of(path));
        let path_id = self.sources.received_id(path.source);
        Some(Candidate { attributes: &path.attributes, peer, igp_metric, path_id })
    }

    /// Metric of the way to a path's next hop; `None` if there is no way.
    pub(super) fn igp_metric(&self, path: &Path) -> Option<u32> {
        match path.attributes.next_hop {
            Some(hop) => self.next_hops.get(&hop.address()).copied().unwrap_or(Some(0)),
            None => Some(0),
        }
    }

    /// Puts the best path first and those that share its traffic behind it; returns how many.
    fn rank(&self, paths: &mut [Path]) -> usize {
        let Some(best) = self.best_index(paths) else { return 0 };
        paths.swap(0, best);
        let mut active = 1;
        for at in 1..paths.len() {
            if active < self.config.max_paths && self.shares(&paths[0], &paths[at]) {
                paths.swap(active, at);
                active += 1;
            }
        }
        // A fixed order among equals, so that a re-evaluation that changes nothing is seen as
        // one.
        paths[1..active].sort_by_key(|p| p.source);
        active
    }

    /// The best path: first the best of each neighbouring AS, then the best of those, so that
    /// MULTI_EXIT_DISC gives the same answer in whatever order the paths came.
    fn best_index(&self, paths: &[Path]) -> Option<usize> {
        if let [only] = paths {
            return self.candidate(only).map(|_| 0);
        }
        let candidates = paths.iter().enumerate().map(|(at, p)| (at, self.candidate(p)));
        best_of(candidates.filter_map(|(at, candidate)| Some((at, candidate?))))
    }

    /// The usable paths of a destination, in no order.
    pub(super) fn usable<'a>(&'a self, paths: &'a [Path]) -> impl Iterator<Item = &'a Path> + 'a {
        paths.iter().filter(|path| self.candidate(path).is_some())
    }

    /// The usable paths of a destination, each the best of it and those behind it.
    pub(super) fn by_preference<'a>(
        &'a self,
        paths: &'a [Path],
    ) -> impl Iterator<Item = &'a Path> + 'a {
        let mut left: Vec<(usize, Candidate<'_>)> = paths
            .iter()
            .enumerate()
            .filter_map(|(at, path)| Some((at, self.candidate(path)?)))
            .collect();
        std::iter::from_fn(move || {
            let best = best_of(left.iter().copied())?;
            left.retain(|(at, _)| *at != best);
            Some(&paths[best])
        })
    }

    fn shares(&self, best: &Path, other: &Path) -> bool {
        let (Some(a), Some(b)) = (self.candidate(best), self.candidate(other)) else {
            return false;
        };
        a.peer.kind != PeerKind::Local
            && compare(&a, &b).1 > Decision::IgpMetric
            && (self.config.multipath_relax || a.attributes.as_path == b.attributes.as_path)
    }
}

/// The number of the best candidate.
fn best_of<'a>(candidates: impl Iterator<Item = (usize, Candidate<'a>)>) -> Option<usize> {
    let mut winners: Vec<(u32, usize, Candidate<'_>)> = Vec::new();
    for (at, candidate) in candidates {
        let neighbor = candidate.neighbor_as();
        match winners.iter_mut().find(|(n, ..)| *n == neighbor) {
            Some(winner) if compare(&candidate, &winner.2).0.is_lt() => {
                *winner = (neighbor, at, candidate);
            }
            Some(_) => {}
            None => winners.push((neighbor, at, candidate)),
        }
    }
    winners.into_iter().min_by(|a, b| compare(&a.2, &b.2).0).map(|(_, at, _)| at)
}
