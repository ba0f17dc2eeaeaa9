//! Peers that behave badly: the memory of the speaker stays bounded, and other sessions go on.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use calico_bgp::wire::{Framer, Message, UpdateContext};
use ipnet::IpNet;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::client::{Client, PATIENCE, addr, connect, prefixes};
use super::process::{DYNAMIC, LIMIT, LIMITED, Process};

/// MB that the process may grow by beyond what a test counts for itself: the allocator keeps
/// something, and a debug build is not small.
const SLACK: usize = 16;

/// Two well-behaved peers, of which one tells and the other hears.
struct Witnesses {
    teller: Client,
    hearer: Client,
    told: u32,
}

impl Witnesses {
    async fn new(process: &Process) -> Self {
        let teller = Client::establish(process.listening, addr(8)).await.expect("a session");
        let hearer = Client::establish(process.listening, addr(9)).await.expect("a session");
        Self { teller, hearer, told: 0 }
    }

    /// A new route goes from one to the other.
    async fn are_served(&mut self) {
        self.told += 1;
        let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(200, 0, 0, 0)) + (self.told << 8));
        let prefix = IpNet::new(address.into(), 24).unwrap();
        self.teller.announce(8, &[prefix]).await;
        loop {
            match self.hearer.receive().await {
                Some(Message::Update(u)) if u.announced.iter().any(|(_, p)| p == prefix) => return,
                Some(_) => {}
                None => panic!("a well-behaved peer lost its session"),
            }
        }
    }
}

/// Whether the other side closes the connection in time, and the NOTIFICATION that it says.
async fn farewell(stream: &mut TcpStream) -> Option<(u8, u8)> {
    let mut framer = Framer::default();
    let mut buffer = vec![0; 65536];
    loop {
        match timeout(PATIENCE, stream.read(&mut buffer)).await.expect("closed in time") {
            Ok(octets) if octets > 0 => framer.push(&buffer[..octets]),
            _ => break,
        }
    }
    let mut said = None;
    while let Ok(Some(frame)) = framer.poll_frame() {
        if let Ok(Message::Notification(n)) = Message::decode(frame, &UpdateContext::default()) {
            said = Some(n.code.values());
        }
    }
    said
}

#[tokio::test]
async fn floods_of_connections_that_say_nothing() {
    let mut process = Process::start();
    let mut witnesses = Witnesses::new(&process).await;
    let before = process.peak();
    let mut held = Vec::new();
    for i in 0..60u8 {
        // One peer again and again, one stranger after the other, and newcomers who may.
        let froms =
            [addr(4), Ipv4Addr::new(127, 2, 0, i).into(), Ipv4Addr::new(127, 1, 0, i).into()];
        for from in froms {
            held.push(connect(process.listening, from).await.unwrap());
        }
    }
    witnesses.are_served().await;
    let dynamic = |address: IpAddr| matches!(address, IpAddr::V4(a) if a.octets()[1] == 1);
    let start = Instant::now();
    loop {
        let newcomers = process.peers().into_iter().filter(|p| dynamic(p.address)).count();
        assert!(newcomers <= DYNAMIC, "{newcomers} newcomers are more than may come");
        if newcomers == DYNAMIC {
            break;
        }
        assert!(start.elapsed() < PATIENCE, "only {newcomers} newcomers are let in");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Of all these only one of the peer and those of the newcomers are still open.
    let is_open = |stream: &TcpStream| {
        let mut buffer = [0; 4096];
        loop {
            match stream.try_read(&mut buffer) {
                Ok(0) => return false,
                Ok(_) => {}
                Err(e) => return e.kind() == std::io::ErrorKind::WouldBlock,
            }
        }
    };
    let start = Instant::now();
    let mut open = held.len();
    while open > DYNAMIC + 1 && start.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_millis(20)).await;
        held.retain(is_open);
        open = held.len();
    }
    assert!(open <= DYNAMIC + 1, "{open} half-open connections are left");
    let grown = process.peak() - before;
    assert!(grown <= SLACK, "{grown} MB more");
    witnesses.are_served().await;
}

#[tokio::test]
async fn readers_that_stop_while_routes_change_without_end() {
    let process = Process::start();
    let mut witnesses = Witnesses::new(&process).await;
    let mut stuck = Vec::new();
    for n in [4, 5, 6] {
        stuck.push(Client::establish(process.listening, addr(n)).await.expect("a session"));
    }
    let before = process.peak();
    let all = prefixes(20, 4096);
    // About 0.7 MB of UPDATEs a round for each of them: 250 MB in all.
    for round in 0..120 {
        witnesses.teller.announce_one_by_one(&all, round).await;
        witnesses.are_served().await;
    }
    let grown = process.peak() - before;
    // A megabyte of UPDATEs for each, and the table: 820 sets of attributes of a kilobyte.
    assert!(grown <= 16 + SLACK, "{grown} MB more");
    // When one reads again it gets what is valid now, and not all that was in between.
    let mut client = stuck.pop().unwrap();
    let (mut octets, mut latest) = (0, 0);
    while latest < 119 {
        match client.receive().await {
            Some(Message::Update(u)) => {
                let attributes = u.attributes.unwrap_or_default();
                octets += 4 * attributes.communities.len();
                latest = latest.max(attributes.local_pref.unwrap_or(100) - 100);
            }
            Some(_) => {}
            None => panic!("the reader lost its session"),
        }
    }
    assert!(octets < 20 << 20, "{octets} octets");
}

#[tokio::test]
async fn messages_that_are_too_long_or_never_end() {
    let mut process = Process::start();
    let mut witnesses = Witnesses::new(&process).await;
    let before = process.peak();
    let header = |length: u16, kind: u8| {
        let mut bytes = vec![0xFF; 16];
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.push(kind);
        bytes
    };
    // Before the session an OPEN has at most 4,096 octets, and so has all else.
    for (n, length, kind) in [(2, 4097, 1), (LIMITED, 65535, 1), (4, 65535, 2), (7, 20, 4)] {
        let mut stream = connect(process.listening, addr(n)).await.unwrap();
        stream.write_all(&header(length, kind)).await.unwrap();
        assert_eq!(farewell(&mut stream).await, Some((1, 2)), "{length} octets of type {kind}");
    }
    // A message that begins and never ends costs its octets, and its peer's hold time.
    let mut slow = Client::establish(process.listening, addr(5)).await.expect("a session");
    slow.stream.write_all(&header(65535, 2)).await.unwrap();
    for _ in 0..60 {
        slow.stream.write_all(&[0; 1000]).await.unwrap();
        witnesses.are_served().await;
    }
    // And a whole one of that size is read.
    let mut long = Client::establish(process.listening, addr(6)).await.expect("a session");
    long.context.max_len = 65535;
    long.announce(6, &prefixes(30, 16_000)).await;
    let start = Instant::now();
    while process.peer(6).received < 16_000 {
        assert!(start.elapsed() < PATIENCE, "{:?}", process.peer(6));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let grown = process.peak() - before;
    assert!(grown <= SLACK, "{grown} MB more");
}

#[tokio::test]
async fn a_peer_that_resets_in_a_loop() {
    let mut process = Process::start();
    let mut witnesses = Witnesses::new(&process).await;
    let before = process.peak();
    let mut established = 0;
    let start = Instant::now();
    while established < 200 {
        assert!(start.elapsed() < 3 * PATIENCE, "only {established} sessions came up");
        // The speaker may not have seen the end of the last one yet.
        let Some(mut client) = Client::establish(process.listening, addr(4)).await else {
            continue;
        };
        established += 1;
        client.announce(4, &prefixes(40, 500)).await;
        // A reset instead of a farewell.
        client.stream.set_zero_linger().unwrap();
        drop(client);
        if established % 20 == 0 {
            witnesses.are_served().await;
        }
    }
    let start = Instant::now();
    while process.peer(4).received > 0 {
        assert!(start.elapsed() < PATIENCE, "its routes stay: {:?}", process.peer(4));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let grown = process.peak() - before;
    assert!(grown <= SLACK, "{grown} MB more");
}

#[tokio::test]
async fn a_million_prefixes_of_a_peer_with_a_limit() {
    let mut process = Process::start();
    let mut witnesses = Witnesses::new(&process).await;
    let before = process.peak();
    let mut client = Client::establish(process.listening, addr(LIMITED)).await.expect("a session");
    for block in 0..16 {
        client.announce(LIMITED, &prefixes(20 + block, 65_536)).await;
    }
    let start = Instant::now();
    while process.peer(LIMITED).state != "Idle" {
        assert!(start.elapsed() < PATIENCE, "{:?}", process.peer(LIMITED));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(process.peer(LIMITED).received, 0, "nothing of it is left");
    // It does not come back before its time.
    assert!(Client::establish(process.listening, addr(LIMITED)).await.is_none());
    let grown = process.peak() - before;
    assert!(grown <= SLACK, "{grown} MB more, where a million prefixes would take over 50");
    witnesses.are_served().await;
    // One that keeps within the limit is as welcome as before.
    let mut modest = Client::establish(process.listening, addr(5)).await.expect("a session");
    modest.announce(5, &prefixes(90, LIMIT as u32)).await;
    let start = Instant::now();
    while process.peer(5).received < LIMIT {
        assert!(start.elapsed() < PATIENCE, "{:?}", process.peer(5));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
