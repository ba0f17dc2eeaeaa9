//! Sessions that are protected (TCP MD5, GTSM), dynamic neighbours, and extensions that BIRD has.

use std::net::IpAddr;
use std::time::Duration;

use calico_bgp::runtime::{Shutdown, SpeakerHandle};
use calico_bgp::session::State;
use calico_bgp::speaker::{Distance, DynamicPeers, LimitAction, Password, PeerConfig, PrefixLimit};
use calico_bgp::wire::{Community, Family, NextHop, Role};
use calico_core::routes::RouteDistributor;

use super::lab::{Lab, eventually, run};
use super::{
    OUR_AS, RACK_AS, addr, bird_config, config, net, peers, until_established, until_learned,
};

/// BIRD's configuration with more options in both sessions.
fn with_options(options: &str) -> String {
    bird_config(RACK_AS).replace("graceful restart on;", options)
}

async fn start(change: impl Fn(&mut PeerConfig)) -> SpeakerHandle {
    let speaker = SpeakerHandle::spawn(config()).expect("start");
    let mut peers = peers(RACK_AS);
    peers.iter_mut().for_each(change);
    speaker.set_peers(peers).await.unwrap().unwrap();
    speaker
}

/// Fails if any session comes up within two seconds.
async fn stays_down(speaker: &SpeakerHandle, why: &str) {
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let peers = speaker.peers().await.unwrap();
        assert!(peers.iter().all(|p| p.counters.established == 0), "{why}: {peers:#?}");
    }
}

async fn set(speaker: &SpeakerHandle, change: impl Fn(&mut PeerConfig)) {
    let mut peers = peers(RACK_AS);
    peers.iter_mut().for_each(change);
    speaker.set_peers(peers).await.unwrap().unwrap();
}

fn password(text: &str) -> Option<Password> {
    Some(Password::new(text).unwrap())
}

/// Whoever connects: a right password brings the sessions up, a wrong one and none do not.
async fn passwords(mut lab: Lab, passive: bool) {
    let options = format!(r#"password "s3cret"; passive {};"#, if passive { "off" } else { "on" });
    lab.start_bird(&with_options(&options), false);
    let speaker = start(|p| p.passive = passive).await;
    stays_down(&speaker, "without a password").await;
    set(&speaker, |p| {
        p.passive = passive;
        p.password = password("wrong");
    })
    .await;
    stays_down(&speaker, "with a wrong password").await;
    set(&speaker, |p| {
        p.passive = passive;
        p.password = password("s3cret");
    })
    .await;
    until_established(&speaker).await;
    until_learned(&speaker, "10.200.0.0/16", true).await;
    until_learned(&speaker, "fd20::/48", true).await;
}

#[test]
fn passwords_when_we_connect() {
    run(|lab| passwords(lab, false));
}

#[test]
fn passwords_when_bird_connects() {
    run(|lab| passwords(lab, true));
}

/// Whoever connects: the session lives with TTL security on both sides only.
async fn ttl(mut lab: Lab, passive: bool) {
    let passive_bird = if passive { "off" } else { "on" };
    // Without TTL security BIRD sends to direct neighbours with TTL 1.
    lab.start_bird(&with_options(&format!("ttl security off; passive {passive_bird};")), false);
    let change = |p: &mut PeerConfig| {
        p.passive = passive;
        p.distance = Distance::Secured(1);
    };
    let speaker = start(change).await;
    stays_down(&speaker, "with packets that may come from afar").await;
    speaker.shutdown(Shutdown::Cease(String::new())).await;
    lab.kill_bird();
    let speaker = start(change).await;
    lab.start_bird(&with_options(&format!("ttl security on; passive {passive_bird};")), false);
    until_established(&speaker).await;
    until_learned(&speaker, "10.200.0.0/16", true).await;
    // And BIRD minds what we send. Our own state does not tell: the OPEN may be there before BIRD
    // has looked at the connection.
    set(&speaker, |p| {
        p.passive = passive;
        p.distance = Distance::Anywhere;
    })
    .await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    for _ in 0..15 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let state = lab.birdc("show protocols");
        assert!(!state.contains("Established"), "{state}");
    }
}

#[test]
fn ttl_security_when_we_connect() {
    run(|lab| ttl(lab, false));
}

#[test]
fn ttl_security_when_bird_connects() {
    run(|lab| ttl(lab, true));
}

#[test]
fn dynamic_neighbours_with_a_password_for_the_prefix() {
    run(|mut lab| async move {
        lab.start_bird(&with_options(r#"password "s3cret";"#), false);
        let speaker = SpeakerHandle::spawn(config()).expect("start");
        let range = |prefix: &str, text: &str| {
            let mut template = PeerConfig::new(net(prefix).addr(), RACK_AS);
            template.password = password(text);
            template.distance = Distance::Hops(1);
            DynamicPeers { prefix: net(prefix), limit: 2, template }
        };
        let ranges = |text: &str| vec![range("10.9.0.0/24", text), range("fd09::/64", text)];
        speaker.set_dynamic(ranges("wrong")).await.unwrap().unwrap();
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(speaker.peers().await.unwrap().is_empty(), "nobody got through");
        speaker.set_dynamic(ranges("s3cret")).await.unwrap().unwrap();
        until_learned(&speaker, "10.200.0.0/16", true).await;
        until_learned(&speaker, "fd20::/48", true).await;
        let peers = speaker.peers().await.unwrap();
        assert!(peers.len() == 2 && peers.iter().all(|p| p.dynamic));
        lab.birdc("disable c4");
        eventually("the peer that left is forgotten", async || {
            let peers = speaker.peers().await.unwrap();
            if peers.len() == 1 { Ok(()) } else { Err(format!("{peers:#?}")) }
        })
        .await;
    });
}

#[test]
fn bird_above_its_limit_is_told_so() {
    run(|mut lab| async move {
        lab.start_bird(&with_options(""), false);
        let idle = Duration::from_secs(3600);
        let limit = PrefixLimit { max: 1, warn_at: 1, action: LimitAction::Cease { idle } };
        let speaker = start(|p| p.prefix_limit = Some(limit)).await;
        lab.until_bird("show protocols all c4", "BIRD knows why", |a| {
            a.contains("Maximum number of prefixes")
        })
        .await;
        eventually("one IPv6 prefix is not too much", async || {
            let peers = speaker.peers().await.unwrap();
            let states = (peers[0].state, peers[1].state);
            let good = states == (State::Idle, State::Established);
            if good { Ok(()) } else { Err(format!("{peers:#?}")) }
        })
        .await;
    });
}

#[test]
fn roles_and_leaks() {
    run(|mut lab| async move {
        lab.start_bird(&with_options("local role provider;"), false);
        let speaker = start(|p| p.role = Some(Role::Customer)).await;
        until_learned(&speaker, "10.200.0.0/16", true).await;
        let route = speaker.route(net("10.200.0.0/16")).await.unwrap().unwrap();
        assert_eq!(route.paths[0].attributes.only_to_customer, Some(RACK_AS));
        set(&speaker, |p| p.role = Some(Role::Provider)).await;
        lab.until_bird("show protocols all c4", "BIRD refuses", |a| a.contains("Role mismatch"))
            .await;
    });
}

#[test]
fn ipv4_over_an_ipv6_session_without_any_ipv4_next_hop() {
    run(|mut lab| async move {
        let bird = format!(
            "log stderr all;
             router id 10.9.0.2;
             protocol device {{ }}
             protocol static s4 {{ ipv4; route 10.200.0.0/16 unreachable; }}
             protocol bgp c {{
               local fd09::2 as {RACK_AS};
               neighbor fd09::1 as {OUR_AS};
               connect delay time 1;
               ipv4 {{ import all; export where source = RTS_STATIC; next hop self; extended next hop on; }};
             }}"
        );
        lab.start_bird(&bird, false);
        let speaker = SpeakerHandle::spawn(config()).unwrap();
        let mut peer = PeerConfig::new(addr("fd09::2"), RACK_AS);
        peer.families = vec![Family::IPV4_UNICAST];
        speaker.set_peers(vec![peer]).await.unwrap().unwrap();
        RouteDistributor::announce(&speaker, vec![net("192.168.1.0/26")]).await.unwrap();
        until_learned(&speaker, "10.200.0.0/16", true).await;
        let route = speaker.route(net("10.200.0.0/16")).await.unwrap().unwrap();
        let hop = route.paths[0].attributes.next_hop.map(NextHop::address);
        assert_eq!(hop, Some(addr("fd09::2")));
        lab.until_bird("show route 192.168.1.0/26 all", "our block", |a| a.contains("via fd09::1"))
            .await;
        let peers = speaker.peers().await.unwrap();
        assert!(peers[0].negotiated.as_ref().unwrap().extended_next_hop);
    });
}

#[test]
fn refreshes_are_marked_both_ways() {
    run(|mut lab| async move {
        lab.start_bird(&bird_config(RACK_AS), false);
        let speaker = start(|_| {}).await;
        RouteDistributor::announce(&speaker, vec![net("192.168.1.0/26")]).await.unwrap();
        until_learned(&speaker, "10.200.0.0/16", true).await;
        lab.until_bird("show route 192.168.1.0/26", "our block", |a| a.contains("via")).await;
        let received = async || speaker.peers().await.unwrap()[0].counters.updates_received;
        let before = received().await;
        let key = speaker.peers().await.unwrap()[0].config.key();
        assert!(speaker.request_refresh(key).await.unwrap());
        eventually("BIRD told all again", async || {
            let now = received().await;
            let peers = speaker.peers().await.unwrap();
            if now > before && !peers[0].restart_pending { Ok(()) } else { Err(format!("{now}")) }
        })
        .await;
        until_learned(&speaker, "10.200.0.0/16", true).await;
        // BIRD asks: it takes the route again, and sweeps nothing that we told.
        lab.birdc("reload in c4");
        tokio::time::sleep(Duration::from_secs(1)).await;
        let told = lab.birdc("show route 192.168.1.0/26");
        assert!(told.contains("via"), "{told}");
        let peers = speaker.peers().await.unwrap();
        assert!(peers[0].negotiated.as_ref().unwrap().enhanced_refresh);
        assert_eq!(peers[0].counters.lost, 0);
    });
}

#[test]
fn long_lived_graceful_restart_both_ways() {
    run(|mut lab| async move {
        let options = "graceful restart on; graceful restart time 2; \
                       long lived graceful restart on; long lived stale time 3600;";
        lab.start_bird(&with_options(options), false);
        let speaker = start(|p| {
            p.graceful_restart = Some(2);
            p.long_lived = Some(3600);
        })
        .await;
        RouteDistributor::announce(&speaker, vec![net("192.168.1.0/26")]).await.unwrap();
        until_learned(&speaker, "10.200.0.0/16", true).await;
        lab.until_bird("show route 192.168.1.0/26", "our block", |a| a.contains("via")).await;
        lab.kill_bird();
        eventually("the route is a last resort", async || {
            let route = speaker.route(net("10.200.0.0/16")).await.unwrap();
            let kept = route.as_ref().is_some_and(|r| {
                r.paths[0].best && r.paths[0].attributes.has_community(Community::LLGR_STALE)
            });
            if kept { Ok(()) } else { Err(format!("{route:?}")) }
        })
        .await;
        lab.start_bird(&with_options(options), true);
        eventually("the route is as good as new", async || {
            let route = speaker.route(net("10.200.0.0/16")).await.unwrap();
            let fresh = route.as_ref().is_some_and(|r| {
                r.paths[0].best
                    && !r.paths[0].stale
                    && !r.paths[0].attributes.has_community(Community::LLGR_STALE)
            });
            if fresh { Ok(()) } else { Err(format!("{route:?}")) }
        })
        .await;
        lab.until_bird("show route 192.168.1.0/26", "our block again", |a| a.contains("via")).await;
        let ours: IpAddr = addr("10.9.0.1");
        speaker.shutdown(Shutdown::GracefulRestart).await;
        lab.until_bird("show route 192.168.1.0/26 all", "BIRD keeps ours long", |a| {
            a.contains(&format!("via {ours}")) && a.contains("65535,6")
        })
        .await;
    });
}
