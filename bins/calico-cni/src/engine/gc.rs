use std::collections::{BTreeSet, HashSet};

use calico_core::key::Scope;
use calico_core::kind::Kind;
use calico_core::resource::WorkloadEndpoint;
use tracing::{info, warn};

use super::Engine;
use crate::naming::{container_handle, handle};
use crate::spec::{Attachment, CniError, Code, NetConf};

impl Engine {
    /// Detaches what this node has in the network and the runtime no longer knows: endpoints with
    /// their interfaces, and addresses without an endpoint. The deletions of the journal first.
    ///
    /// # Errors
    ///
    /// The first that occurred; everything else was still tried, as the specification asks.
    pub async fn collect(&self, conf: &NetConf) -> Result<(), CniError> {
        let Some(valid) = &conf.valid_attachments else {
            return Err(CniError::new(Code::InvalidConfig, "GC needs cni.dev/valid-attachments")
                .details("the runtime must list the attachments that it still knows"));
        };
        let valid: HashSet<&Attachment> = valid.iter().collect();
        let mut failed = self.replay().await.err();
        let handles = self.handles_of(&conf.name).await?;
        let endpoints = self.store.list(&Scope::Kind(Kind::WorkloadEndpoint)).await?;
        let mut kept = BTreeSet::new();
        for attachment in &valid {
            kept.insert(handle(&conf.name, &attachment.container, &attachment.ifname));
        }
        for entry in endpoints.entries {
            let Ok(endpoint) = entry.decode::<WorkloadEndpoint>() else { continue };
            let spec = &endpoint.spec;
            let attachment =
                Attachment { container: spec.container_id.clone(), ifname: spec.endpoint.clone() };
            let ours =
                handles.contains(&handle(&conf.name, &attachment.container, &attachment.ifname));
            if spec.node != self.node || !ours || valid.contains(&attachment) {
                continue;
            }
            info!(endpoint = %entry.key, container = attachment.container, "collecting");
            let name = format!("{}/{}", endpoint.namespace(), endpoint.name());
            let _lock = self.locks.lock(&name).await;
            let gone = async {
                let now = self.store.find(&entry.key).await?;
                if now.is_none_or(|now| now.revision != entry.revision) {
                    // Gone, or a successor's, since it was listed.
                    return Ok(());
                }
                self.network.teardown(Some(&spec.interface_name), None, &spec.endpoint).await?;
                match self.store.delete(entry.key.clone(), Some(entry.revision)).await {
                    Err(error) if !error.is_not_found() => Err(CniError::from(error)),
                    _ => Ok(()),
                }
            };
            if let Err(error) = gone.await {
                warn!(%error, endpoint = %entry.key, "cannot be collected");
                // Its address must not go to another while the interface is there.
                kept.insert(handle(&conf.name, &attachment.container, &attachment.ifname));
                failed.get_or_insert(error);
            }
        }
        for handle in handles.difference(&kept) {
            if let Err(error) = self.addresses.release_by_handle(handle).await {
                warn!(%error, handle, "cannot be collected");
                failed.get_or_insert_with(|| error.into());
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Handles of the network that have addresses for this node.
    async fn handles_of(&self, network: &str) -> Result<BTreeSet<String>, CniError> {
        let prefix = container_handle(network, "");
        let blocks = self.addresses.ipam().blocks().await?;
        Ok(blocks
            .into_iter()
            .flat_map(|block| block.allocations)
            .filter(|a| a.attributes.secondary.get("node") == Some(&self.node))
            .filter_map(|a| a.attributes.handle_id)
            .filter(|handle| handle.starts_with(&prefix))
            .collect())
    }
}
