//! The state machine under a simulated network.

use std::time::Duration;

use bytes::BytesMut;
use proptest::prelude::*;

use super::simulator::{Simulator, Weather};
use super::*;
use crate::wire::{
    AddPathMode, Capability, CeaseCode, Family, Message, Notification, NotificationCode, Open,
    OpenErrorCode, UpdateContext,
};

const BOTH: [Family; 2] = [Family::IPV4_UNICAST, Family::IPV6_UNICAST];
const UP: [State; 2] = [State::Established, State::Established];

fn config(id: u8, local_as: u32, remote_as: u32) -> SessionConfig {
    SessionConfig::new(local_as, [10, 0, 0, id].into(), remote_as, BOTH.to_vec())
}

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn established(sim: &Simulator, side: usize) -> usize {
    sim.events[side].iter().filter(|e| matches!(e, PeeringEvent::Established(_))).count()
}

fn downs(sim: &Simulator, side: usize) -> Vec<DownReason> {
    let down = |e: &PeeringEvent| match e {
        PeeringEvent::Down(reason) => Some(reason.clone()),
        _ => None,
    };
    sim.events[side].iter().filter_map(down).collect()
}

fn failures(sim: &Simulator, side: usize) -> Vec<DownReason> {
    let failed = |e: &PeeringEvent| match e {
        PeeringEvent::Failed(reason) => Some(reason.clone()),
        _ => None,
    };
    sim.events[side].iter().filter_map(failed).collect()
}

#[test]
fn active_and_passive_establish_and_stay_up() {
    let mut sim = Simulator::new(
        config(1, 64512, 64512),
        SessionConfig { passive: true, ..config(2, 64512, 64512) },
    );
    sim.start();
    sim.run(secs(1));
    assert_eq!(sim.states(), UP);
    let n = sim.sides[0].negotiated().unwrap();
    assert_eq!(n.families, BOTH);
    assert_eq!((n.hold_time, n.keepalive_time), (secs(90), secs(30)));
    assert!(!n.context.external && n.context.four_octet_as && n.route_refresh);
    sim.run(secs(3600));
    assert_eq!(sim.states(), UP);
    assert!(downs(&sim, 0).is_empty(), "KEEPALIVEs hold the session for an hour");
}

#[test]
fn colliding_connections_leave_one_session() {
    for latency in [0, 1, 10, 100, 900] {
        let mut sim = Simulator::new(config(1, 64512, 65001), config(2, 65001, 64512));
        sim.latency = Duration::from_millis(latency);
        sim.start();
        sim.run(secs(60));
        assert_eq!(sim.states(), UP, "latency {latency} ms");
        assert_eq!((established(&sim, 0), established(&sim, 1)), (1, 1), "latency {latency} ms");
        let collided = failures(&sim, 0).iter().chain(&failures(&sim, 1)).any(|r| {
            matches!(r, DownReason::NotificationSent { notification, .. }
                if notification.code == NotificationCode::Cease(CeaseCode::ConnectionCollisionResolution))
        });
        assert!(collided, "both sides connect at once, so there is a collision to resolve");
    }
}

#[test]
fn silence_ends_the_session_after_the_hold_time_and_it_recovers() {
    let a = SessionConfig { hold_time: 9, ..config(1, 64512, 64512) };
    let mut sim = Simulator::new(a, config(2, 64512, 64512));
    sim.start();
    sim.run(secs(2));
    assert_eq!(sim.states(), UP);
    sim.black_hole = true;
    sim.run(secs(5));
    assert_eq!(sim.states(), UP, "not before the hold time");
    sim.run(secs(5));
    let expired = Notification::new(NotificationCode::HoldTimerExpired);
    for side in 0..2 {
        assert_eq!(
            downs(&sim, side),
            [DownReason::NotificationSent { notification: expired.clone(), cause: None }]
        );
        assert!(!downs(&sim, side)[0].keeps_routes(false));
    }
    sim.black_hole = false;
    sim.run(secs(30));
    assert_eq!(sim.states(), UP);
}

#[test]
fn a_lost_connection_comes_back() {
    let mut sim = Simulator::new(config(1, 64512, 64512), config(2, 64512, 64512));
    sim.start();
    sim.run(secs(2));
    sim.cut();
    assert_eq!(downs(&sim, 0), [DownReason::ConnectionLost("cut".into())]);
    assert!(downs(&sim, 0)[0].keeps_routes(false));
    sim.run(secs(10));
    assert_eq!(sim.states(), UP);
    assert_eq!(established(&sim, 1), 2);
}

#[test]
fn garbage_is_answered_and_the_session_recovers() {
    let mut sim = Simulator::new(config(1, 64512, 64512), config(2, 64512, 64512));
    sim.start();
    sim.run(secs(2));
    sim.inject(0, b"GET / HTTP/1.1\r\n\r\n");
    assert_eq!(sim.states()[0], State::Idle, "held down after a protocol error");
    assert!(matches!(&downs(&sim, 0)[0], DownReason::NotificationSent { notification, .. }
        if notification.code.values() == (1, 1)));
    sim.run(secs(1));
    assert!(
        matches!(&downs(&sim, 1)[0], DownReason::NotificationReceived(n) if n.code.values() == (1, 1))
    );
    sim.run(secs(60));
    assert_eq!(sim.states(), UP);
}

#[test]
fn the_wrong_as_is_refused_without_flooding() {
    let mut sim = Simulator::new(config(1, 64512, 65009), config(2, 65001, 64512));
    sim.start();
    sim.run(secs(120));
    assert_eq!(established(&sim, 0) + established(&sim, 1), 0);
    let code = NotificationCode::Open(OpenErrorCode::BadPeerAs);
    let refused = failures(&sim, 0)
        .iter()
        .filter(|r| matches!(r, DownReason::NotificationSent { notification, .. } if notification.code == code))
        .count();
    assert!((2..=12).contains(&refused), "{refused} refusals in two minutes");
}

#[test]
fn no_common_family_is_refused() {
    let a = SessionConfig { families: vec![Family::IPV4_UNICAST], ..config(1, 64512, 64512) };
    let b = SessionConfig { families: vec![Family::IPV6_UNICAST], ..config(2, 64512, 64512) };
    let mut sim = Simulator::new(a, b);
    sim.start();
    sim.run(secs(60));
    assert_eq!(established(&sim, 0), 0);
}

#[test]
fn the_same_identifier_is_refused_inside_an_as_only() {
    let mut sim = Simulator::new(config(1, 64512, 64512), config(1, 64512, 64512));
    sim.start();
    sim.run(secs(60));
    assert_eq!(established(&sim, 0), 0);
    let mut sim = Simulator::new(config(1, 64512, 65001), config(1, 65001, 64512));
    sim.start();
    sim.run(secs(60));
    assert_eq!(sim.states(), UP);
}

#[test]
fn a_restarted_peer_replaces_its_session_if_graceful_restart_was_agreed() {
    let graceful = |id| SessionConfig { graceful_restart: Some(120), ..config(id, 64512, 64512) };
    let mut sim = Simulator::new(graceful(1), graceful(2));
    sim.start();
    sim.run(secs(20));
    sim.replace(1, SessionConfig { restarting: true, forwarding_preserved: true, ..graceful(2) });
    sim.run(secs(5));
    assert_eq!(sim.states(), UP);
    assert_eq!(downs(&sim, 0), [DownReason::PeerRestarted]);
    let gr = sim.sides[0].negotiated().unwrap().graceful_restart.clone().unwrap();
    assert!(gr.restarting && gr.families.iter().all(|(_, kept)| *kept));
}

#[test]
fn a_second_connection_right_after_the_first_is_no_restart() {
    let graceful = |id| SessionConfig { graceful_restart: Some(120), ..config(id, 64512, 64512) };
    let mut sim = Simulator::new(graceful(1), graceful(2));
    sim.start();
    sim.run(secs(2));
    let mut open = BytesMut::new();
    let message = Message::Open(graceful(2).open());
    message.encode(&UpdateContext::default(), &mut open).unwrap();
    let peering = &mut sim.sides[0];
    let session = peering.established_serial();
    // Both sides connected, and this one has heard of the peer's connection last.
    let second = peering.handle_accepted(sim.now).unwrap();
    assert_eq!(peering.poll_transmit(second), None, "the peer is to keep the session");
    peering.handle_bytes(sim.now, second, &open);
    assert_eq!(peering.established_serial(), session);
    let closed = |a: &Action| matches!(a, Action::Close { serial, .. } if *serial == second);
    assert!(std::iter::from_fn(|| peering.poll_action()).any(|a| closed(&a)));
    // One that says nothing does not stay.
    let second = peering.handle_accepted(sim.now).unwrap();
    peering.handle_timeout(sim.now + secs(15));
    assert_eq!(peering.established_serial(), session);
    assert!(
        std::iter::from_fn(|| peering.poll_action())
            .any(|a| matches!(a, Action::Close { serial, .. } if serial == second))
    );
    // After a while it is a restart, and gets its answer.
    let later = sim.now + secs(20);
    let second = peering.handle_accepted(later).unwrap();
    peering.handle_bytes(later, second, &open);
    assert_eq!(peering.established_serial(), None);
    assert!(peering.poll_transmit(second).is_some_and(|sent| sent.len() > 19));
    assert_eq!(peering.state(), State::OpenConfirm);
}

#[test]
fn without_graceful_restart_the_old_session_wins_until_it_expires() {
    let short = |id| SessionConfig { hold_time: 30, ..config(id, 64512, 64512) };
    let mut sim = Simulator::new(short(1), short(2));
    sim.start();
    sim.run(secs(2));
    sim.replace(1, short(2));
    sim.run(secs(20));
    assert_eq!(established(&sim, 0), 1);
    sim.run(secs(60));
    assert_eq!(sim.states(), UP);
    assert_eq!(established(&sim, 0), 2);
}

#[test]
fn stop_says_why_and_refuses_new_connections() {
    let mut sim = Simulator::new(config(1, 64512, 64512), config(2, 64512, 64512));
    sim.start();
    sim.run(secs(2));
    let now = sim.now;
    sim.sides[0].stop(now, Some(Notification::shutdown("maintenance")));
    sim.run(secs(60));
    assert_eq!(sim.sides[0].state(), State::Idle);
    assert_eq!(sim.sides[0].handle_accepted(sim.now), Err(Refused::Stopped));
    let DownReason::NotificationReceived(n) = &downs(&sim, 1)[0] else { panic!("no reason") };
    assert_eq!(n.shutdown_text().unwrap(), "maintenance");
}

#[test]
fn a_reader_that_never_reads_is_given_up() {
    let mut sim = Simulator::new(config(1, 64512, 64512), config(2, 64512, 64512));
    sim.start();
    sim.run(secs(2));
    let peering = &mut sim.sides[0];
    let serial = peering.established_serial().unwrap();
    peering.send_end_of_rib(Family::IPV4_UNICAST);
    let mut now = sim.now;
    for _ in 0..40 {
        now += secs(30);
        peering.handle_bytes(now, serial, &KEEPALIVE);
        peering.handle_timeout(now);
        assert!(peering.pending_output() < 200, "KEEPALIVEs do not pile up");
    }
    assert_ne!(peering.state(), State::Established, "the send hold timer ended it");
}

const KEEPALIVE: [u8; 19] =
    [255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0, 19, 4];

#[test]
fn half_open_connections_of_one_peer_are_bounded() {
    let mut peering = Peering::new(SessionConfig { passive: true, ..config(1, 64512, 64512) }, 1);
    let now = std::time::Instant::now();
    peering.start(now);
    let mut open = 0i32;
    for _ in 0..1000 {
        peering.handle_accepted(now).unwrap();
        open += 1;
        while let Some(action) = peering.poll_action() {
            if matches!(action, Action::Close { .. }) {
                open -= 1;
            }
        }
        assert_eq!(open, 1);
    }
}

#[test]
fn garbage_beside_a_good_session_does_not_hold_the_peer_down() {
    let mut sim = Simulator::new(config(1, 64512, 64512), config(2, 64512, 64512));
    sim.start();
    sim.run(secs(2));
    let now = sim.now;
    let stray = sim.sides[0].handle_accepted(now).unwrap();
    sim.sides[0].handle_bytes(now, stray, b"garbage");
    assert_eq!(sim.states(), UP);
    sim.cut();
    assert_eq!(sim.sides[0].state(), State::Active);
    assert!(sim.sides[0].handle_accepted(sim.now).is_ok());
}

#[test]
fn several_paths_go_the_ways_that_both_sides_want() {
    let v4 = Family::IPV4_UNICAST;
    let way = |receive, send| AddPath { receive, send };
    let check = |ours: AddPath, theirs: &[AddPathMode], expected: AddPath| {
        let side = SessionConfig { add_path: vec![(v4, ours)], ..config(1, 64512, 64512) };
        let offers = theirs.iter().map(|mode| (v4, *mode)).collect();
        let families = BOTH.map(Capability::MultiProtocol).to_vec();
        let capabilities = [families, vec![Capability::AddPath(offers)]].concat();
        let open = Open::new(64512, 90, [10, 0, 0, 2].into(), capabilities);
        let agreed = side.negotiate(&open).unwrap();
        assert_eq!(agreed.add_path(v4), expected, "{ours:?} with {theirs:?}");
        assert_eq!(agreed.context.add_path.contains(&v4), expected.receive);
        assert_eq!(agreed.context.add_path_send.contains(&v4), expected.send);
        assert_eq!(agreed.add_path(Family::IPV6_UNICAST), AddPath::default());
    };
    use AddPathMode::{Both, Receive, Send};
    check(way(true, true), &[Both], way(true, true));
    check(way(true, true), &[Receive], way(false, true));
    check(way(true, true), &[Send], way(true, false));
    check(way(true, false), &[Receive], way(false, false));
    check(way(false, true), &[Both], way(false, true));
    check(way(false, false), &[Both], way(false, false));
    check(way(true, true), &[], way(false, false));
    check(way(true, true), &[Send, Both], way(true, false));
}

#[test]
fn the_passive_side_is_chosen_by_text() {
    let check = |a: &str, b: &str, a_is_passive: bool| {
        let (a, b) = (a.parse().unwrap(), b.parse().unwrap());
        assert_eq!(passive_by_address_text(a, b), a_is_passive);
        assert_eq!(passive_by_address_text(b, a), !a_is_passive);
    };
    check("10.0.0.1", "10.0.0.2", true);
    check("10.0.0.10", "10.0.0.9", true);
    check("192.168.1.1", "20.0.0.1", true);
}

/// When a side has tried to connect, in milliseconds from the start, while nobody answers.
fn attempts(connect_retry: Duration, time: Duration) -> Vec<u128> {
    let mut peering = Peering::new(SessionConfig { connect_retry, ..config(1, 64512, 64512) }, 7);
    let start = std::time::Instant::now();
    let mut now = start;
    let mut tried = Vec::new();
    peering.start(now);
    while now < start + time {
        while let Some(action) = peering.poll_action() {
            if let Action::Connect { serial } = action {
                tried.push((now - start).as_millis());
                peering.handle_connect_failed(now, serial, "refused");
            }
        }
        now = peering.poll_timeout().unwrap();
        peering.handle_timeout(now);
    }
    tried
}

#[test]
fn attempts_to_connect_grow_apart_up_to_the_configured_time() {
    let gaps = |connect_retry| {
        let tried = attempts(connect_retry, secs(300));
        tried.windows(2).map(|w| w[1] - w[0]).collect::<Vec<_>>()
    };
    let found = gaps(secs(30));
    for (gap, expected) in found.iter().zip([1000, 2000, 4000, 8000, 16000, 30000, 30000]) {
        assert!((expected * 3 / 4..=expected).contains(gap), "{found:?}");
    }
    assert!((10..20).contains(&found.len()), "{found:?}");
    let found = gaps(Duration::from_millis(500));
    assert!(found.iter().all(|gap| (375..=500).contains(gap)), "never longer than configured");
}

#[test]
fn a_neighbour_that_starts_late_is_met_soon() {
    for late in [200, 700, 1500, 2500] {
        let mut sim = Simulator::new(
            config(1, 64512, 64512),
            SessionConfig { passive: true, ..config(2, 64512, 64512) },
        );
        let now = sim.now;
        sim.sides[0].start(now);
        sim.run(Duration::from_millis(late));
        let now = sim.now;
        sim.sides[1].start(now);
        sim.run(Duration::from_millis(late.max(1000) + 200));
        assert_eq!(sim.states(), UP, "{late} ms late");
    }
}

#[test]
fn a_session_that_was_up_is_back_as_soon_as_the_first_time() {
    let mut sim = Simulator::new(
        config(1, 64512, 64512),
        SessionConfig { passive: true, ..config(2, 64512, 64512) },
    );
    let now = sim.now;
    sim.sides[0].start(now);
    sim.run(secs(60));
    let now = sim.now;
    sim.sides[1].start(now);
    sim.run(secs(6));
    assert_eq!(sim.states(), UP);
    sim.cut();
    sim.run(Duration::from_millis(1200));
    assert_eq!(sim.states(), UP, "the pause begins anew");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

    /// However bad the network was, once it is good there is one session and it stays.
    #[test]
    fn bad_weather_passes(
        seed: u64,
        jitter in 0u64..3000,
        refused in 0u64..60,
        breaks in 0u64..100,
        passive: bool,
        graceful: bool,
        storm in 10u64..200,
    ) {
        let side = |id, passive| SessionConfig {
            passive,
            hold_time: 9,
            graceful_restart: graceful.then_some(120),
            ..config(id, 64512, 64512)
        };
        let mut sim = Simulator::new(side(1, false), side(2, passive));
        sim.seed(seed);
        sim.weather = Weather { jitter: Duration::from_millis(jitter), refused, breaks };
        sim.start();
        for _ in 0..storm {
            sim.run(secs(1));
            for side in &sim.sides {
                prop_assert!(side.connections.len() <= 3);
            }
        }
        sim.weather = Weather::default();
        sim.run(secs(90));
        prop_assert_eq!(sim.states(), UP);
        let before = (established(&sim, 0), established(&sim, 1));
        sim.run(secs(600));
        prop_assert_eq!(sim.states(), UP);
        prop_assert_eq!((established(&sim, 0), established(&sim, 1)), before);
        for side in &sim.sides {
            prop_assert_eq!(side.connections.len(), 1);
        }
    }
}
