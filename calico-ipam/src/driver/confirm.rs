//! Taking an address into use again that was assigned before a restart.

use std::net::IpAddr;

use calico_core::datastore::Write;
use calico_core::key::Key;

use super::Ipam;
use super::claim::is_race;
use super::view;
use crate::error::IpamError;
use crate::request::sane_handle;

impl Ipam {
    /// Says whether `handle` still has `ip`, and defeats everybody who is about to take it away: it
    /// is a new assignment from now on, to the same owner.
    ///
    /// Whoever uses an address again that it has not just been given, as after a restart, asks this
    /// first, when its node's resource exists already. A [`Collector`] that has not yet seen the
    /// node then fails, or begins its grace time anew, and one that was faster is noticed.
    ///
    /// [`Collector`]: crate::plan::collect::Collector
    ///
    /// # Errors
    ///
    /// [`IpamError::Contention`], or [`IpamError::Store`]: then it is not known.
    pub async fn confirm_address(&self, ip: IpAddr, handle: &str) -> Result<bool, IpamError> {
        let handle = sane_handle(handle)?;
        for _ in 0..self.options.retries {
            let Some(cidr) = self.find_block(ip).await? else { return Ok(false) };
            let Some((mut block, revision)) = view::block(&self.store, cidr).await? else {
                return Ok(false);
            };
            let owner = block.allocation(ip).map(|allocation| allocation.attributes);
            if owner.is_none_or(|it| {
                it.released_at.is_some() || it.handle_id.as_deref() != Some(handle)
            }) {
                return Ok(false);
            }
            block.renew(ip);
            let write = Write::update(Key::Block(cidr), block.next_write(), revision);
            match self.store.write(vec![write]).await {
                Ok(_) => return Ok(true),
                Err(failed) if is_race(&failed.error) => {}
                Err(failed) => return Err(failed.error.into()),
            }
        }
        Err(IpamError::Contention {
            what: format!("confirming {ip}"),
            attempts: self.options.retries,
        })
    }
}
