//! The pod's side, by a thread that is in the pod's namespace.

use ipnet::IpNet;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{RouteMessage, RouteProtocol, RouteScope};
use rtnetlink::{LinkUnspec, RouteMessageBuilder};

use super::error::Step as _;
use super::spec::{GATEWAY_V4, GATEWAY_V6, HOST_MAC, PodInterface, PodSpec};
use super::{PodError, check};
use crate::link::{self, Link};
use crate::rtnl::{CREATE, Connection, Request};
use crate::sysctl::{Of, Setting};
use crate::{address, neighbour};

pub(super) fn configure(
    spec: &PodSpec,
    connection: &mut Connection,
) -> Result<PodInterface, PodError> {
    let interface = set_up(spec, connection)?;
    // Before addresses: an interface without IPv6 takes none, one that probes delays their use.
    settings(spec, &interface)?;

    let mut requests = Vec::new();
    let mut steps = Vec::new();
    for address in &spec.addresses {
        requests.push(address::add_request(interface.index, IpNet::from(*address)));
        steps.push(format!("give {} the address {address}", spec.ifname));
    }
    // Upstream lets the pod ask (ARP, NDP). The kernel answers ARP by proxy only if the host has
    // a route to 169.254.1.1, such as a default route; told at once, the pod needs neither.
    for gateway in spec.gateways() {
        requests.push(neighbour::permanent_request(interface.index, gateway, HOST_MAC));
        steps.push(format!("tell {} the hardware address of {gateway}", spec.ifname));
    }
    for message in routes(spec, interface.index) {
        requests.push(Request::new(RouteNetlinkMessage::NewRoute(message), CREATE));
        steps.push(format!("give {} the routes of a pod", spec.ifname));
    }
    let outcomes = connection.exchange(&requests).step(|| format!("configure {}", spec.ifname))?;
    for (outcome, step) in outcomes.into_iter().zip(steps) {
        outcome.step(|| step)?;
    }
    check::describe(&interface)
}

/// A veth cannot be born up on its far side (`veth_open` refuses while its peer is not linked).
fn set_up(spec: &PodSpec, connection: &mut Connection) -> Result<Link, PodError> {
    let name = &spec.ifname;
    let requests = [
        link::set_request(LinkUnspec::new_with_name(name).up()),
        link::get_request(LinkUnspec::new_with_name(name)),
    ];
    let step = || format!("set {name} up");
    let mut answer = None;
    for outcome in connection.exchange(&requests).step(step)? {
        answer = outcome.step(step)?;
    }
    match answer.as_ref().and_then(link::link_of) {
        Some(link) => Ok(link),
        None => Err(PodError::Incomplete { what: format!("there is no interface {name}") }),
    }
}

/// Routes inside the pod. The order matters: the gateway must be reachable first.
pub(super) fn routes(spec: &PodSpec, index: u32) -> Vec<RouteMessage> {
    let mut routes = Vec::new();
    if spec.has_v4() {
        routes.push(
            RouteMessageBuilder::<std::net::Ipv4Addr>::new()
                .destination_prefix(GATEWAY_V4, 32)
                .output_interface(index)
                .scope(RouteScope::Link)
                .protocol(RouteProtocol::Boot)
                .build(),
        );
    }
    for destination in spec.destinations() {
        routes.push(match destination {
            IpNet::V4(net) => RouteMessageBuilder::<std::net::Ipv4Addr>::new()
                .destination_prefix(net.network(), net.prefix_len())
                .gateway(GATEWAY_V4)
                .output_interface(index)
                .protocol(RouteProtocol::Boot)
                .build(),
            IpNet::V6(net) => RouteMessageBuilder::<std::net::Ipv6Addr>::new()
                .destination_prefix(net.network(), net.prefix_len())
                .gateway(GATEWAY_V6)
                .output_interface(index)
                .protocol(RouteProtocol::Boot)
                .build(),
        });
    }
    routes
}

fn settings(spec: &PodSpec, link: &Link) -> Result<(), PodError> {
    let forward = i64::from(spec.allow_ip_forwarding);
    let of = Of::Interface(&spec.ifname);
    let now = &link.settings;
    // A new interface has what the whole namespace has: if it forwards nothing, nothing does. That
    // spares the way through `/proc/sys`, which is the longer the more namespaces there are.
    let still = |interface: Option<i32>| interface == Some(0) && forward == 0;
    if spec.has_v4() && !still(now.ipv4_forwarding) {
        Setting::Ipv4Forward.write(forward)?;
    }
    if spec.has_v6() {
        Setting::AcceptDad(of).write_unless(now.accept_dad, 0)?;
        if now.disable_ipv6 != Some(0) {
            // Runtimes switch IPv6 off in all of a new namespace.
            Setting::DisableIpv6(Of::All).write(0)?;
            Setting::DisableIpv6(of).write(0)?;
        }
        if !still(now.ipv6_forwarding) {
            Setting::Ipv6Forwarding(Of::All).write(forward)?;
        }
    }
    Ok(())
}
