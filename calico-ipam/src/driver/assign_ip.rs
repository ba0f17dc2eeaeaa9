//! Assignment of one particular address.

use calico_core::datastore::{Write, WriteFailed};
use calico_core::key::{Family, Key};
use ipnet::IpNet;

use super::claim::is_race;
use super::view::{self, View};
use super::{Ipam, Session};
use crate::error::IpamError;
use crate::plan::block::{Block, json};
use crate::plan::owner::Owner;
use crate::plan::pool::{Mismatch, NoPool};
use crate::request::{Address, AssignIp, attribute, describe_owner, sane_handle};

impl Ipam {
    /// Assigns one particular address. Reservations do not count; selectors neither.
    ///
    /// # Errors
    ///
    /// [`IpamError::NotInPool`], [`IpamError::NoPool`] if the pool is closed or for other uses,
    /// [`IpamError::InUse`], [`IpamError::StrictAffinity`], and failures as with
    /// [`auto_assign`](Self::auto_assign).
    pub async fn assign_ip(&self, request: AssignIp) -> Result<Address, IpamError> {
        let owner = request.owner.clone().unwrap_or_else(|| Owner::host(&request.node));
        let mut view = View::load(&*self.store, &owner, &request.node).await?;
        Session { ipam: self, view: &mut view, owner }.assign_ip(&request).await
    }
}

impl Session<'_> {
    pub(crate) async fn assign_ip(&mut self, request: &AssignIp) -> Result<Address, IpamError> {
        let id = request.handle.as_deref().map(sane_handle).transpose()?;
        let cidr = self.block_for(request)?;
        for _ in 0..self.ipam.options.retries {
            // The block is read before the handle is written: see `release_by_handle`.
            let Some((block, revision)) = view::block(&self.ipam.store, cidr).await? else {
                // Claims the block or, if somebody was faster, has it read next time.
                self.try_claim(cidr).await?;
                continue;
            };
            if self.view.cluster.config.strict_affinity && !block.is_owned_by(&self.owner) {
                return Err(IpamError::StrictAffinity {
                    address: request.address,
                    block: cidr,
                    owner: block.owner().map_or_else(|| "nobody".into(), |o| o.to_string()),
                });
            }
            if let Some(address) = self.write_ip(request, id, block, revision).await? {
                return Ok(address);
            }
        }
        Err(self.contention(format!("assigning {}", request.address)))
    }

    fn block_for(&self, request: &AssignIp) -> Result<IpNet, IpamError> {
        let address = request.address;
        let pools = &self.view.cluster.pools;
        let pool = pools
            .iter()
            .find(|pool| pool.cidr.contains(&address))
            .ok_or(IpamError::NotInPool { address })?;
        let refused = match pool.closed {
            Some(closed) => Some(Mismatch::Closed(closed)),
            None if !pool.allows(request.intended_use) => Some(Mismatch::Use(request.intended_use)),
            None => None,
        };
        match refused {
            Some(why) => Err(IpamError::NoPool {
                family: Family::of(address),
                why: NoPool::Refused(pool.name.clone(), why),
            }),
            None => pool.geometry.block_of(address).ok_or(IpamError::NotInPool { address }),
        }
    }

    /// One attempt; `None` if somebody else wrote at the same time.
    async fn write_ip(
        &mut self,
        request: &AssignIp,
        id: Option<&str>,
        mut block: Block,
        revision: calico_core::datastore::Revision,
    ) -> Result<Option<Address>, IpamError> {
        let cidr = block.cidr();
        block.thaw(self.view.cluster.cooldown(), self.ipam.now());
        let to = attribute(id, &request.attributes);
        let allocation = block.assign_ip(request.address, &to).map_err(|owner| {
            IpamError::InUse { address: request.address, owner: describe_owner(&owner) }
        })?;
        let mut writes = Vec::new();
        let mut before = None;
        if let Some(id) = id {
            let stored = view::handle(&self.ipam.store, id).await?;
            let mut handle = stored.as_ref().map(|(h, _)| h.clone()).unwrap_or_default();
            *handle.block.entry(cidr.to_string()).or_default() += 1;
            let key = Key::Handle(id.to_owned());
            writes.push(match &stored {
                Some((_, revision)) => Write::update(key, json(&handle), *revision),
                None => Write::create(key, json(&handle)),
            });
            before = Some((id, stored));
            self.view.handles.remove(id);
        }
        writes.push(Write::update(Key::Block(cidr), block.next_write(), revision));
        self.view.blocks.remove(&cidr);
        match self.ipam.store.write(writes).await {
            Ok(_) => Ok(Some(Address {
                ip: request.address,
                block: cidr,
                sequence: allocation.sequence,
            })),
            Err(WriteFailed { done, error }) if is_race(&error) => {
                // The handle was written, the block was not: take it back. If that fails the
                // handle counts too much, which is harmless.
                if let (Some((id, stored)), Some(revision)) = (before, done.first()) {
                    let key = Key::Handle(id.to_owned());
                    let undo = match stored {
                        Some((handle, _)) => Write::update(key, json(&handle), *revision),
                        None => Write::delete(key, Some(*revision)),
                    };
                    let _ = self.ipam.store.write(vec![undo]).await;
                }
                Ok(None)
            }
            Err(failed) => Err(failed.error.into()),
        }
    }
}
