//! Blocks of a host as a whole: have one, give them up, forget the host.

use std::collections::BTreeSet;
use std::net::IpAddr;

use calico_core::datastore::{Write, WriteFailed};
use calico_core::key::{Family, Key, OwnerType, Scope};
use calico_core::resource::{AffinityState, AllowedUse};
use ipnet::IpNet;
use tracing::warn;

use super::claim::{affinity, is_race};
use super::release::{block_and_claim, write_or_delete};
use super::view::{self, View};
use super::{Ipam, Session};
use crate::error::IpamError;
use crate::plan::block::Block;
use crate::plan::owner::Owner;
use crate::plan::pool::{Purpose, choose};
use crate::request::Release;

/// What the release of a host freed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostReleased {
    /// Addresses that were recorded as the host's.
    pub addresses: Vec<IpAddr>,
    /// Blocks that it owned.
    pub blocks: Vec<IpNet>,
}

impl Ipam {
    /// Sees to it that `node` owns a block of each family that a pool serves, and returns its
    /// blocks. Routes can then be announced before the first pod.
    ///
    /// # Errors
    ///
    /// Failures of the store. A family without a pool, or with a full one, is left out.
    pub async fn ensure_block(&self, node: &str) -> Result<Vec<IpNet>, IpamError> {
        let owner = Owner::host(node);
        let mut view = View::load(&*self.store, &owner, node).await?;
        let mut session = Session { ipam: self, view: &mut view, owner };
        for family in Family::BOTH {
            session.ensure_block(family).await?;
        }
        Ok(view.confirmed().collect())
    }

    /// Gives up `owner`'s claim on `block`. The block goes if it is empty, else it stays without
    /// an owner, unless `only_if_empty`. Says whether the claim is gone.
    ///
    /// # Errors
    ///
    /// Failures of the store.
    pub async fn release_affinity(
        &self,
        owner: &Owner,
        block: IpNet,
        only_if_empty: bool,
    ) -> Result<bool, IpamError> {
        let key = owner.affinity_key(block);
        for _ in 0..self.options.retries {
            let (stored, claim) = block_and_claim(self, block, &key).await?;
            let Some(claim) = claim else { return Ok(true) };
            let stored = stored.filter(|(block, _)| block.is_owned_by(owner));
            if only_if_empty && stored.as_ref().is_some_and(|(block, _)| !block.is_empty()) {
                return Ok(false);
            }
            // Marked first: a crash in between is then seen, and finished or undone.
            let mark = affinity(AffinityState::PendingDeletion);
            let mut writes = vec![Write::update(key.clone(), mark, claim)];
            if let Some((mut block, revision)) = stored {
                block.disown();
                writes.push(write_or_delete(&mut block, revision).0);
            }
            let marked = match self.store.write(writes).await {
                Ok(done) => done.first().copied(),
                Err(failed) if is_race(&failed.error) => continue,
                Err(failed) => return Err(failed.error.into()),
            };
            match self.store.write(vec![Write::delete(key.clone(), marked)]).await {
                Ok(_) => return Ok(true),
                Err(WriteFailed { error, .. }) if is_race(&error) => {}
                Err(WriteFailed { error, .. }) => return Err(error.into()),
            }
        }
        Err(IpamError::Contention {
            what: format!("releasing {owner}'s claim on {block}"),
            attempts: self.options.retries,
        })
    }

    /// Forgets a node that is gone: releases every address recorded as its own, in any block, and
    /// gives up its blocks. Addresses that other nodes borrowed from it stay.
    ///
    /// # Errors
    ///
    /// Failures of the store; the call can be repeated.
    pub async fn release_host(&self, node: &str) -> Result<HostReleased, IpamError> {
        let owner = Owner::host(node);
        let mut answer = HostReleased::default();
        let (mut handles, mut single) = (BTreeSet::new(), Vec::new());
        for entry in self.store.list(&Scope::Blocks).await?.entries {
            let block = match Block::read(&entry) {
                Ok(block) => block,
                Err(error) => {
                    warn!(%error, "leaving a block alone that cannot be read");
                    continue;
                }
            };
            for allocation in block.allocations() {
                if allocation.attributes.secondary.get("node").map(String::as_str) != Some(node) {
                    continue;
                }
                match allocation.attributes.handle_id {
                    Some(handle) => {
                        handles.insert(handle);
                    }
                    None => single.push(Release {
                        address: allocation.address,
                        handle: None,
                        sequence: allocation.sequence,
                    }),
                }
            }
        }
        for handle in handles {
            answer.addresses.extend(self.release_by_handle(&handle).await?);
        }
        answer.addresses.extend(self.release_ips(&single).await?.released);
        for cidr in view::claims(&*self.store, &owner).await?.into_keys() {
            self.release_affinity(&owner, cidr, false).await?;
            answer.blocks.push(cidr);
        }
        match self.store.delete(Key::IpamHost(node.to_owned()), None).await {
            Err(error) if !is_race(&error) => Err(error.into()),
            _ => Ok(answer),
        }
    }

    /// Gives up empty blocks of `node` in pools that no longer select it; returns them.
    ///
    /// # Errors
    ///
    /// Failures of the store.
    pub async fn release_unselected(&self, node: &str) -> Result<Vec<IpNet>, IpamError> {
        let owner = Owner::host(node);
        let view = View::load(&*self.store, &owner, node).await?;
        let mut gone = Vec::new();
        for cidr in view.own.keys() {
            let wrong = view
                .cluster
                .pool_of(cidr)
                .is_some_and(|pool| !pool.selects_node(&view.cluster.node));
            if wrong && self.release_affinity(&owner, *cidr, true).await? {
                gone.push(*cidr);
            }
        }
        Ok(gone)
    }

    /// Gives up every claim on blocks inside `pool`, as before its deletion; blocks in use stay
    /// without an owner. Returns the blocks.
    ///
    /// # Errors
    ///
    /// Failures of the store.
    pub async fn release_pool_affinities(&self, pool: &IpNet) -> Result<Vec<IpNet>, IpamError> {
        let mut gone = Vec::new();
        for entry in self.store.list(&Scope::Affinities).await?.entries {
            let Key::Affinity { owner_type, owner, block } = entry.key else { continue };
            if pool.contains(&block) {
                let owner = Owner { kind: owner_type, name: owner };
                self.release_affinity(&owner, block, false).await?;
                gone.push(block);
            }
        }
        Ok(gone)
    }
}

impl Session<'_> {
    async fn ensure_block(&mut self, family: Family) -> Result<(), IpamError> {
        debug_assert_eq!(self.owner.kind, OwnerType::Host, "only nodes have labels");
        let purpose = Purpose {
            family,
            intended_use: AllowedUse::Workload,
            node: &self.view.cluster.node,
            namespace: None,
        };
        let Ok(pools) = choose(&self.view.cluster.pools, &[], &purpose) else { return Ok(()) };
        let confirmed = |session: &Self, pool: usize| {
            let pool = &session.view.cluster.pools[pool];
            session.view.confirmed().any(|block| pool.cidr.contains(&block))
        };
        if pools.iter().any(|pool| confirmed(self, *pool)) {
            return Ok(());
        }
        for pool in pools {
            if self.claim(pool, 1).await? {
                break;
            }
        }
        Ok(())
    }
}
