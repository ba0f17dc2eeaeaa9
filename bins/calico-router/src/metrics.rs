//! Metrics of a speaker in the text format of Prometheus.

use calico_control::{PeerInfo, Peers};
use calico_observe::metrics::{self, Counter, Family, Gauge, Registry};
use calico_observe::{Page, Process};

use crate::{BgpView, Readiness};

/// Serves `/metrics`, `/healthz` (the speaker answers) and `/readyz` (it has heard what its
/// peers have to say); anything else is `None`.
pub async fn page(path: &str, view: Option<&BgpView>, readiness: &Readiness) -> Option<Page> {
    let unavailable = |why: String| Page::text(503, format!("{why}\n"));
    let ok = || Page::text(200, "ok\n");
    match path {
        "/metrics" => {
            let Some(view) = view else { return Some(unavailable("BGP is not started".into())) };
            Some(match view.peers().await {
                Ok(peers) => metrics::page(&registry(&peers)),
                Err(stopped) => unavailable(stopped.to_string()),
            })
        }
        "/healthz" => Some(match view {
            Some(view) => match view.handle().inspect(|_| ()).await {
                Ok(()) => ok(),
                Err(stopped) => unavailable(stopped.to_string()),
            },
            // It waits for the datastore, and lives.
            None => ok(),
        }),
        "/readyz" => Some(match readiness.waiting_for(view).await {
            None => ok(),
            Some(waiting) => unavailable(format!("waiting for {waiting}")),
        }),
        _ => None,
    }
}

/// A value of every peer.
type OfPeer = (&'static str, &'static str, fn(&PeerInfo) -> u64);

const GAUGES: &[OfPeer] = &[
    ("up", "Whether the session is established", |p| u64::from(p.state == "Established")),
    ("state_seconds", "Seconds since the state was entered", |p| p.since_seconds),
    ("received_prefixes", "Prefixes that the peer told", |p| p.received),
    ("advertised_prefixes", "Prefixes that the peer was told", |p| p.advertised),
    ("restarting", "Whether its routes are kept over a restart", |p| u64::from(p.restarting)),
];

const COUNTERS: &[OfPeer] = &[
    ("updates_received", "UPDATEs of the peer", |p| p.updates_received),
    ("update_errors", "Faults in its UPDATEs (RFC 7606)", |p| p.update_errors),
    ("established", "Sessions that came up", |p| p.established),
    ("lost", "Sessions that were lost", |p| p.lost),
];

type Labels = Vec<(&'static str, String)>;

/// The metrics of a speaker and this process.
#[must_use]
pub fn registry(peers: &Peers) -> Registry {
    let mut registry = Registry::default();
    let info = |labels: Labels| {
        let family = Family::<Labels, Gauge>::default();
        family.get_or_create(&labels).set(1);
        family
    };
    let release = info(vec![("version", env!("CARGO_PKG_VERSION").to_owned())]);
    registry.register("calico_build_info", "The release", release);
    let speaker = info(vec![
        ("as", peers.as_number.to_string()),
        ("router_id", peers.router_id.to_string()),
        ("cluster_id", peers.cluster_id.to_string()),
    ]);
    registry.register("calico_bgp_speaker_info", "The speaker", speaker);
    for (name, help, value) in [
        ("converged", "Whether the table is complete", u64::from(peers.converged)),
        ("destinations", "Destinations in the table", peers.destinations),
        ("peers", "Peers, configured and dynamic", peers.peers.len() as u64),
    ] {
        let gauge = Gauge::<i64>::default();
        gauge.set(signed(value));
        registry.register(format!("calico_bgp_{name}"), help, gauge);
    }
    for (name, help, value) in GAUGES {
        let family = Family::<Labels, Gauge>::default();
        for peer in &peers.peers {
            family.get_or_create(&labels(peer)).set(signed(value(peer)));
        }
        registry.register(format!("calico_bgp_peer_{name}"), *help, family);
    }
    for (name, help, value) in COUNTERS {
        let family = Family::<Labels, Counter>::default();
        for peer in &peers.peers {
            family.get_or_create(&labels(peer)).inc_by(value(peer));
        }
        registry.register(format!("calico_bgp_peer_{name}"), *help, family);
    }
    let process = Process::default();
    process.register(&mut registry);
    process.read();
    registry
}

fn labels(peer: &PeerInfo) -> Labels {
    vec![
        ("peer", peer.address.to_string()),
        ("port", peer.port.to_string()),
        ("as", peer.as_number.to_string()),
        ("description", metrics::label(peer.description.as_deref().unwrap_or_default())),
    ]
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_has_its_type_and_every_peer_its_line() {
        let peer = PeerInfo {
            address: [10, 0, 0, 1].into(),
            port: 179,
            as_number: 65001,
            description: Some("the \"left\" rack\\".to_owned()),
            relation: "external".to_owned(),
            dynamic: false,
            state: "Established".to_owned(),
            since_seconds: 5,
            received: 7,
            advertised: 8,
            restarting: false,
            established: 2,
            lost: 1,
            updates_received: 9,
            update_errors: 0,
            last_error: None,
            session: None,
        };
        let text = metrics::encode(&registry(&Peers {
            as_number: 64512,
            router_id: [192, 0, 2, 1].into(),
            cluster_id: [192, 0, 2, 1].into(),
            converged: true,
            destinations: 3,
            peers: vec![peer],
        }));
        let labels = "{peer=\"10.0.0.1\",port=\"179\",as=\"65001\",\
                      description=\"the \\\"left\\\" rack\\\\\"}";
        for line in [
            "calico_bgp_converged 1".to_owned(),
            "calico_bgp_destinations 3".to_owned(),
            format!("calico_bgp_peer_up{labels} 1"),
            format!("calico_bgp_peer_received_prefixes{labels} 7"),
            format!("calico_bgp_peer_updates_received_total{labels} 9"),
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        let name = |line: &str| line.split(['{', ' ']).next().unwrap().to_owned();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let family = name(line);
            let is_of = |kind: &str| text.contains(&format!("# TYPE {kind} "));
            let counter = family.strip_suffix("_total").is_some_and(is_of);
            assert!(counter || is_of(&family), "{family}");
        }
    }
}
