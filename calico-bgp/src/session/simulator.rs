//! Two peerings joined by a simulated network on virtual time: with delays that differ from packet
//! to packet, connections that are refused, break, or break for one side before the other. What
//! TCP promises holds: within a connection bytes come in order, or not at all.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Action, Peering, PeeringEvent, SessionConfig, State};

/// A TCP connection between the two sides: the serial number on each, once known.
struct Link {
    serials: [Option<u32>; 2],
    /// When the latest packet to each side arrives: the next one is not earlier.
    latest: [Instant; 2],
}

/// How bad the network is.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Weather {
    /// Packets take up to so much longer, each on its own.
    pub(super) jitter: Duration,
    /// Of a hundred attempts to connect, so many are refused.
    pub(super) refused: u64,
    /// After one of a thousand packets, times this, a connection breaks.
    pub(super) breaks: u64,
}

/// Something on its way through the network.
enum Packet {
    Syn {
        serial: u32,
    },
    SynAck {
        link: usize,
    },
    Bytes {
        link: usize,
        bytes: Bytes,
    },
    Fin {
        link: usize,
    },
    /// The connection is found broken.
    Reset {
        link: usize,
    },
}

/// The simulator: sides 0 and 1.
pub(super) struct Simulator {
    pub(super) now: Instant,
    pub(super) sides: [Peering; 2],
    pub(super) events: [Vec<PeeringEvent>; 2],
    pub(super) latency: Duration,
    /// While set, nothing arrives and nothing is reported.
    pub(super) black_hole: bool,
    pub(super) weather: Weather,
    links: Vec<Link>,
    /// By time of arrival and order of sending; with the side that it goes to.
    network: BTreeMap<(Instant, u64), (usize, Packet)>,
    sent: u64,
    random: u64,
}

impl Simulator {
    pub(super) fn new(a: SessionConfig, b: SessionConfig) -> Self {
        Self {
            now: Instant::now(),
            sides: [Peering::new(a, 11), Peering::new(b, 29)],
            events: [Vec::new(), Vec::new()],
            latency: Duration::from_millis(10),
            black_hole: false,
            weather: Weather::default(),
            links: Vec::new(),
            network: BTreeMap::new(),
            sent: 0,
            random: 1,
        }
    }

    /// Chances fall otherwise.
    pub(super) fn seed(&mut self, seed: u64) {
        self.random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    }

    /// A number below `bound`.
    fn chance(&mut self, bound: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 16) % bound.max(1)
    }

    pub(super) fn start(&mut self) {
        for side in 0..2 {
            self.sides[side].start(self.now);
        }
    }

    /// Runs for a stretch of virtual time.
    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        for _ in 0..1_000_000 {
            self.drain();
            let timers = self.sides.iter().filter_map(Peering::poll_timeout);
            let arrivals = self.network.keys().map(|(at, _)| *at).take(1);
            let Some(next) = timers.chain(arrivals).min().filter(|at| *at <= end) else {
                self.now = end;
                return;
            };
            self.now = self.now.max(next);
            while let Some(first) = self.network.first_entry().filter(|e| e.key().0 <= self.now) {
                let (to, packet) = first.remove();
                if !self.black_hole {
                    self.deliver(to, packet);
                    self.drain();
                    if self.chance(1000) < self.weather.breaks {
                        self.break_one();
                    }
                }
            }
            for side in 0..2 {
                if self.sides[side].poll_timeout().is_some_and(|at| at <= self.now) {
                    self.sides[side].handle_timeout(self.now);
                }
            }
        }
        panic!("the simulation does not come to rest");
    }

    /// Breaks all connections; both sides notice at once.
    pub(super) fn cut(&mut self) {
        self.network.clear();
        for link in std::mem::take(&mut self.links) {
            for (side, serial) in link.serials.into_iter().enumerate() {
                if let Some(serial) = serial {
                    self.sides[side].handle_closed(self.now, serial, "cut");
                }
            }
        }
        self.drain();
    }

    /// Breaks one connection: each side finds out in its own time.
    fn break_one(&mut self) {
        let link = self.chance(self.links.len() as u64) as usize;
        let of_link = |packet: &Packet| {
            matches!(packet, Packet::SynAck { link: l } | Packet::Bytes { link: l, .. }
                | Packet::Fin { link: l } if *l == link)
        };
        self.network.retain(|_, (_, packet)| !of_link(packet));
        for side in 0..2 {
            self.send(side, Packet::Reset { link });
        }
    }

    /// Replaces one side as a crash and restart does: without a word to the other.
    pub(super) fn replace(&mut self, side: usize, config: SessionConfig) {
        for link in &mut self.links {
            link.serials[side] = None;
        }
        self.sides[side] = Peering::new(config, 97);
        self.sides[side].start(self.now);
    }

    /// Puts bytes into a side's session as if the other had sent them.
    pub(super) fn inject(&mut self, side: usize, bytes: &[u8]) {
        let serial = self.sides[side].established_serial().expect("established");
        self.sides[side].handle_bytes(self.now, serial, bytes);
        self.drain();
    }

    pub(super) fn states(&self) -> [State; 2] {
        [self.sides[0].state(), self.sides[1].state()]
    }

    fn send(&mut self, from: usize, packet: Packet) {
        let to = 1 - from;
        let jitter = u64::try_from(self.weather.jitter.as_millis()).unwrap_or(u64::MAX);
        let mut at = self.now + self.latency + Duration::from_millis(self.chance(jitter + 1));
        if let Packet::SynAck { link }
        | Packet::Bytes { link, .. }
        | Packet::Fin { link }
        | Packet::Reset { link } = packet
            && let Some(link) = self.links.get_mut(link)
        {
            at = at.max(link.latest[to]);
            link.latest[to] = at;
        }
        self.sent += 1;
        self.network.insert((at, self.sent), (to, packet));
    }

    fn link(&self, side: usize, serial: u32) -> Option<usize> {
        self.links.iter().position(|l| l.serials[side] == Some(serial))
    }

    fn drain(&mut self) {
        for side in 0..2 {
            while let Some(event) = self.sides[side].poll_event() {
                self.events[side].push(event);
            }
            for link in 0..self.links.len() {
                let Some(serial) = self.links[link].serials[side] else { continue };
                if let Some(bytes) = self.sides[side].poll_transmit(serial) {
                    self.send(side, Packet::Bytes { link, bytes });
                }
            }
            while let Some(action) = self.sides[side].poll_action() {
                match action {
                    Action::Connect { serial } => self.send(side, Packet::Syn { serial }),
                    Action::Close { serial, last } => {
                        let Some(link) = self.link(side, serial) else { continue };
                        self.links[link].serials[side] = None;
                        if !last.is_empty() {
                            self.send(side, Packet::Bytes { link, bytes: last });
                        }
                        self.send(side, Packet::Fin { link });
                    }
                }
            }
        }
    }

    fn deliver(&mut self, to: usize, packet: Packet) {
        match packet {
            Packet::Syn { serial } => {
                let mut serials = [None; 2];
                serials[1 - to] = Some(serial);
                if self.chance(100) < self.weather.refused {
                    self.sides[1 - to].handle_connect_failed(self.now, serial, "refused");
                    return;
                }
                match self.sides[to].handle_accepted(self.now) {
                    Ok(ours) => {
                        serials[to] = Some(ours);
                        self.links.push(Link { serials, latest: [self.now; 2] });
                        let link = self.links.len() - 1;
                        self.send(to, Packet::SynAck { link });
                    }
                    Err(e) => {
                        self.sides[1 - to].handle_connect_failed(self.now, serial, &e.to_string());
                    }
                }
            }
            Packet::SynAck { link } => {
                if let Some(serial) = self.links.get(link).and_then(|l| l.serials[to]) {
                    self.sides[to].handle_connected(self.now, serial);
                }
            }
            Packet::Bytes { link, bytes } => {
                if let Some(serial) = self.links.get(link).and_then(|l| l.serials[to]) {
                    self.sides[to].handle_bytes(self.now, serial, &bytes);
                }
            }
            Packet::Fin { link } | Packet::Reset { link } => {
                if let Some(serial) = self.links.get_mut(link).and_then(|l| l.serials[to].take()) {
                    self.sides[to].handle_closed(self.now, serial, "closed by the peer");
                }
            }
        }
    }
}
