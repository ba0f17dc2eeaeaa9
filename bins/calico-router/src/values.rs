//! Values of the speaker as those of the control protocol.

use std::net::SocketAddr;
use std::time::Instant;

use calico_bgp::filter::AnyCommunity;
use calico_bgp::rib::{
    Decision, PathView, PeerKind, PolicyReason, ReceivedRoute, RouteSource, RouteView,
};
use calico_bgp::session::Negotiated;
use calico_bgp::speaker::PeerStatus;
use calico_bgp::wire::{NextHop, Origin, PathAttributes};
use calico_control::{Attributes, NeighborRoute, Path, PeerInfo, Route, Session};

pub(crate) fn attributes(from: &PathAttributes) -> Attributes {
    let standard = from.communities.iter().copied().map(AnyCommunity::Standard);
    let extended = from.extended_communities.iter().copied().map(AnyCommunity::Extended);
    let large = from.large_communities.iter().copied().map(AnyCommunity::Large);
    Attributes {
        next_hop: from.next_hop.map(NextHop::address),
        as_path: from.as_path.to_string(),
        origin: match from.origin {
            Origin::Igp => "igp",
            Origin::Egp => "egp",
            Origin::Incomplete => "incomplete",
        }
        .to_owned(),
        local_pref: from.local_pref,
        med: from.med,
        communities: standard.chain(extended).chain(large).map(|c| c.to_string()).collect(),
        originator_id: from.originator_id,
        cluster_list: from.cluster_list.clone(),
        only_to_customer: from.only_to_customer,
    }
}

pub(crate) fn route(view: &RouteView) -> Route {
    Route { prefix: view.prefix, paths: view.paths.iter().map(|view| path(view, None)).collect() }
}

/// A path; `reason` is the rule that rejects it, if one does and it is known.
pub(crate) fn path(view: &PathView, reason: Option<&PolicyReason>) -> Path {
    let refused = match (view.accepted, reason) {
        (false, Some(reason)) => Some(format!("rejected by the import policy: {reason}")),
        (false, None) => Some("rejected by the import policy".to_owned()),
        (true, _) if view.igp_metric.is_none() => Some("its next hop is unreachable".to_owned()),
        (true, _) => None,
    };
    Path {
        from: match view.source {
            RouteSource::Local => None,
            RouteSource::Peer { address, .. } => Some(address),
        },
        path_id: (view.path_id != 0).then_some(view.path_id),
        attributes: attributes(&view.attributes),
        best: view.best,
        used: view.multipath,
        stale: view.stale,
        decided_by: view.decided_by.to_string(),
        refused,
    }
}

pub(crate) fn received(route: &ReceivedRoute) -> NeighborRoute {
    let fate = match (&route.accepted, route.best, route.decided_by) {
        (None, ..) => "rejected by the import policy".to_owned(),
        (_, true, _) => "best".to_owned(),
        (_, _, Decision::NotEligible) => "next hop unreachable".to_owned(),
        (_, _, step) => format!("behind the best: {step}"),
    };
    NeighborRoute {
        prefix: route.prefix,
        path_id: (route.path_id != 0).then_some(route.path_id),
        attributes: attributes(&route.received),
        fate: Some(fate),
        stale: route.stale,
    }
}

pub(crate) fn peer(status: &PeerStatus, description: Option<String>, now: Instant) -> PeerInfo {
    PeerInfo {
        address: status.config.address,
        port: status.config.port,
        as_number: status.config.remote_as,
        description,
        relation: match status.kind {
            PeerKind::Local => "local",
            PeerKind::Internal => "internal",
            PeerKind::Client => "client",
            PeerKind::External => "external",
        }
        .to_owned(),
        dynamic: status.dynamic,
        state: status.state.to_string(),
        since_seconds: now.saturating_duration_since(status.since).as_secs(),
        received: status.prefixes_received as u64,
        advertised: status.prefixes_advertised as u64,
        restarting: status.restart_pending,
        established: status.counters.established,
        lost: status.counters.lost,
        updates_received: status.counters.updates_received,
        update_errors: status.counters.update_errors,
        last_error: status.last_error.as_ref().map(ToString::to_string),
        session: status.negotiated.as_ref().map(|agreed| session(status, agreed)),
    }
}

fn session(status: &PeerStatus, agreed: &Negotiated) -> Session {
    let mut features = Vec::new();
    let mut feature = |there: bool, name: &str| {
        if there {
            features.push(name.to_owned());
        }
    };
    feature(agreed.route_refresh, "route-refresh");
    feature(agreed.enhanced_refresh, "enhanced-refresh");
    feature(agreed.graceful_restart.is_some(), "graceful-restart");
    feature(agreed.long_lived.as_ref().is_some_and(|all| !all.is_empty()), "long-lived-restart");
    feature(agreed.extended_next_hop, "extended-next-hop");
    feature(!agreed.add_path.is_empty(), "add-path");
    feature(agreed.context.max_len > calico_bgp::wire::MAX_LEN, "extended-messages");
    feature(status.config.password.is_some(), "md5");
    if let Some(role) = agreed.role {
        features.push(format!("role {role}"));
    }
    Session {
        router_id: agreed.remote_router_id,
        local_address: status.local_address,
        families: agreed.families.iter().map(ToString::to_string).collect(),
        hold_time: agreed.hold_time.as_secs(),
        restart_time: agreed.graceful_restart.as_ref().map(|restart| restart.restart_time),
        features,
    }
}

/// What tells peers apart, sorted as people read it.
pub(crate) fn order(peer: &PeerInfo) -> SocketAddr {
    SocketAddr::new(peer.address, peer.port)
}
