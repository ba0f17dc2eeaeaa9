//! Services as destinations: policy sees packets to one of their backends.

use std::collections::BTreeSet;
use std::net::IpAddr;

use calico_core::resource::{Protocol, SlicePort};

use super::ends::protocol_of;
use super::state::State;
use super::unknown;
use crate::failure::Failure;

/// Where a service sends what comes to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Backend {
    pub(super) address: IpAddr,
    /// Protocol and port; none for a ping.
    pub(super) port: Option<(u8, u16)>,
}

/// The name in `svc/[NAMESPACE/]NAME`.
pub(super) fn named(text: &str) -> Option<&str> {
    text.strip_prefix("svc/").or_else(|| text.strip_prefix("service/"))
}

/// The backends of a service that are ready; `port` is a port of theirs, by number or name, and may
/// be left out where all of them have one only.
pub(super) fn backends(
    state: &State,
    name: &str,
    port: Option<&str>,
) -> Result<Vec<Backend>, Failure> {
    let (namespace, service) = name.split_once('/').unwrap_or(("default", name));
    let of_service = |slice: &&_| {
        let slice: &calico_core::resource::KubernetesEndpointSlice = slice;
        slice.namespace() == namespace && slice.service() == Some(service)
    };
    let slices: Vec<_> = state.slices.iter().filter(of_service).collect();
    if slices.is_empty() {
        return Err(unknown::service(state, namespace, service));
    }
    let (wanted, protocol) = port.map(protocol_of).transpose()?.unzip();
    let is_wanted = |port: &SlicePort| {
        let of_name = wanted.is_none_or(|wanted| {
            port.name == wanted || port.port.is_some_and(|port| port.to_string() == wanted)
        });
        of_name && protocol.flatten().is_none_or(|p| p == port.protocol.unwrap_or(Protocol::Tcp))
    };
    let mut found = BTreeSet::new();
    for slice in &slices {
        let ready = slice.spec.endpoints.iter().filter(|endpoint| endpoint.is_ready());
        for address in ready.flat_map(|endpoint| endpoint.ips()) {
            for port in slice.spec.ports.iter().filter(|port| is_wanted(port)) {
                let protocol = port.protocol.unwrap_or(Protocol::Tcp).number();
                let port = port.port.map(|number| (protocol, number));
                found.extend(port.map(|port| Backend { address, port: Some(port) }));
            }
        }
    }
    let ports: BTreeSet<String> = slices
        .iter()
        .flat_map(|slice| &slice.spec.ports)
        .filter_map(|port| {
            let protocol = port.protocol.unwrap_or(Protocol::Tcp);
            let name = if port.name.is_empty() { "" } else { &format!(" ({})", port.name) };
            Some(format!("{}/{protocol}{name}", port.port?))
        })
        .collect();
    let ports = ports.into_iter().collect::<Vec<_>>().join(", ");
    let several = found.iter().map(|backend| backend.port).collect::<BTreeSet<_>>().len() > 1;
    match port {
        None if several => Err(Failure::Usage(format!(
            "service {namespace}/{service} has several ports; say which of its backends': {ports}"
        ))),
        _ if !found.is_empty() => Ok(found.into_iter().collect()),
        Some(port)
            if !ports.is_empty() && !slices.iter().any(|s| s.spec.ports.iter().any(is_wanted)) =>
        {
            Err(Failure::Usage(format!(
                "no backend of service {namespace}/{service} has port {port}; theirs are {ports}"
            )))
        }
        _ => Err(Failure::Usage(format!(
            "service {namespace}/{service} has no backend that is ready, so that packets to it go nowhere"
        ))),
    }
}
