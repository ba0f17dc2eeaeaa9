//! Pods of virtual machines (KubeVirt's virt-launchers): their addresses are the machine's. They stay
//! when a pod goes, and while the machine moves, both of its pods have them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use calico_core::resource::{Persistence, machine_handle};
use calico_ipam::{Left, OwnerAttributes};
use tracing::info;

use super::Engine;
use super::ipam::SANDBOX;
use crate::facts::{Machine, PodInfo};
use crate::naming::Identity;
use crate::spec::{Call, CniError, Code, NetConf};

/// Beginning of the names of pods that run a machine.
const LAUNCHER: &str = "virt-launcher-";

impl Engine {
    /// An attachment, named for its machine if the pod runs one that keeps its addresses.
    ///
    /// # Errors
    ///
    /// If the machine moves to this pod, but does not keep its addresses (`IPAMConfiguration`,
    /// `kubeVirtVMAddressPersistence`): upstream refuses as well.
    pub(super) async fn as_machine(
        &self,
        conf: &NetConf,
        mut id: Identity,
        info: Option<&PodInfo>,
    ) -> Result<Identity, CniError> {
        let Some(machine) = info.and_then(|info| info.machine.clone()) else { return Ok(id) };
        let config = self.addresses.ipam().config().await?;
        if config.kube_virt_vm_address_persistence != Some(Persistence::Disabled) {
            id.handle = machine_handle(&conf.name, &id.namespace, &machine.name);
            id.machine = Some(machine);
        } else if machine.migration.is_some() {
            let reason = "a virtual machine cannot move without its addresses";
            return Err(CniError::new(Code::InvalidConfig, reason)
                .details("IPAMConfiguration turns kubeVirtVMAddressPersistence off"));
        }
        Ok(id)
    }

    /// Gives the machine's addresses to one more of its pods; `None` if it has none of a family that
    /// is wanted, and may get one.
    pub(super) async fn machine_starts(
        &self,
        call: &Call,
        id: &Identity,
        machine: &Machine,
        (v4, v6): (bool, bool),
    ) -> Result<Option<Vec<IpAddr>>, CniError> {
        let owner = self.attributes(call, id);
        let arriving = machine.migration.is_some();
        let pod = |other: &OwnerAttributes| same_pod(id, other);
        let ipam = self.addresses.ipam();
        let mut addresses = ipam.machine_starts(&id.handle, &owner, pod, arriving).await?;
        if arriving && addresses.is_empty() {
            let name = &machine.name;
            let message = format!("the virtual machine {name} moves here and has no address");
            return Err(CniError::new(Code::TryAgain, message)
                .details(format!("handle {} has none: is its pod connected?", id.handle)));
        }
        addresses.sort_by_key(IpAddr::is_ipv6);
        let lacks = |wanted: bool, v6: bool| wanted && !addresses.iter().any(|a| a.is_ipv6() == v6);
        let complete = arriving || !(lacks(v4, false) || lacks(v6, true));
        Ok((complete && !addresses.is_empty()).then_some(addresses))
    }

    /// Takes the machine's addresses from an attachment that could not be made.
    pub(super) async fn machine_gives_up(
        &self,
        call: &Call,
        id: &Identity,
    ) -> Result<(), CniError> {
        let this = |owner: &OwnerAttributes| same_sandbox(call, id, owner);
        self.addresses.ipam().machine_stops(&id.handle, this, false).await?;
        Ok(())
    }

    /// Takes the machine's addresses from a pod that goes, if it ran one. They are free if the
    /// machine goes, too.
    pub(super) async fn machine_stops(
        &self,
        conf: &NetConf,
        call: &Call,
        id: &Identity,
    ) -> Result<(), CniError> {
        let Some((handle, machine)) = self.machine_handle(conf, call, id).await? else {
            return Ok(());
        };
        let ends = self.options.pods.machine_ends(&id.namespace, &machine).await?;
        let this = |owner: &OwnerAttributes| same_sandbox(call, id, owner);
        let left = self.addresses.ipam().machine_stops(&handle, this, ends).await?;
        for (address, left) in left {
            let what = match left {
                Left::ToTheOther => "stays with the machine's other pod",
                Left::ToNobody => "waits for the machine's next pod",
                Left::Released => "is released: the machine is gone",
                Left::NoOwner => continue,
            };
            info!(machine, %address, handle, "the address {what}");
        }
        Ok(())
    }

    /// Frees addresses of machines that were stopped, and deleted afterwards: no pod has them, and
    /// the orchestrator knows no such machine, now and in the pass before. Returns the handles.
    pub(super) async fn free_machines(
        &self,
        dry_run: bool,
        everything: bool,
    ) -> Result<Vec<String>, CniError> {
        let ipam = self.addresses.ipam();
        let (mut freed, mut ended) = (Vec::new(), BTreeSet::new());
        for (handle, addresses) in ipam.machines_at_rest(&self.node, everything).await? {
            let Some((namespace, name)) = machine_of(&handle) else { continue };
            if !self.options.pods.machine_ends(namespace, name).await? {
                continue;
            }
            let before = self.ended_machines.lock().await.contains(&handle);
            if before && dry_run {
                info!(handle, ?addresses, "to be freed: the virtual machine is gone");
            } else if before {
                // Only what nobody has taken meanwhile.
                let left = ipam.machine_stops(&handle, |_| false, true).await?;
                info!(handle, ?left, "freed: the virtual machine is gone");
                freed.push(handle.clone());
            }
            ended.insert(handle);
        }
        let mut known = self.ended_machines.lock().await;
        if everything {
            known.clear();
        }
        known.extend(ended);
        known.retain(|handle| !freed.contains(handle));
        Ok(freed)
    }

    /// The handle, and name, of the machine that an attachment ran: the pod may be gone, and nobody
    /// else to ask. Reads all blocks only if the pod's name does not tell.
    pub(super) async fn machine_handle(
        &self,
        conf: &NetConf,
        call: &Call,
        id: &Identity,
    ) -> Result<Option<(String, String)>, CniError> {
        let Some(guess) = id.pod.as_deref().and_then(machine_name) else { return Ok(None) };
        let ipam = self.addresses.ipam();
        if !ipam.allocations_by_handle(&id.handle).await?.is_empty() {
            // Of this container, as any other pod's.
            return Ok(None);
        }
        let handle = machine_handle(&conf.name, &id.namespace, guess);
        if !ipam.allocations_by_handle(&handle).await?.is_empty() {
            return Ok(Some((handle, guess.to_owned())));
        }
        let all = ipam.blocks().await?.into_iter().flat_map(|block| block.allocations);
        Ok(all.filter(calico_ipam::plan::block::Allocation::is_of_machine).find_map(|allocation| {
            let attributes = allocation.attributes;
            let owners = [attributes.secondary, attributes.alternate_owner_attrs];
            let own = owners.into_iter().find(|owner| same_sandbox(call, id, owner))?;
            let name = own.get("vmi-name").cloned().unwrap_or_else(|| guess.to_owned());
            Some((attributes.handle_id?, name))
        }))
    }
}

/// The machine of a pod, as far as the pod's name tells: it ends with what the server drew.
fn machine_name(pod: &str) -> Option<&str> {
    let (machine, _drawn) = pod.strip_prefix(LAUNCHER)?.rsplit_once('-')?;
    (!machine.is_empty()).then_some(machine)
}

/// Namespace and name of the machine that a handle is for; `None` if it was too long to say.
fn machine_of(handle: &str) -> Option<(&str, &str)> {
    let (_network, machine) = handle.split_once(".vmi.")?;
    let parts = (!machine.starts_with('_')).then(|| machine.split_once('.')).flatten();
    parts.filter(|(namespace, name)| !namespace.is_empty() && !name.is_empty())
}

fn same_pod(id: &Identity, owner: &OwnerAttributes) -> bool {
    let says = |key: &str, value: Option<&str>| owner.get(key).map(String::as_str) == value;
    says("namespace", Some(&id.namespace)) && says("pod", id.pod.as_deref())
}

/// Upstream does not record the container.
fn same_sandbox(call: &Call, id: &Identity, owner: &OwnerAttributes) -> bool {
    same_pod(id, owner) && owner.get(SANDBOX).is_none_or(|sandbox| *sandbox == call.container)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_tell_their_machine() {
        for (handle, machine) in [
            ("net.vmi.default.vm1", Some(("default", "vm1"))),
            ("k8s-pod-network.vmi.ns.vm.of.mine", Some(("ns", "vm.of.mine"))),
            ("net.vmi._c0ffee", None),
            ("net.vmi.default", None),
            ("net.0f3c", None),
        ] {
            assert_eq!(machine_of(handle), machine, "{handle}");
        }
    }

    #[test]
    fn pods_are_named_for_their_machine() {
        for (pod, machine) in [
            ("virt-launcher-vm1-x7k2p", Some("vm1")),
            ("virt-launcher-my-vm-x7k2p", Some("my-vm")),
            ("virt-launcher-x7k2p", None),
            ("virt-launcher--x7k2p", None),
            ("web-0", None),
        ] {
            assert_eq!(machine_name(pod), machine, "{pod}");
        }
    }
}
