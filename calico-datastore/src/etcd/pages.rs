//! Listings, page by page, at one revision.

use bytes::Bytes;
use calico_core::datastore::Revision;

use super::cluster::{Cluster, Repeat};
use super::failure::{Failure, FailureKind};
use super::rpc;
use super::span::{Span, revision};
use super::wire::{Header, KeyValue, RangeRequest};

/// Keys of the first page; later ones have as many as make up [`PAGE_BYTES`].
const FIRST: i64 = 1_000;
const MOST: i64 = 20_000;
const PAGE_BYTES: i64 = 8 << 20;

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

    /// The next page; `None` after the last.
    pub(super) async fn next(
        &mut self,
        cluster: &Cluster,
    ) -> Result<Option<Vec<KeyValue>>, Failure> {
        while !self.done {
            let request = RangeRequest {
                key: self.next.clone(),
                range_end: self.end.clone(),
                limit: self.limit,
                revision: self.header.revision,
                ..RangeRequest::default()
            };
            let response = match cluster.call(&rpc::RANGE, &request, Repeat::Yes).await {
                Err(failure) if failure.kind == FailureKind::TooLarge && self.limit > 1 => {
                    self.limit = (self.limit / 8).max(1);
                    continue;
                }
                result => result?,
            };
            if self.header.revision == 0 {
                self.header = response.header.unwrap_or_default();
            }
            self.count += 1;
            self.done = !response.more;
            if let Some(last) = response.kvs.last() {
                self.next = [&last.key[..], b"\0"].concat().into();
                self.limit = fitting(&response.kvs, self.limit);
            } else {
                self.done = true;
            }
            return Ok(Some(response.kvs));
        }
        Ok(None)
    }
}

/// Keys of a page that has [`PAGE_BYTES`], if those that follow are like `page`.
fn fitting(page: &[KeyValue], limit: i64) -> i64 {
    let bytes: usize = page.iter().map(|kv| kv.key.len() + kv.value.len()).sum();
    let (bytes, keys) = (bytes.max(1) as i64, page.len() as i64);
    // A page that is half as full as planned may be followed by large objects: grow slowly.
    (PAGE_BYTES.saturating_mul(keys) / bytes).clamp(1, MOST).min(limit * 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_grow_with_small_objects_and_shrink_with_large_ones() {
        let page = |size: usize| {
            vec![KeyValue { value: vec![0; size].into(), ..KeyValue::default() }; 100]
        };
        assert_eq!(fitting(&page(10), FIRST), 4 * FIRST);
        assert_eq!(fitting(&page(10), MOST), MOST);
        assert_eq!(fitting(&page(1 << 20), FIRST), 8);
        assert_eq!(fitting(&page(0), FIRST), 4 * FIRST);
    }
}
