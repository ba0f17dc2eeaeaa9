//! Claims on blocks: pending, then the block, then confirmed.

use std::collections::HashSet;

use calico_core::datastore::{StoreError, Write, WriteFailed};
use calico_core::key::{Key, Scope};
use calico_core::resource::{AffinityState, BlockAffinityValue};
use ipnet::IpNet;
use tracing::{debug, warn};

use super::Session;
use super::view;
use crate::error::IpamError;
use crate::plan::block::{Block, json};
use crate::plan::geometry::host_seed;

/// Blocks passed over, besides those that are claimed, before a pool counts as full: a bound for
/// pools with vast reservations.
const MAX_SKIPPED: usize = 65_536;

impl Session<'_> {
    /// Claims one more block of the pool at place `pool`, or up to `wanted` together; says whether
    /// there is one more.
    pub(crate) async fn claim(&mut self, pool: usize, wanted: usize) -> Result<bool, IpamError> {
        let Some((cidr, geometry)) =
            self.view.cluster.pools.get(pool).map(|pool| (pool.cidr, pool.geometry))
        else {
            return Ok(false);
        };
        // Claims of ours that were never finished come first.
        let unfinished: Vec<IpNet> = self
            .view
            .own
            .iter()
            .filter(|(block, (state, _))| {
                *state != AffinityState::Confirmed && cidr.contains(*block)
            })
            .map(|(block, _)| *block)
            .collect();
        for block in unfinished {
            if self.recover(block).await? {
                return Ok(true);
            }
        }
        let (mut taken, mut unsure) = self.taken().await?;
        for _ in 0..self.ipam.options.retries {
            let reserved = &self.view.cluster.reserved;
            let passed = (taken.len() + unsure.len()).saturating_add(MAX_SKIPPED);
            let walk = || {
                let blocks = geometry.walk(host_seed(&self.owner.name)).take(passed);
                blocks.filter(|block| !taken.contains(block) && !reserved.covers(block))
            };
            let sure: Vec<IpNet> = walk().filter(|b| !unsure.contains(b)).take(wanted).collect();
            let candidate = sure.first().copied().or_else(|| walk().next());
            if sure.len() > 1 && self.claim_together(&sure).await? {
                return Ok(true);
            }
            let Some(block) = candidate else { return Ok(false) };
            if self.try_claim(block).await? {
                return Ok(true);
            }
            unsure.remove(&block);
            taken.insert(block);
        }
        Err(self.contention(format!("claiming a block of {cidr}")))
    }

    /// Claims blocks that nobody seems to have with one write: claims and blocks first, then all
    /// confirmations. Says whether any is ours; if somebody interferes, what was written is made
    /// good one by one.
    async fn claim_together(&mut self, cidrs: &[IpNet]) -> Result<bool, IpamError> {
        let (mut blocks, mut writes) = (Vec::new(), Vec::new());
        for cidr in cidrs {
            let mut block = self.new_block(*cidr)?;
            let pending = affinity(AffinityState::Pending);
            writes.push(Write::create(self.owner.affinity_key(*cidr), pending));
            writes.push(Write::create(Key::Block(*cidr), block.next_write()));
            blocks.push(block);
        }
        writes.extend(cidrs.iter().map(|cidr| confirm(self.owner.affinity_key(*cidr))));
        match self.ipam.store.write(writes).await {
            Ok(revisions) => {
                debug!(blocks = cidrs.len(), owner = %self.owner, "claimed blocks");
                let (claimed, confirmed) = revisions.split_at(2 * cidrs.len());
                for ((block, pair), last) in
                    blocks.into_iter().zip(claimed.chunks_exact(2)).zip(confirmed)
                {
                    self.keep(block, &[pair[0], pair[1], *last]);
                }
                Ok(true)
            }
            Err(WriteFailed { done, error }) if is_race(&error) => {
                let mut any = false;
                for cidr in cidrs.iter().take(done.len().div_ceil(2).max(1)) {
                    any |= self.recover(*cidr).await?;
                }
                Ok(any)
            }
            Err(failed) => Err(failed.error.into()),
        }
    }

    /// Blocks that somebody has, and blocks that somebody wants or gives up: those may not exist,
    /// if a host died over it.
    async fn taken(&self) -> Result<(HashSet<IpNet>, HashSet<IpNet>), IpamError> {
        let (mut taken, mut unsure) = (HashSet::new(), HashSet::new());
        for entry in self.ipam.store.list(&Scope::Affinities).await?.entries {
            let Key::Affinity { block, .. } = entry.key else { continue };
            let state = entry.decode::<BlockAffinityValue>().ok().and_then(|value| value.state);
            match state {
                Some(AffinityState::Confirmed) => taken.insert(block),
                _ => unsure.insert(block),
            };
        }
        Ok((taken, unsure))
    }

    /// Claims `cidr` if nobody has it.
    pub(crate) async fn try_claim(&mut self, cidr: IpNet) -> Result<bool, IpamError> {
        let key = self.owner.affinity_key(cidr);
        let mut block = self.new_block(cidr)?;
        let writes = vec![
            Write::create(key.clone(), affinity(AffinityState::Pending)),
            Write::create(Key::Block(cidr), block.next_write()),
            confirm(key.clone()),
        ];
        match self.ipam.store.write(writes).await {
            Ok(revisions) => {
                debug!(block = %cidr, owner = %self.owner, "claimed a block");
                self.keep(block, &revisions);
                Ok(true)
            }
            // The claim is there already, or somebody interferes: look closer.
            Err(failed) if is_race(&failed.error) => self.recover(cidr).await,
            Err(failed) => Err(failed.error.into()),
        }
    }

    /// Finishes a claim on `cidr` that stopped half-way, or gives it up if the block has another
    /// owner. Says whether the block is ours.
    pub(crate) async fn recover(&mut self, cidr: IpNet) -> Result<bool, IpamError> {
        let key = self.owner.affinity_key(cidr);
        for _ in 0..self.ipam.options.retries {
            let claim = self.ipam.store.find(&key).await?.map(|entry| entry.revision);
            let block = match view::block(&self.ipam.store, cidr).await {
                Ok(block) => block,
                Err(StoreError::BadObject { path, reason }) => {
                    warn!(path, reason, "leaving a block alone that cannot be read");
                    self.view.own.remove(&cidr);
                    return Ok(false);
                }
                Err(error) => return Err(error.into()),
            };
            let (block, write) = match block {
                Some((mut block, revision)) if block.is_owned_by(&self.owner) => {
                    // Writing the block, though nothing changes in it, defeats whoever read it
                    // before and is about to delete it.
                    let write = Write::update(Key::Block(cidr), block.next_write(), revision);
                    (block, write)
                }
                Some(_) => {
                    self.view.own.remove(&cidr);
                    self.view.blocks.remove(&cidr);
                    let Some(revision) = claim else { return Ok(false) };
                    match self.ipam.store.delete(key.clone(), Some(revision)).await {
                        Ok(_) => return Ok(false),
                        Err(error) if is_race(&error) => continue,
                        Err(error) => return Err(error.into()),
                    }
                }
                None => {
                    let mut block = self.new_block(cidr)?;
                    let write = Write::create(Key::Block(cidr), block.next_write());
                    (block, write)
                }
            };
            let pending = affinity(AffinityState::Pending);
            let claim = match claim {
                Some(revision) => Write::update(key.clone(), pending, revision),
                None => Write::create(key.clone(), pending),
            };
            match self.ipam.store.write(vec![claim, write, confirm(key.clone())]).await {
                Ok(revisions) => {
                    self.keep(block, &revisions);
                    return Ok(true);
                }
                Err(WriteFailed { error, .. }) if is_race(&error) => {}
                Err(WriteFailed { error, .. }) => return Err(error.into()),
            }
        }
        Err(self.contention(format!("claiming block {cidr}")))
    }

    /// Whether the owner may claim one more block of the family of `part`.
    pub(crate) fn block_limit(&self, asked: Option<u32>) -> u32 {
        let configured = Some(self.view.cluster.config.max_blocks_per_host).filter(|max| *max > 0);
        match (asked, configured) {
            (Some(asked), Some(configured)) => asked.min(configured),
            (Some(limit), None) | (None, Some(limit)) => limit,
            (None, None) => self.ipam.options.blocks_per_host,
        }
    }

    /// Remembers a claim that was written as affinity, block, affinity.
    fn keep(&mut self, block: Block, revisions: &[calico_core::datastore::Revision]) {
        if let [_, of_block, of_claim] = *revisions {
            let cidr = block.cidr();
            self.view.own.insert(cidr, (AffinityState::Confirmed, of_claim));
            self.view.blocks.insert(cidr, (block, of_block));
        }
    }

    fn new_block(&self, cidr: IpNet) -> Result<Block, IpamError> {
        Block::new(cidr, Some(&self.owner), self.ipam.now())
            .ok_or_else(|| IpamError::invalid(format!("{cidr} is too large for a block")))
    }

    pub(crate) fn contention(&self, what: impl Into<String>) -> IpamError {
        IpamError::Contention { what: what.into(), attempts: self.ipam.options.retries }
    }
}

/// Stored form of a claim.
pub(crate) fn affinity(state: AffinityState) -> String {
    json(&BlockAffinityValue { state: Some(state), ..BlockAffinityValue::default() })
}

/// Confirms a claim written just before. Its revision is not known yet; if somebody changed it in
/// between, the block, which is what counts, is ours all the same.
fn confirm(key: Key) -> Write {
    let value = Some(affinity(AffinityState::Confirmed).into());
    Write { key, value, expect: calico_core::datastore::Expect::Present }
}

/// Whether a write failed because somebody else wrote.
pub(crate) const fn is_race(error: &StoreError) -> bool {
    error.is_conflict() || error.is_not_found()
}
