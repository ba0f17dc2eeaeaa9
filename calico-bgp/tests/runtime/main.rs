//! The runtime over loopback sockets: slow readers, floods, strangers, errors.
//!
//! The speaker listens on a free port of 127.0.0.1; peers are plain sockets bound to other
//! loopback addresses, so no privilege is needed and no interface is touched.

#![cfg(feature = "runtime")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod abuse;
mod client;
mod process;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use calico_bgp::runtime::{RouteUpdate, Shutdown, SpawnError, SpeakerHandle};
use calico_bgp::session::State;
use calico_bgp::speaker::{Config, ConfigError, PeerConfig};
use calico_bgp::wire::{Family, Message, NextHop, PathAttributes, Update, UpdatePacker};
use client::{AS, Client, PATIENCE, addr, prefixes};
use ipnet::IpNet;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A speaker whose peers connect from the given loopback addresses.
async fn speaker(peers: &[u8]) -> SpeakerHandle {
    let mut config = Config::new(AS, Ipv4Addr::new(10, 0, 0, 1));
    config.listen = vec![SocketAddr::new(addr(1), 0)];
    let speaker = SpeakerHandle::spawn(config).unwrap();
    let peers = peers
        .iter()
        .map(|n| {
            let mut peer = PeerConfig::new(addr(*n), AS);
            (peer.passive, peer.rr_client) = (true, true);
            peer
        })
        .collect();
    speaker.set_peers(peers).await.unwrap().unwrap();
    speaker
}

async fn connect(speaker: &SpeakerHandle, from: u8) -> std::io::Result<TcpStream> {
    client::connect(speaker.listening()[0], addr(from)).await
}

async fn establish(speaker: &SpeakerHandle, n: u8) -> Client {
    Client::establish(speaker.listening()[0], addr(n)).await.expect("a session")
}

async fn state_of(speaker: &SpeakerHandle, n: u8) -> State {
    let peers = speaker.peers().await.unwrap();
    peers.iter().find(|p| p.config.address == addr(n)).unwrap().state
}

async fn until(what: &str, mut check: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !check().await {
        assert!(start.elapsed() < PATIENCE, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_peer_that_does_not_read_stalls_nobody() {
    let speaker = speaker(&[2, 3, 4]).await;
    let mut sender = establish(&speaker, 2).await;
    let mut reader = establish(&speaker, 3).await;
    // It takes the handshake and then reads no more.
    let mut stuck = establish(&speaker, 4).await;
    // Many attribute sets, so that the bytes are too many for the stuck one's socket buffers.
    let all = prefixes(20, 60_000);
    for chunk in all.chunks(4096) {
        sender.announce_one_by_one(chunk, 0).await;
    }
    assert_eq!(reader.receive_prefixes(all.len()).await, all.len());
    let peers = speaker.peers().await.unwrap();
    assert_eq!(peers[2].state, State::Established);
    assert!(peers[2].prefixes_advertised < all.len(), "the stuck one is really stuck");
    // A change still reaches the reader at once.
    let start = Instant::now();
    sender.announce(2, &prefixes(30, 1)).await;
    assert_eq!(reader.receive_prefixes(1).await, 1);
    assert!(start.elapsed() < PATIENCE);
    // The stuck one gets everything when it reads at last.
    assert_eq!(stuck.receive_prefixes(all.len() + 1).await, all.len() + 1);
    // And one that is stuck for good does not hold up the end.
    for n in 0..15 {
        sender.announce_one_by_one(&prefixes(40 + n, 4096), 0).await;
    }
    assert_eq!(reader.receive_prefixes(15 * 4096).await, 15 * 4096);
    let stuck_at = speaker.peers().await.unwrap()[2].prefixes_advertised;
    assert!(stuck_at < all.len() + 1 + 15 * 4096, "it is stuck again");
    let start = Instant::now();
    speaker.shutdown(Shutdown::Cease("bye".to_owned())).await;
    assert!(start.elapsed() < PATIENCE);
}

#[tokio::test]
async fn strangers_and_floods_are_bounded() {
    let speaker = speaker(&[2, 3]).await;
    let _client = establish(&speaker, 2).await;
    // Strangers are turned away without a word.
    for _ in 0..50 {
        let mut stranger = connect(&speaker, 99).await.unwrap();
        // The write may find the connection closed already.
        let _ = stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").await;
        let mut answer = Vec::new();
        let end = timeout(PATIENCE, stranger.read_to_end(&mut answer)).await.expect("closed");
        assert!(end.is_err() || answer.is_empty(), "a stranger hears nothing");
    }
    // A peer's address that opens and says nothing keeps one connection.
    let mut flood = Vec::new();
    for _ in 0..200 {
        flood.push(connect(&speaker, 3).await.unwrap());
    }
    let mut open = flood.pop().unwrap();
    for mut old in flood {
        let mut rest = Vec::new();
        let end = timeout(PATIENCE, old.read_to_end(&mut rest)).await;
        assert!(end.is_ok(), "an older half-open connection is closed");
    }
    let mut byte = [0; 1];
    assert_eq!(open.read(&mut byte).await.unwrap(), 1, "the last one is greeted with an OPEN");
    assert_eq!(state_of(&speaker, 2).await, State::Established);
    drop(open);
    let _client = establish(&speaker, 3).await;
    until("the flooded peer is up", async || state_of(&speaker, 3).await == State::Established)
        .await;
}

#[tokio::test]
async fn a_faulty_update_withdraws_and_the_session_lives() {
    let speaker = speaker(&[2]).await;
    let mut client = establish(&speaker, 2).await;
    let prefix = prefixes(20, 1)[0];
    client.announce(2, &[prefix]).await;
    until("the route is there", async || speaker.route(prefix).await.unwrap().is_some()).await;
    // The same prefix with an ORIGIN of 9.
    let mut bytes = BytesMut::new();
    let attributes =
        PathAttributes { next_hop: Some(NextHop::V4([10, 0, 0, 2].into())), ..Default::default() };
    UpdatePacker::new(&client.context, Family::IPV4_UNICAST)
        .announce(&attributes, &[prefix], &mut bytes)
        .unwrap();
    let origin = bytes.windows(4).position(|w| w == [0x40, 1, 1, 0]).unwrap();
    bytes[origin + 3] = 9;
    client.stream.write_all(&bytes).await.unwrap();
    until("the route is gone", async || speaker.route(prefix).await.unwrap().is_none()).await;
    let peers = speaker.peers().await.unwrap();
    assert_eq!((peers[0].state, peers[0].counters.update_errors), (State::Established, 1));
}

#[tokio::test]
async fn an_unreadable_message_is_answered_with_a_notification() {
    let speaker = speaker(&[2]).await;
    let mut client = establish(&speaker, 2).await;
    let mut bytes = vec![0xFF; 16];
    bytes.extend_from_slice(&[0, 19, 77]);
    client.stream.write_all(&bytes).await.unwrap();
    loop {
        match client.receive().await {
            Some(Message::Notification(n)) => {
                assert_eq!(n.code.values(), (1, 3));
                break;
            }
            Some(_) => {}
            None => panic!("closed without a NOTIFICATION"),
        }
    }
}

#[tokio::test]
async fn subscriptions_list_and_follow_and_end() {
    let speaker = speaker(&[2]).await;
    let own: IpNet = "10.1.0.0/24".parse().unwrap();
    speaker.announce(vec![(own, PathAttributes::default())]).await.unwrap();
    let mut routes = speaker.subscribe();
    assert_eq!(routes.next().await, Some(RouteUpdate::Begin));
    let Some(RouteUpdate::Item(item)) = routes.next().await else { panic!("an item") };
    assert_eq!((item.prefix, item.next_hops.len()), (own, 0));
    assert_eq!(routes.next().await, Some(RouteUpdate::Ready));
    let mut client = establish(&speaker, 2).await;
    client.announce(2, &prefixes(20, 1)).await;
    let Some(RouteUpdate::Put(put)) = routes.next().await else { panic!("a route") };
    assert_eq!(put.next_hops, [IpAddr::from([10, 0, 0, 2])]);
    // Without graceful restart, the end of the connection ends the routes.
    drop(client);
    assert_eq!(routes.next().await, Some(RouteUpdate::Gone(put.prefix)));
    speaker.shutdown(Shutdown::Cease(String::new())).await;
    assert_eq!(routes.next().await, None);
    assert!(speaker.peers().await.is_err());
    assert_eq!(speaker.subscribe().next().await, None, "a late subscriber is not left waiting");
    speaker.shutdown(Shutdown::GracefulRestart).await;
}

#[tokio::test]
async fn shutdown_says_goodbye_or_just_closes() {
    for (how, expected) in
        [(Shutdown::Cease("bye".to_owned()), Some("bye")), (Shutdown::GracefulRestart, None)]
    {
        let speaker = speaker(&[2]).await;
        let mut client = establish(&speaker, 2).await;
        until("it is up", async || state_of(&speaker, 2).await == State::Established).await;
        speaker.shutdown(how).await;
        let mut heard = None;
        while let Some(message) = client.receive().await {
            if let Message::Notification(n) = message {
                heard = n.shutdown_text();
            }
        }
        assert_eq!(heard.as_deref(), expected);
    }
}

#[tokio::test]
async fn the_first_listing_ends_with_end_of_rib() {
    let speaker = speaker(&[2]).await;
    let own = prefixes(20, 3000);
    let routes = own.iter().map(|p| (*p, PathAttributes::default())).collect();
    speaker.announce(routes).await.unwrap();
    let mut client = establish(&speaker, 2).await;
    let mut seen = 0;
    loop {
        match client.receive().await {
            Some(Message::Update(Update { announced, attributes: Some(_), .. })) => {
                seen += announced.iter().count();
            }
            Some(Message::Update(u)) => {
                assert_eq!(u.is_end_of_rib(), Some(Family::IPV4_UNICAST));
                break;
            }
            Some(_) => {}
            None => panic!("closed"),
        }
    }
    assert_eq!(seen, own.len());
}

#[tokio::test]
async fn errors_say_what_to_do() {
    let first = speaker(&[]).await;
    let mut config = Config::new(AS, Ipv4Addr::new(10, 0, 0, 1));
    config.listen = first.listening().to_vec();
    let error = SpeakerHandle::spawn(config.clone()).unwrap_err();
    assert!(matches!(error, SpawnError::Listen { .. }), "{error}");
    assert!(error.to_string().contains("another speaker"));
    config.local_as = 0;
    config.listen.clear();
    assert!(matches!(SpeakerHandle::spawn(config), Err(SpawnError::Config(ConfigError::AsNumber))));
}
