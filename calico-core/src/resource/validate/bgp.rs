//! BGP settings, peers and filters.

use std::net::IpAddr;

use super::{Global, SPEC, at_most, interface, is_global_configuration, selector};
use crate::resource::bgp::parse_peer;
use crate::resource::{
    BgpConfigurationSpec, BgpFilterAction, BgpFilterRule, BgpFilterSpec, BgpPeerSpec, Errors,
    ObjectMeta, Path,
};

pub(in crate::resource) fn bgp_configuration(
    spec: &BgpConfigurationSpec,
    metadata: &ObjectMeta,
    errors: &mut Errors,
) {
    let (password, restart) = (SPEC.key("nodeMeshPassword"), SPEC.key("nodeMeshMaxRestartTime"));
    if spec.node_to_node_mesh_enabled == Some(false) {
        for (used, at) in [
            (spec.node_mesh_password.is_some(), &password),
            (spec.node_mesh_max_restart_time.is_some(), &restart),
        ] {
            errors.require(!used, at, "has no effect with nodeToNodeMeshEnabled: false; remove it");
        }
    }
    if !is_global_configuration(metadata) {
        for (used, name) in [
            (spec.node_to_node_mesh_enabled.is_some(), "nodeToNodeMeshEnabled"),
            (spec.as_number.is_some(), "asNumber"),
            (!spec.service_cluster_ips.is_empty(), "serviceClusterIPs"),
            (!spec.service_external_ips.is_empty(), "serviceExternalIPs"),
            (!spec.service_load_balancer_ips.is_empty(), "serviceLoadBalancerIPs"),
            (spec.node_mesh_password.is_some(), "nodeMeshPassword"),
            (spec.node_mesh_max_restart_time.is_some(), "nodeMeshMaxRestartTime"),
        ] {
            let message = "may be set in the BGPConfiguration `default` only";
            errors.require(!used, &SPEC.key(name), message);
        }
    }
    errors.require(
        spec.listen_port != Some(0),
        &SPEC.key("listenPort"),
        "is 0; allowed are 1 to 65535",
    );
    priority(spec.ipv4_normal_route_priority, &SPEC.key("ipv4NormalRoutePriority"), errors);
    priority(spec.ipv6_normal_route_priority, &SPEC.key("ipv6NormalRoutePriority"), errors);

    let named = SPEC.key("communities");
    at_most(&spec.communities, 500, &named, errors);
    errors.require(
        spec.communities.is_empty() || !spec.prefix_advertisements.is_empty(),
        &named,
        "are defined but not used; add prefixAdvertisements",
    );
    for (index, community) in spec.communities.iter().enumerate() {
        let at = named.index(index);
        errors.require(
            is_community(&community.value),
            &at.key("value"),
            community_rule(&community.value),
        );
    }
    let prefixes = SPEC.key("prefixAdvertisements");
    at_most(&spec.prefix_advertisements, 500, &prefixes, errors);
    for (index, prefix) in spec.prefix_advertisements.iter().enumerate() {
        let place = prefixes.index(index);
        errors.require(prefix.cidr.is_some(), &place.key("cidr"), "required, but missing");
        let list = place.key("communities");
        at_most(&prefix.communities, 50, &list, errors);
        for (index, used) in prefix.communities.iter().enumerate() {
            let known = spec.communities.iter().any(|community| community.name == *used);
            errors.require(
                known || is_community(used),
                &list.index(index),
                format!(
                    "{used:?} is neither a name from communities nor a value aa:nn or aa:nn:mm"
                ),
            );
        }
    }
    let ignored = SPEC.key("ignoredInterfaces");
    for (index, name) in spec.ignored_interfaces.iter().enumerate() {
        let at = ignored.index(index);
        interface(name, "*", &at, errors);
        errors.require(name != "*", &at, "would ignore every interface");
    }
}

pub(in crate::resource) fn bgp_peer(spec: &BgpPeerSpec, errors: &mut Errors) {
    let set = |text: &str| !text.is_empty();
    let (node, nodes) = (SPEC.key("node"), SPEC.key("nodeSelector"));
    let (peer, peers) = (SPEC.key("peerIP"), SPEC.key("peerSelector"));
    let (workloads, as_number) = (SPEC.key("localWorkloadSelector"), SPEC.key("asNumber"));
    let reachable = SPEC.key("reachableBy");
    selector(&spec.node_selector, Global::Forbidden, &nodes, errors);
    selector(&spec.peer_selector, Global::Forbidden, &peers, errors);
    selector(&spec.local_workload_selector, Global::Forbidden, &workloads, errors);
    errors.require(
        !(set(&spec.node) && set(&spec.node_selector)),
        &node,
        "cannot be used together with nodeSelector",
    );
    errors.require(
        !(set(&spec.peer_ip) && set(&spec.peer_selector)),
        &peer,
        "cannot be used together with peerSelector",
    );
    errors.require(
        !set(&spec.peer_selector) || spec.as_number.0 == 0,
        &as_number,
        "cannot be used together with peerSelector: the nodes have their own",
    );
    if set(&spec.local_workload_selector) {
        for (used, at) in [(set(&spec.peer_ip), &peer), (set(&spec.peer_selector), &peers)] {
            errors.require(!used, at, "cannot be used together with localWorkloadSelector");
        }
        errors.require(spec.as_number.0 != 0, &as_number, "required with localWorkloadSelector");
    }
    errors.require(
        !(spec.keep_original_next_hop && spec.next_hop_mode.is_some()),
        &SPEC.key("keepOriginalNextHop"),
        "cannot be used together with nextHopMode, which replaces it",
    );

    let address = parse_peer(&spec.peer_ip);
    errors.require(
        !set(&spec.peer_ip) || address.is_some_and(|(_, port)| port != Some(0)),
        &peer,
        format!("{:?} is no peer: write an address, IPv4:port or [IPv6]:port", spec.peer_ip),
    );
    if set(&spec.reachable_by) {
        errors.require(set(&spec.peer_ip), &reachable, "needs a peerIP");
        let gateway = spec.reachable_by.parse::<IpAddr>().ok();
        errors.require(
            gateway.is_some(),
            &reachable,
            format!("{:?} is no IP address", spec.reachable_by),
        );
        if let (Some(gateway), Some((peer, _))) = (gateway, address) {
            errors.require(
                gateway.is_ipv4() == peer.is_ipv4(),
                &reachable,
                "must be of the same family as peerIP",
            );
        }
    }
    errors.require(
        spec.num_allowed_local_as_numbers.is_none_or(|number| number >= 0),
        &SPEC.key("numAllowedLocalASNumbers"),
        "cannot be negative",
    );
}

pub(in crate::resource) fn bgp_filter(spec: &BgpFilterSpec, errors: &mut Errors) {
    for (rules, name, v6) in [
        (&spec.export_v4, "exportV4", false),
        (&spec.import_v4, "importV4", false),
        (&spec.export_v6, "exportV6", true),
        (&spec.import_v6, "importV6", true),
    ] {
        let list = SPEC.key(name);
        for (index, rule) in rules.iter().enumerate() {
            filter_rule(rule, v6, &list.index(index), errors);
        }
    }
}

fn filter_rule(rule: &BgpFilterRule, v6: bool, at: &Path<'_>, errors: &mut Errors) {
    let cidr_at = at.key("cidr");
    errors.require(
        rule.cidr.is_some() == rule.match_operator.is_some(),
        &cidr_at,
        "cidr and matchOperator belong together; give both or neither",
    );
    if let Some(cidr) = rule.cidr {
        let family = matches!(cidr, ipnet::IpNet::V6(_));
        let wanted = if v6 { "IPv6" } else { "IPv4" };
        errors.require(family == v6, &cidr_at, format!("{cidr} is not {wanted}"));
    }
    if let Some(range) = &rule.prefix_length {
        let at = at.key("prefixLength");
        errors.require(rule.cidr.is_some(), &at, "needs a cidr");
        let max = if v6 { 128 } else { 32 };
        for (bound, name) in [(range.min, "min"), (range.max, "max")] {
            let bound = bound.unwrap_or(0);
            errors.require(
                bound <= max,
                &at.key(name),
                format!("is {bound}; allowed are 0 to {max}"),
            );
        }
    }
    if !rule.interface.is_empty() {
        interface(&rule.interface, "*", &at.key("interface"), errors);
    }
    if let Some(communities) = &rule.communities {
        let list = at.key("communities");
        let list = list.key("values");
        errors.require(communities.values.len() == 1, &list, "needs exactly one entry");
        for (index, value) in communities.values.iter().enumerate() {
            errors.require(is_community(value), &list.index(index), community_rule(value));
        }
    }
    priority(rule.priority, &at.key("priority"), errors);
    let list = at.key("operations");
    at_most(&rule.operations, 10, &list, errors);
    errors.require(
        rule.operations.is_empty() || rule.action == Some(BgpFilterAction::Accept),
        &list,
        "need action Accept",
    );
    for (index, operation) in rule.operations.iter().enumerate() {
        let at = list.index(index);
        let given = [
            operation.add_community.is_some(),
            operation.prepend_as_path.is_some(),
            operation.set_priority.is_some(),
        ];
        errors.require(
            given.iter().filter(|given| **given).count() == 1,
            &at,
            "needs exactly one of addCommunity, prependASPath and setPriority",
        );
        if let Some(add) = &operation.add_community {
            let at = at.key("addCommunity");
            errors.require(is_community(&add.value), &at.key("value"), community_rule(&add.value));
        }
        if let Some(prepend) = &operation.prepend_as_path {
            errors.require(
                (1..=10).contains(&prepend.prefix.len()),
                &at.key("prependASPath").key("prefix"),
                "needs 1 to 10 AS numbers",
            );
        }
        if let Some(set) = &operation.set_priority {
            priority(Some(set.value), &at.key("setPriority").key("value"), errors);
        }
    }
}

fn priority(value: Option<u32>, at: &Path<'_>, errors: &mut Errors) {
    let Some(value) = value else { return };
    errors.require(
        (1..=2_147_483_646).contains(&value),
        at,
        format!("is {value}; allowed are 1 to 2147483646"),
    );
}

/// `aa:nn` of 16 bits each (RFC 1997), or `aa:nn:mm` of 32 bits each (RFC 8092).
fn is_community(text: &str) -> bool {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let parts: Vec<&str> = text.split(':').collect();
    parts.iter().all(|part| digits(part))
        && match parts.len() {
            2 => parts.iter().all(|part| part.parse::<u16>().is_ok()),
            3 => parts.iter().all(|part| part.parse::<u32>().is_ok()),
            _ => false,
        }
}

fn community_rule(text: &str) -> String {
    format!("{text:?} is no community: write aa:nn (16 bits each) or aa:nn:mm (32 bits each)")
}
