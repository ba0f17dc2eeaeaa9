//! From a speaker and the kernel's routes to the status of a node, in upstream's words. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use calico_bgp::rib::{PathView, RouteSource};
use calico_bgp::session::State;
use calico_core::key::Family;
use calico_core::resource::{
    AgentStatus, BgpStatus, CalicoNodeStatusStatus, LearnedFrom, NodeRoute, NodeStatusClass,
    PeerStatus, RouteStatus, SpeakerStatus,
};
use calico_ipam::plan::time::rfc3339;
use calico_netlink::route::{KernelRoute, KernelTarget};
use calico_peering::PeerType;
use ipnet::IpNet;

use crate::router::Report;

/// Protocol numbers of routes (`RTPROT_*` in linux/rtnetlink.h): the kernel's own, and those that
/// the agent makes from what the speaker learned.
const PROTOCOL_KERNEL: u8 = 2;
const PROTOCOL_BIRD: u8 = 12;

const DAY: Duration = Duration::from_secs(86_400);

/// What a status is made of.
#[derive(Debug, Default)]
pub struct Seen {
    /// The speaker, if there is one.
    pub speaker: Option<Report>,
    /// The kernel's main table.
    pub routes: Vec<KernelRoute>,
    /// Names of interfaces by index.
    pub interfaces: BTreeMap<u32, String>,
}

/// The status; parts that are not asked for stay as they are.
pub(super) fn status(
    classes: &[NodeStatusClass],
    old: &CalicoNodeStatusStatus,
    seen: &Seen,
    now: SystemTime,
) -> CalicoNodeStatusStatus {
    let mut status = old.clone();
    status.last_updated = Some(rfc3339(now));
    for class in classes {
        match class {
            NodeStatusClass::Agent => status.agent = agent(seen.speaker.as_ref()),
            NodeStatusClass::Bgp => status.bgp = bgp(seen.speaker.as_ref(), now),
            NodeStatusClass::Routes => status.routes = routes(seen),
        }
    }
    status
}

fn agent(speaker: Option<&Report>) -> AgentStatus {
    let of = |family: Family| {
        let speaks = speaker.filter(|report| report.plan.speaks(family));
        let Some(report) = speaks else {
            return SpeakerStatus { state: "NotReady".to_owned(), ..SpeakerStatus::default() };
        };
        SpeakerStatus {
            state: "Ready".to_owned(),
            version: format!("v{}", env!("CARGO_PKG_VERSION")),
            router_id: report.plan.identity.router_id.to_string(),
            last_boot_time: date_and_time(report.started),
            last_reconfiguration_time: date_and_time(report.configured),
            ..SpeakerStatus::default()
        }
    };
    AgentStatus { bird_v4: of(Family::V4), bird_v6: of(Family::V6), ..AgentStatus::default() }
}

fn bgp(speaker: Option<&Report>, now: SystemTime) -> BgpStatus {
    let mut status = BgpStatus::default();
    for (kind, peer) in speaker.iter().flat_map(|report| &report.peers) {
        let up = peer.state == State::Established;
        let shown = PeerStatus {
            peer_ip: peer.config.address.to_string(),
            kind: format!("{kind:?}"),
            state: peer.state.to_string(),
            since: since(peer.since.elapsed(), now),
            ..PeerStatus::default()
        };
        let (list, number) = match (peer.config.address.is_ipv4(), up) {
            (true, true) => (&mut status.peers_v4, &mut status.number_established_v4),
            (true, false) => (&mut status.peers_v4, &mut status.number_not_established_v4),
            (false, true) => (&mut status.peers_v6, &mut status.number_established_v6),
            (false, false) => (&mut status.peers_v6, &mut status.number_not_established_v6),
        };
        list.push(shown);
        *number += 1;
    }
    status
}

/// Every route that the node knows. As upstream's BIRD has it: those of other programs and of
/// interfaces, own blocks as static ones, and every path that peers told.
fn routes(seen: &Seen) -> RouteStatus {
    let mut found: Vec<NodeRoute> = Vec::new();
    for route in seen.routes.iter().filter(|route| is_shown(route)) {
        found.extend(kernel_routes(route, &seen.interfaces));
    }
    // Announced, and in no kernel: as upstream's static routes.
    found.extend(seen.speaker.iter().flat_map(|report| &report.plan.services).map(blackhole));
    for route in seen.speaker.iter().flat_map(|report| &report.routes) {
        for path in route.paths.iter().filter(|path| path.accepted) {
            found.extend(learned(&route.prefix, path, seen));
        }
    }
    let mut status = RouteStatus::default();
    for route in found {
        let list = if route.destination.contains(':') {
            &mut status.routes_v6
        } else {
            &mut status.routes_v4
        };
        list.push(route);
    }
    for list in [&mut status.routes_v4, &mut status.routes_v6] {
        list.sort_by_cached_key(|route| (net(&route.destination), route.gateway.clone()));
    }
    status
}

fn blackhole(destination: &IpNet) -> NodeRoute {
    NodeRoute {
        kind: "FIB".to_owned(),
        destination: destination.to_string(),
        gateway: "N/A".to_owned(),
        interface: "blackhole".to_owned(),
        learned_from: LearnedFrom { source_type: "Static".to_owned(), ..LearnedFrom::default() },
        ..NodeRoute::default()
    }
}

/// What was learned is told from the speaker's table, and a link's own prefix is nobody's route.
fn is_shown(route: &KernelRoute) -> bool {
    let learned = route.protocol == PROTOCOL_BIRD && route.target != KernelTarget::Blackhole;
    let link_local = match route.destination {
        IpNet::V4(net) => net.addr().is_link_local(),
        IpNet::V6(net) => net.addr().is_unicast_link_local() || net.addr().is_multicast(),
    };
    !learned && !link_local
}

fn kernel_routes(route: &KernelRoute, interfaces: &BTreeMap<u32, String>) -> Vec<NodeRoute> {
    let shown = |gateway: Option<IpAddr>, interface: String, source: &str| NodeRoute {
        kind: "FIB".to_owned(),
        destination: route.destination.to_string(),
        gateway: gateway.map_or_else(|| "N/A".to_owned(), |gateway| gateway.to_string()),
        interface,
        learned_from: LearnedFrom { source_type: source.to_owned(), ..LearnedFrom::default() },
        ..NodeRoute::default()
    };
    match &route.target {
        KernelTarget::Blackhole => {
            let ours = route.protocol == PROTOCOL_BIRD;
            let other = || shown(None, "blackhole".to_owned(), "Kernel");
            vec![if ours { blackhole(&route.destination) } else { other() }]
        }
        KernelTarget::Hops(hops) => {
            let direct = route.protocol == PROTOCOL_KERNEL;
            let source = if direct { "Direct" } else { "Kernel" };
            let name = |index| interfaces.get(&index).cloned().unwrap_or_default();
            hops.iter().map(|hop| shown(hop.gateway, name(hop.index), source)).collect()
        }
        KernelTarget::Other => Vec::new(),
    }
}

fn learned(prefix: &IpNet, path: &PathView, seen: &Seen) -> Option<NodeRoute> {
    let RouteSource::Peer { address, .. } = path.source else { return None };
    let gateway = path.attributes.next_hop.map(|hop| hop.address());
    let peers = seen.speaker.iter().flat_map(|report| &report.peers);
    let kind = peers.filter(|(_, peer)| peer.config.address == address).map(|(kind, _)| *kind);
    let mesh = kind.last() == Some(PeerType::NodeMesh);
    Some(NodeRoute {
        kind: if path.best { "FIB" } else { "RIB" }.to_owned(),
        destination: prefix.to_string(),
        gateway: gateway.map_or_else(|| "N/A".to_owned(), |gateway| gateway.to_string()),
        interface: gateway.and_then(|gateway| interface_to(gateway, seen)).unwrap_or_default(),
        learned_from: LearnedFrom {
            source_type: if mesh { "NodeMesh" } else { "BGPPeer" }.to_owned(),
            peer_ip: address.to_string(),
            ..LearnedFrom::default()
        },
        ..NodeRoute::default()
    })
}

/// The interface of the most specific route to an address.
fn interface_to(address: IpAddr, seen: &Seen) -> Option<String> {
    let leads = seen.routes.iter().filter(|route| route.destination.contains(&address));
    let best = leads.max_by_key(|route| route.destination.prefix_len())?;
    let KernelTarget::Hops(hops) = &best.target else { return None };
    seen.interfaces.get(&hops.first()?.index).cloned()
}

fn net(text: &str) -> Option<IpNet> {
    text.parse().ok()
}

/// As BIRD: the time of day within the last day, else the date; both in UTC.
fn since(elapsed: Duration, now: SystemTime) -> String {
    let text = rfc3339(now.checked_sub(elapsed).unwrap_or(SystemTime::UNIX_EPOCH));
    let part = if elapsed < DAY { 11..19 } else { 0..10 };
    text.get(part).unwrap_or(&text).to_owned()
}

/// As BIRD: `2026-01-31 12:00:00`, in UTC.
fn date_and_time(time: SystemTime) -> String {
    rfc3339(time).replace('T', " ").trim_end_matches('Z').to_owned()
}

#[cfg(test)]
mod tests {
    use calico_netlink::route::Hop;

    use super::*;

    fn kernel(destination: &str, protocol: u8, target: KernelTarget) -> KernelRoute {
        let destination = destination.parse().unwrap();
        KernelRoute { destination, protocol, metric: 0, table: 254, target, source: None }
    }

    fn via(gateway: Option<&str>, index: u32) -> KernelTarget {
        KernelTarget::Hops(vec![Hop { gateway: gateway.map(|text| text.parse().unwrap()), index }])
    }

    fn seen() -> Seen {
        Seen {
            speaker: None,
            routes: vec![
                kernel("0.0.0.0/0", 3, via(Some("192.0.2.254"), 2)),
                kernel("192.0.2.0/24", 2, via(None, 2)),
                kernel("10.65.0.0/26", 12, KernelTarget::Blackhole),
                kernel("10.65.0.1/32", 3, via(None, 7)),
                kernel("10.65.9.0/26", 12, via(Some("192.0.2.9"), 2)),
                kernel("fe80::/64", 2, via(None, 2)),
                kernel("fd00::/64", 2, via(None, 2)),
            ],
            interfaces: [(2, "eth0".to_owned()), (7, "cali7".to_owned())].into(),
        }
    }

    #[test]
    fn routes_of_the_kernel_are_told_in_upstreams_words() {
        let status = routes(&seen());
        let shown: Vec<String> = status
            .routes_v4
            .iter()
            .chain(&status.routes_v6)
            .map(|route| {
                let NodeRoute { kind, destination, gateway, interface, learned_from, .. } = route;
                format!("{kind} {destination} {gateway} {interface} {}", learned_from.source_type)
            })
            .collect();
        assert_eq!(
            shown,
            [
                "FIB 0.0.0.0/0 192.0.2.254 eth0 Kernel",
                "FIB 10.65.0.0/26 N/A blackhole Static",
                "FIB 10.65.0.1/32 N/A cali7 Kernel",
                "FIB 192.0.2.0/24 N/A eth0 Direct",
                "FIB fd00::/64 N/A eth0 Direct",
            ]
        );
    }

    #[test]
    fn only_what_is_asked_for_is_told() {
        let old = CalicoNodeStatusStatus {
            bgp: BgpStatus { number_established_v4: 7, ..BgpStatus::default() },
            ..CalicoNodeStatusStatus::default()
        };
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let new = status(&[NodeStatusClass::Agent], &old, &seen(), now);
        assert_eq!(new.last_updated.as_deref(), Some("2023-11-14T22:13:20Z"));
        assert_eq!(new.agent.bird_v4.state, "NotReady");
        assert_eq!(new.agent.bird_v6.state, "NotReady");
        assert_eq!(new.bgp, old.bgp);
        assert!(new.routes.routes_v4.is_empty());
        let bgp = status(&[NodeStatusClass::Bgp], &old, &seen(), now).bgp;
        assert_eq!(bgp, BgpStatus::default());
    }

    #[test]
    fn times_are_as_bird_writes_them() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        assert_eq!(since(Duration::from_secs(60), now), "22:12:20");
        assert_eq!(since(Duration::from_secs(200_000), now), "2023-11-12");
        assert_eq!(date_and_time(now), "2023-11-14 22:13:20");
    }

    #[test]
    fn the_way_to_a_next_hop_is_the_most_specific_one() {
        let to = |text: &str| interface_to(text.parse().unwrap(), &seen());
        assert_eq!(to("192.0.2.9").as_deref(), Some("eth0"));
        assert_eq!(to("10.65.0.1").as_deref(), Some("cali7"));
        assert_eq!(to("10.65.0.2"), None, "a blackhole");
        assert_eq!(to("2001:db8::1"), None);
    }
}
