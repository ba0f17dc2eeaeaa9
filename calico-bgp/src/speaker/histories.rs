//! Random histories of a speaker: whatever drivers and peers do, in whatever order, it does not
//! panic, holds no more than a few connections per peer, and still works afterwards.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use ipnet::IpNet;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::rib::PeerId;
use crate::session::State;
use crate::wire::{
    AsPath, Capability, Family, GracefulRestart, Message, NextHop, NlriList, Notification,
    NotificationCode, Open, PathAttributes, RouteRefresh, Update, UpdateContext,
};

const AS: u32 = 64512;

#[derive(Debug, Clone)]
enum Step {
    Accept { peer: u8 },
    Connected { which: usize },
    ConnectFailed { which: usize },
    Send { which: usize, message: Sent },
    Garbage { which: usize, bytes: Vec<u8> },
    Closed { which: usize },
    Wait { millis: u64 },
    SetPeers { mask: u8, hold: u16, client: bool },
    Announce { n: u8 },
    Withdraw { n: u8 },
    Transmit { which: usize },
    Invented { peer: u32, serial: u32 },
}

#[derive(Debug, Clone)]
enum Sent {
    Open { asn: u32, graceful: bool },
    Keepalive,
    Announce { n: u8, loops: bool },
    Withdraw { n: u8 },
    EndOfRib,
    Refresh,
    Notification,
}

fn arb_step() -> impl Strategy<Value = Step> {
    let sent = prop_oneof![
        4 => (prop_oneof![4 => Just(AS), 1 => Just(7u32)], any::<bool>())
            .prop_map(|(asn, graceful)| Sent::Open { asn, graceful }),
        6 => Just(Sent::Keepalive),
        4 => (0u8..6, any::<bool>()).prop_map(|(n, loops)| Sent::Announce { n, loops }),
        2 => (0u8..6).prop_map(|n| Sent::Withdraw { n }),
        1 => Just(Sent::EndOfRib),
        1 => Just(Sent::Refresh),
        1 => Just(Sent::Notification),
    ];
    let which = 0usize..8;
    prop_oneof![
        4 => (1u8..=4).prop_map(|peer| Step::Accept { peer }),
        4 => which.clone().prop_map(|which| Step::Connected { which }),
        1 => which.clone().prop_map(|which| Step::ConnectFailed { which }),
        16 => (which.clone(), sent).prop_map(|(which, message)| Step::Send { which, message }),
        1 => (which.clone(), vec(any::<u8>(), 0..60))
            .prop_map(|(which, bytes)| Step::Garbage { which, bytes }),
        1 => which.clone().prop_map(|which| Step::Closed { which }),
        4 => (0u64..40_000).prop_map(|millis| Step::Wait { millis }),
        2 => (any::<u8>(), prop_oneof![Just(0u16), Just(9), Just(90)], any::<bool>())
            .prop_map(|(mask, hold, client)| Step::SetPeers { mask, hold, client }),
        2 => (0u8..6).prop_map(|n| Step::Announce { n }),
        2 => (0u8..6).prop_map(|n| Step::Withdraw { n }),
        6 => which.prop_map(|which| Step::Transmit { which }),
        1 => (0u32..9, 0u32..9).prop_map(|(peer, serial)| Step::Invented { peer, serial }),
    ]
}

fn address(n: u8) -> IpAddr {
    [10, 0, 0, n].into()
}

fn prefix(n: u8) -> IpNet {
    format!("192.168.{n}.0/24").parse().unwrap()
}

fn encode(message: &Sent, from: u8) -> BytesMut {
    let list = |n: u8| NlriList::from_prefixes(Family::IPV4_UNICAST, [prefix(n)]);
    let message = match *message {
        Sent::Open { asn, graceful } => {
            let mut capabilities = vec![Capability::MultiProtocol(Family::IPV4_UNICAST)];
            if graceful {
                capabilities.push(Capability::GracefulRestart(GracefulRestart {
                    restart_time: 60,
                    families: vec![(Family::IPV4_UNICAST, true)],
                    ..Default::default()
                }));
            }
            // An identifier above and below ours, so that collisions go both ways.
            let id = if from.is_multiple_of(2) { [1, 0, 0, from] } else { [200, 0, 0, from] };
            Message::Open(Open::new(asn, 30, id.into(), capabilities))
        }
        Sent::Keepalive => Message::Keepalive,
        Sent::Announce { n, loops } => Message::Update(Update {
            announced: list(n),
            attributes: Some(PathAttributes {
                next_hop: Some(NextHop::V4([10, 0, 0, from].into())),
                as_path: if loops { AsPath::sequence([AS]) } else { AsPath::empty() },
                ..Default::default()
            }),
            ..Default::default()
        }),
        Sent::Withdraw { n } => {
            Message::Update(Update { withdrawn: list(n), ..Default::default() })
        }
        Sent::EndOfRib => Message::Update(Update::end_of_rib(Family::IPV4_UNICAST)),
        Sent::Refresh => {
            Message::RouteRefresh(RouteRefresh { family: Family::IPV4_UNICAST, subtype: 0 })
        }
        Sent::Notification => {
            Message::Notification(Notification::new(NotificationCode::HoldTimerExpired))
        }
    };
    let mut out = BytesMut::new();
    message.encode(&UpdateContext::default(), &mut out).unwrap();
    out
}

/// A driver that does as it is told, at random moments.
struct Driver {
    now: Instant,
    speaker: Speaker,
    /// Connections that were asked for or accepted and not closed, with the peer's octet.
    open: Vec<(ConnectionId, u8)>,
}

impl Driver {
    fn new(restarting: bool) -> Self {
        let now = Instant::now();
        let mut config = Config::new(AS, [100, 0, 0, 1].into());
        config.restarting = restarting;
        Self { now, speaker: Speaker::new(config, 1, now).unwrap(), open: Vec::new() }
    }

    fn pick(&self, which: usize) -> Option<(ConnectionId, u8)> {
        (!self.open.is_empty()).then(|| self.open[which % self.open.len()])
    }

    fn apply(&mut self, step: &Step) {
        let now = self.now;
        let local = SocketAddr::new(address(100), 179);
        let s = &mut self.speaker;
        match step {
            Step::Accept { peer } => {
                let remote = SocketAddr::new(address(*peer), 4000);
                if let Ok(id) = s.handle_accepted(now, remote, local) {
                    self.open.push((id, *peer));
                }
            }
            Step::Wait { millis } => {
                self.now += Duration::from_millis(*millis);
                let now = self.now;
                s.handle_timeout(now);
                let overdue = s.poll_timeout().is_some_and(|at| at <= now);
                assert!(!overdue, "a deadline that has passed does not stay");
            }
            Step::SetPeers { mask, hold, client } => {
                let peers = (1..=4u8).filter(|n| mask & (1 << n) != 0).map(|n| PeerConfig {
                    hold_time: *hold,
                    rr_client: *client,
                    passive: mask & (8 << n) != 0,
                    ..PeerConfig::new(address(n), AS)
                });
                s.set_peers(now, peers.collect()).unwrap();
            }
            Step::Announce { n } => {
                s.announce(prefix(*n), PathAttributes::default());
            }
            Step::Withdraw { n } => {
                s.withdraw(prefix(*n));
            }
            Step::Invented { peer, serial } => {
                let id = ConnectionId { peer: PeerId(*peer), serial: *serial };
                if !self.open.iter().any(|(open, _)| *open == id) {
                    s.handle_bytes(now, id, b"who is this");
                    s.handle_closed(now, id, "never open");
                    s.poll_transmit(id);
                }
            }
            Step::Connected { which }
            | Step::ConnectFailed { which }
            | Step::Send { which, .. }
            | Step::Garbage { which, .. }
            | Step::Closed { which }
            | Step::Transmit { which } => self.apply_to(*which, step),
        }
        self.drain();
    }

    fn apply_to(&mut self, which: usize, step: &Step) {
        let Some((id, peer)) = self.pick(which) else { return };
        let (now, s) = (self.now, &mut self.speaker);
        match step {
            Step::Connected { .. } => {
                s.handle_connected(now, id, SocketAddr::new(address(100), 5000));
            }
            Step::Send { message, .. } => s.handle_bytes(now, id, &encode(message, peer)),
            Step::Garbage { bytes, .. } => s.handle_bytes(now, id, bytes),
            Step::Transmit { .. } => {
                s.poll_transmit(id);
            }
            Step::ConnectFailed { .. } => {
                s.handle_connect_failed(now, id, "no");
                self.open.retain(|(open, _)| *open != id);
            }
            _ => {
                s.handle_closed(now, id, "gone");
                self.open.retain(|(open, _)| *open != id);
            }
        }
    }

    fn drain(&mut self) {
        while let Some(action) = self.speaker.poll_action() {
            match action {
                SpeakerAction::Connect { id, remote, .. } => {
                    let IpAddr::V4(a) = remote.ip() else { panic!("IPv4 only") };
                    self.open.push((id, a.octets()[3]));
                }
                SpeakerAction::Close { id, .. } => {
                    let before = self.open.len();
                    self.open.retain(|(open, _)| *open != id);
                    assert_eq!(self.open.len() + 1, before, "only what is open is closed, once");
                }
            }
        }
        while self.speaker.poll_event().is_some() {}
        let mut per_peer = [0; 256];
        for (_, peer) in &self.open {
            per_peer[usize::from(*peer)] += 1;
            assert!(per_peer[usize::from(*peer)] <= 3, "connections of one peer are bounded");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() })]

    #[test]
    fn nothing_that_happens_breaks_the_speaker(
        restarting: bool,
        steps in vec(arb_step(), 1..150),
    ) {
        let mut driver = Driver::new(restarting);
        driver.apply(&Step::SetPeers { mask: 0b1_1110, hold: 90, client: true });
        for step in &steps {
            driver.apply(step);
        }
        // Afterwards a new peer still comes up.
        let now = driver.now;
        driver.speaker.set_peers(now, vec![PeerConfig {
            passive: true,
            graceful_restart: None,
            ..PeerConfig::new(address(9), AS)
        }]).unwrap();
        driver.drain();
        prop_assert!(driver.open.is_empty(), "{:?}", driver.open);
        driver.apply(&Step::Accept { peer: 9 });
        for message in [Sent::Open { asn: AS, graceful: false }, Sent::Keepalive] {
            driver.apply(&Step::Send { which: 0, message });
        }
        let states: HashSet<State> = driver.speaker.peers().map(|p| p.state).collect();
        prop_assert_eq!(states, HashSet::from([State::Established]));
    }
}
