//! Release of addresses, one by one or by handle.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;

use calico_core::datastore::{Revision, StoreError, Write, WriteFailed};
use calico_core::key::{Key, Scope};
use calico_core::kind::Kind;
use futures_util::future::{try_join, try_join_all};
use ipnet::IpNet;
use tracing::warn;

use super::Ipam;
use super::claim::is_race;
use super::job::{Counts, subtract};
use super::view::{self, View};
use crate::error::IpamError;
use crate::plan::block::{Allocation, Block, Cooldown, NotReleased, ReleaseCheck, json};
use crate::request::{Release, Released, describe_owner, sane_handle};

impl Ipam {
    /// Releases addresses, each only if it still belongs to whom the caller thinks.
    ///
    /// # Errors
    ///
    /// [`IpamError::OtherOwner`] if a handle or sequence number does not match; addresses of other
    /// blocks may have been released then. Failures of the store.
    pub async fn release_ips(&self, releases: &[Release]) -> Result<Released, IpamError> {
        if releases.is_empty() {
            return Ok(Released::default());
        }
        let config = self.config().await?;
        let pools = view::read_pools(&self.store.list(&Scope::Kind(Kind::IpPool)).await?.entries);
        let cluster = view::Cluster { config, pools, ..Default::default() };
        let mut by_block: BTreeMap<IpNet, Vec<&Release>> = BTreeMap::new();
        let mut answer = Released::default();
        for release in releases {
            let pool = cluster.pools.iter().find(|pool| pool.cidr.contains(&release.address));
            let block = match pool.and_then(|pool| pool.geometry.block_of(release.address)) {
                Some(block) => Some(block),
                None => self.find_block(release.address).await?,
            };
            match block {
                Some(cidr) => by_block.entry(cidr).or_default().push(release),
                None => answer.unassigned.push(release.address),
            }
        }
        let blocks = by_block
            .iter()
            .map(|(cidr, releases)| self.release_in(*cidr, releases, cluster.cooldown()));
        let mut counts: HashMap<String, Counts> = HashMap::new();
        let mut failed = None;
        for result in futures_util::future::join_all(blocks).await {
            match result {
                Ok((released, handles)) => {
                    answer.released.extend(released.released);
                    answer.unassigned.extend(released.unassigned);
                    for (handle, cidr) in handles {
                        *counts.entry(handle).or_default().entry(cidr).or_default() += 1;
                    }
                }
                Err(error) => failed = Some(error),
            }
        }
        let handles = counts.iter().map(|(handle, counts)| self.decrement(handle, counts));
        try_join_all(handles).await?;
        failed.map_or(Ok(answer), Err)
    }

    /// Releases every address of `handle`, and the handle. An unknown handle is no error: then
    /// there is nothing to release.
    ///
    /// # Errors
    ///
    /// [`IpamError::Contention`], or [`IpamError::Store`]; the handle is still there then, so that
    /// the call can be repeated.
    pub async fn release_by_handle(&self, handle: &str) -> Result<Vec<IpAddr>, IpamError> {
        let config = self.config().await?;
        let cluster = view::Cluster { config, ..Default::default() };
        let mut view = View { cluster, ..View::default() };
        self.release_handle(&mut view, handle).await
    }

    /// Deletes handles under which no address is assigned (any more), and returns them: what a
    /// crash between the write of a handle and that of its block leaves. Safe at any time: an
    /// assignment under way begins anew, or is left alone.
    ///
    /// # Errors
    ///
    /// [`IpamError::Store`], also for a block that cannot be read: it could hold anybody's.
    pub async fn release_empty_handles(&self) -> Result<Vec<String>, IpamError> {
        let handles = self.store.list(&Scope::Handles).await?;
        let mut used = HashSet::new();
        for entry in &self.store.list(&Scope::Blocks).await?.entries {
            let block = Block::read(entry)?;
            used.extend(block.allocations().filter_map(|a| a.attributes.handle_id));
        }
        let mut released = Vec::new();
        let names = handles.entries.iter().map(|entry| entry.key.name());
        for handle in names.filter(|handle| !used.contains(handle)) {
            if self.release_if_empty(&handle).await? {
                released.push(handle);
            }
        }
        Ok(released)
    }

    /// Deletes a handle unless it has, or is about to get, an address. Says whether it is gone.
    async fn release_if_empty(&self, handle: &str) -> Result<bool, IpamError> {
        let Some((stored, revision)) = view::handle(&self.store, handle).await? else {
            return Ok(false);
        };
        let mut view = View::default();
        let blocks = self.blocks_of(&mut view, &nets(stored.block.keys())).await?;
        if blocks.iter().any(|(block, _)| !block.of_handle(handle).is_empty()) {
            return Ok(false);
        }
        // As in a release, the blocks are written too: an assignment that has written the handle
        // and not yet its block must not go on.
        let mut writes = Vec::new();
        for (mut block, revision) in blocks {
            writes.push(write_or_delete(&mut block, revision).0);
        }
        writes.push(Write::delete(Key::Handle(handle.to_owned()), Some(revision)));
        match self.store.write(writes).await {
            Ok(_) => Ok(true),
            Err(failed) if is_race(&failed.error) => Ok(false),
            Err(failed) => Err(failed.error.into()),
        }
    }

    /// Every address of `handle`; none if it is unknown.
    ///
    /// # Errors
    ///
    /// [`IpamError::Store`].
    pub async fn addresses_by_handle(&self, handle: &str) -> Result<Vec<IpAddr>, IpamError> {
        let found = self.allocations_by_handle(handle).await?;
        Ok(found.into_iter().map(|allocation| allocation.address).collect())
    }

    /// Every address of `handle`, with what is recorded of its owner.
    ///
    /// # Errors
    ///
    /// [`IpamError::Store`].
    pub async fn allocations_by_handle(&self, handle: &str) -> Result<Vec<Allocation>, IpamError> {
        let handle = sane_handle(handle)?;
        let Some((stored, _)) = view::handle(&self.store, handle).await? else {
            return Ok(Vec::new());
        };
        let blocks = nets(stored.block.keys());
        let read = try_join_all(blocks.iter().map(|cidr| view::block(&self.store, *cidr))).await?;
        let blocks = read.iter().flatten().map(|(block, _)| block);
        let ips = blocks.flat_map(|block| {
            block.of_handle(handle).into_iter().filter_map(|ip| block.allocation(ip))
        });
        Ok(ips.collect())
    }

    /// Releases `handle` by what `view` knows of it, and by reading what it does not know.
    pub(crate) async fn release_handle(
        &self,
        view: &mut View,
        handle: &str,
    ) -> Result<Vec<IpAddr>, IpamError> {
        let handle = sane_handle(handle)?;
        let mut released = Vec::new();
        for _ in 0..self.options.retries {
            // Taken out of the view: what is being written is unknown until the store answers.
            let stored = match view.handles.remove(handle) {
                Some(known) => Some(known),
                None => view::handle(&self.store, handle).await?,
            };
            let Some((stored, revision)) = stored else { return Ok(released) };
            let blocks = self.blocks_of(view, &nets(stored.block.keys())).await?;
            let Unwritten { mut blocks, mut writes, freed } =
                self.plan_release(view, handle, blocks);
            writes.push(Write::delete(Key::Handle(handle.to_owned()), Some(revision)));
            let (done, error) = match self.store.write(writes).await {
                Ok(done) => (done, None),
                Err(WriteFailed { done, error }) => (done, Some(error)),
            };
            let written = done.len().min(blocks.len());
            for ((block, kept), revision) in blocks.drain(..written).zip(&done) {
                released.extend(freed.get(&block.cidr()).into_iter().flatten().copied());
                if kept && view.own.contains_key(&block.cidr()) {
                    view.blocks.insert(block.cidr(), (block, *revision));
                }
            }
            match error {
                None => return Ok(released),
                Some(error) if is_race(&error) => {}
                Some(error) => return Err(error.into()),
            }
        }
        Err(IpamError::Contention {
            what: format!("releasing handle {handle}"),
            attempts: self.options.retries,
        })
    }

    /// Takes blocks out of the view, or reads them.
    pub(crate) async fn blocks_of(
        &self,
        view: &mut View,
        cidrs: &[IpNet],
    ) -> Result<Vec<(Block, Revision)>, IpamError> {
        let mut blocks = Vec::new();
        let mut unknown = Vec::new();
        for cidr in cidrs {
            match view.blocks.remove(cidr) {
                Some(known) => blocks.push(known),
                None => unknown.push(*cidr),
            }
        }
        let read = unknown.iter().map(|cidr| view::block(&self.store, *cidr));
        blocks.extend(try_join_all(read).await?.into_iter().flatten());
        Ok(blocks)
    }

    /// Every block of a handle is written, even one without its addresses: an assignment that read
    /// the block before, wrote the handle, and has not written the block yet, must fail now that
    /// its handle is about to go. Else it would leave an address that no handle covers.
    fn plan_release(&self, view: &View, handle: &str, blocks: Vec<(Block, Revision)>) -> Unwritten {
        let now = self.now();
        let mut plan = Unwritten::default();
        for (mut block, revision) in blocks {
            let cooldown = view.cluster.cooldown();
            block.thaw(cooldown, now);
            let ips = block.release_handle(handle, cooldown, now);
            plan.freed.insert(block.cidr(), ips);
            let (write, kept) = write_or_delete(&mut block, revision);
            plan.writes.push(write);
            plan.blocks.push((block, kept));
        }
        plan
    }

    /// The block of an address whose pool is gone: tries every size.
    pub(crate) async fn find_block(&self, ip: IpAddr) -> Result<Option<IpNet>, IpamError> {
        let full = ipnet::IpNet::from(ip);
        let smallest = full.prefix_len();
        let largest = if ip.is_ipv4() { 20 } else { 116 };
        let usual = if ip.is_ipv4() { 26 } else { 122 };
        let sizes = std::iter::once(usual).chain((largest..=smallest).filter(|s| *s != usual));
        for size in sizes {
            let Ok(cidr) = IpNet::new(ip, size) else { continue };
            match self.store.find(&Key::Block(cidr.trunc())).await {
                Ok(Some(_)) => return Ok(Some(cidr.trunc())),
                Ok(None) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }

    /// Releases addresses of one block; also says which handles had them.
    async fn release_in(
        &self,
        cidr: IpNet,
        releases: &[&Release],
        cooldown: Cooldown,
    ) -> Result<(Released, Vec<(String, IpNet)>), IpamError> {
        for _ in 0..self.options.retries {
            let Some((mut block, revision)) = view::block(&self.store, cidr).await? else {
                let unassigned = releases.iter().map(|r| r.address).collect();
                return Ok((Released { released: Vec::new(), unassigned }, Vec::new()));
            };
            let (answer, handles) = apply(&mut block, releases, cooldown, self.now())?;
            if answer.released.is_empty() {
                return Ok((answer, handles));
            }
            let (write, _) = write_or_delete(&mut block, revision);
            match self.store.write(vec![write]).await {
                Ok(_) => return Ok((answer, handles)),
                Err(failed) if is_race(&failed.error) => {}
                Err(failed) => return Err(failed.error.into()),
            }
        }
        Err(IpamError::Contention {
            what: format!("releasing addresses of block {cidr}"),
            attempts: self.options.retries,
        })
    }

    /// Takes released addresses out of a handle's count. The addresses are free already, so a
    /// failure only leaves a handle that counts too much.
    pub(crate) async fn decrement(&self, handle: &str, counts: &Counts) -> Result<(), IpamError> {
        for _ in 0..self.options.retries {
            let Some((mut stored, revision)) = view::handle(&self.store, handle).await? else {
                return Ok(());
            };
            subtract(&mut stored.block, counts);
            let key = Key::Handle(handle.to_owned());
            let write = if stored.block.is_empty() {
                Write::delete(key, Some(revision))
            } else {
                Write::update(key, json(&stored), revision)
            };
            match self.store.write(vec![write]).await {
                Ok(_) => return Ok(()),
                Err(failed) if is_race(&failed.error) => {}
                Err(failed) => return Err(failed.error.into()),
            }
        }
        warn!(handle, "a handle counts too much, others kept writing it");
        Ok(())
    }
}

/// Blocks changed by a release, each with whether it stays, and how to write them.
#[derive(Default)]
struct Unwritten {
    blocks: Vec<(Block, bool)>,
    writes: Vec<Write>,
    freed: HashMap<IpNet, Vec<IpAddr>>,
}

/// Writes a block, or deletes it if nobody owns or uses it; says whether it stays.
pub(crate) fn write_or_delete(block: &mut Block, revision: Revision) -> (Write, bool) {
    let key = Key::Block(block.cidr());
    if block.is_empty() && block.owner().is_none() {
        (Write::delete(key, Some(revision)), false)
    } else {
        (Write::update(key, block.next_write(), revision), true)
    }
}

type Applied = (Released, Vec<(String, IpNet)>);

fn apply(
    block: &mut Block,
    releases: &[&Release],
    cooldown: Cooldown,
    now: std::time::SystemTime,
) -> Result<Applied, IpamError> {
    let mut answer = Released::default();
    let mut handles = Vec::new();
    for release in releases {
        let address = release.address;
        let check = ReleaseCheck { handle: release.handle.clone(), sequence: release.sequence };
        let other = |found: String| {
            let expected = match (&release.handle, release.sequence) {
                (Some(handle), None) => format!("handle {handle}"),
                (Some(handle), Some(sequence)) => format!("handle {handle} as of {sequence}"),
                (None, sequence) => format!("the assignment {}", sequence.unwrap_or_default()),
            };
            IpamError::OtherOwner { address, expected, found }
        };
        match block.release(address, &check, cooldown, now) {
            Ok(owner) => {
                answer.released.push(address);
                handles.extend(owner.handle_id.map(|handle| (handle, block.cidr())));
            }
            Err(NotReleased::Unassigned) => answer.unassigned.push(address),
            Err(NotReleased::OtherHandle(_)) => {
                let owner = block.allocation(address).map(|a| describe_owner(&a.attributes));
                return Err(other(owner.unwrap_or_default()));
            }
            Err(NotReleased::Reassigned(sequence)) => {
                return Err(other(match sequence {
                    Some(sequence) => format!("a later assignment, {sequence}"),
                    None => "an assignment without sequence number".to_owned(),
                }));
            }
        }
    }
    Ok((answer, handles))
}

pub(crate) fn nets<'a>(keys: impl Iterator<Item = &'a String>) -> Vec<IpNet> {
    keys.filter_map(|key| key.parse().ok()).collect()
}

/// Reads a block and a claim on it together.
pub(crate) async fn block_and_claim(
    ipam: &Ipam,
    cidr: IpNet,
    claim: &Key,
) -> Result<(Option<(Block, Revision)>, Option<Revision>), StoreError> {
    let claim = async { Ok(ipam.store.find(claim).await?.map(|entry| entry.revision)) };
    try_join(view::block(&ipam.store, cidr), claim).await
}
