//! Flow offload in the kernel: batches of its own, after those of policy. Whatever goes wrong leaves
//! connections on the slow way.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use calico_core::dataplane::DataplaneError;

use super::flowtable::{Content, Devices, FLOW_TABLE, FlowOffload, Known, change};
use super::linux::{Inner, LinuxDataplane, failed};
use crate::nft::wire::{Family, Flowtable, Object, msg};
use crate::nft::{Batch, Error};

/// A device that vanishes while the batch is on its way has the kernel refuse it.
const ATTEMPTS: usize = 3;

/// See [`Inner::pauses_for_flows`].
const PAUSES: usize = 50;
const PAUSE: Duration = Duration::from_millis(10);

/// How flow offload stands.
#[derive(Debug, Default)]
pub(super) struct Flows {
    offload: Option<FlowOffload>,
    kernel: Known,
    /// Whether the kernel was looked at since the start.
    begun: bool,
    /// Every connection is to be taken out, once.
    renew: bool,
    /// The kernel refused; nothing is tried until something else is wanted, or at the next
    /// resynchronisation.
    given_up: bool,
    /// Whether that was said.
    told: bool,
}

/// What is in force of [`LinuxDataplane::offload_flows`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FlowStatus {
    /// Whether it is wanted.
    pub wanted: bool,
    /// Whether the kernel refused it: connections take the slow way. The log says why.
    pub refused: bool,
    /// Devices between which connections may pass.
    pub devices: usize,
}

impl LinuxDataplane {
    /// Has packets of established connections of TCP and UDP that policy allowed pass from device to
    /// device before all rules; `None`: no longer. Where the kernel has no flow tables that is said
    /// in the log, once, and all is as without. It takes effect with the first complete desired
    /// state.
    ///
    /// Connections whose packets rules look at one by one (limits of packets, code points, policy
    /// before connection tracking) never pass so.
    pub async fn offload_flows(&self, offload: Option<FlowOffload>) {
        let mut inner = self.lock().await;
        inner.flows.offload = offload;
        inner.flows.given_up = false;
        inner.sync_flows().await;
    }

    /// How [`offload_flows`](Self::offload_flows) stands.
    pub async fn flow_status(&self) -> FlowStatus {
        let flows = &self.lock().await.flows;
        let devices = match &flows.kernel {
            Known::There(content) => content.devices.len(),
            _ => 0,
        };
        FlowStatus { wanted: flows.offload.is_some(), refused: flows.given_up, devices }
    }
}

impl Inner {
    /// Brings into force which connections may pass without rules. To be called after policy is in
    /// force.
    pub(super) async fn sync_flows(&mut self) {
        let idle = self.flows.offload.is_none() && self.flows.kernel == Known::Absent;
        if idle || self.flows.given_up || self.removed || !self.state.in_sync() {
            return;
        }
        // Their connections are about to be forgotten.
        self.flows.renew |= self.state.has_released();
        let Err(error) = self.try_sync_flows().await else {
            self.flows.told = false;
            return;
        };
        if self.flows.offload.is_some() && !std::mem::replace(&mut self.flows.told, true) {
            tracing::warn!(
                %error,
                "the kernel takes no flow table: established connections go the slow way"
            );
        }
        // What may not pass by now must not, and what cannot be renewed goes.
        self.flows.given_up = match self.remove_flows().await {
            Ok(()) => true,
            Err(error) => {
                tracing::error!(%error, "connections may pass that policy denies by now");
                false
            }
        };
    }

    /// As [`sync_flows`](Self::sync_flows), and every connection goes through the rules again, at
    /// once: what they drop stays out.
    pub(super) async fn renew_flows(&mut self) {
        self.flows.renew = true;
        self.sync_flows().await;
    }

    /// What the kernel has is looked at, and what it refused tried again if `anew`.
    pub(super) async fn repair_flows(&mut self, anew: bool) {
        if self.flows.offload.is_some() {
            self.flows.kernel = Known::Nothing;
        }
        self.flows.given_up &= !anew;
        self.sync_flows().await;
    }

    /// Pauses in which the kernel lets go of connections that were taken out: before that, some kernels
    /// do not forget them (`EBUSY`).
    pub(super) fn pauses_for_flows(&self) -> impl Iterator<Item = Duration> + use<> {
        let times = if self.flows.offload.is_some() { PAUSES } else { 0 };
        std::iter::repeat_n(PAUSE, times)
    }

    /// Removes the table, if there is one.
    pub(super) async fn remove_flows(&mut self) -> Result<(), Error> {
        let mut result = Ok(());
        for _ in 0..ATTEMPTS {
            self.observe_flows(&Devices::new()).await?;
            let Some(batch) = change(&self.flows.kernel, None, &Devices::new(), false) else {
                return Ok(());
            };
            result = self.commit_flows(&batch).await;
            if result.is_ok() {
                (self.flows.kernel, self.flows.renew) = (Known::Absent, false);
                return Ok(());
            }
        }
        result
    }

    async fn try_sync_flows(&mut self) -> Result<(), DataplaneError> {
        let mut refused = None;
        for _ in 0..ATTEMPTS {
            let present = match self.flows.offload {
                Some(_) => self.lister.devices()?,
                None => Devices::new(),
            };
            if self.flows.kernel == Known::Nothing {
                self.observe_flows(&present).await.map_err(failed)?;
            }
            let flags = self.state.table().flags();
            let want = self.flows.offload.as_ref().map(|offload| Content {
                devices: self.state.flow_devices(offload, &present),
                flags,
            });
            let want = want.filter(|want| !want.devices.is_empty());
            let renew = self.flows.renew;
            let Some(batch) = change(&self.flows.kernel, want.as_ref(), &present, renew) else {
                self.flows.renew = false;
                return Ok(());
            };
            match self.commit_flows(&batch).await {
                Ok(()) => {
                    self.flows.kernel = want.map_or(Known::Absent, Known::There);
                    self.flows.renew = false;
                    return Ok(());
                }
                Err(error) => {
                    self.flows.kernel = Known::Nothing;
                    refused = Some(error);
                }
            }
        }
        refused.map_or(Ok(()), |error| Err(failed(error)))
    }

    /// On top of what we know, so that no change by others goes unnoticed; if they changed
    /// something, all the same: the guard will look.
    async fn commit_flows(&mut self, batch: &Batch) -> Result<(), Error> {
        match self.send(batch, true).await {
            Err(Error::GenerationChanged) => self.socket.commit(batch, None).await,
            result => result,
        }
    }

    /// Reads what the kernel has. What this process did not make is replaced: it may have another
    /// owner.
    async fn observe_flows(&mut self, present: &Devices) -> Result<(), Error> {
        let first = !std::mem::replace(&mut self.flows.begun, true);
        let (table, _, _) = self.socket.read_table(Family::Inet, FLOW_TABLE).await?;
        let Some(table) = table else {
            self.flows.kernel = Known::Absent;
            return Ok(());
        };
        let objects =
            self.socket.dump(msg::GET_FLOWTABLE, Family::Inet, |w| w.string(1, FLOW_TABLE)).await?;
        let flowtables: Vec<Flowtable> = objects
            .into_iter()
            .filter_map(|object| match object {
                Object::Flowtable(found) if found.table == FLOW_TABLE => Some(found),
                _ => None,
            })
            .collect();
        let names: BTreeSet<&str> =
            flowtables.iter().flat_map(|flows| &flows.devices).map(String::as_str).collect();
        let devices = present.iter().filter(|(name, _)| names.contains(&***name));
        let devices = devices.map(|(name, index)| (Arc::clone(name), *index)).collect();
        let content = Content { devices, flags: self.state.table().flags() };
        let right = !first && content.is(&table, &flowtables);
        self.flows.kernel = if right { Known::There(content) } else { Known::Wrong };
        Ok(())
    }
}
