//! From what a person writes to endpoints and a packet.

use std::net::IpAddr;

use calico_core::dataplane::EndpointId;
use calico_core::resource::{Protocol, WorkloadEndpoint};
use calico_policy::eval::Packet;

use super::state::State;
use crate::failure::Failure;

/// As written on the command line.
#[derive(Debug, Clone)]
pub(super) struct Query {
    pub(super) from: String,
    pub(super) to: String,
    pub(super) source_port: u16,
    pub(super) ipv6: bool,
}

/// A packet, and who its ends are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Flow {
    pub(super) from: Option<EndpointId>,
    pub(super) to: Option<EndpointId>,
    pub(super) packet: Packet,
}

/// A workload or an address outside.
enum End<'a> {
    Workload(&'a WorkloadEndpoint),
    Address(IpAddr),
}

/// What is asked about.
pub(super) fn resolve(state: &State, query: &Query) -> Result<Flow, Failure> {
    let (to, port) = split_port(&query.to);
    let (from, to) = (end(state, &query.from)?, end(state, to)?);
    let (source, destination) = addresses(&from, &to, query)?;
    let packet = match port {
        None => Packet::ping(source, destination),
        Some(text) => {
            let (protocol, port) = self::port(text, &to)?;
            let ports = Some((query.source_port, port));
            Packet { ports, ..Packet::to_port(source, destination, protocol, port) }
        }
    };
    Ok(Flow { from: id(&from), to: id(&to), packet })
}

/// `NAME:PORT/PROTOCOL`, where an IPv6 address with a port stands in brackets.
fn split_port(text: &str) -> (&str, Option<&str>) {
    if text.parse::<IpAddr>().is_ok() {
        return (text, None);
    }
    match text.rsplit_once(':') {
        Some((end, port)) => (end, Some(port)),
        None => (text, None),
    }
}

fn end<'a>(state: &'a State, text: &str) -> Result<End<'a>, Failure> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    if let Ok(address) = bare.parse() {
        let owner = state
            .endpoints
            .iter()
            .find(|endpoint| endpoint.spec.ip_networks.iter().any(|net| net.addr() == address));
        return Ok(owner.map_or(End::Address(address), End::Workload));
    }
    let (namespace, name) = text.split_once('/').unwrap_or(("default", text));
    let named = |wanted: &dyn Fn(&WorkloadEndpoint) -> bool| {
        let in_namespace = state.endpoints.iter().filter(|e| e.namespace() == namespace);
        in_namespace.filter(|endpoint| wanted(endpoint)).collect::<Vec<_>>()
    };
    let mut found = named(&|endpoint| endpoint.name() == name);
    if found.is_empty() {
        found = named(&|endpoint| endpoint.spec.pod == name);
    }
    match found[..] {
        [endpoint] => Ok(End::Workload(endpoint)),
        [] => Err(Failure::Usage(format!(
            "no pod and no WorkloadEndpoint {namespace}/{name}; `calicoctl get wep -A` lists them"
        ))),
        _ => {
            let names: Vec<&str> = found.iter().map(|endpoint| endpoint.name()).collect();
            let names = names.join(", ");
            Err(Failure::Usage(format!("pod {namespace}/{name} has several endpoints: {names}")))
        }
    }
}

/// An address of each, of one family: IPv4 if both have it and IPv6 was not asked for.
fn addresses(from: &End<'_>, to: &End<'_>, query: &Query) -> Result<(IpAddr, IpAddr), Failure> {
    let of = |end: &End<'_>| match end {
        End::Workload(endpoint) => {
            endpoint.spec.ip_networks.iter().map(|net| net.addr()).collect::<Vec<_>>()
        }
        End::Address(address) => vec![*address],
    };
    let written = [&query.from, &query.to].map(|text| {
        let (end, _) = split_port(text);
        end.trim_matches(['[', ']']).parse::<IpAddr>().ok()
    });
    let (sources, destinations) = (
        written[0].map_or_else(|| of(from), |address| vec![address]),
        written[1].map_or_else(|| of(to), |address| vec![address]),
    );
    let families = if query.ipv6 { [true, false] } else { [false, true] };
    let pair = families.into_iter().find_map(|v6| {
        let first = |list: &[IpAddr]| list.iter().copied().find(|a| a.is_ipv6() == v6);
        Some((first(&sources)?, first(&destinations)?))
    });
    pair.ok_or_else(|| {
        let (from, to) = (&query.from, &query.to);
        Failure::Usage(format!("{from} and {to} have no address of the same family"))
    })
}

/// `80`, `53/UDP`, or the name of one of the endpoint's ports.
fn port(text: &str, to: &End<'_>) -> Result<(u8, u16), Failure> {
    let (port, protocol) = match text.split_once('/') {
        Some((port, protocol)) => (port, Some(protocol)),
        None => (text, None),
    };
    let protocol: Option<Protocol> = match protocol {
        Some(name) => Some(name.to_ascii_uppercase().parse().map_err(|error| {
            Failure::Usage(format!("{name:?} is no protocol with ports: {error}"))
        })?),
        None => None,
    };
    if protocol.is_some_and(|protocol| !protocol.has_ports()) {
        let name = protocol.map_or_else(String::new, |protocol| protocol.to_string());
        return Err(Failure::Usage(format!("{name} has no ports; leave the port out for a ping")));
    }
    let number = protocol.map_or(6, Protocol::number);
    if let Ok(port) = port.parse::<u16>() {
        return Ok((number, port));
    }
    let End::Workload(endpoint) = to else {
        return Err(Failure::Usage(format!(
            "{port:?} is no port, and an address has no named ones"
        )));
    };
    let named = endpoint.spec.ports.iter().find(|candidate| {
        let of = candidate.protocol.map_or(6, Protocol::number);
        candidate.name == port && (protocol.is_none() || of == number)
    });
    match named {
        Some(named) => Ok((named.protocol.map_or(6, Protocol::number), named.port)),
        None => {
            let name = endpoint.name();
            Err(Failure::Usage(format!("endpoint {name} has no port of name {port:?}")))
        }
    }
}

fn id(end: &End<'_>) -> Option<EndpointId> {
    match end {
        End::Workload(endpoint) => Some(EndpointId {
            namespace: endpoint.namespace().into(),
            name: endpoint.name().into(),
        }),
        End::Address(_) => None,
    }
}
