//! Sequences of operations on a whole speaker: whatever its driver and its peers do, it keeps its
//! bounds, and when all peers are gone for long enough, so are their routes.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use calico_bgp::rib::{AddPathFamily, PeerId, SendPaths};
use calico_bgp::speaker::{
    Config, ConnectionId, DynamicPeers, LimitAction, PeerConfig, PrefixLimit, Speaker,
    SpeakerAction, SpeakerEvent,
};
use calico_bgp::wire::{Family, PathAttributes, Role};
use ipnet::IpNet;

pub(crate) const OUR_AS: u32 = 64512;
const LIMIT: usize = 50;
/// Prefixes that fit one message, so that a peer may be above its limit by them for a moment.
const BURST: usize = 65_535;

struct Driver {
    now: Instant,
    speaker: Speaker,
    connections: Vec<ConnectionId>,
    most_learned: usize,
}

fn address(n: u8) -> IpAddr {
    [10, 0, 0, n % 8].into()
}

fn prefix(n: u8) -> IpNet {
    IpNet::new([192, 168, n, 0].into(), 24).expect("a prefix of 24 bits")
}

/// Octet by octet: an operation, then its arguments. Returns the most routes that were learned.
pub(crate) fn run(data: &[u8]) -> usize {
    let now = Instant::now();
    let speaker = Speaker::new(Config::new(OUR_AS, [10, 0, 0, 100].into()), 7, now);
    let mut driver = Driver {
        now,
        speaker: speaker.expect("a good configuration"),
        connections: Vec::new(),
        most_learned: 0,
    };
    let mut rest = data;
    for _ in 0..2000 {
        let Some(after) = driver.step(rest) else { break };
        rest = after;
        driver.drain();
        driver.check();
    }
    driver.end();
    driver.most_learned
}

impl Driver {
    fn step<'a>(&mut self, data: &'a [u8]) -> Option<&'a [u8]> {
        let (&[op, arg], rest) = data.split_first_chunk()?;
        let id = self.connections.get(usize::from(arg) % self.connections.len().max(1)).copied();
        match (op % 13, id) {
            (0, _) => {
                let from = SocketAddr::new(address(arg), 40_000);
                let local = SocketAddr::new(address(0), 179);
                if let Ok(id) = self.speaker.handle_accepted(self.now, from, local) {
                    self.connections.push(id);
                }
            }
            (1, Some(id)) => {
                let local = SocketAddr::new(address(0), 50_000);
                self.speaker.handle_connected(self.now, id, local);
            }
            (2, Some(id)) => {
                self.connections.retain(|c| *c != id);
                self.speaker.handle_connect_failed(self.now, id, "refused");
            }
            // A message with a good header: type, length of the body, body.
            (3 | 4, Some(id)) => {
                let (&[kind, length], body) = rest.split_first_chunk()?;
                let body = body.get(..usize::from(length))?;
                let mut message = vec![0xFF; 16];
                message.extend_from_slice(&(19 + body.len() as u16).to_be_bytes());
                message.push(kind);
                message.extend_from_slice(body);
                self.speaker.handle_bytes(self.now, id, &message);
                return rest.get(2 + usize::from(length)..);
            }
            (5, Some(id)) => {
                let raw = rest.get(..8)?;
                self.speaker.handle_bytes(self.now, id, raw);
                return rest.get(8..);
            }
            (6, Some(id)) => {
                self.connections.retain(|c| *c != id);
                self.speaker.handle_closed(self.now, id, "reset");
            }
            (7, _) => {
                self.now += Duration::from_secs(u64::from(arg));
                self.speaker.handle_timeout(self.now);
            }
            (8, _) => self.set_peers(arg),
            (9, _) => {
                self.speaker.announce(prefix(arg), PathAttributes::default());
            }
            (10, _) => {
                self.speaker.withdraw(prefix(arg));
            }
            (11, Some(id)) => while self.speaker.poll_transmit(id).is_some() {},
            (12, _) => {
                let peer = SocketAddr::new(address(arg), 179);
                if arg & 0x80 != 0 {
                    self.speaker.reset(self.now, peer);
                } else {
                    self.speaker.request_refresh(peer);
                }
            }
            // An identifier that means nothing.
            _ => {
                let id = ConnectionId { peer: PeerId(arg.into()), serial: arg.into() };
                self.speaker.handle_bytes(self.now, id, &[0xFF; 19]);
            }
        }
        Some(rest)
    }

    /// Bits of `how` choose which peers there are, and what they are like.
    fn set_peers(&mut self, how: u8) {
        let limit = PrefixLimit {
            action: LimitAction::Cease { idle: Duration::from_secs(60) },
            ..PrefixLimit::new(LIMIT)
        };
        let peer = |n: u8| {
            let asn = if how & 4 != 0 { OUR_AS } else { 65_000 + u32::from(n) };
            let mut peer = PeerConfig::new(address(n), asn);
            peer.passive = how & 8 != 0;
            peer.rr_client = how & 16 != 0;
            peer.families = vec![Family::IPV4_UNICAST, Family::IPV6_UNICAST];
            peer.role = (how & 32 != 0).then_some(Role::Customer);
            peer.prefix_limit = Some(limit);
            peer.long_lived = Some(3600);
            peer.allow_own_as = how >> 6;
            peer.extended_next_hop = true;
            if n == 2 {
                let send = if how & 64 != 0 { SendPaths::UpTo(2) } else { SendPaths::All };
                let family = Family::IPV4_UNICAST;
                peer.add_path = vec![AddPathFamily { family, receive: 3, send }];
            }
            peer
        };
        let peers = (1..=2).filter(|n| how & n != 0).map(peer).collect();
        self.speaker.set_peers(self.now, peers).expect("good peers");
        let prefix = IpNet::new(address(0), 29).expect("a prefix of 29 bits");
        let template = peer(3);
        let dynamic = vec![DynamicPeers { prefix, limit: 2, template }];
        self.speaker.set_dynamic(self.now, dynamic).expect("a good prefix");
    }

    fn drain(&mut self) {
        while let Some(action) = self.speaker.poll_action() {
            match action {
                SpeakerAction::Connect { id, .. } => self.connections.push(id),
                SpeakerAction::Close { id, .. } => self.connections.retain(|c| *c != id),
                _ => {}
            }
        }
        while let Some(event) = self.speaker.poll_event() {
            if let SpeakerEvent::RouteChanged { prefix, route } = event {
                assert_eq!(route, self.speaker.rib().best(&prefix));
            }
        }
    }

    fn check(&mut self) {
        let mut dynamic = 0;
        let mut learned = 0;
        for peer in self.speaker.peers() {
            dynamic += usize::from(peer.dynamic);
            learned += peer.prefixes_received;
            assert!(peer.prefixes_received <= LIMIT + BURST);
            let connections = self.connections.iter().filter(|c| c.peer == peer.id).count();
            assert!(connections <= 3, "{connections} connections of one peer");
        }
        assert!(dynamic <= 2, "{dynamic} dynamic peers");
        self.most_learned = self.most_learned.max(learned);
        let timeout = self.speaker.poll_timeout();
        assert!(timeout.is_none_or(|at| at < self.now + Duration::from_secs(30 * 86_400)));
    }

    /// Nobody answers any more: in the end nothing is left of anybody.
    fn end(&mut self) {
        for _ in 0..50 {
            for id in std::mem::take(&mut self.connections) {
                self.speaker.handle_closed(self.now, id, "gone");
            }
            self.now += Duration::from_secs(7200);
            self.speaker.handle_timeout(self.now);
            self.drain();
        }
        let learned: usize = self.speaker.peers().map(|p| p.prefixes_received).sum();
        assert_eq!(learned, 0, "routes of peers that are gone");
        assert_eq!(self.speaker.rib().len(), self.speaker.rib().local_prefixes().count());
        assert!(self.speaker.peers().all(|p| !p.dynamic), "dynamic peers that are gone");
    }
}
