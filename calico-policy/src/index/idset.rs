//! Compact sorted sets of small numbers.

/// Up to this many numbers are kept as they are.
const SMALL: usize = 16;
/// From this many numbers on, a chunk is a bit map (8 KiB, the size of this many halves).
const DENSE: usize = 4096;

/// A sorted set of `u32`: 4 bytes a number while small; later chunks of 65536, with 2 bytes a
/// number in a sparse chunk and 8 KiB in a dense one. An insertion moves at most 8 KiB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum IdSet {
    /// Sorted.
    Small(Vec<u32>),
    /// Sorted by the upper half of the numbers.
    Chunked(Vec<(u16, Chunk)>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Chunk {
    /// Lower halves, sorted.
    Sparse(Vec<u16>),
    /// One bit for each lower half, and how many are set.
    Dense(Box<[u64; 1024]>, u32),
}

impl Default for IdSet {
    fn default() -> Self {
        Self::Small(Vec::new())
    }
}

impl IdSet {
    /// Adds a number; whether it was missing.
    pub(crate) fn insert(&mut self, id: u32) -> bool {
        match self {
            Self::Small(ids) => {
                let Err(at) = ids.binary_search(&id) else { return false };
                if ids.len() < SMALL {
                    ids.insert(at, id);
                    return true;
                }
                let mut chunked = Self::Chunked(Vec::new());
                for &id in ids.iter() {
                    chunked.insert(id);
                }
                chunked.insert(id);
                *self = chunked;
                true
            }
            Self::Chunked(chunks) => {
                let (high, low) = split(id);
                match chunks.binary_search_by_key(&high, |chunk| chunk.0) {
                    Ok(at) => chunks[at].1.insert(low),
                    Err(at) => {
                        chunks.insert(at, (high, Chunk::Sparse(vec![low])));
                        true
                    }
                }
            }
        }
    }

    /// Takes a number out; whether it was there.
    pub(crate) fn remove(&mut self, id: u32) -> bool {
        match self {
            Self::Small(ids) => ids.binary_search(&id).map(|at| ids.remove(at)).is_ok(),
            Self::Chunked(chunks) => {
                let (high, low) = split(id);
                let Ok(at) = chunks.binary_search_by_key(&high, |chunk| chunk.0) else {
                    return false;
                };
                let removed = chunks[at].1.remove(low);
                if chunks[at].1.len() == 0 {
                    chunks.remove(at);
                    if chunks.is_empty() {
                        *self = Self::default();
                    }
                }
                removed
            }
        }
    }

    /// How many numbers are in it; looks at each chunk, not at each number.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Small(ids) => ids.len(),
            Self::Chunked(chunks) => chunks.iter().map(|chunk| chunk.1.len()).sum(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Self::Small(ids) => ids.is_empty(),
            Self::Chunked(chunks) => chunks.is_empty(),
        }
    }

    /// The numbers, sorted.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        let (small, chunks): (&[u32], &[(u16, Chunk)]) = match self {
            Self::Small(ids) => (ids, &[]),
            Self::Chunked(chunks) => (&[], chunks),
        };
        let chunked = chunks.iter().flat_map(|(high, chunk)| {
            let high = u32::from(*high) << 16;
            chunk.iter().map(move |low| high | low)
        });
        small.iter().copied().chain(chunked)
    }
}

impl Chunk {
    fn insert(&mut self, low: u16) -> bool {
        match self {
            Self::Sparse(lows) => {
                // Numbers are mostly allotted, and so inserted, from the lowest up.
                let at = match lows.last() {
                    Some(last) if *last < low => lows.len(),
                    _ => match lows.binary_search(&low) {
                        Ok(_) => return false,
                        Err(at) => at,
                    },
                };
                if lows.len() < DENSE {
                    lows.insert(at, low);
                    return true;
                }
                let mut bits = Box::new([0; 1024]);
                for low in lows.iter().copied().chain([low]) {
                    bits[usize::from(low >> 6)] |= 1 << (low & 63);
                }
                *self = Self::Dense(bits, DENSE as u32 + 1);
                true
            }
            Self::Dense(bits, count) => {
                let (word, bit) = (&mut bits[usize::from(low >> 6)], 1 << (low & 63));
                let missing = *word & bit == 0;
                *word |= bit;
                *count += u32::from(missing);
                missing
            }
        }
    }

    fn remove(&mut self, low: u16) -> bool {
        match self {
            Self::Sparse(lows) => lows.binary_search(&low).map(|at| lows.remove(at)).is_ok(),
            Self::Dense(bits, count) => {
                let (word, bit) = (&mut bits[usize::from(low >> 6)], 1 << (low & 63));
                let there = *word & bit != 0;
                *word &= !bit;
                *count -= u32::from(there);
                // Half way down, so that a set at the threshold does not go back and forth.
                if there && *count as usize == DENSE / 2 {
                    *self = Self::Sparse(set_bits(bits).map(|low| low as u16).collect());
                }
                there
            }
        }
    }

    const fn len(&self) -> usize {
        match self {
            Self::Sparse(lows) => lows.len(),
            Self::Dense(_, count) => *count as usize,
        }
    }

    fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        let (sparse, dense): (&[u16], Option<&[u64; 1024]>) = match self {
            Self::Sparse(lows) => (lows, None),
            Self::Dense(bits, _) => (&[], Some(bits)),
        };
        sparse.iter().map(|low| u32::from(*low)).chain(dense.into_iter().flat_map(set_bits))
    }
}

const fn split(id: u32) -> (u16, u16) {
    ((id >> 16) as u16, id as u16)
}

fn set_bits(bits: &[u64; 1024]) -> impl Iterator<Item = u32> + '_ {
    (0u32..).zip(bits).flat_map(|(index, &word)| {
        let mut left = word;
        std::iter::from_fn(move || {
            let bit = (left != 0).then(|| left.trailing_zeros())?;
            left &= left - 1;
            Some(index * 64 + bit)
        })
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_chunk_becomes_dense_and_sparse_again() {
        let mut set = IdSet::default();
        let mut model = BTreeSet::new();
        for id in (0..20_000u32).map(|n| n * 7 % 100_000) {
            assert_eq!(set.insert(id), model.insert(id));
        }
        assert!(matches!(&set, IdSet::Chunked(c) if matches!(c[0].1, Chunk::Dense(..))));
        assert!(set.iter().eq(model.iter().copied()));
        for id in 0..100_000 {
            if id % 50 != 0 {
                assert_eq!(set.remove(id), model.remove(&id));
            }
            if id % 10_000 == 0 {
                assert_eq!(set.len(), model.len());
                assert!(set.iter().eq(model.iter().copied()));
            }
        }
        assert!(matches!(&set, IdSet::Chunked(c) if matches!(c[0].1, Chunk::Sparse(_))));
        for id in 0..100_000 {
            set.remove(id);
        }
        assert!(set.is_empty());
    }

    proptest! {
        #[test]
        fn it_is_a_sorted_set(ops in prop::collection::vec((any::<bool>(), 0u32..80), 0..200)) {
            let mut set = IdSet::default();
            let mut model = BTreeSet::new();
            for (add, id) in ops {
                // Spread over two chunks.
                let id = if id % 2 == 0 { id } else { id + 70_000 };
                if add {
                    prop_assert_eq!(set.insert(id), model.insert(id));
                } else {
                    prop_assert_eq!(set.remove(id), model.remove(&id));
                }
                prop_assert_eq!(set.len(), model.len());
                prop_assert_eq!(set.is_empty(), model.is_empty());
            }
            prop_assert!(set.iter().eq(model.iter().copied()));
        }
    }
}
