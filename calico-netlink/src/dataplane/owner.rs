//! Our table as our own: nobody else can change it as long as we run, and it stays in force between
//! two runs (`NFT_TABLE_F_OWNER`, Linux 5.12; `NFT_TABLE_F_PERSIST`, Linux 6.9).
//!
//! The owner is a socket. The kernel lets the table go when that closes; then anybody may change it
//! until the next socket owns it, which needs no change of its content. A table that was made
//! without an owner cannot come to have one: it is replaced, in the transaction that brings the
//! first complete desired state into force.

use std::time::Duration;

use calico_core::dataplane::DataplaneError;
use nix::errno::Errno;

use super::linux::{Inner, TABLE, failed};
use crate::nft::wire::{Family, table_flags};
use crate::nft::{Batch, Error};

/// Only its maker changes it, and it outlives its maker.
const OWNED: u32 = table_flags::OWNER | table_flags::PERSIST;

/// An owner that was killed is gone when the kernel comes to it.
const LOOKS: u32 = 100;
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

impl Inner {
    /// Makes the closed table, owned if that is wanted and the kernel can.
    pub(super) async fn begin(&mut self, owning: bool) -> Result<(), Error> {
        if owning {
            self.state.table().set_flags(OWNED);
        }
        self.commit().await
    }

    /// Owns the table that an earlier run left: at once if that one owned it, else with the first
    /// complete desired state.
    pub(super) async fn take_over(&mut self) -> Result<(), DataplaneError> {
        let mut batch = Batch::new(Family::Inet, TABLE);
        batch.add_table_with(OWNED);
        for _ in 0..LOOKS {
            match self.socket.commit(&batch, None).await {
                Ok(()) => {
                    self.state.table().set_flags(OWNED);
                    self.generation = self.socket.generation().await.map_err(failed)?;
                    return Ok(());
                }
                Err(error) if is_refused(&error, Errno::EPERM) => {
                    tokio::time::sleep(BETWEEN_LOOKS).await;
                }
                Err(Error::Refused(_)) => {
                    self.state.table().set_flags(OWNED);
                    self.state.table().set_remake(true);
                    return Ok(());
                }
                Err(error) => return Err(failed(error)),
            }
        }
        let reason = format!(
            "the nftables table inet {TABLE} is owned by another process: does another agent run in \
             this network namespace? `nft list table inet {TABLE}` names its program"
        );
        Err(DataplaneError::Unavailable { reason })
    }

    /// The kernel refused to make the table as ours: then anybody may change it.
    pub(super) fn does_without_owner(&mut self, error: &Error) -> bool {
        let table = self.state.table();
        let is_table = matches!(error, Error::Refused(refusals) if refusals.iter().any(|refusal| {
            refusal.subject.as_ref().is_some_and(|subject| subject.kind == "table")
        }));
        if !(is_table && table.makes_table() && table.flags() == OWNED) {
            return false;
        }
        tracing::info!(%error, "other programs can change our nftables table");
        table.set_flags(0);
        table.set_remake(false);
        true
    }
}

fn is_refused(error: &Error, errno: Errno) -> bool {
    matches!(error, Error::Refused(refusals) if refusals.iter().any(|r| r.errno == errno))
}
