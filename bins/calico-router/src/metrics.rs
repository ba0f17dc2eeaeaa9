//! Metrics of a speaker in the text format of Prometheus.

use std::fmt::Write as _;

use calico_control::{PeerInfo, Peers};
use calico_observe::Page;

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
                Ok(peers) => Page {
                    status: 200,
                    content_type: "text/plain; version=0.0.4; charset=utf-8",
                    body: text(&peers),
                },
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

/// One metric of every peer.
type OfPeer = (&'static str, &'static str, &'static str, fn(&PeerInfo) -> u64);

const OF_PEERS: &[OfPeer] = &[
    ("calico_bgp_peer_up", "gauge", "Whether the session is established.", |p| {
        u64::from(p.state == "Established")
    }),
    ("calico_bgp_peer_state_seconds", "gauge", "Seconds since the state was entered.", |p| {
        p.since_seconds
    }),
    ("calico_bgp_peer_received_prefixes", "gauge", "Prefixes that the peer told.", |p| p.received),
    ("calico_bgp_peer_advertised_prefixes", "gauge", "Prefixes that the peer was told.", |p| {
        p.advertised
    }),
    ("calico_bgp_peer_restarting", "gauge", "Whether its routes are kept over a restart.", |p| {
        u64::from(p.restarting)
    }),
    ("calico_bgp_peer_updates_received_total", "counter", "UPDATEs of the peer.", |p| {
        p.updates_received
    }),
    ("calico_bgp_peer_update_errors_total", "counter", "Faults in its UPDATEs (RFC 7606).", |p| {
        p.update_errors
    }),
    ("calico_bgp_peer_established_total", "counter", "Sessions that came up.", |p| p.established),
    ("calico_bgp_peer_lost_total", "counter", "Sessions that were lost.", |p| p.lost),
];

/// The metrics of a speaker and this process.
#[must_use]
pub fn text(peers: &Peers) -> String {
    let mut out = String::with_capacity(4096 + peers.peers.len() * 1024);
    let mut one = |name: &str, kind: &str, help: &str, value: String| {
        let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name}{value}\n");
    };
    let version = env!("CARGO_PKG_VERSION");
    one("calico_build_info", "gauge", "The release.", format!("{{version=\"{version}\"}} 1"));
    let speaker = format!(
        "{{as=\"{}\",router_id=\"{}\",cluster_id=\"{}\"}} 1",
        peers.as_number, peers.router_id, peers.cluster_id
    );
    one("calico_bgp_speaker_info", "gauge", "The speaker.", speaker);
    let converged = format!(" {}", u8::from(peers.converged));
    one("calico_bgp_converged", "gauge", "Whether the table is complete.", converged);
    let destinations = format!(" {}", peers.destinations);
    one("calico_bgp_destinations", "gauge", "Destinations in the table.", destinations);
    let count = peers.peers.len();
    one("calico_bgp_peers", "gauge", "Peers, configured and dynamic.", format!(" {count}"));
    if let Some(bytes) = resident() {
        let help = "Memory in use.";
        one("process_resident_memory_bytes", "gauge", help, format!(" {bytes}"));
    }
    for (name, kind, help, value) in OF_PEERS {
        let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        for peer in &peers.peers {
            let _ = writeln!(
                out,
                "{name}{{peer=\"{}\",port=\"{}\",as=\"{}\",description=\"{}\"}} {}",
                peer.address,
                peer.port,
                peer.as_number,
                escape(peer.description.as_deref().unwrap_or_default()),
                value(peer)
            );
        }
    }
    out
}

/// As label values are written.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// What the kernel says that this process has in memory, in bytes.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib * 1024)
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
        let text = text(&Peers {
            as_number: 64512,
            router_id: [192, 0, 2, 1].into(),
            cluster_id: [192, 0, 2, 1].into(),
            converged: true,
            destinations: 3,
            peers: vec![peer],
        });
        let labels = "{peer=\"10.0.0.1\",port=\"179\",as=\"65001\",\
                      description=\"the \\\"left\\\" rack\\\\\"}";
        for line in [
            "calico_bgp_converged 1".to_owned(),
            "calico_bgp_destinations 3".to_owned(),
            format!("calico_bgp_peer_up{labels} 1"),
            format!("calico_bgp_peer_received_prefixes{labels} 7"),
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let name = line.split(['{', ' ']).next().unwrap();
            assert!(text.contains(&format!("# TYPE {name} ")), "{name}");
        }
        assert!(resident().unwrap() > 0);
    }
}
