use std::collections::{BTreeSet, HashMap, HashSet};

use calico_core::key::Scope;
use calico_core::kind::Kind;
use calico_core::resource::WorkloadEndpoint;
use calico_ipam::OwnerAttributes;
use tracing::{info, warn};

use super::Engine;
use super::ipam::{INTERFACE, SANDBOX};
use crate::naming::{FIRST_INTERFACE, container_handle, handle};
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
        let (handles, machines) = self.handles_of(&conf.name).await?;
        let endpoints = self.store.list(&Scope::Kind(Kind::WorkloadEndpoint)).await?;
        let mut kept = BTreeSet::new();
        let mut stay = HashSet::new();
        for attachment in &valid {
            kept.insert(handle(&conf.name, &attachment.container, &attachment.ifname));
        }
        for entry in endpoints.entries {
            let Ok(endpoint) = entry.decode::<WorkloadEndpoint>() else { continue };
            let spec = &endpoint.spec;
            let attachment =
                Attachment { container: spec.container_id.clone(), ifname: spec.endpoint.clone() };
            let own = handle(&conf.name, &attachment.container, &attachment.ifname);
            let ours = handles.contains(&own) || machines.contains_key(&attachment);
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
                kept.insert(own);
                stay.insert(attachment);
                failed.get_or_insert(error);
            }
        }
        let gone = machines.iter().filter(|(of, _)| !valid.contains(of) && !stay.contains(of));
        for (attachment, machine) in gone {
            if let Err(error) = self.machine_lost(attachment, machine).await {
                let container = &attachment.container;
                warn!(%error, container, "the addresses of a machine cannot be taken back");
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

    /// Handles of the network that have addresses for this node, and attachments of this node that
    /// have addresses of a virtual machine.
    async fn handles_of(
        &self,
        network: &str,
    ) -> Result<(BTreeSet<String>, HashMap<Attachment, Lost>), CniError> {
        let prefix = container_handle(network, "");
        let (mut handles, mut machines) = (BTreeSet::new(), HashMap::new());
        let blocks = self.addresses.ipam().blocks().await?;
        for allocation in blocks.into_iter().flat_map(|block| block.allocations) {
            let of_machine = allocation.is_of_machine();
            let attributes = allocation.attributes;
            let Some(handle) = attributes.handle_id.filter(|handle| handle.starts_with(&prefix))
            else {
                continue;
            };
            let here = |owner: &OwnerAttributes| owner.get("node") == Some(&self.node);
            if !of_machine {
                if here(&attributes.secondary) {
                    handles.insert(handle);
                }
                continue;
            }
            let owners = [attributes.secondary, attributes.alternate_owner_attrs];
            for owner in owners.into_iter().filter(here) {
                let Some(container) = owner.get(SANDBOX).cloned() else { continue };
                let ifname = owner.get(INTERFACE).map_or(FIRST_INTERFACE, String::as_str);
                let attachment = Attachment { container, ifname: ifname.to_owned() };
                machines.insert(attachment, Lost { handle: handle.clone(), owner });
            }
        }
        Ok((handles, machines))
    }

    /// Takes a machine's addresses from a pod that the runtime no longer knows.
    async fn machine_lost(&self, of: &Attachment, lost: &Lost) -> Result<(), CniError> {
        let Lost { handle, owner } = lost;
        info!(container = of.container, handle, "collecting");
        let ends = match owner.get("namespace").zip(owner.get("vmi-name")) {
            Some((namespace, name)) => self.options.pods.machine_ends(namespace, name).await?,
            None => false,
        };
        let this = |other: &OwnerAttributes| other == owner;
        self.addresses.ipam().machine_stops(handle, this, ends).await?;
        Ok(())
    }
}

/// A pod that has addresses of a virtual machine.
struct Lost {
    handle: String,
    owner: OwnerAttributes,
}
