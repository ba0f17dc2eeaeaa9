//! Brings the desired table into the kernel, and reads the kernel back.

use super::linux::{Inner, TABLE};
use super::names;
use crate::nft::wire::{Family, Generation};
use crate::nft::{Batch, Counts, Error, parts};

/// Attempts to commit while other programs keep changing the ruleset. The last one goes without
/// the generation check: our table is ours, and a batch that does not fit it is refused.
pub(super) const ATTEMPTS: usize = 5;

/// How many refusals are dealt with one after the other; each names at least one object.
const ISOLATIONS: usize = 100;

impl Inner {
    /// Brings the desired table into force. What the kernel refuses is left out,
    /// and whoever needs it is closed and told of; everything else comes into force.
    pub(super) async fn commit(&mut self) -> Result<(), Error> {
        for _ in 0..ISOLATIONS {
            match self.commit_whole().await {
                // First: without its table, everything in the batch is refused.
                Err(error) if self.does_without_owner(&error) => {}
                Err(Error::Refused(refusals)) if self.state.isolate(&refusals) => {
                    let error = Error::Refused(refusals);
                    tracing::error!(%error, "left out, and closed what needs it");
                }
                result => return result,
            }
        }
        self.commit_whole().await
    }

    async fn commit_whole(&mut self) -> Result<(), Error> {
        for attempt in 1..=ATTEMPTS {
            let error = match self.commit_steps(attempt < ATTEMPTS).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            // Refused because what we believe is wrong: read, and try with the truth. A batch that
            // fits what was read and is refused again is really at fault.
            if !error.is_stale() || attempt == ATTEMPTS {
                return Err(error);
            }
            let drift = self.observe().await?;
            if !matches!(error, Error::GenerationChanged) && attempt > 1 {
                return Err(error);
            }
            tracing::debug!(%error, differences = drift.len(), "committing anew");
        }
        Ok(())
    }

    /// What nothing leads to yet, then all the rest at once; `checked`: only on top of what we
    /// know.
    async fn commit_steps(&mut self, checked: bool) -> Result<(), Error> {
        let counts = self.counts().await;
        if let Some(ahead) = self.state.table().batch_ahead(&counts) {
            self.send(&ahead, checked).await?;
            self.state.table().committed_ahead();
        }
        let batch = self.state.table().batch_keeping(&counts);
        if !batch.is_empty() {
            self.send(&batch, checked).await?;
            self.retire(&counts);
            self.state.table().committed();
        }
        Ok(())
    }

    pub(super) async fn send(&mut self, batch: &Batch, checked: bool) -> Result<(), Error> {
        let deaf = self.ear.as_ref().and_then(|ear| ear.close(batch.len()));
        let generation = checked.then_some(self.generation);
        let committed = self.socket.commit(batch, generation).await;
        drop(deaf);
        committed?;
        self.generation = match generation {
            Some(generation) => next(generation),
            None => self.socket.generation().await?,
        };
        Ok(())
    }

    /// What rules counted whose chains are about to be written anew. Best effort: what cannot be
    /// read, and what is counted between here and the commit, is lost.
    async fn counts(&mut self) -> Counts {
        let table = self.state.table();
        let mut chains = table.replaced_chains();
        let kept = |chain: &&str| is_shared(chain) || parts::is_part(chain);
        chains.extend(table.removed_chains().filter(kept));
        if chains.is_empty() {
            return Counts::default();
        }
        let counts = self.socket.counts(Family::Inet, TABLE, &chains).await;
        counts.unwrap_or_else(|error| {
            tracing::debug!(%error, "rules that change count from zero");
            Counts::default()
        })
    }

    /// Endpoints share chains by content, so that a chain goes although what its rules stand for
    /// stays: the end of a tier, say.
    fn retire(&mut self, counts: &Counts) {
        for chain in self.state.table().removed_chains().filter(|chain| is_shared(chain)) {
            for (identity, packets, bytes) in counts.sums(chain) {
                let sum = self.retired.entry(identity.to_owned()).or_default();
                *sum = (sum.0 + packets, sum.1 + bytes);
            }
        }
    }

    /// Makes the table as it should be; returns how it was not.
    pub(super) async fn repair(&mut self) -> Result<Vec<String>, Error> {
        let drift = self.observe().await?;
        // What an earlier run left is right until we know better; nothing at all is not.
        if self.state.in_sync() || self.state.table().is_absent() {
            self.commit().await?;
            return Ok(drift);
        }
        Ok(Vec::new())
    }

    /// Repairs the table if anybody but us committed anything since we last looked.
    pub(super) async fn repair_if_changed(&mut self) -> Result<Vec<String>, Error> {
        // Removed on purpose, or not begun.
        if self.removed || self.socket.generation().await? == self.generation {
            return Ok(Vec::new());
        }
        let drift = self.repair().await?;
        self.repair_flows(false).await;
        Ok(drift)
    }

    pub(super) async fn observe(&mut self) -> Result<Vec<String>, Error> {
        let (table, generation, foreign) = self.socket.read_table(Family::Inet, TABLE).await?;
        self.generation = generation;
        Ok(self.state.table().observed(table.as_ref(), foreign))
    }
}

fn is_shared(chain: &str) -> bool {
    chain.starts_with(names::TO_WORKLOAD_CHAIN) || chain.starts_with(names::FROM_WORKLOAD_CHAIN)
}

/// The kernel counts generations up by one and passes over 0.
pub(super) fn next(Generation(id): Generation) -> Generation {
    Generation(id.wrapping_add(1).max(1))
}
