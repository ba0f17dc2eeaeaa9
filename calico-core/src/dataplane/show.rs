//! Updates in a line each, for logs and for backends that print.

use std::fmt;

use super::{NextHop, Route, RouteTarget, SetMember, Update};

/// Members of a set that are named; of more, only the number is told.
const NAMED: usize = 4;

impl fmt::Display for Update {
    /// One line; long sets are cut short.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Set { id, members, .. } => {
                write!(f, "set {id} = ")?;
                members_to(f, "", members)
            }
            Self::SetDelta { id, added, removed } => {
                write!(f, "set {id}: ")?;
                members_to(f, "+", added)?;
                let both = !added.is_empty() && !removed.is_empty();
                f.write_str(if both { ", " } else { "" })?;
                members_to(f, "-", removed)
            }
            Self::SetRemoved(id) => write!(f, "set {id} removed"),
            Self::Rules { owner, rules } => {
                let (ingress, egress) = (rules.ingress.len(), rules.egress.len());
                write!(f, "rules of {owner}: {ingress} ingress, {egress} egress")
            }
            Self::RulesRemoved(owner) => write!(f, "rules of {owner} removed"),
            Self::Endpoint(endpoint) => {
                write!(f, "endpoint {} on {}", endpoint.id, endpoint.interface)?;
                for tier in &endpoint.tiers {
                    let ingress = tier.ingress.iter().map(|policy| ("ingress", policy));
                    let egress = tier.egress.iter().map(|policy| ("egress", policy));
                    for (direction, policy) in ingress.chain(egress) {
                        write!(f, ", {direction} by {policy}")?;
                    }
                }
                endpoint.profiles.iter().try_for_each(|profile| write!(f, ", Profile {profile}"))
            }
            Self::EndpointRemoved(id) => write!(f, "endpoint {id} removed"),
            Self::HostEndpoint(endpoint) => {
                write!(f, "host endpoint {} on {}", endpoint.name, endpoint.interface)?;
                for policy in
                    endpoint.tiers().flat_map(|tier| tier.ingress.iter().chain(&tier.egress))
                {
                    write!(f, ", {policy}")?;
                }
                Ok(())
            }
            Self::HostEndpointRemoved(name) => write!(f, "host endpoint {name} removed"),
            Self::Route(route) => write!(f, "route {route}"),
            Self::RouteRemoved(destination) => write!(f, "route {destination} removed"),
            Self::Pools(pools) => {
                f.write_str(if pools.is_empty() { "pools: none" } else { "pools:" })?;
                pools.iter().try_for_each(|pool| {
                    let nat = if pool.nat_outgoing { " (masqueraded)" } else { "" };
                    write!(f, " {}{nat}", pool.cidr)
                })
            }
            Self::Translations(all) => {
                f.write_str(if all.is_empty() { "floating: none" } else { "floating:" })?;
                all.iter().try_for_each(|one| write!(f, " {} -> {}", one.external, one.internal))
            }
            Self::Markings(all) => {
                f.write_str(if all.is_empty() { "dscp: none" } else { "dscp:" })?;
                all.iter().try_for_each(|one| write!(f, " {} {}", one.source, one.dscp))
            }
            Self::Host(host) => {
                let (prefix, nodes) = (&host.interface_prefix, host.node_addresses.len());
                write!(f, "host: workloads on {prefix}*, {nodes} node addresses")
            }
            Self::InSync => f.write_str("in sync"),
            Self::LearnedInSync => f.write_str("learned routes in sync"),
        }
    }
}

impl fmt::Display for SetMember {
    /// `10.0.0.1`, `10.0.0.0/8`, or `10.0.0.1 6/80` with the protocol's number before the port.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Net(net) if net.prefix_len() == net.max_prefix_len() => net.addr().fmt(f),
            Self::Net(net) => net.fmt(f),
            Self::Port { address, protocol, port } => write!(f, "{address} {protocol}/{port}"),
        }
    }
}

impl fmt::Display for Route {
    /// As `ip route` shows it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.target {
            RouteTarget::Workload(interface) => write!(f, "{} dev {interface}", self.destination)?,
            RouteTarget::Via(hops) => {
                self.destination.fmt(f)?;
                hops.iter().try_for_each(|hop| write!(f, " {hop}"))?;
            }
            RouteTarget::Blackhole => write!(f, "blackhole {}", self.destination)?,
        }
        self.metric.iter().try_for_each(|metric| write!(f, " metric {metric}"))
    }
}

impl fmt::Display for NextHop {
    /// As `ip route` shows it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "via {}", self.gateway)?;
        self.interface.iter().try_for_each(|interface| write!(f, " dev {interface}"))
    }
}

fn members_to(f: &mut fmt::Formatter<'_>, sign: &str, members: &[SetMember]) -> fmt::Result {
    if members.is_empty() && sign.is_empty() {
        return f.write_str("nothing");
    }
    for (index, member) in members.iter().take(NAMED).enumerate() {
        let comma = if index > 0 { ", " } else { "" };
        write!(f, "{comma}{sign}{member}")?;
    }
    match members.len().saturating_sub(NAMED) {
        0 => Ok(()),
        more => write!(f, ", {sign}{more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::*;

    fn check(update: &Update, expected: &str) {
        assert_eq!(update.to_string(), expected);
    }

    fn nets(texts: &[&str]) -> Vec<SetMember> {
        texts.iter().map(|text| SetMember::Net(text.parse().unwrap())).collect()
    }

    #[test]
    fn sets_name_a_few_members() {
        let set = |members| Update::Set { id: "s".into(), kind: SetKind::Net, members };
        check(&set(vec![]), "set s = nothing");
        check(&set(nets(&["10.0.0.0/8", "fd00::1/128"])), "set s = 10.0.0.0/8, fd00::1");
        let many = nets(&["10.0.0.1/32"; 9]);
        check(&set(many), "set s = 10.0.0.1, 10.0.0.1, 10.0.0.1, 10.0.0.1, 5 more");
        let (added, removed) = (nets(&["10.0.0.1/32"]), nets(&["10.0.0.2/32"]));
        check(&Update::SetDelta { id: "s".into(), added, removed }, "set s: +10.0.0.1, -10.0.0.2");
    }

    #[test]
    fn pools_say_whose_traffic_is_masqueraded() {
        let pool = |cidr: &str, nat_outgoing| Pool { cidr: cidr.parse().unwrap(), nat_outgoing };
        check(&Update::Pools(vec![]), "pools: none");
        check(
            &Update::Pools(vec![pool("10.65.0.0/16", true), pool("fd00::/48", false)]),
            "pools: 10.65.0.0/16 (masqueraded) fd00::/48",
        );
    }

    #[test]
    fn routes_read_as_in_iproute2() {
        let route = |target| Update::Route(Route::new("10.65.0.0/26".parse().unwrap(), target));
        let hop = |gateway: &str, interface: Option<&str>| NextHop {
            gateway: gateway.parse().unwrap(),
            interface: interface.map(Into::into),
        };
        check(&route(RouteTarget::Blackhole), "route blackhole 10.65.0.0/26");
        let mut preferred = Route::new("10.0.0.0/8".parse().unwrap(), RouteTarget::Blackhole);
        preferred.metric = Some(512);
        check(&Update::Route(preferred), "route blackhole 10.0.0.0/8 metric 512");
        check(&route(RouteTarget::Workload("cali1".into())), "route 10.65.0.0/26 dev cali1");
        let hops = vec![hop("192.0.2.1", None), hop("192.0.2.2", Some("eth1"))];
        check(
            &route(RouteTarget::Via(hops)),
            "route 10.65.0.0/26 via 192.0.2.1 via 192.0.2.2 dev eth1",
        );
    }
}
