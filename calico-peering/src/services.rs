//! Ranges of service addresses.

use calico_core::resource::{BgpConfigurationSpec, ServiceCidr, Toggle};
use ipnet::IpNet;

use crate::notes::Note;

/// Ranges of services: what this node announces of them, and what it never routes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Services {
    /// Announced by this node as they are.
    pub(crate) announced: Vec<IpNet>,
    /// Routes into these that other routers tell stay out of the kernel.
    pub(crate) ranges: Vec<IpNet>,
    /// Ranges of load balancers and external addresses, of which a reflector tells on whatever
    /// it hears.
    pub(crate) reflected: Vec<IpNet>,
}

/// The ranges of a configuration; `cluster_ips` stands for the cluster addresses if given.
pub(crate) fn services(
    global: Option<&BgpConfigurationSpec>,
    cluster_ips: Option<&[IpNet]>,
    excluded: bool,
    notes: &mut Vec<Note>,
) -> Services {
    let Some(global) = global else {
        return of_ranges(cluster_ips.unwrap_or_default().to_vec(), Vec::new(), excluded);
    };
    let cluster = cluster_ips.map_or_else(|| cidrs(&global.service_cluster_ips), <[_]>::to_vec);
    let external = cidrs(&global.service_external_ips);
    let balancers = cidrs(&global.service_load_balancer_ips);
    let aggregated = global.service_load_balancer_aggregation != Some(Toggle::Disabled);
    for (field, ranges) in
        [("serviceExternalIPs", &external), ("serviceLoadBalancerIPs", &balancers)]
    {
        for single in ranges.iter().filter(|range| is_single(range)) {
            let why = format!("{single} is announced with its service, which needs Kubernetes");
            notes.push(Note::no_effect("BGPConfiguration default", field, why));
        }
    }
    if !aggregated && !balancers.is_empty() {
        notes.push(Note::no_effect(
            "BGPConfiguration default",
            "serviceLoadBalancerAggregation",
            "no range is announced, and single addresses need Kubernetes' services",
        ));
    }
    let several = |ranges: &[IpNet]| -> Vec<IpNet> {
        ranges.iter().filter(|range| !is_single(range)).copied().collect()
    };
    let mut ranges = cluster;
    ranges.extend(several(&external));
    if aggregated {
        ranges.extend(several(&balancers));
    }
    of_ranges(ranges, balancers.into_iter().chain(external).collect(), excluded)
}

fn of_ranges(ranges: Vec<IpNet>, reflected: Vec<IpNet>, excluded: bool) -> Services {
    let announced = if excluded { Vec::new() } else { ranges.clone() };
    Services { announced, ranges, reflected }
}

fn cidrs(ranges: &[ServiceCidr]) -> Vec<IpNet> {
    ranges.iter().filter_map(|range| range.cidr).map(|cidr| cidr.trunc()).collect()
}

fn is_single(range: &IpNet) -> bool {
    range.prefix_len() == range.max_prefix_len()
}
