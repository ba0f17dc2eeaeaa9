//! The host's side.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv6Net};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{RouteMessage, RouteProtocol, RouteScope};
use rtnetlink::{LinkUnspec, RouteMessageBuilder};

use super::PodError;
use super::error::Step as _;
use super::spec::{GATEWAY_V6, PodSpec};
use crate::address;
use crate::link::{self, Ipv4Conf, Link};
use crate::rtnl::{Connection, REPLACE, Request};
use crate::sysctl::{Of, Setting};

/// Settings that the host's end is made with.
pub(super) fn conf(spec: &PodSpec) -> &'static [(Ipv4Conf, u32)] {
    if !spec.has_v4() {
        return &[];
    }
    &[(Ipv4Conf::RouteLocalnet, 1), (Ipv4Conf::ProxyArp, 1), (Ipv4Conf::Forwarding, 1)]
}

/// Settings of the host's end, written while it is down, and only where they differ.
pub(super) fn settings(spec: &PodSpec, link: &Link) -> Result<(), PodError> {
    let of = Of::Interface(&spec.host_ifname);
    let now = &link.settings;
    if spec.has_v4() {
        Setting::RouteLocalnet(of).write_unless(now.route_localnet, 1)?;
        Setting::ProxyArp(of).write_unless(now.proxy_arp, 1)?;
        Setting::Ipv4Forwarding(of).write_unless(now.ipv4_forwarding, 1)?;
    }
    if spec.allow_spoofing {
        Setting::ReversePathFilter(of).write_unless(now.rp_filter, 0)?;
    }
    if spec.has_v6() {
        Setting::AcceptDad(of).write_unless(now.accept_dad, 0)?;
        // The gateway's address is ours to set: waiting until the kernel has made it takes time.
        Setting::AddrGenMode(of).write(1)?;
        Setting::DisableIpv6(of).write_unless(now.disable_ipv6, 0)?;
        Setting::ProxyNdp(of).write_unless(now.proxy_ndp, 1)?;
        Setting::AcceptRa(of).write_unless(now.accept_ra, 0)?;
        Setting::Ipv6Forwarding(of).write_unless(now.ipv6_forwarding, 1)?;
    }
    Ok(())
}

/// Sets the host's end up and gives it its address and routes. From here on packets can pass.
pub(super) fn connect(
    spec: &PodSpec,
    connection: &mut Connection,
    index: u32,
) -> Result<(), PodError> {
    let name = &spec.host_ifname;
    let mut requests = vec![link::set_request(LinkUnspec::new_with_index(index).up())];
    let mut steps = vec![format!("set {name} up")];
    if spec.has_v6() {
        let gateway = Ipv6Net::new_assert(GATEWAY_V6, 64);
        requests.push(address::add_request(index, IpNet::V6(gateway)));
        steps.push(format!("give {name} the address {GATEWAY_V6}"));
    }
    if spec.has_v4() {
        requests.push(link::proxy_at_once_request(index));
        steps.push(format!("let {name} answer for others at once"));
    }
    for address in spec.routed() {
        let message = RouteNetlinkMessage::NewRoute(route(address, index));
        // A route that an earlier owner of the address left behind gives way.
        requests.push(Request::new(message, REPLACE));
        steps.push(format!("route {address} to {name}"));
    }
    let outcomes = connection.exchange(&requests).step(|| format!("connect {name}"))?;
    for (outcome, step) in outcomes.into_iter().zip(steps) {
        outcome.step(|| step)?;
    }
    Ok(())
}

/// Metric of a pod's route unless FelixConfiguration says otherwise (`ipv4NormalRoutePriority`), and
/// the kernel's own for IPv6. With another one the agent would have to make each route anew.
const NORMAL_METRIC: u32 = 1024;

/// The host's route to an address of a pod.
pub(super) fn route(address: IpAddr, index: u32) -> RouteMessage {
    match address {
        IpAddr::V4(address) => RouteMessageBuilder::<std::net::Ipv4Addr>::new()
            .destination_prefix(address, 32)
            .output_interface(index)
            .scope(RouteScope::Link)
            .protocol(RouteProtocol::Boot)
            .priority(NORMAL_METRIC)
            .build(),
        IpAddr::V6(address) => RouteMessageBuilder::<std::net::Ipv6Addr>::new()
            .destination_prefix(address, 128)
            .output_interface(index)
            .protocol(RouteProtocol::Boot)
            .build(),
    }
}
