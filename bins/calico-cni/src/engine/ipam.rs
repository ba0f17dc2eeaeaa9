//! Addresses of a container; all that is left when called as `calico-ipam`.

use std::net::IpAddr;

use calico_core::datastore::Revision;
use calico_ipam::AssignRequest;
use calico_ipam::plan::time::rfc3339;
use ipnet::IpNet;
use tokio::time::timeout;
use tracing::warn;

use super::batch::Along;
use super::{Engine, Gone, still_there};
use crate::naming::{Identity, handle};
use crate::protocol::Request;
use crate::spec::{Call, CniError, CniResult, Code, IpConfig, NetConf};

/// Attribute of an address: the container that has it.
pub(super) const SANDBOX: &str = "sandbox";
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
        along: Along,
    ) -> Result<(Vec<IpAddr>, Option<Revision>), CniError> {
        if !conf.ipam.is_ours() {
            let message = format!("ipam.type {:?} is not supported", conf.ipam.plugin);
            return Err(CniError::new(Code::UnsupportedField, message)
                .details("use \"calico-ipam\" in the network configuration"));
        }
        let mut request = AssignRequest::new(&self.node)
            .handle(&id.handle)
            .attribute("node", &self.node)
            .attribute("namespace", &id.namespace)
            .attribute("timestamp", rfc3339((self.options.clock)()))
            .v4(conf.ipam.assign_ipv4.into())
            .v6(conf.ipam.assign_ipv6.into())
            .reuse();
        if let Some(pod) = &id.pod {
            request = request.attribute("pod", pod);
        }
        // What upstream does not record, and what proves later that the owner is gone.
        request = request
            .attribute(SANDBOX, &call.container)
            .attribute(NETNS, call.netns.display().to_string());
        if let Some(uid) = call.args.get("K8S_POD_UID") {
            request = request.attribute(POD_UID, uid);
        }
        request.v4_pools.clone_from(&conf.ipam.ipv4_pools);
        request.v6_pools.clone_from(&conf.ipam.ipv6_pools);
        let outcome = self.queue.assign(&self.addresses, request, along).await;
        let assigned = outcome.assigned?;
        let addresses = assigned.addresses().map(|address| address.ip).collect();
        match assigned.complete() {
            Ok(_) => Ok((addresses, outcome.also.and_then(|revisions| revisions.last().copied()))),
            Err(short) => {
                // One family without the other is of no use: upstream gives it back as well.
                if let Err(error) = self.addresses.release_by_handle(&id.handle).await {
                    warn!(%error, handle = id.handle, "addresses of a failed ADD stay assigned");
                }
                Err(short.into())
            }
        }
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
        let (addresses, _) = self.assign(conf, call, &id, Box::new(|_| Vec::new())).await?;
        let nets: Vec<IpNet> = addresses.into_iter().map(IpNet::from).collect();
        let ip = |net: &IpNet| IpConfig { address: *net, gateway: None, interface: None };
        let ips = nets.iter().map(ip).collect();
        Ok(CniResult { interfaces: Vec::new(), ips, routes: nets })
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
        self.addresses.release_by_handle(&handle(&conf.name, &call.container)).await?;
        if let Some(pod) = &id.pod {
            self.addresses.release_by_handle(&format!("{}.{pod}", id.namespace)).await?;
        }
        Ok(())
    }

    pub(super) async fn check_addresses(
        &self,
        conf: &NetConf,
        call: &Call,
    ) -> Result<(), CniError> {
        let id = self.identity(conf, call);
        let found = self.addresses.ipam().addresses_by_handle(&id.handle).await?;
        let previous = conf.prev_result()?.unwrap_or_default();
        let ours: Vec<IpAddr> = previous.addresses().collect();
        match ours.iter().find(|ip| !found.contains(ip)) {
            None if !found.is_empty() => Ok(()),
            missing => {
                let which = missing.map_or_else(|| "any address".into(), ToString::to_string);
                Err(CniError::new(Code::Network, "the attachment is not as it was made")
                    .details(format!("handle {} does not have {which}", id.handle)))
            }
        }
    }
}
