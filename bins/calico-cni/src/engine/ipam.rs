//! Addresses of a container; all that is left when called as `calico-ipam`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use calico_core::datastore::Revision;
use calico_core::resource::machine_handle;
use calico_ipam::plan::time::rfc3339;
use calico_ipam::{AssignIp, AssignRequest, Release};
use ipnet::IpNet;
use tokio::time::timeout;
use tracing::warn;

use super::batch::Along;
use super::{Engine, Gone, still_there};
use crate::facts::{Machine, PodFacts, PodInfo};
use crate::naming::{FIRST_INTERFACE, Identity, container_handle};
use crate::protocol::Request;
use crate::spec::{Call, CniError, CniResult, Code, IpConfig, NetConf};

/// Attribute of an address: the container that has it.
pub(super) const SANDBOX: &str = "sandbox";
/// Attribute of an address: the interface inside that has it.
pub(super) const INTERFACE: &str = "interface";
/// Attribute of an address: where the container's network namespace is.
pub(super) const NETNS: &str = "netns";
/// Attribute of an address: the pod, told from others of the same name.
const POD_UID: &str = "pod-uid";

impl Engine {
    /// Assigns the addresses of an attachment; a repeated call gets the same ones. What is to be
    /// written `along` is, unless the answer has no revision.
    pub(super) async fn assign(
        &self,
        conf: &NetConf,
        call: &Call,
        id: &Identity,
        facts: &PodFacts,
        along: Along,
    ) -> Result<(Vec<IpAddr>, Option<Revision>), CniError> {
        if !conf.ipam.is_ours() {
            let Some(result) = &conf.ipam_result else {
                let message = format!("ipam.type {:?} gave no address", conf.ipam.plugin);
                return Err(CniError::new(Code::UnsupportedField, message)
                    .details("the plugin `calico` must run it; call that, not its agent"));
            };
            return Ok((CniResult::read(result)?.addresses().collect(), None));
        }
        if !facts.addresses_no_ipam.is_empty() {
            return Ok((facts.addresses_no_ipam.clone(), None));
        }
        let families = facts.families.unwrap_or((conf.ipam.assign_ipv4, conf.ipam.assign_ipv6));
        if let Some(machine) = &id.machine
            && let Some(addresses) = self.machine_starts(call, id, machine, families).await?
        {
            return Ok((addresses, None));
        }
        if !facts.addresses.is_empty() {
            return Ok((self.assign_particular(call, id, &facts.addresses).await?, None));
        }
        let (v4, v6) = families;
        let mut request =
            AssignRequest::new(&self.node).handle(&id.handle).v4(v4.into()).v6(v6.into()).reuse();
        request.attributes = self.attributes(call, id);
        let pools = |own: &[String], configured: &[String]| {
            if own.is_empty() { configured.to_vec() } else { own.to_vec() }
        };
        request.v4_pools = pools(&facts.v4_pools, &conf.ipam.ipv4_pools);
        request.v6_pools = pools(&facts.v6_pools, &conf.ipam.ipv6_pools);
        request.namespace.clone_from(&facts.namespace_labels);
        let outcome = self.queue.assign(&self.addresses, request, along).await;
        let assigned = outcome.assigned?;
        let addresses = assigned.addresses().map(|address| address.ip).collect();
        match assigned.complete() {
            Ok(_) => Ok((addresses, outcome.also.and_then(|revisions| revisions.last().copied()))),
            Err(short) => {
                // One family without the other is of no use: upstream gives it back as well.
                let given_up = self.give_up(conf, call, id, id.machine.clone()).await;
                if let Err(error) = given_up {
                    warn!(%error, handle = id.handle, "addresses of a failed ADD stay assigned");
                }
                Err(short.into())
            }
        }
    }

    /// Assigns these addresses. Others that the container has are released first, as upstream does.
    async fn assign_particular(
        &self,
        call: &Call,
        id: &Identity,
        wanted: &[IpAddr],
    ) -> Result<Vec<IpAddr>, CniError> {
        let has = self.addresses.ipam().addresses_by_handle(&id.handle).await?;
        if has.len() == wanted.len() && wanted.iter().all(|ip| has.contains(ip)) {
            return Ok(wanted.to_vec());
        }
        if !has.is_empty() {
            self.addresses.release_by_handle(&id.handle).await?;
        }
        for ip in wanted {
            let mut request = AssignIp::new(&self.node, *ip);
            request.handle = Some(id.handle.clone());
            request.attributes = self.attributes(call, id);
            if let Err(error) = self.addresses.assign_ip(&request).await {
                if let Err(error) = self.addresses.release_by_handle(&id.handle).await {
                    warn!(%error, handle = id.handle, "addresses of a failed ADD stay assigned");
                }
                return Err(error.into());
            }
        }
        Ok(wanted.to_vec())
    }

    /// Gives back what an ADD got that failed.
    pub(super) async fn give_up(
        &self,
        conf: &NetConf,
        call: &Call,
        id: &Identity,
        machine: Option<Machine>,
    ) -> Result<(), CniError> {
        if let Some(machine) = machine {
            let handle = machine_handle(&conf.name, &id.namespace, &machine.name);
            return self.machine_gives_up(call, &Identity { handle, ..id.clone() }).await;
        }
        self.addresses.release_by_handle(&id.handle).await?;
        Ok(())
    }

    /// What is recorded with an address.
    pub(super) fn attributes(&self, call: &Call, id: &Identity) -> BTreeMap<String, String> {
        let mut attributes = BTreeMap::new();
        let mut note = |key: &str, value: &str| attributes.insert(key.to_owned(), value.to_owned());
        note("node", &self.node);
        note("namespace", &id.namespace);
        note("timestamp", &rfc3339((self.options.clock)()));
        if let Some(pod) = &id.pod {
            note("pod", pod);
        }
        // What upstream does not record, and what proves later that the owner is gone.
        note(SANDBOX, &call.container);
        note(INTERFACE, &call.ifname);
        note(NETNS, &call.netns.display().to_string());
        if let Some(uid) = call.args.get("K8S_POD_UID") {
            note(POD_UID, uid);
        }
        if let Some(machine) = &id.machine {
            note("vmi-name", &machine.name);
            note("vmi-uid", &machine.uid);
            let more = [("vm-uid", &machine.vm_uid), ("vmim-uid", &machine.migration)];
            more.into_iter().for_each(|(key, uid)| {
                uid.iter().for_each(|uid| drop(note(key, uid)));
            });
        }
        attributes
    }

    /// What is wanted for this workload in particular.
    pub(super) async fn facts(
        &self,
        conf: &NetConf,
        call: &Call,
        id: &Identity,
    ) -> Result<(PodFacts, Option<PodInfo>), CniError> {
        let info = match &id.pod {
            Some(pod) => self.options.pods.pod(&id.namespace, pod).await?,
            None => None,
        };
        let facts = PodFacts::new(conf, call, info.as_ref())?;
        for note in &facts.notes {
            warn!(endpoint = %id.endpoint(), note, "a wish of the pod is not fulfilled as written");
        }
        Ok((facts, info))
    }

    pub(super) async fn add_addresses(
        &self,
        conf: &NetConf,
        call: &Call,
        gone: Gone<'_>,
    ) -> Result<CniResult, CniError> {
        self.ready().await?;
        let id = self.identity(conf, call);
        let _attaching = self.attaching.read().await;
        let _lock = self.locks.lock(&id.lock_name()).await;
        still_there(gone)?;
        self.settle(conf, call, &id).await?;
        let (facts, info) = self.facts(conf, call, &id).await?;
        let id = self.as_machine(conf, id, info.as_ref()).await?;
        let (addresses, _) = self.assign(conf, call, &id, &facts, Box::new(|_| Vec::new())).await?;
        let nets: Vec<IpNet> = addresses.into_iter().map(IpNet::from).collect();
        let ip = |net: &IpNet| IpConfig { address: *net, gateway: None, interface: None };
        let ips = nets.iter().map(ip).collect();
        // Where a machine is about to arrive, the host has no route to it yet.
        let arriving = id.machine.as_ref().is_some_and(|machine| machine.migration.is_some());
        let routes = if arriving { Vec::new() } else { nets };
        Ok(CniResult { interfaces: Vec::new(), ips, routes })
    }

    pub(super) async fn del_addresses(
        &self,
        conf: &NetConf,
        request: &Request,
    ) -> Result<(), CniError> {
        let call = &request.call;
        let id = self.identity(conf, call);
        let _lock = self.locks.lock(&id.lock_name()).await;
        let released = self.release(conf, call, &id);
        match timeout(self.options.store_patience, released).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => self.postpone(conf, request, &error),
            Err(_elapsed) => self.postpone(conf, request, &self.slow()),
        }
    }

    /// Releases the addresses of a container, also those under the handle of older versions.
    pub(super) async fn release(
        &self,
        conf: &NetConf,
        call: &Call,
        id: &Identity,
    ) -> Result<(), CniError> {
        for handle in handles(call, id) {
            self.addresses.release_by_handle(&handle).await?;
        }
        self.release_shared(conf, call, id).await
    }

    /// Releases what the attachment shares with others: a machine's addresses with its other pods;
    /// and what upstream assigned to a further interface, under the handle of all of the
    /// container's interfaces. What we assigned under it is `eth0`'s.
    pub(super) async fn release_shared(
        &self,
        conf: &NetConf,
        call: &Call,
        id: &Identity,
    ) -> Result<(), CniError> {
        self.machine_stops(conf, call, id).await?;
        if call.ifname == FIRST_INTERFACE {
            return Ok(());
        }
        let ipam = self.addresses.ipam();
        let shared = container_handle(&conf.name, &call.container);
        let mut found = ipam.allocations_by_handle(&shared).await?;
        found.retain(|allocation| !allocation.attributes.secondary.contains_key(SANDBOX));
        let releases: Vec<Release> = found.iter().map(Release::exactly).collect();
        ipam.release_ips(&releases).await?;
        Ok(())
    }

    pub(super) async fn check_addresses(
        &self,
        conf: &NetConf,
        call: &Call,
    ) -> Result<(), CniError> {
        let id = self.identity(conf, call);
        let handle = self.current_handle(conf, call, &id).await?;
        let found = self.addresses.ipam().addresses_by_handle(&handle).await?;
        let previous = conf.prev_result()?.unwrap_or_default();
        let ours: Vec<IpAddr> = previous.addresses().collect();
        match ours.iter().find(|ip| !found.contains(ip)) {
            None if !found.is_empty() => Ok(()),
            missing => {
                let which = missing.map_or_else(|| "any address".into(), ToString::to_string);
                Err(CniError::new(Code::Network, "the attachment is not as it was made")
                    .details(format!("handle {handle} does not have {which}")))
            }
        }
    }
}

impl Engine {
    /// The handle that an attachment has its addresses under: its own, or its machine's.
    pub(super) async fn current_handle(
        &self,
        conf: &NetConf,
        call: &Call,
        id: &Identity,
    ) -> Result<String, CniError> {
        let machine = self.machine_handle(conf, call, id).await?;
        Ok(machine.map_or_else(|| id.handle.clone(), |(handle, _)| handle))
    }
}

/// Handles that an attachment may have addresses under: its own, and that of older versions.
pub(super) fn handles(call: &Call, id: &Identity) -> impl Iterator<Item = String> {
    let older = id.pod.as_ref().filter(|_| call.ifname == FIRST_INTERFACE);
    let older = older.map(|pod| format!("{}.{pod}", id.namespace));
    [id.handle.clone()].into_iter().chain(older)
}
