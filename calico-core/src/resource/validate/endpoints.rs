//! Nodes, workload endpoints and host endpoints.

use super::{Global, SPEC, interface, names, selector, unique};
use crate::resource::{
    EndpointName, Errors, HostEndpointSpec, LiveMigrationSpec, NodeBgp, NodeSpec, NodeWireguard,
    ObjectMeta, Path, Protocol, WorkloadEndpointSpec,
};

pub(in crate::resource) fn node(spec: &NodeSpec, errors: &mut Errors) {
    let bgp = SPEC.key("bgp");
    errors.require(
        spec.bgp.as_ref() != Some(&NodeBgp::default()),
        &bgp,
        "is empty; give an address or remove it",
    );
    errors.require(
        spec.wireguard.as_ref() != Some(&NodeWireguard::default()),
        &SPEC.key("wireguard"),
        "is empty; give an address or remove it",
    );
    if let Some(spec) = &spec.bgp {
        for (address, name, v6) in
            [(spec.ipv4_address, "ipv4Address", false), (spec.ipv6_address, "ipv6Address", true)]
        {
            let Some(address) = address else { continue };
            let wanted = if v6 { "IPv6" } else { "IPv4" };
            errors.require(
                address.addr().is_ipv6() == v6,
                &bgp.key(name),
                format!("{address} is not {wanted}"),
            );
        }
        let id = &spec.route_reflector_cluster_id;
        errors.require(
            id.is_empty() || id.parse::<std::net::Ipv4Addr>().is_ok(),
            &bgp.key("routeReflectorClusterID"),
            format!("{id:?} is no cluster id: write it like an IPv4 address, such as 244.0.0.1"),
        );
    }
    let macs = [
        (&spec.vxlan_tunnel_mac_addr, "vxlanTunnelMACAddr"),
        (&spec.vxlan_tunnel_mac_addr_v6, "vxlanTunnelMACAddrV6"),
    ];
    for (address, name) in macs {
        mac(address, &SPEC.key(name), errors);
    }
    let list = SPEC.key("addresses");
    for (index, address) in spec.addresses.iter().enumerate() {
        errors.require(
            address.address.parse::<crate::resource::Cidr>().is_ok(),
            &list.index(index).key("address"),
            format!("{:?} is neither an IP address nor a CIDR", address.address),
        );
    }
}

pub(in crate::resource) fn workload_endpoint(
    spec: &WorkloadEndpointSpec,
    metadata: &ObjectMeta,
    errors: &mut Errors,
) {
    let named = EndpointName::of(spec);
    let parts = [&named.node, &named.orchestrator, &named.workload, &named.endpoint];
    if parts.iter().all(|part| !part.is_empty()) {
        let wanted = named.to_string();
        errors.require(
            metadata.name == wanted,
            &Path::Root.key("metadata").key("name"),
            format!("does not fit the spec; it must be {wanted}"),
        );
    } else {
        for (part, name) in
            parts.into_iter().zip(["node", "orchestrator", workload_field(spec), "endpoint"])
        {
            errors.require(!part.is_empty(), &SPEC.key(name), "required, but missing");
        }
    }
    if !spec.interface_name.is_empty() {
        interface(&spec.interface_name, "", &SPEC.key("interfaceName"), errors);
    }
    let networks = SPEC.key("ipNetworks");
    for (index, net) in spec.ip_networks.iter().enumerate() {
        errors.require(
            net.prefix_len() == net.max_prefix_len(),
            &networks.index(index),
            format!("{net} has several addresses; write /{}", net.max_prefix_len()),
        );
    }
    let nats = SPEC.key("ipNATs");
    for (index, nat) in spec.ip_nats.iter().enumerate() {
        let (Some(inside), Some(outside)) = (nat.internal_ip, nat.external_ip) else { continue };
        let place = nats.index(index);
        errors.require(
            inside.is_ipv4() == outside.is_ipv4(),
            &place.key("externalIP"),
            "must be of the same family as internalIP",
        );
        errors.require(
            spec.ip_networks.iter().any(|net| net.contains(&inside)),
            &place.key("internalIP"),
            format!("{inside} is not in ipNetworks"),
        );
    }
    mac(&spec.mac, &SPEC.key("mac"), errors);
    let list = SPEC.key("ports");
    for (index, port) in spec.ports.iter().enumerate() {
        let at = list.index(index);
        port_protocol(port.protocol, &at, errors);
        errors.require(port.port != 0, &at.key("port"), "is 0; allowed are 1 to 65535");
        errors.require(
            !port.name.is_empty() || port.host_port != 0,
            &at.key("name"),
            "required for a port without hostPort",
        );
    }
}

/// The field that names the workload, which depends on the orchestrator.
fn workload_field(spec: &WorkloadEndpointSpec) -> &'static str {
    match spec.orchestrator.as_str() {
        "k8s" => "pod",
        "cni" => "containerID",
        _ => "workload",
    }
}

pub(in crate::resource) fn host_endpoint(spec: &HostEndpointSpec, errors: &mut Errors) {
    errors.require(!spec.node.is_empty(), &SPEC.key("node"), "required, but missing");
    let name = SPEC.key("interfaceName");
    errors.require(
        !spec.interface_name.is_empty() || !spec.expected_ips.is_empty(),
        &name,
        "give interfaceName or expectedIPs",
    );
    if !matches!(spec.interface_name.as_str(), "" | "*") {
        interface(&spec.interface_name, "", &name, errors);
    }
    let list = SPEC.key("ports");
    let names: Vec<&str> = spec.ports.iter().map(|port| port.name.as_str()).collect();
    unique(&names, &list, errors);
    for (index, port) in spec.ports.iter().enumerate() {
        let at = list.index(index);
        port_protocol(port.protocol, &at, errors);
        errors.require(port.port != 0, &at.key("port"), "is 0; allowed are 1 to 65535");
        errors.require(
            port.name.len() <= 128 && names::is_label_value(&port.name),
            &at.key("name"),
            format!("{:?} is no port name", port.name),
        );
    }
}

pub(in crate::resource) fn live_migration(spec: &LiveMigrationSpec, errors: &mut Errors) {
    if let Some(source) = &spec.source {
        errors.require(
            source.workload.is_some() != source.workload_endpoint.is_some(),
            &SPEC.key("source"),
            "needs workload or workloadEndpoint, not both",
        );
    }
    if let Some(target) = &spec.target {
        let at = SPEC.key("target");
        errors.require(
            target.selector.is_some() != target.workload_endpoint.is_some(),
            &at,
            "needs selector or workloadEndpoint, not both",
        );
        if let Some(text) = &target.selector {
            selector(text, Global::Forbidden, &at.key("selector"), errors);
        }
    }
}

fn port_protocol(protocol: Option<Protocol>, port: &Path<'_>, errors: &mut Errors) {
    errors.require(
        protocol.is_some_and(Protocol::has_ports),
        &port.key("protocol"),
        "must be TCP, UDP or SCTP",
    );
}

fn mac(text: &str, at: &Path<'_>, errors: &mut Errors) {
    let octets: Vec<&str> = text.split(':').collect();
    let fits = octets.len() == 6
        && octets.iter().all(|o| o.len() == 2 && o.bytes().all(|b| b.is_ascii_hexdigit()));
    errors.require(
        text.is_empty() || fits,
        at,
        format!("{text:?} is no hardware address, such as 02:00:00:00:00:01"),
    );
}
