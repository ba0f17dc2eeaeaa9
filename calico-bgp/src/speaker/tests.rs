//! Several speakers in one simulated network.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::*;
use crate::rib::{Decision, NextHopMode, Policy, PrefixList, PrefixRule, RouteSource};
use crate::session::{DownReason, State, passive_by_address_text};
use crate::wire::{Family, PathAttributes};

pub(super) const AS: u32 = 64512;

pub(super) fn ip(n: u8) -> IpAddr {
    Ipv4Addr::from([10, 0, 0, n]).into()
}

pub(super) fn net(s: &str) -> IpNet {
    s.parse().unwrap()
}

/// Speakers by the last octet of their address, joined without latency.
pub(super) struct Network {
    pub(super) now: Instant,
    pub(super) speakers: BTreeMap<u8, Speaker>,
    pub(super) events: BTreeMap<u8, Vec<SpeakerEvent>>,
    links: Vec<[(u8, ConnectionId); 2]>,
    /// Speakers that do not fetch what is to be sent.
    pub(super) stuck: Vec<u8>,
}

impl Network {
    pub(super) fn new(speakers: impl IntoIterator<Item = (u8, Config)>) -> Self {
        let now = Instant::now();
        let speakers = speakers
            .into_iter()
            .map(|(n, config)| (n, Speaker::new(config, n.into(), now).unwrap()))
            .collect();
        Self { now, speakers, events: BTreeMap::new(), links: Vec::new(), stuck: Vec::new() }
    }

    pub(super) fn set_peers(&mut self, n: u8, peers: Vec<PeerConfig>) -> PeerChanges {
        self.speakers.get_mut(&n).unwrap().set_peers(self.now, peers).unwrap()
    }

    pub(super) fn announce(&mut self, n: u8, prefix: &str) {
        let attributes = PathAttributes::default();
        assert!(self.speakers.get_mut(&n).unwrap().announce(net(prefix), attributes));
    }

    pub(super) fn speaker(&mut self, n: u8) -> &mut Speaker {
        self.speakers.get_mut(&n).unwrap()
    }

    fn other(&self, n: u8, id: ConnectionId) -> Option<(u8, ConnectionId)> {
        self.links.iter().find_map(|[a, b]| {
            (*a == (n, id)).then_some(*b).or_else(|| (*b == (n, id)).then_some(*a))
        })
    }

    fn unlink(&mut self, n: u8, id: ConnectionId) {
        self.links.retain(|[a, b]| *a != (n, id) && *b != (n, id));
    }

    /// Lets everything happen that happens at this moment.
    pub(super) fn settle(&mut self) {
        for _ in 0..10_000 {
            let mut busy = false;
            for n in self.speakers.keys().copied().collect::<Vec<_>>() {
                while let Some(action) = self.speaker(n).poll_action() {
                    busy = true;
                    self.act(n, action);
                }
                let ends: Vec<_> = self.links.iter().flatten().copied().collect();
                for (_, id) in ends.into_iter().filter(|(m, _)| *m == n) {
                    if self.stuck.contains(&n) {
                        continue;
                    }
                    if let Some(bytes) = self.speaker(n).poll_transmit(id) {
                        busy = true;
                        if let Some((peer, peer_id)) = self.other(n, id) {
                            let now = self.now;
                            self.speaker(peer).handle_bytes(now, peer_id, &bytes);
                        }
                    }
                }
                while let Some(event) = self.speaker(n).poll_event() {
                    self.events.entry(n).or_default().push(event);
                }
            }
            if !busy {
                return;
            }
        }
        panic!("the network does not come to rest");
    }

    fn act(&mut self, n: u8, action: SpeakerAction) {
        let now = self.now;
        match action {
            SpeakerAction::Connect { id, remote, .. } => {
                let IpAddr::V4(a) = remote.ip() else { panic!("IPv4 only") };
                let peer = a.octets()[3];
                let from = SocketAddr::new(ip(n), 40_000);
                let accepted = self
                    .speakers
                    .get_mut(&peer)
                    .map(|s| s.handle_accepted(now, from, SocketAddr::new(ip(peer), 179)));
                match accepted {
                    Some(Ok(theirs)) => {
                        self.links.push([(n, id), (peer, theirs)]);
                        self.speaker(n).handle_connected(now, id, from);
                    }
                    _ => self.speaker(n).handle_connect_failed(now, id, "refused"),
                }
            }
            SpeakerAction::Close { id, last } => {
                let other = self.other(n, id);
                self.unlink(n, id);
                if let Some((peer, theirs)) = other {
                    self.speaker(peer).handle_bytes(now, theirs, &last);
                    self.speaker(peer).handle_closed(now, theirs, "closed");
                }
            }
        }
    }

    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.settle();
            let next = self.speakers.values().filter_map(Speaker::poll_timeout).min();
            let Some(next) = next.filter(|at| *at <= end) else { break };
            self.now = self.now.max(next);
            let now = self.now;
            self.speakers.values_mut().for_each(|s| s.handle_timeout(now));
        }
        self.now = end;
    }

    /// A speaker disappears and its peers see their connections break.
    pub(super) fn kill(&mut self, n: u8) {
        self.speakers.remove(&n);
        let broken: Vec<_> = self.links.extract_if(.., |[a, b]| a.0 == n || b.0 == n).collect();
        for (peer, id) in broken.into_iter().flatten().filter(|(m, _)| *m != n) {
            let now = self.now;
            self.speaker(peer).handle_closed(now, id, "connection reset");
        }
        self.settle();
    }

    pub(super) fn best(&self, n: u8, prefix: &str) -> Option<Vec<IpAddr>> {
        self.speakers[&n].rib().best(&net(prefix)).map(|b| b.next_hops)
    }

    pub(super) fn states(&self, n: u8) -> Vec<State> {
        self.speakers[&n].peers().map(|p| p.state).collect()
    }
}

pub(super) fn config(n: u8, asn: u32) -> Config {
    Config::new(asn, [10, 0, 0, n].into())
}

pub(super) fn internal(me: u8, peer: u8) -> PeerConfig {
    PeerConfig {
        passive: passive_by_address_text(ip(me), ip(peer)),
        ..PeerConfig::new(ip(peer), AS)
    }
}

fn mesh(size: u8) -> Network {
    let mut network = Network::new((1..=size).map(|n| (n, config(n, AS))));
    for n in 1..=size {
        network.announce(n, &format!("192.168.{n}.0/26"));
        let peers = (1..=size).filter(|m| *m != n).map(|m| internal(n, m)).collect();
        network.set_peers(n, peers);
    }
    network.run(Duration::from_secs(30));
    network
}

#[test]
fn a_full_mesh_learns_every_block() {
    let network = mesh(4);
    for n in 1..=4 {
        assert_eq!(network.states(n), [State::Established; 3]);
        for m in (1..=4).filter(|m| *m != n) {
            assert_eq!(network.best(n, &format!("192.168.{m}.0/26")), Some(vec![ip(m)]));
        }
        assert_eq!(network.speakers[&n].rib().len(), 4);
    }
}

#[test]
fn withdrawn_blocks_and_dead_nodes_disappear() {
    let mut network = mesh(3);
    network.speaker(1).withdraw(net("192.168.1.0/26"));
    network.run(Duration::from_secs(1));
    assert_eq!(network.best(2, "192.168.1.0/26"), None);
    network.kill(3);
    assert_eq!(network.best(1, "192.168.3.0/26"), Some(vec![ip(3)]), "kept for a restart");
    let down = network.events[&1].iter().any(
        |e| matches!(e, SpeakerEvent::SessionDown { routes_kept: true, reason, .. } if reason.keeps_routes(false)),
    );
    assert!(down);
    network.run(Duration::from_secs(119));
    assert_eq!(network.best(1, "192.168.3.0/26"), Some(vec![ip(3)]));
    network.run(Duration::from_secs(10));
    assert_eq!(network.best(1, "192.168.3.0/26"), None, "but not for ever");
}

#[test]
fn a_restarted_node_keeps_its_routes_at_its_peers_and_waits_for_theirs() {
    let mut network = mesh(3);
    network.events.clear();
    network.kill(3);
    network.run(Duration::from_secs(5));
    let restarted = Config { restarting: true, ..config(3, AS) };
    let now = network.now;
    network.speakers.insert(3, Speaker::new(restarted, 3, now).unwrap());
    // It announces another block now: the old one must go when it has said all, not before.
    network.announce(3, "192.168.33.0/26");
    network.set_peers(3, vec![internal(3, 1), internal(3, 2)]);
    network.run(Duration::from_secs(20));
    assert!(network.speakers[&3].is_converged());
    let events = &network.events[&3];
    let converged = events.iter().position(|e| matches!(e, SpeakerEvent::Converged)).unwrap();
    let learned = |p: &str| {
        let prefix = net(p);
        events
            .iter()
            .position(|e| matches!(e, SpeakerEvent::RouteChanged { prefix: q, .. } if *q == prefix))
    };
    assert!(
        learned("192.168.1.0/26").unwrap() < converged
            || network.best(3, "192.168.1.0/26").is_some()
    );
    for n in 1..=2 {
        assert_eq!(network.best(n, "192.168.33.0/26"), Some(vec![ip(3)]));
        assert_eq!(network.best(n, "192.168.3.0/26"), None);
        let gap = network.events[&n].iter().any(|e| {
            matches!(e, SpeakerEvent::RouteChanged { prefix, route: None } if *prefix == net("192.168.33.0/26"))
        });
        assert!(!gap);
    }
}

#[test]
fn a_dead_peer_does_not_hold_a_restarted_node_back_for_long() {
    let mut network =
        Network::new([(1, config(1, AS)), (2, Config { restarting: true, ..config(2, AS) })]);
    network.announce(2, "192.168.2.0/26");
    network.set_peers(1, vec![internal(1, 2)]);
    // Peer 9 does not exist.
    network.set_peers(2, vec![internal(2, 1), internal(2, 9)]);
    network.run(Duration::from_secs(8));
    assert_eq!(network.best(1, "192.168.2.0/26"), None);
    network.run(Duration::from_secs(8));
    assert_eq!(network.best(1, "192.168.2.0/26"), Some(vec![ip(2)]));
}

#[test]
fn two_reflectors_serve_clients_and_either_may_die() {
    // 1 and 2 are reflectors of one cluster, 11 to 14 their clients.
    let cluster = Ipv4Addr::new(244, 0, 0, 1);
    let mut network = Network::new(
        [1, 2]
            .into_iter()
            .map(|n| (n, Config { cluster_id: Some(cluster), ..config(n, AS) }))
            .chain((11..=14).map(|n| (n, config(n, AS)))),
    );
    for n in 11..=14 {
        network.announce(n, &format!("192.168.{n}.0/26"));
        network.set_peers(n, vec![internal(n, 1), internal(n, 2)]);
    }
    for rr in [1, 2] {
        let mut peers: Vec<_> =
            (11..=14).map(|n| PeerConfig { rr_client: true, ..internal(rr, n) }).collect();
        peers.push(internal(rr, 3 - rr));
        network.set_peers(rr, peers);
    }
    network.run(Duration::from_secs(30));
    let check = |network: &Network, paths: usize| {
        for n in 11..=14u8 {
            for m in (11..=14).filter(|m| *m != n) {
                let prefix = format!("192.168.{m}.0/26");
                assert_eq!(network.best(n, &prefix), Some(vec![ip(m)]), "{prefix} at {n}");
                let view = network.speakers[&n].rib().route(&net(&prefix)).unwrap();
                assert_eq!(view.paths.len(), paths);
                assert_eq!(view.paths[0].attributes.originator_id, Some([10, 0, 0, m].into()));
                assert_eq!(view.paths[0].attributes.cluster_list, [cluster]);
            }
        }
    };
    check(&network, 2);
    let view = network.speakers[&11].rib().route(&net("192.168.12.0/26")).unwrap();
    assert_eq!(view.paths[0].decided_by, Decision::PeerAddress);
    network.kill(1);
    network.run(Duration::from_secs(200));
    check(&network, 1);
}

#[test]
fn an_as_per_rack_passes_routes_on_with_the_path_and_ecmp() {
    // 1 (AS 65001) - spines 2, 3 (AS 65100) - 4 (AS 65004)
    let mut network = Network::new([
        (1, config(1, 65001)),
        (2, config(2, 65100)),
        (3, config(3, 65100)),
        (4, config(4, 65004)),
    ]);
    network.announce(1, "192.168.1.0/26");
    for rack in [1u8, 4] {
        network.set_peers(rack, vec![PeerConfig::new(ip(2), 65100), PeerConfig::new(ip(3), 65100)]);
    }
    for spine in [2, 3] {
        network
            .set_peers(spine, vec![PeerConfig::new(ip(1), 65001), PeerConfig::new(ip(4), 65004)]);
    }
    network.run(Duration::from_secs(30));
    let best = network.speakers[&4].rib().best(&net("192.168.1.0/26")).unwrap();
    assert_eq!(best.next_hops, [ip(2), ip(3)]);
    assert_eq!(best.attributes.as_path.to_string(), "65100 65001");
    assert!(matches!(best.source, RouteSource::Peer { asn: 65100, .. }));
}

#[test]
fn a_change_disturbs_only_the_session_it_concerns() {
    let mut network = mesh(3);
    network.events.clear();
    let list = PrefixList { rules: vec![PrefixRule::exact(net("192.168.99.0/26"))] };
    let policy = Policy::Prefixes(list.into());
    let changes = network.set_peers(
        1,
        vec![
            internal(1, 2),
            PeerConfig { import: policy, next_hop: NextHopMode::OwnAddress, ..internal(1, 3) },
        ],
    );
    assert_eq!(changes.adjusted, [SocketAddr::new(ip(3), 179)]);
    assert!(changes.restarted.is_empty() && changes.added.is_empty());
    network.run(Duration::from_secs(30));
    assert_eq!(network.best(1, "192.168.3.0/26"), None, "the new policy acts");
    assert_eq!(network.best(1, "192.168.2.0/26"), Some(vec![ip(2)]));
    let moved =
        network.events.values().flatten().any(|e| matches!(e, SpeakerEvent::StateChanged { .. }));
    assert!(!moved, "no session noticed");
    // A changed hold time restarts that one session and no other.
    let changes =
        network.set_peers(1, vec![internal(1, 2), PeerConfig { hold_time: 30, ..internal(1, 3) }]);
    assert_eq!(changes.restarted, [SocketAddr::new(ip(3), 179)]);
    network.run(Duration::from_secs(60));
    assert_eq!(network.states(1), [State::Established; 2]);
    assert_eq!(network.best(1, "192.168.3.0/26"), Some(vec![ip(3)]));
    let other = network
        .events
        .get(&2)
        .is_some_and(|e| e.iter().any(|e| matches!(e, SpeakerEvent::StateChanged { .. })));
    assert!(!other);
    // And a removed peer is told so.
    let changes = network.set_peers(1, vec![internal(1, 2)]);
    assert_eq!(changes.removed.len(), 1);
    network.settle();
    assert_eq!(network.best(1, "192.168.3.0/26"), None);
    let told = network.events[&3].iter().any(|e| {
        matches!(e, SpeakerEvent::SessionDown { reason: DownReason::NotificationReceived(n), .. }
            if n.hard_reset_cause().is_some_and(|n| n.code.values() == (6, 3)))
    });
    assert!(told);
}

#[test]
fn a_peer_that_does_not_read_costs_little_and_delays_nobody() {
    let mut network = mesh(3);
    // 1 cannot send: its routes pile up as changed prefixes, not as bytes.
    network.stuck = vec![1];
    for i in 0..100u8 {
        for j in 0..100u8 {
            network.announce(1, &format!("10.{i}.{j}.0/24"));
        }
    }
    network.announce(2, "192.168.200.0/26");
    network.settle();
    assert_eq!(network.best(3, "192.168.200.0/26"), Some(vec![ip(2)]));
    assert_eq!(network.best(1, "192.168.200.0/26"), Some(vec![ip(2)]));
    // All of it changes again before anything is sent, so nothing needs to be.
    for i in 0..100u8 {
        for j in 0..100u8 {
            network.speaker(1).withdraw(net(&format!("10.{i}.{j}.0/24")));
        }
    }
    network.stuck.clear();
    network.settle();
    let received: Vec<_> =
        network.speakers[&3].peers().map(|p| p.counters.updates_received).collect();
    assert!(received.iter().all(|n| *n < 10), "{received:?}");
}

#[test]
fn ten_thousand_routes_arrive_and_leave() {
    let mut network = mesh(2);
    for i in 0..100u8 {
        for j in 0..100u8 {
            network.announce(1, &format!("10.{i}.{j}.0/24"));
        }
    }
    network.settle();
    assert_eq!(network.speakers[&2].rib().len(), 10_002);
    let updates = network.speakers[&2].peers().next().unwrap().counters.updates_received;
    assert!(updates < 20, "{updates} UPDATEs for 10,000 routes with equal attributes");
    network.kill(1);
    network.run(Duration::from_secs(200));
    assert_eq!(network.speakers[&2].rib().len(), 1);
}

#[test]
fn strangers_and_bad_configurations_are_refused() {
    let now = Instant::now();
    let mut speaker = Speaker::new(config(1, AS), 1, now).unwrap();
    let from = SocketAddr::new(ip(66), 4000);
    let local = SocketAddr::new(ip(1), 179);
    assert_eq!(speaker.handle_accepted(now, from, local), Err(AcceptError::UnknownPeer(ip(66))));
    let twice = vec![internal(1, 2), internal(1, 2)];
    assert!(matches!(speaker.set_peers(now, twice), Err(ConfigError::Duplicate { .. })));
    let hold = vec![PeerConfig { hold_time: 2, ..internal(1, 2) }];
    assert!(matches!(speaker.set_peers(now, hold), Err(ConfigError::HoldTime { .. })));
    assert_eq!(speaker.peers().count(), 0);
    assert!(Speaker::new(config(1, 0), 1, now).is_err());
}

#[test]
fn a_v4_mapped_address_finds_its_peer() {
    let now = Instant::now();
    let mut speaker = Speaker::new(config(1, AS), 1, now).unwrap();
    let peer = PeerConfig { families: vec![Family::IPV4_UNICAST], ..internal(1, 2) };
    speaker.set_peers(now, vec![peer]).unwrap();
    let mapped = SocketAddr::new(IpAddr::V6(Ipv4Addr::new(10, 0, 0, 2).to_ipv6_mapped()), 4000);
    assert!(speaker.handle_accepted(now, mapped, SocketAddr::new(ip(1), 179)).is_ok());
}

#[test]
fn a_peer_that_sends_only_faults_does_not_fill_the_logs() {
    let mut network = mesh(2);
    network.events.clear();
    let attributes = "40010109 400200 4003040a000002"; // ORIGIN 9, empty AS_PATH, NEXT_HOP
    let attributes: Vec<u8> = attributes
        .replace(' ', "")
        .as_bytes()
        .chunks(2)
        .map(|c| u8::from_str_radix(std::str::from_utf8(c).unwrap(), 16).unwrap())
        .collect();
    let mut message = vec![0xFF; 16];
    let length = 19 + 4 + attributes.len() + 2;
    message.extend_from_slice(&(length as u16).to_be_bytes());
    message.extend_from_slice(&[2, 0, 0]);
    message.extend_from_slice(&(attributes.len() as u16).to_be_bytes());
    message.extend_from_slice(&attributes);
    message.extend_from_slice(&[8, 20]);
    let (n, id) = *network.links.iter().flatten().find(|(n, _)| *n == 1).unwrap();
    let now = network.now;
    for _ in 0..1000 {
        network.speaker(n).handle_bytes(now, id, &message);
    }
    network.settle();
    let reported =
        network.events[&1].iter().filter(|e| matches!(e, SpeakerEvent::UpdateError { .. })).count();
    assert_eq!(reported, 10, "1, 2, 4, … 512");
    assert_eq!(network.states(1), [State::Established]);
}
