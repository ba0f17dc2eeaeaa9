//! Listings, page by page.

use calico_core::datastore::Revision;

use super::failure::{Failure, FailureKind};
use super::reading::{Page, Reading};
use super::server::Server;
use super::source::{Source, escaped};

/// Objects that the first page has at most.
const FIRST: usize = 100;
/// Objects that another page has at most.
const LARGEST: usize = 500;
/// Bytes of text that a page is to have: what is held in memory besides the caller's own is some
/// times of it.
const PAGE: usize = 1 << 20;

/// The pages of a listing of one collection.
#[derive(Debug)]
pub(super) struct Pages {
    source: Source,
    next: Option<String>,
    /// Objects that the next page has at most.
    limit: usize,
    /// As of when the listing is: told by the first page.
    pub(super) revision: Option<Revision>,
}

impl Pages {
    pub(super) const fn new(source: Source) -> Self {
        Self { source, next: Some(String::new()), limit: FIRST, revision: None }
    }

    /// The next page; `None` after the last. A collection that the server does not have has one
    /// empty page, without a revision.
    pub(super) async fn next(
        &mut self,
        server: &Server,
        reading: &Reading,
    ) -> Result<Option<Page>, Failure> {
        let Some(from) = &self.next else { return Ok(None) };
        let (source, limit) = (&self.source, self.limit);
        let mut path =
            format!("{}?limit={limit}{}", source.collection(reading.group), source.selector());
        if !from.is_empty() {
            path = format!("{path}&continue={}", escaped(from));
        }
        let text = match server.get(path).await {
            Ok(text) => text,
            Err(failure) if failure.kind == FailureKind::NotFound => {
                self.next = None;
                return Ok(None);
            }
            Err(failure) => return Err(failure),
        };
        let page = source
            .page(&text, reading)
            .map_err(|reason| Failure::new(FailureKind::Lost, format!("a listing: {reason}")))?;
        self.revision.get_or_insert(page.revision);
        self.limit = limit_after(page.items.len(), text.len());
        self.next = Some(page.next.clone()).filter(|next| !next.is_empty());
        Ok(Some(page))
    }
}

/// How many objects to ask for after a page of so many, whose text had so many bytes.
fn limit_after(items: usize, bytes: usize) -> usize {
    (PAGE * items.max(1) / bytes.max(1)).clamp(FIRST / 2, LARGEST)
}

/// As of when the server answers now.
pub(super) async fn now(
    server: &Server,
    source: &Source,
    reading: &Reading,
) -> Result<Revision, Failure> {
    let path = format!("{}?limit=1", source.collection(reading.group));
    let text = server.get(path).await?;
    let page = source.page(&text, reading);
    page.map(|page| page.revision)
        .map_err(|reason| Failure::new(FailureKind::Lost, format!("a listing: {reason}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_large_objects_have_fewer() {
        for (items, bytes, limit) in [
            (100, 50_000, LARGEST),
            (100, 1_000_000, 104),
            (100, 400_000, 262),
            (1, 1_500_000, 50),
            (0, 0, LARGEST),
        ] {
            assert_eq!(limit_after(items, bytes), limit, "{items} in {bytes} bytes");
        }
    }
}
