use std::net::IpAddr;

use calico_core::dataplane::Limits;
use calico_core::resource::WorkloadEndpoint;
use calico_netlink::pod::PodSpec;

use super::Engine;
use super::add::routes_of;
use crate::spec::{Call, CniError, Code, NetConf};

/// Label of a pod that a virtual machine moves to; KubeVirt leaves it there.
const MIGRATION_LABEL: &str = "kubevirt.io/migrationJobUID";

impl Engine {
    /// Sees whether an attachment is as its ADD made it: endpoint, addresses, interfaces, routes,
    /// limits of traffic.
    ///
    /// # Errors
    ///
    /// Code 102 names the first thing that is missing or different.
    pub async fn check(&self, conf: &NetConf, call: &Call) -> Result<(), CniError> {
        let Some(previous) = conf.prev_result()? else {
            return Err(CniError::new(Code::InvalidConfig, "CHECK needs prevResult")
                .details("the runtime must pass what ADD answered"));
        };
        let id = self.identity(conf, call);
        let _lock = self.locks.lock(&id.lock_name()).await;
        let endpoint = match self.store.find(&id.key()).await? {
            Some(entry) => entry.decode::<WorkloadEndpoint>()?,
            None => return Err(different(format!("workload endpoint {} is gone", id.endpoint()))),
        };
        if endpoint.spec.container_id != call.container {
            let other = &endpoint.spec.container_id;
            return Err(different(format!("{} belongs to container {other}", id.endpoint())));
        }
        let addresses: Vec<IpAddr> =
            endpoint.spec.ip_networks.iter().map(|net| net.addr()).collect();
        let handle = self.current_handle(conf, call, &id).await?;
        let assigned = self.addresses.ipam().addresses_by_handle(&handle).await?;
        for ip in previous.addresses() {
            if !addresses.contains(&ip) {
                return Err(different(format!("{} does not have {ip}", id.endpoint())));
            }
            let without_ipam = assigned.is_empty() && conf.feature_control.ip_addrs_no_ipam;
            if conf.ipam.is_ours() && !without_ipam && !assigned.contains(&ip) {
                return Err(different(format!("{ip} is not assigned to handle {handle}")));
            }
        }
        let limits = endpoint.spec.qos_controls.as_ref().map(Limits::from).unwrap_or_default();
        // Where a machine moves to, the agent makes the routes once it has arrived.
        let arriving = endpoint.metadata.labels.contains_key(MIGRATION_LABEL);
        let spec = PodSpec {
            limits,
            arriving,
            mac: endpoint.spec.mac.parse().ok(),
            routes: routes_of(conf, conf.prev_result.as_ref())?,
            allow_spoofing: !endpoint.spec.allow_spoofed_source_prefixes.is_empty(),
            ..self.pod_spec(conf, call, &id, &addresses)
        };
        self.network.check(spec).await.map_err(|error| different(error.to_string()))?;
        self.policy.check_limits(&id.host_interface, &limits).await.map_err(different)
    }
}

fn different(details: String) -> CniError {
    CniError::new(Code::Network, "the attachment is not as it was made").details(details)
}
