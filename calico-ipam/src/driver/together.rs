//! Releases of several handles in one write.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use calico_core::datastore::Write;
use calico_core::key::Key;
use futures_util::future::try_join_all;
use ipnet::IpNet;

use super::Ipam;
use super::release::{nets, write_or_delete};
use super::view::{self, View};
use crate::error::IpamError;
use crate::request::sane_handle;

/// A handle to release, and what the caller wants written before its addresses are free; see
/// [`Allocator::release_along`](crate::Allocator::release_along).
#[derive(Debug, Clone)]
pub struct Ending {
    /// The handle; an unknown one has nothing to release.
    pub handle: String,
    /// Deletions of what leads to the addresses, such as an endpoint.
    pub first: Vec<Write>,
}

impl Ipam {
    /// Releases handles by what `view` knows of them, in one write: what the callers want first,
    /// then blocks, then handles. Every block of a handle is written, as in
    /// [`release_handle`](Self::release_handle).
    pub(crate) async fn release_together(
        &self,
        view: &mut View,
        endings: &[Ending],
    ) -> Result<Vec<Vec<IpAddr>>, IpamError> {
        // Taken out of the view: what is being written is unknown until the store answers.
        let mut stored = BTreeMap::new();
        let mut unknown = BTreeSet::new();
        for ending in endings {
            let handle = sane_handle(&ending.handle)?;
            match view.handles.remove(handle) {
                Some(known) => drop(stored.insert(handle, known)),
                None => drop(unknown.insert(handle)),
            }
        }
        unknown.retain(|handle| !stored.contains_key(handle));
        let read = unknown.iter().map(|handle| view::handle(&self.store, handle));
        for (handle, read) in unknown.iter().zip(try_join_all(read).await?) {
            stored.extend(read.map(|read| (*handle, read)));
        }
        let cidrs: BTreeSet<IpNet> =
            stored.values().flat_map(|(handle, _)| nets(handle.block.keys())).collect();
        let cidrs: Vec<IpNet> = cidrs.into_iter().collect();
        let mut blocks = self.blocks_of(view, &cidrs).await?;

        let (now, cooldown) = (self.now(), view.cluster.cooldown());
        let mut freed: BTreeMap<&str, Vec<IpAddr>> = BTreeMap::new();
        let mut writes: Vec<Write> = endings.iter().flat_map(|e| e.first.clone()).collect();
        let before = writes.len();
        let mut kept = Vec::new();
        for (block, revision) in &mut blocks {
            block.thaw(cooldown, now);
            let cidr = block.cidr().to_string();
            for (handle, _) in stored.iter().filter(|(_, (h, _))| h.block.contains_key(&cidr)) {
                let ips = block.release_handle(handle, cooldown, now);
                freed.entry(handle).or_default().extend(ips);
            }
            let (write, keep) = write_or_delete(block, *revision);
            writes.push(write);
            kept.push(keep);
        }
        for (handle, (_, revision)) in &stored {
            writes.push(Write::delete(Key::Handle((*handle).to_owned()), Some(*revision)));
        }
        if !writes.is_empty() {
            let done = self.store.write(writes).await.map_err(|failed| failed.error)?;
            let revisions = done.into_iter().skip(before);
            for (((block, _), keep), revision) in blocks.into_iter().zip(kept).zip(revisions) {
                if keep && view.own.contains_key(&block.cidr()) {
                    view.blocks.insert(block.cidr(), (block, revision));
                }
            }
        }
        let of = |ending: &Ending| {
            let handle = sane_handle(&ending.handle).unwrap_or_default();
            freed.get(handle).cloned().unwrap_or_default()
        };
        Ok(endings.iter().map(of).collect())
    }
}
