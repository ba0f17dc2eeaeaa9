//! Pools, IPAM settings, network sets, agent settings.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Global, SPEC, is_global_configuration, selector, unique};
use crate::resource::{
    AllowedUse, EncapMode, Errors, FelixConfigurationSpec, IpPoolSpec, IpamConfigurationSpec,
    ObjectMeta, Path,
};
use crate::selector::NAMESPACE_LABEL;

pub(in crate::resource) fn ip_pool(pool: &IpPoolSpec, errors: &mut Errors) {
    let at = SPEC.key("cidr");
    let cidr = pool.cidr;
    errors.require(
        cidr == cidr.trunc(),
        &at,
        format!("{cidr} has host bits; write {}", cidr.trunc()),
    );
    for range in ["169.254.0.0/16", "fe80::/10"] {
        let range: IpNet = range.parse().expect("a valid network");
        let overlap = range.contains(&cidr.network()) || cidr.contains(&range.network());
        errors.require(!overlap, &at, format!("overlaps the link-local range {range}"));
    }
    let sizes = if pool.is_ipv6() { 116..=128 } else { 20..=32 };
    errors.require(
        sizes.contains(&pool.block_size()),
        &SPEC.key("blockSize"),
        format!("is {}; allowed are {} to {}", pool.block_size, sizes.start(), sizes.end()),
    );
    errors.require(
        pool.disabled || cidr.prefix_len() <= pool.block_size(),
        &at,
        format!("smaller than one block of /{}; enlarge the pool", pool.block_size()),
    );

    let (ipip, vxlan) = (pool.ipip_mode(), pool.vxlan_mode());
    let (ipip_at, vxlan_at) = (SPEC.key("ipipMode"), SPEC.key("vxlanMode"));
    let balancer = pool.allowed_uses.contains(&AllowedUse::LoadBalancer);
    if ipip != EncapMode::Never {
        errors.require(!pool.is_ipv6(), &ipip_at, "IP-in-IP carries IPv4 only; use Never");
        errors.require(
            vxlan == EncapMode::Never,
            &ipip_at,
            "cannot be used together with vxlanMode; set one of them to Never",
        );
    }
    for (mode, at) in [(ipip, &ipip_at), (vxlan, &vxlan_at)] {
        errors.require(
            !balancer || mode == EncapMode::Never,
            at,
            "must be Never in a pool for LoadBalancer",
        );
    }

    let uses = SPEC.key("allowedUses");
    unique(&pool.allowed_uses, &uses, errors);
    errors.require(
        !balancer || pool.allowed_uses.iter().all(|allowed| *allowed == AllowedUse::LoadBalancer),
        &uses,
        "LoadBalancer cannot be combined with Workload or Tunnel; use two pools",
    );
    errors.require(
        !balancer || !pool.disable_bgp_export,
        &SPEC.key("disableBGPExport"),
        "must be false in a pool for LoadBalancer",
    );
    let (nodes, namespaces) = (SPEC.key("nodeSelector"), SPEC.key("namespaceSelector"));
    errors.require(
        !balancer || pool.node_selector() == "all()",
        &nodes,
        "must be all() in a pool for LoadBalancer",
    );
    errors.require(
        pool.namespace_selector.is_empty() || !pool.allowed_uses.contains(&AllowedUse::Tunnel),
        &namespaces,
        "cannot be used with allowedUses Tunnel; set allowedUses: [Workload]",
    );
    selector(&pool.node_selector, Global::Forbidden, &nodes, errors);
    selector(&pool.namespace_selector, Global::Forbidden, &namespaces, errors);
}

pub(in crate::resource) fn ipam_configuration(spec: &IpamConfigurationSpec, errors: &mut Errors) {
    errors.require(
        spec.strict_affinity || spec.auto_allocate_blocks(),
        &SPEC.key("autoAllocateBlocks"),
        "may be false only with strictAffinity: true",
    );
    let at = SPEC.key("maxBlocksPerHost");
    errors.require(
        spec.max_blocks_per_host <= 1_000_000,
        &at,
        format!("is {}; at most 1000000 is allowed, 0 is no limit", spec.max_blocks_per_host),
    );
    errors.require(
        spec.max_blocks_per_host == 0 || spec.strict_affinity,
        &at,
        "needs strictAffinity: true",
    );
    errors.require(
        spec.ip_cooldown_seconds <= 1200,
        &SPEC.key("ipCooldownSeconds"),
        format!("is {}; allowed are 0 to 1200", spec.ip_cooldown_seconds),
    );
}

pub(in crate::resource) fn network_set(metadata: &ObjectMeta, errors: &mut Errors) {
    errors.require(
        !metadata.labels.contains_key(NAMESPACE_LABEL),
        &Path::Root.key("metadata").key("labels").key(NAMESPACE_LABEL),
        "is set by the system; remove it",
    );
}

pub(in crate::resource) fn felix(
    spec: &FelixConfigurationSpec,
    metadata: &ObjectMeta,
    errors: &mut Errors,
) {
    let at = SPEC.key("nodeSelector");
    selector(&spec.node_selector, Global::Forbidden, &at, errors);
    let fixed = is_global_configuration(metadata) || metadata.name.starts_with("node.");
    errors.require(
        spec.node_selector.is_empty() || !fixed,
        &at,
        "cannot be used in `default` and `node.<node>`; choose another name",
    );
    errors.require(
        spec.route_table_range.is_none() || spec.route_table_ranges.is_empty(),
        &SPEC.key("routeTableRange"),
        "cannot be used together with routeTableRanges",
    );
    for (text, name, v6) in [
        (&spec.nat_outgoing_address, "natOutgoingAddress", false),
        (&spec.device_route_source_address, "deviceRouteSourceAddress", false),
        (&spec.device_route_source_address_ipv6, "deviceRouteSourceAddressIPv6", true),
    ] {
        let family = text.parse::<IpAddr>().is_ok_and(|address| address.is_ipv6() == v6);
        let wanted = if v6 { "IPv6" } else { "IPv4" };
        errors.require(
            text.is_empty() || family,
            &SPEC.key(name),
            format!("{text:?} is no {wanted} address"),
        );
    }
    for (name, ports) in [
        ("failsafeInboundHostPorts", &spec.failsafe_inbound_host_ports),
        ("failsafeOutboundHostPorts", &spec.failsafe_outbound_host_ports),
    ] {
        let list = SPEC.key(name);
        for (index, port) in ports.iter().flatten().enumerate() {
            errors.require(
                ["", "TCP", "UDP", "SCTP"].contains(&port.protocol.to_ascii_uppercase().as_str()),
                &list.index(index).key("protocol"),
                format!("{:?} is not one of TCP, UDP, SCTP", port.protocol),
            );
        }
    }
    let list = SPEC.key("routeTableRanges");
    for (index, range) in spec.route_table_ranges.iter().enumerate() {
        errors.require(
            (1..=range.max).contains(&range.min),
            &list.index(index),
            "min must be at least 1 and not above max",
        );
    }
}
