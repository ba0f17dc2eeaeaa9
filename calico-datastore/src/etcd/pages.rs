//! Listings, page by page, at one revision.

use bytes::Bytes;
use calico_core::datastore::Revision;

use super::cluster::{Cluster, Repeat};
use super::failure::{Failure, FailureKind};
use super::range::OpenRange;
use super::span::{Found, Span, revision};
use super::wire::{Header, RangeRequest};

/// Keys of the first page; later ones have as many as make up [`PAGE_BYTES`].
const FIRST: i64 = 1_000;
/// For each page etcd visits every key from its start to the end of the range, to count them: few
/// large pages are read in much less time than many small ones.
const MOST: i64 = 100_000;
const PAGE_BYTES: i64 = 48 << 20;
/// A page that is not as full as planned may be followed by large objects.
const GROWTH: i64 = 32;

/// A listing under way.
pub(super) struct Pages {
    next: Bytes,
    end: Bytes,
    limit: i64,
    header: Header,
    count: usize,
    done: bool,
}

impl Pages {
    pub(super) fn new(span: &Span) -> Self {
        Self {
            next: span.start.clone(),
            end: span.end.clone(),
            limit: FIRST,
            header: Header::default(),
            count: 0,
            done: false,
        }
    }

    /// The revision of the listing, once a page was read.
    pub(super) fn revision(&self) -> Revision {
        revision(self.header.revision)
    }

    /// How many pages were read.
    pub(super) const fn count(&self) -> usize {
        self.count
    }

    /// The cluster that answered, once a page was read.
    pub(super) const fn cluster_id(&self) -> u64 {
        self.header.cluster_id
    }

    /// What is found on the next page; `None` after the last.
    pub(super) async fn next(
        &mut self,
        span: &Span,
        cluster: &Cluster,
    ) -> Result<Option<Vec<Found>>, Failure> {
        while !self.done {
            let request = RangeRequest {
                key: self.next.clone(),
                range_end: self.end.clone(),
                limit: self.limit,
                revision: self.header.revision,
                ..RangeRequest::default()
            };
            let ask = OpenRange { request: &request, span };
            let page = match cluster.ask(&ask, Repeat::Yes).await {
                Err(failure) if failure.kind == FailureKind::TooLarge && self.limit > 1 => {
                    self.limit = (self.limit / 8).max(1);
                    continue;
                }
                result => result?,
            };
            if self.header.revision == 0 {
                self.header = page.header;
            }
            self.count += 1;
            self.done = !page.more || page.keys == 0;
            self.limit = fitting(page.bytes, page.keys, self.limit);
            let mut next = page.last;
            next.push(0);
            self.next = next.into();
            return Ok(Some(page.found));
        }
        Ok(None)
    }
}

/// Keys of a page that has [`PAGE_BYTES`], if those that follow are like the `keys` of one that
/// has `bytes`.
fn fitting(bytes: usize, keys: usize, limit: i64) -> i64 {
    let (bytes, keys) = (bytes.max(1) as i64, keys as i64);
    (PAGE_BYTES.saturating_mul(keys) / bytes).clamp(1, MOST).min(limit * GROWTH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_grow_with_small_objects_and_shrink_with_large_ones() {
        assert_eq!(fitting(1_000, 100, FIRST), GROWTH * FIRST);
        assert_eq!(fitting(1_000, 100, MOST), MOST);
        assert_eq!(fitting(100 << 20, 100, FIRST), PAGE_BYTES >> 20);
        assert_eq!(fitting(0, 100, FIRST), GROWTH * FIRST);
    }
}
