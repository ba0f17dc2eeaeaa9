//! Several paths per destination (RFC 7911) between whole speakers, over the wire.

use std::net::IpAddr;
use std::time::Duration;

use super::tests::{AS, Network, config, internal, ip, net};
use super::*;
use crate::rib::{AddPathFamily, NextHopMode, SendPaths};
use crate::session::AddPath;
use crate::wire::Family;

const V4: Family = Family::IPV4_UNICAST;
const SECOND: Duration = Duration::from_secs(1);

fn family(receive: u16, send: SendPaths) -> Vec<AddPathFamily> {
    vec![AddPathFamily { family: V4, receive, send }]
}

/// 1 reflects between clients 11 to 14, of which 11 to 13 announce one prefix; `send` is what it
/// tells 14, which takes `receive` paths.
fn reflector(send: SendPaths, receive: u16) -> Network {
    let mut network = Network::new([1].into_iter().chain(11..=14).map(|n| (n, config(n, AS))));
    for n in 11..=14 {
        let mut peer = internal(n, 1);
        if n == 14 {
            peer.add_path = family(receive, SendPaths::Best);
        } else {
            network.announce(n, "10.96.0.0/24");
        }
        network.set_peers(n, vec![peer]);
    }
    let clients = (11..=14).map(|n| {
        let add_path = if n == 14 { family(0, send) } else { Vec::new() };
        PeerConfig { rr_client: true, add_path, ..internal(1, n) }
    });
    network.set_peers(1, clients.collect());
    network.run(30 * SECOND);
    network
}

fn hops(network: &Network, n: u8) -> Vec<IpAddr> {
    let view = network.speakers[&n].rib().route(&net("10.96.0.0/24"));
    let paths = view.map(|v| v.paths).unwrap_or_default();
    let mut hops: Vec<IpAddr> =
        paths.iter().filter_map(|p| Some(p.attributes.next_hop?.address())).collect();
    hops.sort_unstable();
    hops
}

#[test]
fn a_client_hears_of_every_path_and_shares_traffic_among_them() {
    let mut network = reflector(SendPaths::All, 64);
    assert_eq!(hops(&network, 14), [ip(11), ip(12), ip(13)]);
    assert_eq!(network.best(14, "10.96.0.0/24").unwrap().len(), 3, "all are equal");
    assert_eq!(hops(&network, 12), [ip(11)], "without ADD-PATH, the best alone");
    let status = network.speakers[&14].peers().next().unwrap();
    let agreed = status.negotiated.unwrap().add_path(V4);
    assert_eq!(agreed, AddPath { receive: true, send: false });
    network.speaker(12).withdraw(net("10.96.0.0/24"));
    network.run(SECOND);
    assert_eq!(hops(&network, 14), [ip(11), ip(13)]);
    network.kill(11);
    network.run(200 * SECOND);
    assert_eq!(hops(&network, 14), [ip(13)]);
    network.speaker(13).withdraw(net("10.96.0.0/24"));
    network.run(SECOND);
    assert!(hops(&network, 14).is_empty());
}

#[test]
fn how_many_paths_are_told_changes_without_a_new_session() {
    let mut network = reflector(SendPaths::UpTo(2), 64);
    assert_eq!(hops(&network, 14), [ip(11), ip(12)]);
    let with = |send| {
        let clients = (11..=14).map(|n| {
            let add_path = if n == 14 { family(0, send) } else { Vec::new() };
            PeerConfig { rr_client: true, add_path, ..internal(1, n) }
        });
        clients.collect::<Vec<_>>()
    };
    let changes = network.set_peers(1, with(SendPaths::All));
    assert_eq!((changes.adjusted.len(), changes.restarted.len()), (1, 0));
    network.run(SECOND);
    assert_eq!(hops(&network, 14), [ip(11), ip(12), ip(13)]);
    network.set_peers(1, with(SendPaths::UpTo(1)));
    network.run(SECOND);
    assert_eq!(hops(&network, 14), [ip(11)]);
    let changes = network.set_peers(1, with(SendPaths::Best));
    assert_eq!(changes.restarted.len(), 1, "identifiers or none: that is for the session");
}

#[test]
fn who_takes_none_is_sent_none_and_too_many_are_left_out() {
    assert_eq!(hops(&reflector(SendPaths::All, 0), 14), [ip(11)]);
    let network = reflector(SendPaths::All, 2);
    assert_eq!(hops(&network, 14).len(), 2);
    assert_eq!(network.speakers[&14].peers().next().unwrap().paths_left_out, 1);
}

#[test]
fn a_refresh_tells_every_path_again() {
    let mut network = reflector(SendPaths::All, 64);
    let key = internal(14, 1).key();
    assert!(network.speaker(14).request_refresh(key));
    network.run(SECOND);
    assert_eq!(hops(&network, 14), [ip(11), ip(12), ip(13)]);
}

#[test]
fn paths_pass_a_second_reflector_and_lead_to_other_systems() {
    // 1 is a client of 2, both with ADD-PATH both ways; 2 is in touch with AS 65003.
    let mut network = Network::new([
        (1, config(1, AS)),
        (2, config(2, AS)),
        (3, config(3, 65_003)),
        (11, config(11, AS)),
        (12, config(12, AS)),
    ]);
    let both = || vec![AddPathFamily::both(V4)];
    for n in [11, 12] {
        network.announce(n, "10.96.0.0/24");
        network.set_peers(n, vec![internal(n, 1)]);
    }
    let client = |me, n| PeerConfig { rr_client: true, ..internal(me, n) };
    let up = PeerConfig { add_path: both(), ..internal(1, 2) };
    network.set_peers(1, vec![client(1, 11), client(1, 12), up]);
    let down = PeerConfig { add_path: both(), ..client(2, 1) };
    let next_hop = NextHopMode::Keep;
    let out = PeerConfig { add_path: both(), next_hop, ..PeerConfig::new(ip(3), 65_003) };
    network.set_peers(2, vec![down, out]);
    network.set_peers(3, vec![PeerConfig { add_path: both(), ..PeerConfig::new(ip(2), AS) }]);
    network.run(60 * SECOND);
    assert_eq!(hops(&network, 2), [ip(11), ip(12)]);
    assert_eq!(hops(&network, 3), [ip(11), ip(12)]);
    network.speaker(11).withdraw(net("10.96.0.0/24"));
    network.run(SECOND);
    assert_eq!(hops(&network, 3), [ip(12)]);
    network.kill(1);
    network.run(300 * SECOND);
    assert!(hops(&network, 3).is_empty());
}
