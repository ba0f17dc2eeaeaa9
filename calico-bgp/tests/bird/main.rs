//! This speaker against BIRD 2 (Debian package `bird2`), in network namespaces.
//!
//! ```text
//!   this speaker ─────────────── BIRD
//!   10.9.0.1, fd09::1            10.9.0.2, fd09::2
//!   AS 64512                     AS 65001 or 64512
//! ```

#![cfg(feature = "runtime")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod lab;
mod protected;

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use calico_bgp::rib::NextHopMode;
use calico_bgp::runtime::{Shutdown, SpeakerHandle};
use calico_bgp::session::{DownReason, State};
use calico_bgp::speaker::{Config, PeerConfig};
use calico_bgp::wire::{AsPath, Community, Family, LargeCommunity, PathAttributes};
use calico_core::routes::{RouteDistributor, RouteEvent};
use futures_util::StreamExt;
use ipnet::IpNet;
use lab::{Lab, eventually, run};

const OUR_AS: u32 = 64512;
const RACK_AS: u32 = 65001;

fn net(s: &str) -> IpNet {
    s.parse().unwrap()
}

fn addr(s: &str) -> IpAddr {
    s.parse().unwrap()
}

/// BIRD with one session per family and a few static routes.
fn bird_config(asn: u32) -> String {
    let session = |name: &str, us: &str, them: &str, channel: &str| {
        format!(
            "protocol bgp {name} {{
               local {them} as {asn};
               neighbor {us} as {OUR_AS};
               graceful restart on;
               connect delay time 1; connect retry time 1; error wait time 1, 2;
               {channel} {{ import all; export where source = RTS_STATIC; next hop self; }};
             }}\n"
        )
    };
    format!(
        "log stderr all;
         router id 10.9.0.2;
         protocol device {{ }}
         protocol direct {{ ipv4; ipv6; }}
         protocol kernel {{ ipv4 {{ import none; export all; }}; }}
         protocol kernel {{ ipv6 {{ import none; export all; }}; }}
         protocol static s4 {{ ipv4; route 0.0.0.0/0 unreachable; route 10.200.0.0/16 unreachable; }}
         protocol static s6 {{ ipv6; route fd20::/48 unreachable; }}
         {}{}",
        session("c4", "10.9.0.1", "10.9.0.2", "ipv4"),
        session("c6", "fd09::1", "fd09::2", "ipv6"),
    )
}

fn peers(asn: u32) -> Vec<PeerConfig> {
    ["10.9.0.2", "fd09::2"]
        .into_iter()
        .map(|a| {
            let mut peer = PeerConfig::new(addr(a), asn);
            peer.connect_retry = Duration::from_secs(1);
            peer
        })
        .collect()
}

fn config() -> Config {
    Config::new(OUR_AS, Ipv4Addr::new(10, 9, 0, 1))
}

async fn speaker(config: Config, asn: u32) -> SpeakerHandle {
    let speaker = SpeakerHandle::spawn(config).expect("start");
    speaker.set_peers(peers(asn)).await.unwrap().unwrap();
    let blocks = ["192.168.1.0/26", "fd80:1::/122"].map(net).to_vec();
    RouteDistributor::announce(&speaker, blocks).await.unwrap();
    speaker
}

/// Waits until a prefix has (or has not) a learned best route by way of BIRD.
async fn until_learned(speaker: &SpeakerHandle, prefix: &str, wanted: bool) {
    let what = format!("{prefix} learned: {wanted}");
    eventually(&what, async || {
        let route = speaker.route(net(prefix)).await.unwrap();
        let best = route.as_ref().is_some_and(|r| r.paths[0].best);
        if best == wanted { Ok(()) } else { Err(format!("{route:?}")) }
    })
    .await;
}

async fn until_established(speaker: &SpeakerHandle) {
    eventually("both sessions established", async || {
        let peers = speaker.peers().await.unwrap();
        let up = peers.iter().all(|p| p.state == State::Established);
        if up { Ok(()) } else { Err(format!("{peers:#?}")) }
    })
    .await;
}

async fn both_ways(mut lab: Lab, asn: u32) {
    lab.start_bird(&bird_config(asn), false);
    let speaker = speaker(config(), asn).await;
    let mut learned = speaker.learned();
    for prefix in ["0.0.0.0/0", "10.200.0.0/16", "fd20::/48"] {
        until_learned(&speaker, prefix, true).await;
    }
    let route = speaker.route(net("10.200.0.0/16")).await.unwrap().unwrap();
    assert_eq!(route.paths[0].attributes.next_hop.unwrap().address(), addr("10.9.0.2"));
    let external = asn != OUR_AS;
    let path = if external { AsPath::sequence([asn]) } else { AsPath::empty() };
    assert_eq!(route.paths[0].attributes.as_path, path);

    // The stream of the distributor shows the same, and not our own blocks.
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let next = tokio::time::timeout(Duration::from_secs(5), learned.next()).await;
        match next.expect("an event in time").expect("the speaker runs") {
            RouteEvent::Item(r) | RouteEvent::Put(r) => seen.push((r.prefix, r.next_hops)),
            RouteEvent::Gone(prefix) => panic!("{prefix} was never there"),
            RouteEvent::Begin | RouteEvent::Ready => {}
        }
    }
    seen.sort();
    assert_eq!(seen[1], (net("10.200.0.0/16"), vec![addr("10.9.0.2")]));
    assert_eq!(seen[2], (net("fd20::/48"), vec![addr("fd09::2")]));

    let wanted = if external { "AS64512" } else { "" };
    for (prefix, hop) in [("192.168.1.0/26", "10.9.0.1"), ("fd80:1::/122", "fd09::1")] {
        lab.until_bird(&format!("show route for {prefix} all"), "BIRD learns our block", |a| {
            a.contains(&format!("via {hop}")) && a.contains(wanted)
        })
        .await;
    }

    // Withdrawals, both ways.
    let blocks = ["192.168.1.0/26", "fd80:1::/122"].map(net).to_vec();
    RouteDistributor::withdraw(&speaker, blocks).await.unwrap();
    for prefix in ["192.168.1.0/26", "fd80:1::/122"] {
        let command = format!("show route {prefix}");
        lab.until_bird(&command, "BIRD forgets our block", |a| a.contains("not found")).await;
    }
    lab.birdc("disable s4");
    until_learned(&speaker, "10.200.0.0/16", false).await;
    lab.birdc("disable s6");
    until_learned(&speaker, "fd20::/48", false).await;

    // An orderly end says why.
    speaker.shutdown(Shutdown::Cease("moving out".to_owned())).await;
    lab.until_bird("show protocols all c4", "BIRD hears our last words", |a| {
        a.contains("Administrative shutdown") || a.contains("moving out")
    })
    .await;
}

#[test]
fn external_routes_both_ways() {
    run(|lab| both_ways(lab, RACK_AS));
}

#[test]
fn internal_routes_both_ways() {
    run(|lab| both_ways(lab, OUR_AS));
}

#[test]
fn attributes_arrive_at_bird() {
    run(|mut lab| async move {
        lab.start_bird(&bird_config(RACK_AS), false);
        let speaker = speaker(config(), RACK_AS).await;
        let attributes = PathAttributes {
            med: Some(77),
            communities: vec![Community::new(64512, 300)],
            large_communities: vec![LargeCommunity { global: 64512, local1: 1, local2: 2 }],
            as_path: AsPath::sequence([4_200_000_001]),
            ..Default::default()
        };
        let routes = vec![(net("192.168.7.0/26"), attributes)];
        assert!(SpeakerHandle::announce(&speaker, routes).await.unwrap().is_empty());
        let wanted = [
            "BGP.as_path: 64512 4200000001",
            "BGP.med: 77",
            "BGP.community: (64512,300)",
            "BGP.large_community: (64512, 1, 2)",
        ];
        lab.until_bird("show route 192.168.7.0/26 all", "all attributes at BIRD", |a| {
            wanted.iter().all(|w| a.contains(w))
        })
        .await;
    });
}

#[test]
fn routes_survive_a_crash_of_bird() {
    run(|mut lab| async move {
        lab.start_bird(&bird_config(OUR_AS), false);
        let speaker = speaker(config(), OUR_AS).await;
        until_established(&speaker).await;
        until_learned(&speaker, "10.200.0.0/16", true).await;
        lab.kill_bird();
        eventually("the session is lost and the routes are kept", async || {
            let peers = speaker.peers().await.unwrap();
            let kept = peers.iter().all(|p| p.state < State::OpenSent && p.restart_pending);
            if kept { Ok(()) } else { Err(format!("{peers:#?}")) }
        })
        .await;
        let route = speaker.route(net("10.200.0.0/16")).await.unwrap().unwrap();
        assert!(route.paths[0].best && route.paths[0].stale);
        // It comes back without one of its routes: that one goes, the other never did.
        let fewer = bird_config(OUR_AS).replace("route 0.0.0.0/0 unreachable;", "");
        lab.start_bird(&fewer, true);
        until_learned(&speaker, "0.0.0.0/0", false).await;
        let route = speaker.route(net("10.200.0.0/16")).await.unwrap().unwrap();
        assert!(route.paths[0].best && !route.paths[0].stale);
        let peers = speaker.peers().await.unwrap();
        assert!(peers.iter().all(|p| p.counters.established == 2 && p.counters.lost == 1));
    });
}

#[test]
fn bird_keeps_our_routes_over_our_restart() {
    run(|mut lab| async move {
        lab.start_bird(&bird_config(OUR_AS), false);
        let first = speaker(config(), OUR_AS).await;
        until_established(&first).await;
        let blocks = ["192.168.1.0/26", "fd80:1::/122"];
        let there = |lab: &Lab| {
            blocks.iter().all(|b| lab.birdc(&format!("show route {b}")).contains("via"))
        };
        lab.until_bird("show route 192.168.1.0/26", "our block", |a| a.contains("via")).await;
        lab.until_bird("show route fd80:1::/122", "our block", |a| a.contains("via")).await;
        first.shutdown(Shutdown::GracefulRestart).await;
        lab.until_bird("show protocols c4", "the session is gone", |a| !a.contains("Established"))
            .await;
        for _ in 0..10 {
            assert!(there(&lab), "BIRD keeps the routes while we are away");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let mut again = config();
        again.restarting = true;
        let second = speaker(again, OUR_AS).await;
        let mut learned = second.learned();
        let mut listed = Vec::new();
        loop {
            assert!(there(&lab), "and while we come back");
            let next = tokio::time::timeout(Duration::from_millis(100), learned.next()).await;
            match next {
                Ok(Some(RouteEvent::Item(route))) => listed.push(route.prefix),
                Ok(Some(RouteEvent::Ready)) => break,
                Ok(None) => panic!("the speaker ended"),
                Ok(_) | Err(_) => {}
            }
        }
        listed.sort();
        let all = ["0.0.0.0/0", "10.200.0.0/16", "fd20::/48"].map(net);
        assert_eq!(listed, all, "the first listing is complete, so nothing is deleted too early");
        until_established(&second).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(there(&lab), "and after");
        // Without graceful restart the routes go at once.
        second.shutdown(Shutdown::Cease(String::new())).await;
        lab.until_bird("show route 192.168.1.0/26", "gone", |a| a.contains("not found")).await;
    });
}

#[test]
fn a_cable_that_breaks_and_garbage_on_the_port_do_no_lasting_harm() {
    run(|mut lab| async move {
        lab.start_bird(&bird_config(RACK_AS), false);
        let speaker = speaker(config(), RACK_AS).await;
        until_established(&speaker).await;
        lab.at_bird("ip addr add 10.9.0.66/24 dev eth0");
        // A stranger, and BIRD's own address, send what is not BGP; a stranger opens many.
        let garbage = "import socket
for source in ('10.9.0.66', '10.9.0.2'):
    for i in range(300):
        s = socket.socket()
        s.bind((source, 0))
        s.settimeout(5)
        try:
            s.connect(('10.9.0.1', 179))
            s.sendall(b'GET / HTTP/1.1\\r\\n\\r\\n' * 20)
            while s.recv(4096): pass
        except OSError:
            pass
        s.close()
";
        let script = format!("timeout 60 python3 - <<'END'\n{garbage}\nEND");
        // The speaker runs on this thread, so the script has to run beside it.
        let mut child = lab.spawn_at_bird(&script);
        while child.try_wait().expect("the script runs").is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        until_established(&speaker).await;
        until_learned(&speaker, "10.200.0.0/16", true).await;
        let peers = speaker.peers().await.unwrap();
        assert!(peers.iter().all(|p| p.counters.lost == 0), "no session noticed: {peers:#?}");

        // A reset of the session at BIRD's side.
        lab.birdc("restart c4");
        eventually("the session was lost and is back", async || {
            let peers = speaker.peers().await.unwrap();
            let back = peers[0].counters.established == 2 && peers[0].state == State::Established;
            if back { Ok(()) } else { Err(format!("{peers:#?}")) }
        })
        .await;
        let peers = speaker.peers().await.unwrap();
        assert!(matches!(peers[0].last_error, Some(DownReason::NotificationReceived(_))));
        assert_eq!(peers[1].counters.lost, 0, "the other session did not notice");
        until_learned(&speaker, "10.200.0.0/16", true).await;
    });
}

#[test]
fn one_session_carries_both_families() {
    run(|mut lab| async move {
        let bird = format!(
            "log stderr all;
             router id 10.9.0.2;
             protocol device {{ }}
             protocol static s4 {{ ipv4; route 10.200.0.0/16 unreachable; }}
             protocol static s6 {{ ipv6; route fd20::/48 unreachable; }}
             protocol bgp c {{
               local 10.9.0.2 as {RACK_AS};
               neighbor 10.9.0.1 as {OUR_AS};
               connect delay time 1;
               ipv4 {{ import all; export where source = RTS_STATIC; next hop self; }};
               ipv6 {{ import all; export where source = RTS_STATIC; next hop address fd09::2; }};
             }}"
        );
        lab.start_bird(&bird, false);
        let mut config = config();
        config.next_hop_v6 = Some("fd09::1".parse().unwrap());
        let speaker = SpeakerHandle::spawn(config).unwrap();
        let mut peer = PeerConfig::new(addr("10.9.0.2"), RACK_AS);
        peer.families = vec![Family::IPV4_UNICAST, Family::IPV6_UNICAST];
        peer.next_hop = NextHopMode::OwnAddress;
        speaker.set_peers(vec![peer]).await.unwrap().unwrap();
        let blocks = ["192.168.1.0/26", "fd80:1::/122"].map(net).to_vec();
        RouteDistributor::announce(&speaker, blocks).await.unwrap();
        until_learned(&speaker, "10.200.0.0/16", true).await;
        until_learned(&speaker, "fd20::/48", true).await;
        lab.until_bird("show route fd80:1::/122", "our IPv6 block", |a| a.contains("via fd09::1"))
            .await;
        lab.until_bird("show route 192.168.1.0/26", "our block", |a| a.contains("via 10.9.0.1"))
            .await;
    });
}
