//! From what a person writes to packets and who is at their ends.

use std::net::IpAddr;

use calico_core::dataplane::EndpointId;
use calico_core::resource::{HostEndpoint, Protocol, WorkloadEndpoint};
use calico_policy::eval::Packet;
use calico_policy::way::{Part, Place, Way};
use ipnet::IpNet;

use super::services::{self, Backend};
use super::state::State;
use super::unknown;
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
    pub(super) from: Place,
    pub(super) to: Place,
    pub(super) packet: Packet,
    /// The part of a prefix that it stands for, if one was asked about.
    pub(super) part: Option<IpNet>,
}

impl Flow {
    /// What becomes of it.
    pub(super) fn walk(&self, state: &State) -> Way {
        state.cluster().walk(&self.from, &self.to, &self.packet)
    }
}

/// One end, with its address if that was written.
enum End<'a> {
    Workload(&'a WorkloadEndpoint, Option<IpAddr>),
    Host(&'a HostEndpoint, Option<IpAddr>),
    /// A node's, where no host endpoint is.
    Node(&'a str, IpAddr),
    Address(IpAddr),
    Net(IpNet),
}

/// What is asked about: one flow, or one for each backend of a service, or for each part of a prefix.
pub(super) fn resolve(state: &State, query: &Query) -> Result<Vec<Flow>, Failure> {
    let (to, port) = split_port(&query.to);
    let from = end(state, &query.from)?;
    let sources = addresses(state, &from);
    let flow = |source, backend: &Backend| {
        let destination = backend.address;
        let packet = match backend.port {
            None => Packet::ping(source, destination),
            Some((protocol, port)) => {
                let ports = Some((query.source_port, port));
                Packet { ports, ..Packet::to_port(source, destination, protocol, port) }
            }
        };
        let from = place(&from);
        Flow { from, to: place(&owner(state, destination)), packet, part: None }
    };
    if let Some(name) = services::named(to) {
        let backends = services::backends(state, name, port)?;
        let destinations: Vec<IpAddr> = backends.iter().map(|backend| backend.address).collect();
        let (source, first) = pair(&sources, &destinations, query)?;
        let alike = |backend: &&Backend| backend.address.is_ipv6() == first.is_ipv6();
        return Ok(backends.iter().filter(alike).map(|backend| flow(source, backend)).collect());
    }
    let to = end(state, to)?;
    let (source, address) = pair(&sources, &addresses(state, &to), query)?;
    let port = port.map(|text| self::port(text, &to)).transpose()?;
    let mut flow = flow(source, &Backend { address, port });
    // One address may be of several: who was named counts.
    flow.to = place(&to);
    match (&from, &to) {
        (End::Net(_), End::Net(_)) => {
            Err(Failure::Usage("only one of the two ends can be a network".to_owned()))
        }
        (End::Net(net), _) => Ok(parts(state, *net, &flow, true)),
        (_, End::Net(net)) => Ok(parts(state, *net, &flow, false)),
        _ => Ok(vec![flow]),
    }
}

/// A flow from (or else to) each part of a prefix that policy may tell from others.
fn parts(state: &State, net: IpNet, flow: &Flow, from: bool) -> Vec<Flow> {
    let of = |Part { net, address, .. }| {
        let mut flow = Flow { part: Some(net), ..flow.clone() };
        let (end, packet) = match from {
            true => (&mut flow.from, &mut flow.packet.source),
            false => (&mut flow.to, &mut flow.packet.destination),
        };
        (*end, *packet) = (place(&owner(state, address)), address);
        flow
    };
    state.cluster().divide(net).into_iter().map(of).collect()
}

/// `NAME:PORT/PROTOCOL`, where an IPv6 address with a port stands in brackets.
fn split_port(text: &str) -> (&str, Option<&str>) {
    if text.parse::<IpAddr>().is_ok() || text.parse::<IpNet>().is_ok() {
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
        return Ok(owner(state, address));
    }
    match bare.parse::<IpNet>() {
        Ok(net) if net.prefix_len() == net.max_prefix_len() => {
            return Ok(owner(state, net.addr()));
        }
        Ok(net) => return Ok(End::Net(net)),
        Err(_) => {}
    }
    if services::named(text).is_some() {
        return Err(Failure::Usage(format!(
            "{text} sends nothing by itself: name one of its pods"
        )));
    }
    if let Some(name) = text.strip_prefix("node/") {
        return unknown::node(state, name).map(|address| owner(state, address));
    }
    let host = text.strip_prefix("hep/").or_else(|| text.strip_prefix("hostendpoint/"));
    let host_of = |name: &str| state.hosts.iter().find(|host| host.name() == name);
    if let Some(name) = host {
        return host_of(name)
            .map(|host| End::Host(host, None))
            .ok_or_else(|| unknown::end(state, text));
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
        [endpoint] => Ok(End::Workload(endpoint, None)),
        [] => {
            host_of(text).map(|host| End::Host(host, None)).ok_or_else(|| unknown::end(state, text))
        }
        _ => {
            let names: Vec<&str> = found.iter().map(|endpoint| endpoint.name()).collect();
            let names = names.join(", ");
            Err(Failure::Usage(format!("pod {namespace}/{name} has several endpoints: {names}")))
        }
    }
}

/// Who has an address: a workload, a node with a host endpoint, or somebody outside.
fn owner(state: &State, address: IpAddr) -> End<'_> {
    let has = |endpoint: &&WorkloadEndpoint| {
        endpoint.spec.ip_networks.iter().any(|net| net.addr() == address)
    };
    if let Some(endpoint) = state.endpoints.iter().find(has) {
        return End::Workload(endpoint, Some(address));
    }
    let Some(node) = state.topology.node_with(address) else { return End::Address(address) };
    match state.cluster().host(node, address) {
        Place::Host { endpoint: Some(name), .. } => {
            let host = state.hosts.iter().find(|host| *host.name() == *name);
            host.map_or(End::Address(address), |host| End::Host(host, Some(address)))
        }
        _ => End::Node(node, address),
    }
}

fn addresses(state: &State, end: &End<'_>) -> Vec<IpAddr> {
    match end {
        End::Workload(_, Some(address)) | End::Host(_, Some(address)) => vec![*address],
        End::Workload(endpoint, None) => {
            endpoint.spec.ip_networks.iter().map(|net| net.addr()).collect()
        }
        End::Host(host, None) if host.spec.expected_ips.is_empty() => {
            state.addresses_of_node(&host.spec.node)
        }
        End::Host(host, None) => host.spec.expected_ips.clone(),
        End::Node(_, address) | End::Address(address) => vec![*address],
        End::Net(net) => vec![net.addr()],
    }
}

/// An address of each, of one family: IPv4 if both have it and IPv6 was not asked for.
fn pair(
    sources: &[IpAddr],
    destinations: &[IpAddr],
    query: &Query,
) -> Result<(IpAddr, IpAddr), Failure> {
    let families = if query.ipv6 { [true, false] } else { [false, true] };
    let pair = families.into_iter().find_map(|v6| {
        let first = |list: &[IpAddr]| list.iter().copied().find(|a| a.is_ipv6() == v6);
        Some((first(sources)?, first(destinations)?))
    });
    pair.ok_or_else(|| {
        let (from, to) = (&query.from, &query.to);
        Failure::Usage(format!("{from} and {to} have no address of the same family"))
    })
}

/// `80`, `53/UDP`, or the name of one of the endpoint's ports.
fn port(text: &str, to: &End<'_>) -> Result<(u8, u16), Failure> {
    let (port, protocol) = protocol_of(text)?;
    let number = protocol.map_or(6, Protocol::number);
    if let Ok(port) = port.parse::<u16>() {
        return Ok((number, port));
    }
    let number_of = |protocol: Option<Protocol>| protocol.map_or(6, Protocol::number);
    let (name, ports): (&str, Vec<(&str, u8, u16)>) = match to {
        End::Workload(endpoint, _) => {
            let ports = endpoint.spec.ports.iter();
            let ports = ports.map(|port| (&*port.name, number_of(port.protocol), port.port));
            (endpoint.name(), ports.collect())
        }
        End::Host(host, _) => {
            let ports = host.spec.ports.iter();
            let ports = ports.map(|port| (&*port.name, number_of(port.protocol), port.port));
            (host.name(), ports.collect())
        }
        End::Node(..) | End::Address(_) | End::Net(_) => {
            return Err(Failure::Usage(format!(
                "{port:?} is no port, and an address has no named ones"
            )));
        }
    };
    let mut named = ports.iter().filter(|(name, ..)| *name == port);
    let found = named.find(|(_, of, _)| protocol.is_none() || *of == number);
    found.map(|(_, protocol, port)| (*protocol, *port)).ok_or_else(|| {
        let known: Vec<&str> = ports.iter().map(|(name, ..)| *name).collect();
        let known = match known[..] {
            [] => "none of its ports has a name".to_owned(),
            _ => format!("its ports are {}", known.join(", ")),
        };
        Failure::Usage(format!("endpoint {name} has no port of name {port:?}; {known}"))
    })
}

/// What comes before the slash, and the protocol after it.
pub(super) fn protocol_of(text: &str) -> Result<(&str, Option<Protocol>), Failure> {
    let Some((port, name)) = text.split_once('/') else { return Ok((text, None)) };
    let protocol: Protocol = name
        .to_ascii_uppercase()
        .parse()
        .map_err(|error| Failure::Usage(format!("{name:?} is no protocol with ports: {error}")))?;
    if !protocol.has_ports() {
        return Err(Failure::Usage(format!(
            "{protocol} has no ports; leave the port out for a ping"
        )));
    }
    Ok((port, Some(protocol)))
}

fn place(end: &End<'_>) -> Place {
    match end {
        End::Workload(endpoint, _) => {
            let id =
                EndpointId { namespace: endpoint.namespace().into(), name: endpoint.name().into() };
            Place::Workload { id, node: endpoint.spec.node.as_str().into() }
        }
        End::Host(host, _) => {
            let endpoint = Some(host.name().into());
            Place::Host { endpoint, node: host.spec.node.as_str().into() }
        }
        End::Node(node, _) => Place::Host { endpoint: None, node: (*node).into() },
        End::Address(_) | End::Net(_) => Place::Outside,
    }
}
