//! Many BGP clients on one thread: raw messages over sockets that never block.

use std::io::{ErrorKind, Read, Write};
use std::net::Ipv4Addr;
use std::ops::Range;
use std::os::fd::{FromRawFd, IntoRawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use calico_bgp::wire::{Capability, Family, Message, Open, UpdateContext};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, socket};

use super::daemon::{ADDRESS, AS, client};
use super::routes;

/// Pause before a refused client connects again.
const RETRY: Duration = Duration::from_millis(250);
const HEADER: usize = 19;

/// One client.
struct Client {
    stream: Option<TcpStream>,
    retry_at: Option<Instant>,
    established: bool,
    /// The start of a message that has not arrived whole.
    rest: Vec<u8>,
    output: Option<(Arc<[u8]>, usize)>,
    /// Which prefixes it holds, without its own.
    held: Vec<u64>,
    count: usize,
    own: Range<usize>,
    /// KEEPALIVEs received.
    keepalives: usize,
}

pub(crate) struct Load {
    poll: Poll,
    events: Events,
    clients: Vec<Client>,
    scratch: Vec<u8>,
    hold_time: u16,
    at_once: usize,
    wait: Duration,
    /// Established sessions that were lost.
    losses: usize,
    next_keepalive: Instant,
}

impl Load {
    /// Clients that are not connected, with room for so many prefixes each. No more than
    /// `at_once` of them are on their way to a session at a time.
    pub(crate) fn new(clients: usize, prefixes: usize, hold_time: u16, at_once: usize) -> Self {
        let client = |_| Client {
            stream: None,
            retry_at: Some(Instant::now()),
            established: false,
            rest: Vec::new(),
            output: None,
            held: vec![0; prefixes.div_ceil(64)],
            count: 0,
            own: 0..0,
            keepalives: 0,
        };
        Self {
            poll: Poll::new().unwrap(),
            events: Events::with_capacity(1024),
            clients: (0..clients).map(client).collect(),
            scratch: vec![0; 1 << 18],
            hold_time,
            at_once,
            wait: Duration::from_millis(20),
            losses: 0,
            next_keepalive: Instant::now() + keepalive_time(hold_time),
        }
    }

    /// Says which prefixes a client sends itself: those do not count for it.
    pub(crate) fn set_own(&mut self, n: usize, own: Range<usize>) {
        self.clients[n].own = own;
    }

    /// Queues bytes for a client.
    pub(crate) fn send(&mut self, n: usize, bytes: &Arc<[u8]>) {
        assert!(self.clients[n].output.is_none(), "the last bytes are still on their way");
        self.clients[n].output = Some((Arc::clone(bytes), 0));
        self.write(n);
    }

    /// Works until something is true of the clients; returns when that was, or `None` if it was
    /// not in time.
    pub(crate) fn run(
        &mut self,
        limit: Duration,
        mut done: impl FnMut(&Self) -> bool,
    ) -> Option<Instant> {
        let until = Instant::now() + limit;
        loop {
            if done(self) {
                return Some(Instant::now());
            }
            if Instant::now() >= until {
                return None;
            }
            self.turn(self.wait);
        }
    }

    /// Never sleeps from now on: then no daemon has to wake it, and what is measured is the
    /// daemon's way alone.
    pub(crate) fn stay_awake(&mut self) {
        self.wait = Duration::ZERO;
    }

    /// Works for a time.
    pub(crate) fn rest(&mut self, time: Duration) {
        self.run(time, |_| false);
    }

    pub(crate) fn all_established(&self) -> bool {
        self.clients.iter().all(|c| c.established)
    }

    pub(crate) fn established(&self) -> usize {
        self.clients.iter().filter(|c| c.established).count()
    }

    pub(crate) fn keepalives(&self) -> usize {
        self.clients.iter().map(|c| c.keepalives).sum()
    }

    /// Whether every client holds all of so many prefixes but its own.
    pub(crate) fn all_hold(&self, total: usize) -> bool {
        self.clients.iter().all(|c| c.count == total - c.own.len())
    }

    /// Established sessions that were lost, ever.
    pub(crate) fn losses(&self) -> usize {
        self.losses
    }

    /// Prefixes held, over all clients.
    pub(crate) fn held(&self) -> usize {
        self.clients.iter().map(|c| c.count).sum()
    }

    fn turn(&mut self, wait: Duration) {
        let now = Instant::now();
        let on_their_way = |c: &&Client| c.stream.is_some() && !c.established;
        let mut room = self.at_once - self.clients.iter().filter(on_their_way).count();
        for n in 0..self.clients.len() {
            if room > 0 && self.clients[n].retry_at.is_some_and(|at| at <= now) {
                self.connect(n);
                room -= 1;
            }
        }
        if self.next_keepalive <= now {
            self.next_keepalive = now + keepalive_time(self.hold_time);
            for n in 0..self.clients.len() {
                if self.clients[n].established && self.clients[n].output.is_none() {
                    self.send(n, &Arc::from(message(&Message::Keepalive)));
                }
            }
        }
        let mut events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        if let Err(e) = self.poll.poll(&mut events, Some(wait)) {
            assert_eq!(e.kind(), ErrorKind::Interrupted, "epoll");
        }
        for event in &events {
            let n = event.token().0;
            if event.is_writable() {
                self.write(n);
            }
            if event.is_readable() {
                self.read(n);
            }
        }
        self.events = events;
    }

    fn connect(&mut self, n: usize) {
        self.clients[n].retry_at = None;
        let fd = socket(
            AddressFamily::Inet,
            SockType::Stream,
            SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC,
            None,
        )
        .unwrap();
        let at = |a: Ipv4Addr, port| {
            let [a, b, c, d] = a.octets();
            SockaddrIn::new(a, b, c, d, port)
        };
        let raw = fd.into_raw_fd();
        bind(raw, &at(client(n), 0)).unwrap();
        // In progress: writability tells.
        let _ = connect(raw, &at(ADDRESS, 179));
        #[expect(unsafe_code, reason = "a socket that is bound before it connects")]
        // SAFETY: `raw` was taken out of its owner above and belongs to nobody else.
        let mut stream = unsafe { TcpStream::from_raw_fd(raw) };
        let both = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut stream, Token(n), both).unwrap();
        let c = &mut self.clients[n];
        c.stream = Some(stream);
        c.established = false;
        c.rest.clear();
        let open = Open::new(
            AS,
            self.hold_time,
            client(n),
            vec![Capability::MultiProtocol(Family::IPV4_UNICAST), Capability::RouteRefresh],
        );
        c.output = Some((Arc::from(message(&Message::Open(open))), 0));
    }

    fn lost(&mut self, n: usize) {
        let c = &mut self.clients[n];
        self.losses += usize::from(c.established);
        c.established = false;
        c.stream = None;
        c.output = None;
        c.retry_at = Some(Instant::now() + RETRY);
    }

    fn write(&mut self, n: usize) {
        let c = &mut self.clients[n];
        let (Some(stream), Some((bytes, at))) = (&mut c.stream, &mut c.output) else { return };
        while *at < bytes.len() {
            match stream.write(&bytes[*at..]) {
                Ok(wrote) => *at += wrote,
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {
                    return;
                }
                Err(_) => return self.lost(n),
            }
        }
        c.output = None;
    }

    fn read(&mut self, n: usize) {
        loop {
            let c = &mut self.clients[n];
            let Some(stream) = &mut c.stream else { return };
            let held = c.rest.len();
            self.scratch[..held].copy_from_slice(&c.rest);
            match stream.read(&mut self.scratch[held..]) {
                Ok(0) => return self.lost(n),
                Ok(got) => {
                    let reply = c.take(&self.scratch[..held + got]);
                    let full = held + got == self.scratch.len();
                    if let (Some(reply), Some(stream)) = (reply, &mut c.stream) {
                        // The OPEN is out long since; whole because it is the first small write.
                        let wrote = stream.write(&reply).unwrap_or(0);
                        assert_eq!(wrote, reply.len(), "a KEEPALIVE fits");
                    }
                    if !full {
                        return;
                    }
                }
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {
                    return;
                }
                Err(_) => return self.lost(n),
            }
        }
    }
}

impl Client {
    /// Takes in bytes; returns what has to be answered.
    fn take(&mut self, mut bytes: &[u8]) -> Option<Vec<u8>> {
        let mut reply = None;
        while let Some(header) = bytes.get(..HEADER) {
            let length = usize::from(u16::from_be_bytes([header[16], header[17]]));
            let Some(body) = bytes.get(HEADER..length) else { break };
            match header[18] {
                1 => reply = Some(message(&Message::Keepalive)),
                2 => self.update(body),
                4 => {
                    self.established = true;
                    self.keepalives += 1;
                }
                _ => {}
            }
            bytes = &bytes[length..];
        }
        self.rest.clear();
        self.rest.extend_from_slice(bytes);
        reply
    }

    fn update(&mut self, body: &[u8]) {
        let size = |at: usize| usize::from(u16::from_be_bytes([body[at], body[at + 1]]));
        let withdrawn = size(0);
        self.note(&body[2..2 + withdrawn], false);
        let attributes = size(2 + withdrawn);
        self.note(&body[4 + withdrawn + attributes..], true);
    }

    fn note(&mut self, mut nlri: &[u8], there: bool) {
        while let Some((bits, rest)) = nlri.split_first() {
            let octets = usize::from(*bits).div_ceil(8);
            let mut address = [0; 4];
            address[..octets].copy_from_slice(&rest[..octets]);
            nlri = &rest[octets..];
            let Some(id) = routes::id(u32::from_be_bytes(address)) else { continue };
            let Some(word) = self.held.get_mut(id / 64) else { continue };
            let bit = 1 << (id % 64);
            if self.own.contains(&id) || (*word & bit != 0) == there {
                continue;
            }
            *word ^= bit;
            if there {
                self.count += 1;
            } else {
                self.count -= 1;
            }
        }
    }
}

fn keepalive_time(hold_time: u16) -> Duration {
    Duration::from_secs(u64::from(hold_time)) / 3
}

fn message(message: &Message) -> Vec<u8> {
    let mut out = BytesMut::new();
    message.encode(&UpdateContext::default(), &mut out).unwrap();
    out.to_vec()
}
