use std::path::PathBuf;

use calico_core::datastore::Write;
use calico_core::resource::WorkloadEndpoint;
use calico_ipam::Ending;
use tokio::time::timeout;
use tracing::{info, warn};

use super::ipam::handles;
use super::journal::Pending;
use super::{Engine, log};
use crate::naming::Identity;
use crate::protocol::{PROTOCOL, Plugin, Request};
use crate::spec::{Call, CniError, Code, NetConf, Verb};

/// What [`Engine::replay`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Deletions carried out.
    pub done: usize,
    /// Deletions that still wait.
    pub left: usize,
    /// Files of the journal that cannot be read.
    pub unreadable: Vec<PathBuf>,
}

/// Whose the endpoint of an attachment's name is.
enum Holder {
    /// Nobody's.
    Nobody,
    /// This container's, as of this revision.
    This(calico_core::datastore::Revision),
    /// Another container's: name and interface are not ours any more.
    Another,
}

impl Engine {
    /// Detaches a container. No error if there is nothing to detach, or only some of it; never waits
    /// long for the datastore: what cannot be done now goes to the journal.
    ///
    /// # Errors
    ///
    /// Code 102 if the interface cannot be removed; code 5 if neither the datastore nor the
    /// journal can be written.
    pub async fn del(&self, conf: &NetConf, request: &Request) -> Result<(), CniError> {
        let call = &request.call;
        let id = self.identity(conf, call);
        let _lock = self.locks.lock(&id.lock_name()).await;
        let patience = self.options.store_patience;
        let holder = timeout(patience, self.holder(call, &id)).await;
        let holder = holder.unwrap_or_else(|_elapsed| Err(self.slow()));
        // The host's interface may be the successor's by now; inside of its own namespace, the
        // container's end is always its own.
        let host = match &holder {
            Ok(Holder::Nobody | Holder::This(_)) => Some(id.host_interface.as_str()),
            Ok(Holder::Another) | Err(_) => None,
        };
        match host {
            Some(host) => self.network.cut_off(host, call.netns(), &call.ifname).await?,
            None => self.network.teardown(None, call.netns(), &call.ifname).await?,
        }
        let forget = async {
            match timeout(patience, self.forget(conf, call, &id, &holder?)).await {
                Ok(forgotten) => forgotten,
                Err(_elapsed) => Err(self.slow()),
            }
        };
        let remove = async {
            match host {
                Some(host) => self.network.remove_cut_off(host).await,
                None => Ok(()),
            }
        };
        // Nothing leads to the address any more, so it may go to another while the kernel removes
        // the interface.
        let (removed, forgotten) = tokio::join!(remove, forget);
        let forgotten = forgotten.or_else(|error| self.postpone(conf, request, &error));
        removed?;
        if forgotten.is_ok() {
            log("detached", &id, "");
        }
        forgotten
    }

    /// Carries out the deletions of the journal, those that still cannot be done stay there; also
    /// removes interfaces that an earlier run cut off.
    ///
    /// # Errors
    ///
    /// Code 5 if the journal cannot be read, 102 if an interface cannot be removed.
    pub async fn replay(&self) -> Result<Replayed, CniError> {
        let unreadable = |error: std::io::Error| {
            CniError::new(Code::Io, "the journal cannot be read").details(error.to_string())
        };
        self.network.remove_all_cut_off().await?;
        self.journal.sweep().map_err(unreadable)?;
        let (pending, bad) = self.journal.pending().map_err(unreadable)?;
        let mut replayed = Replayed { unreadable: bad, ..Replayed::default() };
        for path in &replayed.unreadable {
            warn!(path = %path.display(), "ignoring a file of the journal that cannot be read");
        }
        for entry in pending {
            let container = entry.request.call.container.as_str();
            match self.redo(&entry).await {
                Ok(done) => replayed.done += usize::from(done),
                Err(error) => {
                    warn!(%error, container, "a deletion waits");
                    replayed.left += 1;
                }
            }
        }
        Ok(replayed)
    }

    /// Carries out a deletion of the journal; `false` if somebody did so meanwhile.
    async fn redo(&self, entry: &Pending) -> Result<bool, CniError> {
        let conf = NetConf::parse(&entry.request.config)?;
        let id = self.identity(&conf, &entry.request.call);
        let _lock = self.locks.lock(&id.lock_name()).await;
        // Seen again under the lock: an ADD of the same attachment may have been faster, and what
        // it made is not to be deleted.
        if !self.journal.holds(entry) {
            return Ok(false);
        }
        self.carry_out(entry, &conf, &id).await.map(|()| true)
    }

    /// Carries out what the journal holds about an attachment that is about to be made anew: some
    /// runtimes give a container that starts again its old id. The lock is the caller's.
    pub(super) async fn settle(
        &self,
        conf: &NetConf,
        call: &Call,
        id: &Identity,
    ) -> Result<(), CniError> {
        match self.journal.find(&conf.name, call) {
            Some(entry) => self.carry_out(&entry, conf, id).await,
            None => Ok(()),
        }
    }

    async fn carry_out(
        &self,
        entry: &Pending,
        conf: &NetConf,
        id: &Identity,
    ) -> Result<(), CniError> {
        let Request { plugin, call, .. } = &entry.request;
        let work = async {
            if *plugin == Plugin::Ipam {
                return self.release(conf, call, id).await;
            }
            let holder = self.holder(call, id).await?;
            if !matches!(holder, Holder::Another) {
                // By name only: the path may lead to another container's namespace by now.
                self.network.teardown(Some(&id.host_interface), None, &call.ifname).await?;
            }
            self.forget(conf, call, id, &holder).await
        };
        let patience = self.options.store_patience;
        timeout(patience, work).await.unwrap_or_else(|_| Err(self.slow()))?;
        self.journal.done(entry).map_err(|error| {
            CniError::new(Code::Io, "the journal cannot be written").details(error.to_string())
        })
    }

    async fn holder(&self, call: &Call, id: &Identity) -> Result<Holder, CniError> {
        let Some(entry) = self.store.find(&id.key()).await? else { return Ok(Holder::Nobody) };
        // One that cannot be read is nobody's to keep.
        let endpoint = entry.decode::<WorkloadEndpoint>();
        let other = endpoint.is_ok_and(|endpoint| {
            let holder = &endpoint.spec.container_id;
            // A pod of Kubernetes is an endpoint before it has a container.
            !holder.is_empty() && *holder != call.container
        });
        Ok(if other { Holder::Another } else { Holder::This(entry.revision) })
    }

    /// Removes the traces in the datastore. The address goes last: it must not be given to another
    /// while anything still leads it here.
    async fn forget(
        &self,
        conf: &NetConf,
        call: &Call,
        id: &Identity,
        holder: &Holder,
    ) -> Result<(), CniError> {
        let mut expected = match holder {
            Holder::This(revision) => Some(*revision),
            Holder::Nobody | Holder::Another => None,
        };
        // All in one write, together with other deletions; if anything is in the way, one by one.
        let first = expected.map(|revision| Write::delete(id.key(), Some(revision)));
        let mut endings: Vec<Ending> =
            handles(call, id).map(|handle| Ending { handle, first: Vec::new() }).collect();
        if let Some(ending) = endings.first_mut() {
            ending.first.extend(first);
        }
        if self.queue.release(&self.addresses, endings).await.is_ok() {
            return self.release_shared(conf, call, id).await;
        }
        while let Some(revision) = expected {
            match self.store.delete(id.key(), Some(revision)).await {
                Ok(_) => break,
                Err(error) if error.is_not_found() => break,
                Err(error) if error.is_conflict() => {
                    expected = match self.holder(call, id).await? {
                        Holder::This(revision) => Some(revision),
                        Holder::Nobody | Holder::Another => None,
                    };
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.release(conf, call, id).await
    }

    /// Notes a deletion in the journal, because of `error`.
    pub(super) fn postpone(
        &self,
        conf: &NetConf,
        request: &Request,
        error: &CniError,
    ) -> Result<(), CniError> {
        info!(%error, container = request.call.container, "a deletion goes to the journal");
        self.journal.note(&conf.name, request).map_err(|failed| {
            CniError::new(Code::Io, "neither the datastore nor the journal can be written")
                .details(format!("{error}; journal: {failed}"))
        })
    }

    /// A deletion of what `call` is about.
    pub(super) fn deletion(&self, conf: &NetConf, call: &Call) -> Request {
        // What matters for a deletion; the configuration itself is not at hand here.
        let config = serde_json::json!({ "name": conf.name, "cniVersion": conf.cni_version });
        Request {
            protocol: PROTOCOL,
            plugin: Plugin::Main,
            verb: Verb::Del,
            call: call.clone(),
            config: config.to_string(),
        }
    }

    pub(super) fn slow(&self) -> CniError {
        let patience = self.options.store_patience;
        CniError::new(Code::TryAgain, format!("the datastore did not answer within {patience:?}"))
    }
}
