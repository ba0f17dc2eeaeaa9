//! Settings of what the agent does in the kernel besides policy: routes, and interfaces that count.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use calico_core::resource::FelixConfigurationSpec;
use calico_netlink::dataplane::{Exclusion, FlowOffload, LinuxDataplane};
use calico_netlink::route::{self, RouteConfig, RouteSync};
use calico_peering::HostRoute;
use regex::Regex;
use tokio::sync::watch;
use tracing::warn;

use super::duration;
use crate::routing::Metrics;

/// As many of the host's own routes are looked at.
const HOST_ROUTES: usize = 10_000;

/// What obeys these settings.
#[derive(Debug)]
pub struct Kernel {
    routes: Arc<RouteSync>,
    dataplane: Arc<LinuxDataplane>,
    others: watch::Receiver<()>,
    /// How many routes were too many.
    left_out: usize,
}

impl Kernel {
    /// `routes` makes the routes, `dataplane` enforces policy.
    #[must_use]
    pub fn new(routes: Arc<RouteSync>, dataplane: Arc<LinuxDataplane>) -> Self {
        let mut others = routes.others_changed();
        others.mark_changed();
        Self { routes, dataplane, others, left_out: 0 }
    }

    /// The host's own routes, if they may have changed since the last call.
    pub async fn host_routes(&mut self) -> Option<Vec<HostRoute>> {
        if !self.others.has_changed().unwrap_or(false) {
            return None;
        }
        self.others.mark_unchanged();
        match self.routes.host_routes(HOST_ROUTES).await {
            Ok((found, left_out)) => {
                if left_out > 0 && self.left_out == 0 {
                    warn!(left_out, "the host has too many routes; peers hear of some of them");
                }
                self.left_out = left_out;
                let known = |route: route::HostRoute| HostRoute {
                    prefix: route.prefix,
                    interface: route.interface,
                    metric: route.metric,
                };
                Some(found.into_iter().map(known).collect())
            }
            Err(error) => {
                warn!(%error, "cannot read the host's routes; tries again");
                self.others.mark_changed();
                None
            }
        }
    }

    /// Devices between which connections pass without rules: none if that is not wanted, or if the
    /// kernel cannot do it.
    pub async fn flow_devices(&self) -> usize {
        self.dataplane.flow_status().await.devices
    }

    /// Makes it as the settings say; to be called before desired state that follows from them is
    /// applied.
    pub async fn configure(&self, spec: &FelixConfigurationSpec) {
        if let Err(error) = self.routes.configure(routes(spec)).await {
            warn!(%error, "cannot make the routes as the settings say; tries again later");
        }
        if let Err(error) = self.dataplane.exclude_interfaces(excluded(spec)).await {
            warn!(%error, "cannot look at the interfaces as the settings say");
        }
        self.dataplane.offload_flows(offload(spec)).await;
    }
}

/// How routes are made.
#[must_use]
pub fn routes(spec: &FelixConfigurationSpec) -> RouteConfig {
    let usual = RouteConfig { onlink: true, ..RouteConfig::default() };
    let synced = !spec.route_sync_disabled.unwrap_or(false);
    let source = |text: &str| text.parse::<IpAddr>().ok();
    let protocol = spec.device_route_protocol.unwrap_or(usual.workload_protocol);
    RouteConfig {
        interface_prefix: spec.interface_prefixes().next().unwrap_or("cali").to_owned(),
        workload_protocol: protocol,
        // As upstream: a number that others use as well would tell nobody whose the others are.
        tunnel_protocol: match protocol {
            RouteConfig::WORKLOAD_PROTOCOL => usual.tunnel_protocol,
            own => own,
        },
        source_v4: source(&spec.device_route_source_address).and_then(|address| match address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        }),
        source_v6: source(&spec.device_route_source_address_ipv6).and_then(|it| match it {
            IpAddr::V6(address) => Some(address),
            IpAddr::V4(_) => None,
        }),
        manage_v4: synced,
        manage_v6: synced && spec.ipv6_support(),
        answer_within: duration(spec, "netlinkTimeout")
            .filter(|patience| !patience.is_zero())
            .unwrap_or(usual.answer_within),
        ..usual
    }
}

/// Metrics of routes to endpoints.
#[must_use]
pub fn metrics(spec: &FelixConfigurationSpec) -> Metrics {
    let usual = Metrics::default();
    Metrics {
        v4: spec.ipv4_normal_route_priority.unwrap_or(usual.v4),
        v6: spec.ipv6_normal_route_priority.unwrap_or(usual.v6),
        elevated_v4: number(spec, "ipv4ElevatedRoutePriority").unwrap_or(usual.elevated_v4),
        elevated_v6: number(spec, "ipv6ElevatedRoutePriority").unwrap_or(usual.elevated_v6),
    }
}

/// How long the addresses of a workload that arrived from another node are preferred.
#[must_use]
pub fn convergence(spec: &FelixConfigurationSpec) -> Duration {
    duration(spec, "liveMigrationRouteConvergenceTime").unwrap_or(Duration::from_secs(30))
}

/// A number that is not a field of the type.
fn number(spec: &FelixConfigurationSpec, field: &str) -> Option<u32> {
    spec.unknown.get(field)?.as_u64()?.try_into().ok()
}

/// Interfaces on which no host endpoint is found by its addresses: names, and regular expressions
/// between slashes, separated by commas.
fn excluded(spec: &FelixConfigurationSpec) -> Exclusion {
    if spec.interface_exclude.is_empty() {
        return Exclusion::default();
    }
    let patterns = patterns(&spec.interface_exclude);
    Exclusion::new(move |name| patterns.iter().any(|pattern| pattern.is_match(name)))
}

/// Whether connections that policy allowed pass without rules, and on which of the host's interfaces.
fn offload(spec: &FelixConfigurationSpec) -> Option<FlowOffload> {
    let text = |field: &str| spec.unknown.get(field).and_then(|value| value.as_str());
    if text("nftablesFlowTableOffload") != Some("All") {
        return None;
    }
    let pattern = text("nftablesFlowTableDataIfacePattern").filter(|pattern| !pattern.is_empty());
    let pattern = pattern.and_then(|pattern| {
        let compiled = Regex::new(pattern);
        if let Err(error) = &compiled {
            warn!(%error, "nftablesFlowTableDataIfacePattern has no effect");
        }
        compiled.ok()
    });
    Some(FlowOffload::new(move |name| pattern.as_ref().is_some_and(|all| all.is_match(name))))
}

fn patterns(text: &str) -> Vec<Regex> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    let pattern = |part: &str| {
        let inner = part.strip_prefix('/').and_then(|part| part.strip_suffix('/'));
        let expression = match inner {
            Some(expression) => expression.to_owned(),
            None => format!("^{}$", regex::escape(part)),
        };
        let compiled = Regex::new(&expression);
        if let Err(error) = &compiled {
            warn!(part, %error, "a part of interfaceExclude has no effect");
        }
        compiled.ok()
    };
    parts.filter_map(pattern).collect()
}

#[cfg(test)]
mod tests {
    use calico_core::felix::{Layers, Local};

    use super::*;

    fn spec(variables: &[(&str, &str)]) -> FelixConfigurationSpec {
        let local = Local::default().environment(variables.iter().copied());
        assert_eq!(local.problems(), []);
        let mut layers = Layers::default();
        layers.set_local(local);
        (*layers.effective("n1", None).spec).clone()
    }

    #[test]
    fn routes_are_upstreams_unless_set_otherwise() {
        let usual = routes(&FelixConfigurationSpec::default());
        assert_eq!(usual, RouteConfig { onlink: true, ..RouteConfig::default() });
        let set = routes(&spec(&[
            ("FELIX_DEVICEROUTEPROTOCOL", "93"),
            ("FELIX_DEVICEROUTESOURCEADDRESS", "192.0.2.1"),
            ("FELIX_DEVICEROUTESOURCEADDRESSIPV6", "2001:db8::1"),
            ("FELIX_IPV6SUPPORT", "false"),
            ("FELIX_NETLINKTIMEOUTSECS", "5"),
            ("FELIX_INTERFACEPREFIX", "tap,cali"),
        ]));
        assert_eq!((set.workload_protocol, set.tunnel_protocol, set.via_protocol), (93, 93, 12));
        assert_eq!(set.source_v4, Some([192, 0, 2, 1].into()));
        assert_eq!(set.source_v6, "2001:db8::1".parse().ok());
        assert_eq!((set.manage_v4, set.manage_v6), (true, false));
        assert_eq!(set.answer_within, Duration::from_secs(5));
        assert_eq!(set.interface_prefix, "tap");
        let off = routes(&spec(&[("FELIX_ROUTESYNCDISABLED", "true")]));
        assert_eq!((off.manage_v4, off.manage_v6), (false, false));
    }

    #[test]
    fn metrics_are_of_a_family() {
        assert_eq!(metrics(&spec(&[])), Metrics::default());
        let set = spec(&[
            ("FELIX_IPV4NORMALROUTEPRIORITY", "7"),
            ("FELIX_IPV6ELEVATEDROUTEPRIORITY", "8"),
            ("FELIX_LIVEMIGRATIONROUTECONVERGENCETIME", "5"),
        ]);
        assert_eq!(metrics(&set), Metrics { v4: 7, elevated_v6: 8, ..Metrics::default() });
        let times = [spec(&[]), set].map(|spec| convergence(&spec).as_secs());
        assert_eq!(times, [30, 5]);
    }

    #[test]
    fn flows_are_offloaded_on_request_and_where_it_says() {
        let offloads = |variables: &[(&str, &str)], name: &str| {
            offload(&spec(variables)).map(|offload| offload.takes(name))
        };
        let all = ("FELIX_NFTABLESFLOWTABLEOFFLOAD", "All");
        let pattern = |text| ("FELIX_NFTABLESFLOWTABLEDATAIFACEPATTERN", text);
        assert_eq!(offloads(&[], "eth0"), None);
        assert_eq!(offloads(&[pattern("eth.*")], "eth0"), None);
        assert_eq!(offloads(&[("FELIX_NFTABLESFLOWTABLEOFFLOAD", "Disabled")], "eth0"), None);
        assert_eq!(offloads(&[all], "eth0"), Some(false));
        assert_eq!(offloads(&[all, pattern("^(eth|bond).*")], "bond1"), Some(true));
        assert_eq!(offloads(&[all, pattern("^(eth|bond).*")], "docker0"), Some(false));
        assert_eq!(offloads(&[all, pattern("(")], "eth0"), Some(false));
    }

    #[test]
    fn interfaces_are_named_or_described() {
        let patterns = patterns("kube-ipvs0, /^veth.*/,/[/,eth1.5");
        let excluded = |name: &str| patterns.iter().any(|pattern| pattern.is_match(name));
        assert_eq!(patterns.len(), 3, "one is no expression");
        assert!(excluded("kube-ipvs0") && excluded("veth12") && excluded("eth1.5"));
        assert!(!excluded("kube-ipvs01") && !excluded("my-veth") && !excluded("eth105"));
    }
}
