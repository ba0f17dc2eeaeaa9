//! Which path of a destination a path is: that of a peer, or one of several of a peer (RFC 7911).

use hashbrown::HashMap;

use super::PeerId;

/// Names a path among those of its destination, in four octets.
///
/// The only path of a peer has the number of the peer. One of several has a number that stands
/// for the pair of peer and received path identifier. Either stays what it is while the path is
/// there, so it serves as the identifier when the path is told to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct SourceId(u32);

/// Set in the number of a pair.
const PAIR: u32 = 1 << 31;

impl SourceId {
    /// This speaker's own path.
    pub(super) const LOCAL: Self = Self(0);

    /// The identifier on the wire. Never 0, which some peers take for "none".
    pub(super) const fn path_id(self) -> u32 {
        self.0.wrapping_add(1)
    }

    /// The source that [`path_id`](Self::path_id) is of.
    pub(super) const fn of_path_id(path_id: u32) -> Self {
        Self(path_id.wrapping_sub(1))
    }
}

#[derive(Debug)]
struct Pair {
    peer: PeerId,
    path_id: u32,
    /// Paths with this source.
    uses: u32,
}

/// The pairs of peer and path identifier in use: about 40 octets each, however many
/// destinations have such a path.
#[derive(Debug, Default)]
pub(super) struct Sources {
    pairs: Vec<Pair>,
    index: HashMap<(PeerId, u32), u32>,
    free: Vec<u32>,
}

impl Sources {
    /// The number of a pair, if any path has it.
    pub(super) fn find(&self, peer: PeerId, path_id: u32) -> Option<SourceId> {
        if let Some(source) = plain(peer, path_id) {
            return Some(source);
        }
        self.index.get(&(peer, path_id)).map(|at| SourceId(at | PAIR))
    }

    /// The number of a pair, for one more path.
    pub(super) fn acquire(&mut self, peer: PeerId, path_id: u32) -> SourceId {
        if let Some(source) = plain(peer, path_id) {
            return source;
        }
        let Self { pairs, index, free } = self;
        let at = *index.entry((peer, path_id)).or_insert_with(|| {
            let new = Pair { peer, path_id, uses: 0 };
            match free.pop() {
                Some(at) => {
                    pairs[at as usize] = new;
                    at
                }
                None => {
                    pairs.push(new);
                    // Each stands for a path of at least 24 octets, so the memory ends first.
                    (pairs.len() - 1) as u32
                }
            }
        });
        pairs[at as usize].uses += 1;
        SourceId(at | PAIR)
    }

    /// A path is gone.
    pub(super) fn release(&mut self, source: SourceId) {
        let Some(at) = pair(source) else { return };
        let Some(pair) = self.pairs.get_mut(at as usize) else { return };
        pair.uses -= 1;
        if pair.uses == 0 {
            self.index.remove(&(pair.peer, pair.path_id));
            self.free.push(at);
            if self.free.len() == self.pairs.len() {
                *self = Self::default();
            }
        }
    }

    /// Whose path it is.
    pub(super) fn peer(&self, source: SourceId) -> PeerId {
        pair(source).map_or(PeerId(source.0), |at| self.pairs[at as usize].peer)
    }

    /// The identifier that its peer gave it; 0 if none.
    pub(super) fn received_id(&self, source: SourceId) -> u32 {
        pair(source).map_or(0, |at| self.pairs[at as usize].path_id)
    }
}

const fn plain(peer: PeerId, path_id: u32) -> Option<SourceId> {
    if path_id == 0 && peer.0 < PAIR { Some(SourceId(peer.0)) } else { None }
}

const fn pair(source: SourceId) -> Option<u32> {
    if source.0 & PAIR == 0 { None } else { Some(source.0 & !PAIR) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_have_numbers_while_they_are_in_use() {
        let mut sources = Sources::default();
        assert_eq!(sources.acquire(PeerId(7), 0), SourceId(7));
        let a = sources.acquire(PeerId(7), 1);
        assert_eq!(sources.acquire(PeerId(7), 1), a);
        let b = sources.acquire(PeerId(8), 1);
        let big = sources.acquire(PeerId(u32::MAX - 1), 0);
        assert_eq!([a, b, big].map(|s| sources.peer(s).0), [7, 8, u32::MAX - 1]);
        assert_eq!([a, b, big].map(|s| sources.received_id(s)), [1, 1, 0]);
        assert!([a, b, big].iter().all(|s| SourceId::of_path_id(s.path_id()) == *s));
        sources.release(a);
        assert_eq!(sources.find(PeerId(7), 1), Some(a));
        sources.release(a);
        assert_eq!(sources.find(PeerId(7), 1), None);
        assert_eq!(sources.acquire(PeerId(9), 9), a, "its number is free again");
        [a, b, big].into_iter().for_each(|s| sources.release(s));
        assert_eq!((sources.pairs.len(), sources.index.len(), sources.free.len()), (0, 0, 0));
    }
}
