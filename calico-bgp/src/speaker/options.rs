//! Options of peers, in a simulated network: AS numbers, limits, dynamic neighbours, long-lived
//! restarts, refreshes, roles.

use std::net::SocketAddr;
use std::time::Duration;

use super::tests::{AS, Network, config, internal, ip, net};
use super::*;
use crate::filter::{Action, Condition, Filter, Operation, Otherwise, Rule};
use crate::rib::{Decision, Policy, PrivateAs};
use crate::session::{DownReason, State};
use crate::wire::{CeaseCode, Community, NotificationCode, Role};

const MINUTE: Duration = Duration::from_secs(60);

/// 1 — 2 — 3, each an AS of its own (65001, 65002, 65003); `change` sets up the sessions of 2.
fn line(
    ases: [u32; 3],
    change: impl Fn(&mut PeerConfig),
    ends: impl Fn(&mut PeerConfig),
) -> Network {
    let mut network = Network::new((1..=3).map(|n| (n, config(n, ases[usize::from(n) - 1]))));
    network.announce(1, "10.1.0.0/16");
    for end in [1, 3] {
        let mut peer = PeerConfig::new(ip(2), ases[1]);
        ends(&mut peer);
        network.set_peers(end, vec![peer]);
    }
    let peers = [(1, ases[0]), (3, ases[2])].map(|(n, asn)| {
        let mut peer = PeerConfig::new(ip(n), asn);
        peer.passive = true;
        change(&mut peer);
        peer
    });
    network.set_peers(2, peers.to_vec());
    network.run(MINUTE);
    network
}

fn path(network: &Network, n: u8, prefix: &str) -> Option<String> {
    let best = network.speakers[&n].rib().best(&net(prefix));
    best.map(|b| b.attributes.as_path.to_string())
}

fn none(_: &mut PeerConfig) {}

#[test]
fn as_numbers_as_the_peer_is_to_see_them() {
    let check =
        |ases, change: fn(&mut PeerConfig), ends: fn(&mut PeerConfig), expected: Option<&str>| {
            let network = line(ases, change, ends);
            assert_eq!(network.states(2), [State::Established; 2]);
            assert_eq!(path(&network, 3, "10.1.0.0/16").as_deref(), expected);
        };
    check([65001, 7, 65003], none, none, Some("7 65001"));
    // Two sites with one AS number: each refuses the other's routes, unless one side helps.
    check([65001, 7, 65001], none, none, None);
    check([65001, 7, 65001], |p| p.override_as = true, none, Some("7 7"));
    check([65001, 7, 65001], none, |p| p.allow_own_as = 1, Some("7 65001"));
    check([65001, 7, 65003], |p| p.private_as = PrivateAs::Remove, none, Some("7"));
    check([65001, 7, 65003], |p| p.private_as = PrivateAs::Replace, none, Some("7 7"));
    // Another AS number on the sessions of 2, with or without its own behind it.
    let other: fn(&mut PeerConfig) = |p| p.local_as = Some(8);
    check([65001, 7, 65003], other, |p| p.remote_as = 8, Some("8 65001"));
    let show: fn(&mut PeerConfig) = |p| {
        p.local_as = Some(8);
        p.local_as_mode = LocalAsMode::Show;
    };
    check([65001, 7, 65003], show, |p| p.remote_as = 8, Some("8 7 65001"));
    let prepend: fn(&mut PeerConfig) = |p| {
        p.local_as = Some(8);
        p.local_as_prepend = true;
    };
    check([65001, 7, 65003], prepend, |p| p.remote_as = 8, Some("8 8 65001"));
}

fn limited(action: LimitAction) -> Network {
    let mut network = Network::new([(1, config(1, AS)), (2, config(2, AS)), (3, config(3, AS))]);
    for n in [2, 3] {
        network.announce(n, &format!("192.168.{n}.0/26"));
        network.set_peers(n, vec![internal(n, 1)]);
    }
    let limit = PrefixLimit { max: 10, warn_at: 5, action };
    let peers = vec![PeerConfig { prefix_limit: Some(limit), ..internal(1, 2) }, internal(1, 3)];
    network.set_peers(1, peers);
    network.run(MINUTE);
    for i in 0..20 {
        network.announce(2, &format!("10.{i}.0.0/16"));
    }
    network.run(Duration::from_secs(1));
    network
}

fn levels(network: &Network) -> Vec<LimitLevel> {
    let of = |e: &SpeakerEvent| match e {
        SpeakerEvent::PrefixLimit { level, .. } => Some(*level),
        _ => None,
    };
    network.events[&1].iter().filter_map(of).collect()
}

#[test]
fn a_peer_above_its_limit_is_warned_about() {
    let network = limited(LimitAction::Warn);
    assert_eq!(network.states(1), [State::Established; 2]);
    assert_eq!(*levels(&network).last().unwrap(), LimitLevel::Exceeded);
    assert_eq!(network.best(1, "10.19.0.0/16"), Some(vec![ip(2)]));
}

#[test]
fn or_loses_its_session_and_nobody_else_does() {
    let idle = Duration::from_secs(600);
    let mut network = limited(LimitAction::Cease { idle });
    assert_eq!(network.states(1), [State::Idle, State::Established]);
    assert_eq!(network.best(1, "10.0.0.0/16"), None, "and its routes, graceful restart or not");
    assert_eq!(network.best(1, "192.168.3.0/26"), Some(vec![ip(3)]));
    let told = network.events[&2].iter().any(|e| {
        matches!(e, SpeakerEvent::SessionDown { reason: DownReason::NotificationReceived(n), .. }
            if n.hard_reset_cause().is_some_and(
                |n| n.code == NotificationCode::Cease(CeaseCode::MaximumPrefixes)))
    });
    assert!(told);
    let before = network.speakers[&1].peers().next().unwrap().counters.established;
    network.run(Duration::from_secs(500));
    assert_eq!(network.states(1)[0], State::Idle, "it connects in vain");
    network.run(Duration::from_secs(200));
    let after = network.speakers[&1].peers().next().unwrap().counters.established;
    assert!(after > before, "it got another chance, and lost it again");
    assert_eq!(network.states(1)[0], State::Idle);
    // With fewer routes and a reset by hand it is back at once.
    for i in 0..20 {
        network.speaker(2).withdraw(net(&format!("10.{i}.0.0/16")));
    }
    let (now, key) = (network.now, SocketAddr::new(ip(2), 179));
    assert!(network.speaker(1).reset(now, key));
    network.run(MINUTE);
    assert_eq!(network.states(1), [State::Established; 2]);
}

fn dynamic(limit: usize) -> DynamicPeers {
    let template = PeerConfig { rr_client: true, ..PeerConfig::new(ip(0), AS) };
    DynamicPeers { prefix: net("10.0.0.0/24"), limit, template }
}

#[test]
fn dynamic_neighbours_come_and_go() {
    let mut network = Network::new((1..=5).map(|n| (n, config(n, AS))));
    let now = network.now;
    network.speaker(1).set_dynamic(now, vec![dynamic(3)]).unwrap();
    for n in 2..=5 {
        network.announce(n, &format!("192.168.{n}.0/26"));
        network.set_peers(
            n,
            vec![internal(n, 1)].into_iter().map(|p| PeerConfig { passive: false, ..p }).collect(),
        );
    }
    network.run(MINUTE);
    assert_eq!(network.states(1), [State::Established; 3], "as many as may");
    let present = |network: &Network| {
        let peers = network.speakers[&1].peers();
        peers.map(|p| (p.config.address, p.dynamic, p.kind)).collect::<Vec<_>>()
    };
    assert!(present(&network).iter().all(|(_, dynamic, _)| *dynamic));
    assert_eq!(network.best(3, "192.168.2.0/26"), Some(vec![ip(2)]), "reflected");
    // One goes for good: its place is taken once its restart time is over.
    network.kill(2);
    network.run(Duration::from_secs(60));
    assert_eq!(present(&network).len(), 3);
    network.run(Duration::from_secs(120));
    assert_eq!(network.states(1), [State::Established; 3]);
    let addresses: Vec<_> = present(&network).iter().map(|(a, ..)| *a).collect();
    assert!(addresses.contains(&ip(5)) && !addresses.contains(&ip(2)));
    assert_eq!(network.best(1, "192.168.2.0/26"), None);
    // One is configured now, and keeps being a peer when the prefix is not one any more.
    network.set_peers(1, vec![PeerConfig { passive: true, ..internal(1, 3) }]);
    network.run(MINUTE);
    assert_eq!(network.states(1), [State::Established; 3]);
    let now = network.now;
    network.speaker(1).set_dynamic(now, vec![]).unwrap();
    network.run(MINUTE);
    assert_eq!(network.states(1), [State::Established]);
    assert!(!present(&network)[0].1);
}

#[test]
fn a_changed_template_touches_only_what_it_must() {
    let mut network = Network::new((1..=2).map(|n| (n, config(n, AS))));
    let now = network.now;
    network.speaker(1).set_dynamic(now, vec![dynamic(3)]).unwrap();
    network.set_peers(2, vec![PeerConfig::new(ip(1), AS)]);
    network.run(MINUTE);
    network.events.clear();
    let mut other = dynamic(3);
    other.template.rr_client = false;
    let now = network.now;
    network.speaker(1).set_dynamic(now, vec![other.clone()]).unwrap();
    network.settle();
    assert!(
        network.events.values().flatten().all(|e| !matches!(e, SpeakerEvent::SessionDown { .. }))
    );
    other.template.hold_time = 30;
    network.speaker(1).set_dynamic(now, vec![other.clone()]).unwrap();
    network.run(MINUTE);
    assert_eq!(network.states(1), [State::Established]);
    assert_eq!(network.speakers[&1].peers().next().unwrap().config.hold_time, 30);
    other.template.hold_time = 1;
    assert!(network.speaker(1).set_dynamic(now, vec![other]).is_err());
}

#[test]
fn long_lived_routes_outlast_the_restart_time_as_a_last_resort() {
    let mut network = Network::new((1..=3).map(|n| (n, config(n, AS))));
    for n in [2, 3] {
        network.announce(n, "10.0.0.0/8");
        network.announce(n, &format!("192.168.{n}.0/26"));
        let peer = PeerConfig { long_lived: Some(3600), ..internal(n, 1) };
        network.set_peers(n, vec![peer]);
    }
    network.set_peers(1, vec![internal(1, 2), internal(1, 3)]);
    network.run(MINUTE);
    assert_eq!(network.best(1, "10.0.0.0/8").map(|h| h.len()), Some(2));
    network.kill(2);
    network.run(Duration::from_secs(130));
    assert_eq!(network.best(1, "10.0.0.0/8"), Some(vec![ip(3)]), "what is alive is better");
    assert_eq!(network.best(1, "192.168.2.0/26"), Some(vec![ip(2)]));
    let view = network.speakers[&1].rib().route(&net("10.0.0.0/8")).unwrap();
    assert_eq!(view.paths[1].decided_by, Decision::LastResort);
    network.run(Duration::from_secs(3500));
    assert_eq!(network.best(1, "192.168.2.0/26"), Some(vec![ip(2)]));
    network.run(Duration::from_secs(200));
    assert_eq!(network.best(1, "192.168.2.0/26"), None);
}

#[test]
fn a_hold_timer_that_expires_keeps_the_routes_if_both_sides_agree() {
    let mut network = Network::new((1..=2).map(|n| (n, config(n, AS))));
    network.announce(2, "192.168.2.0/26");
    network.set_peers(2, vec![internal(2, 1)]);
    network.set_peers(1, vec![internal(1, 2)]);
    network.run(MINUTE);
    // From now on nothing comes from 2, but its connections stay.
    network.stuck = vec![2];
    network.run(Duration::from_secs(100));
    let kept = network.events[&1].iter().any(|e| {
        matches!(e, SpeakerEvent::SessionDown { reason, routes_kept: true, .. }
            if matches!(reason, DownReason::NotificationSent { notification, .. }
                if notification.code == NotificationCode::HoldTimerExpired))
    });
    assert!(kept, "RFC 8538, section 4");
    assert_eq!(network.best(1, "192.168.2.0/26"), Some(vec![ip(2)]));
    network.run(Duration::from_secs(130));
    assert_eq!(network.best(1, "192.168.2.0/26"), None);
}

#[test]
fn a_reset_keeps_the_routes_and_a_shutdown_does_not() {
    let fresh = || {
        let mut network = Network::new((1..=2).map(|n| (n, config(n, AS))));
        network.announce(2, "192.168.2.0/26");
        network.set_peers(2, vec![internal(2, 1)]);
        network.set_peers(1, vec![internal(1, 2)]);
        network.run(MINUTE);
        network.events.clear();
        network
    };
    let kept = |network: &Network| {
        network.events[&1].iter().find_map(|e| match e {
            SpeakerEvent::SessionDown { routes_kept, .. } => Some(*routes_kept),
            _ => None,
        })
    };
    let mut network = fresh();
    let now = network.now;
    assert!(network.speaker(2).reset(now, SocketAddr::new(ip(1), 179)));
    network.run(MINUTE);
    assert_eq!(kept(&network), Some(true));
    let gap = network.events[&1]
        .iter()
        .any(|e| matches!(e, SpeakerEvent::RouteChanged { route: None, .. }));
    assert!(!gap && network.best(1, "192.168.2.0/26").is_some());
    let mut network = fresh();
    let now = network.now;
    network.speaker(2).shutdown(now, Some("for good"));
    network.settle();
    assert_eq!(kept(&network), Some(false), "a hard reset (RFC 8538)");
    assert_eq!(network.best(1, "192.168.2.0/26"), None);
}

#[test]
fn a_refresh_is_marked_and_sweeps() {
    let mut network = Network::new((1..=2).map(|n| (n, config(n, AS))));
    for i in 0..50 {
        network.announce(2, &format!("10.{i}.0.0/16"));
    }
    network.set_peers(2, vec![internal(2, 1)]);
    network.set_peers(1, vec![internal(1, 2)]);
    network.run(MINUTE);
    let updates =
        |network: &Network| network.speakers[&1].peers().next().unwrap().counters.updates_received;
    let before = updates(&network);
    assert!(network.speaker(1).request_refresh(SocketAddr::new(ip(2), 179)));
    network.settle();
    assert!(updates(&network) > before, "all of it came again");
    let view = network.speakers[&1].rib().route(&net("10.7.0.0/16")).unwrap();
    assert!(!view.paths[0].stale);
    assert_eq!(network.speakers[&1].rib().len(), 50);
    let status = network.speakers[&1].peers().next().unwrap();
    assert!(!status.restart_pending, "the end was marked, and nothing is awaited");
    assert!(status.negotiated.unwrap().enhanced_refresh);
}

#[test]
fn roles_that_do_not_fit_are_refused_and_leaks_stopped() {
    let with = |role| move |p: &mut PeerConfig| p.role = Some(role);
    // 1 and 3 are providers of 2, their customer: 2 must not pass 1's routes to 3.
    let network = line([65001, 7, 65003], with(Role::Customer), with(Role::Provider));
    assert_eq!(network.states(2), [State::Established; 2]);
    assert!(network.best(2, "10.1.0.0/16").is_some());
    assert_eq!(network.best(3, "10.1.0.0/16"), None);
    // The other way round it is its business.
    let network = line([65001, 7, 65003], with(Role::Provider), with(Role::Customer));
    assert!(network.best(3, "10.1.0.0/16").is_some());
    // A side that tells nothing is accepted, unless it has to; both being providers is nonsense.
    let network = line([65001, 7, 65003], with(Role::Customer), none);
    assert_eq!(network.states(2), [State::Established; 2]);
    assert_eq!(network.best(3, "10.1.0.0/16"), None, "our own role is enough");
    let strict = |p: &mut PeerConfig| {
        p.role = Some(Role::Customer);
        p.strict_role = true;
    };
    for network in [
        line([65001, 7, 65003], strict, none),
        line([65001, 7, 65003], with(Role::Provider), with(Role::Provider)),
    ] {
        assert!(network.states(2).iter().all(|s| *s < State::OpenConfirm));
    }
}

#[test]
fn passwords_for_listening_sockets() {
    let now = std::time::Instant::now();
    let mut speaker = Speaker::new(config(1, AS), 1, now).unwrap();
    let password = |text: &str| Some(Password::new(text).unwrap());
    let peer = PeerConfig { password: password("one"), ..internal(1, 2) };
    speaker.set_peers(now, vec![peer, internal(1, 3)]).unwrap();
    let mut range = dynamic(5);
    range.template.password = password("all");
    speaker.set_dynamic(now, vec![range]).unwrap();
    let found: Vec<_> = speaker.listen_passwords().into_keys().collect();
    assert_eq!(found, [net("10.0.0.0/24"), net("10.0.0.2/32")]);
    let far = PeerConfig { distance: Distance::Secured(0), ..internal(1, 2) };
    assert!(matches!(speaker.set_peers(now, vec![far]), Err(ConfigError::Distance { .. })));
}

#[test]
fn filters_act_on_a_running_session() {
    let mut network = line([65001, 7, 65003], none, none);
    assert_eq!(path(&network, 3, "10.1.0.0/16").as_deref(), Some("7 65001"));
    network.events.clear();
    let filter = |operations| Filter {
        rules: vec![Rule {
            conditions: vec![Condition::Learned],
            action: Action::Accept(operations),
        }],
        otherwise: Otherwise::Reject,
        ..Filter::default()
    };
    let peers = |import: Filter, export: Filter| {
        let from = PeerConfig {
            passive: true,
            import: Policy::Filter(import.into()),
            ..PeerConfig::new(ip(1), 65001)
        };
        let to = PeerConfig {
            passive: true,
            export: Policy::Filter(export.into()),
            ..PeerConfig::new(ip(3), 65003)
        };
        vec![from, to]
    };
    let community = Operation::AddCommunity("7:1".parse().unwrap());
    let prepend = Operation::PrependAsPath(vec![7, 7]);
    let wanted = || {
        peers(
            filter(vec![community.clone(), Operation::SetLocalPref(300)]),
            filter(vec![prepend.clone()]),
        )
    };
    assert_eq!(network.set_peers(2, wanted()).adjusted.len(), 2);
    network.settle();
    let best = network.speakers[&3].rib().best(&net("10.1.0.0/16")).unwrap();
    assert_eq!(best.attributes.as_path.to_string(), "7 7 7 65001");
    assert_eq!(best.attributes.communities, [Community::new(7, 1)]);
    let here = network.speakers[&2].rib().best(&net("10.1.0.0/16")).unwrap();
    assert_eq!(here.attributes.local_pref, Some(300));
    // The same rules in new values are no change.
    assert_eq!(network.set_peers(2, wanted()), PeerChanges::default());
    let gone =
        network.events.values().flatten().any(|e| matches!(e, SpeakerEvent::SessionDown { .. }));
    assert!(!gone);
}

#[test]
fn numbers_of_peers_come_again_when_all_were_used() {
    let mut network = Network::new([(1, config(1, AS)), (2, config(2, AS))]);
    network.set_peers(1, vec![internal(1, 2)]);
    let kept = network.speakers[&1].peers().next().unwrap().id;
    network.speaker(1).next_peer = u32::MAX - 1;
    let all: Vec<PeerConfig> = (2..=5).map(|n| internal(1, n)).collect();
    network.set_peers(1, all);
    let ids: Vec<u32> = network.speakers[&1].peers().map(|p| p.id.0).collect();
    assert_eq!(ids.len(), 4);
    assert!(ids.contains(&kept.0) && !ids.contains(&0) && !ids.contains(&u32::MAX), "{ids:?}");
}
