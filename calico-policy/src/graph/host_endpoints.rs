//! Host endpoints: interfaces of hosts that policy protects.

use std::net::IpAddr;
use std::sync::Arc;

use calico_core::dataplane::{HostEndpoint, HostInterface, Update};
use calico_core::key::Key;
use calico_core::kind::Kind;
use calico_core::resource::{self, FieldError};

use super::Graph;
use super::endpoints::{MAX_INTERFACE_NAME, Role, markings};
use super::policies::Stage;
use crate::index::{ItemId, pairs};
use crate::input::Warning;
use crate::sets::{Contribution, NamedPort};

/// Says which code point packets of the host carry when they leave the cluster.
const DSCP_ANNOTATION: &str = "qos.projectcalico.org/dscp";

/// What upstream calls all interfaces.
const ALL_INTERFACES: &str = "*";

/// What the dataplane must know of a host endpoint of this node, besides its policies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LocalHost {
    item: ItemId,
    interface: HostInterface,
    pub(super) profiles: Vec<Arc<str>>,
}

impl Graph {
    pub(super) fn put_host_endpoint(
        &mut self,
        endpoint: &resource::HostEndpoint,
        warnings: &mut Vec<FieldError>,
    ) -> Result<(), Vec<FieldError>> {
        let spec = &endpoint.spec;
        let interface = interface(spec, warnings).map_err(|error| vec![error])?;
        let is_local = self.node.as_deref().is_none_or(|node| node == spec.node);
        let mut addresses: Vec<IpAddr> = Vec::with_capacity(spec.expected_ips.len());
        for address in &spec.expected_ips {
            if !addresses.contains(address) {
                addresses.push(*address);
            }
        }
        let ports = spec.ports.iter().map(|port| NamedPort {
            name: self.names.acquire(&port.name),
            protocol: port.protocol.map_or(6, |protocol| protocol.number()),
            port: port.port,
        });
        let contribution =
            Contribution::Endpoint { ports: ports.collect(), addresses: addresses.into() };
        let key = self.item_key(Kind::HostEndpoint, "", endpoint.name());
        let dscp = endpoint.metadata.annotations.get(DSCP_ANNOTATION).filter(|_| is_local);
        let dscp = dscp.map(|text| text.parse());
        // Without expected addresses nothing tells which packets are the endpoint's, as upstream.
        let path = format!("metadata.annotations.{DSCP_ANNOTATION}");
        let markings = markings(dscp, &spec.expected_ips, &path, warnings);
        self.host.set_markings(&key.endpoint(), markings);
        let role = if is_local { Role::Host } else { Role::Remote };
        let labels = || pairs(&endpoint.metadata.labels);
        let item = self.put_item(key, contribution, labels, &spec.profiles, role);
        if is_local {
            let profiles = spec.profiles.iter().map(|name| name.as_str().into()).collect();
            self.put_local_host(endpoint.name(), LocalHost { item, interface, profiles });
        }
        Ok(())
    }

    fn put_local_host(&mut self, name: &str, local: LocalHost) {
        if self.local_hosts.get(name) == Some(&local) {
            return;
        }
        local.profiles.iter().for_each(|profile| self.use_profile(profile));
        self.touch(local.item);
        if let Some(before) = self.local_hosts.insert(name.into(), local) {
            before.profiles.iter().for_each(|profile| self.leave_profile(profile));
        }
    }

    pub(super) fn flush_host_endpoints(&mut self) -> (Vec<Update>, Vec<Update>) {
        let (mut changed, mut removed) = (Vec::new(), Vec::new());
        for name in std::mem::take(&mut self.dirty.hosts) {
            let Some(local) = self.local_hosts.get(&name) else {
                if self.sent.hosts.remove(&name).is_some() {
                    removed.push(Update::HostEndpointRemoved(name));
                }
                continue;
            };
            let (endpoint, ignored) = self.resolve_host(&name, local);
            if self.sent.hosts.get(&name) != Some(&endpoint) {
                self.warnings.extend(ignored);
                self.sent.hosts.insert(name, endpoint.clone());
                changed.push(Update::HostEndpoint(endpoint));
            }
        }
        (changed, removed)
    }

    /// A host endpoint with its policies in order, and what is ignored of them.
    fn resolve_host(&self, name: &Arc<str>, local: &LocalHost) -> (HostEndpoint, Option<Warning>) {
        let policies = self.host_residents.queries_of(local.item);
        let tiers = |wanted: &dyn Fn(Stage) -> bool| self.tiers_of(policies, |p| wanted(p.stage));
        let mut untracked = tiers(&|stage| stage == Stage::Untracked);
        let mut ignored = None;
        if local.interface == HostInterface::All && !untracked.is_empty() {
            let policies =
                untracked.iter().flat_map(|tier| tier.ingress.iter().chain(&tier.egress));
            let names: Vec<String> = policies.map(ToString::to_string).collect();
            let message = format!(
                "policies with doNotTrack do not apply to all interfaces at once, so these are \
                 ignored here: {}",
                names.join(", ")
            );
            let key = Key::resource(Kind::HostEndpoint, None, name);
            let problem = FieldError::new("spec.interfaceName", message);
            ignored = Some(Warning { key, problem });
            untracked.clear();
        }
        let mut pre_dnat = tiers(&|stage| stage == Stage::PreDnat);
        // The destination of what goes out is translated by then.
        pre_dnat.iter_mut().for_each(|tier| tier.egress.clear());
        let endpoint = HostEndpoint {
            name: Arc::clone(name),
            interface: local.interface.clone(),
            local: tiers(&|stage| matches!(stage, Stage::Normal { .. })),
            forward: tiers(&|stage| stage == Stage::Normal { on_forward: true }),
            pre_dnat,
            untracked,
            profiles: local.profiles.clone(),
        };
        (endpoint, ignored)
    }
}

/// A name counts more than addresses.
fn interface(
    spec: &resource::HostEndpointSpec,
    warnings: &mut Vec<FieldError>,
) -> Result<HostInterface, FieldError> {
    let name = spec.interface_name.as_str();
    if spec.node.is_empty() {
        warnings.push(FieldError::new("spec.node", "is missing, so it protects no host"));
    }
    match name {
        "" if spec.expected_ips.is_empty() => Err(FieldError::new(
            "spec.interfaceName",
            "is missing; name the interface, or give its addresses in expectedIPs",
        )),
        "" => Ok(HostInterface::Addressed(spec.expected_ips.clone())),
        ALL_INTERFACES => Ok(HostInterface::All),
        _ if name.len() > MAX_INTERFACE_NAME => Err(FieldError::new(
            "spec.interfaceName",
            format!("must have at most {MAX_INTERFACE_NAME} bytes"),
        )),
        _ => Ok(HostInterface::Named(name.into())),
    }
}
