//! Listings, page by page.

use calico_core::datastore::Revision;

use super::failure::{Failure, FailureKind};
use super::server::Server;
use super::source::{Page, Reading, Source, escaped};

/// Objects asked for at once: what is held in memory besides the caller's own.
const PAGE: usize = 500;

/// The pages of a listing of one collection.
#[derive(Debug)]
pub(super) struct Pages {
    source: Source,
    next: Option<String>,
    /// As of when the listing is: told by the first page.
    pub(super) revision: Option<Revision>,
}

impl Pages {
    pub(super) const fn new(source: Source) -> Self {
        Self { source, next: Some(String::new()), revision: None }
    }

    /// The next page; `None` after the last. A collection that the server does not have has one
    /// empty page, without a revision.
    pub(super) async fn next(
        &mut self,
        server: &Server,
        reading: &Reading,
    ) -> Result<Option<Page>, Failure> {
        let Some(from) = &self.next else { return Ok(None) };
        let source = &self.source;
        let mut path =
            format!("{}?limit={PAGE}{}", source.collection(reading.group), source.selector());
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
        self.next = Some(page.next.clone()).filter(|next| !next.is_empty());
        Ok(Some(page))
    }
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
