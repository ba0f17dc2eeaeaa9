//! Reflection through several clusters (RFC 4456), and sessions that announce their end
//! (RFC 8326), in a simulated network.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::tests::{AS, Network, config, internal, ip, net};
use super::*;
use crate::rib::Decision;
use crate::wire::Community;

const MINUTE: Duration = Duration::from_secs(60);

fn client(me: u8, peer: u8) -> PeerConfig {
    PeerConfig { rr_client: true, ..internal(me, peer) }
}

fn in_cluster(n: u8, last: u8) -> Config {
    Config { cluster_id: Some(cluster(last)), ..config(n, AS) }
}

fn cluster(last: u8) -> Ipv4Addr {
    [244, 0, 0, last].into()
}

fn clusters(network: &Network, n: u8, prefix: &str) -> Option<Vec<Ipv4Addr>> {
    network.speakers[&n].rib().best(&net(prefix)).map(|b| b.attributes.cluster_list.clone())
}

#[test]
fn two_levels_of_reflectors() {
    // 11 and 12 are clients of 1 and 2, which are clients of 3.
    let ids = [(1, 1), (2, 2), (3, 3)].map(|(n, c)| (n, in_cluster(n, c)));
    let mut network = Network::new(ids.into_iter().chain([11, 12].map(|n| (n, config(n, AS)))));
    for (rr, leaf) in [(1, 11), (2, 12)] {
        network.announce(leaf, &format!("192.168.{leaf}.0/26"));
        network.set_peers(leaf, vec![internal(leaf, rr)]);
        network.set_peers(rr, vec![client(rr, leaf), internal(rr, 3)]);
    }
    network.set_peers(3, vec![client(3, 1), client(3, 2)]);
    network.run(MINUTE);
    let best = network.speakers[&12].rib().best(&net("192.168.11.0/26")).unwrap();
    assert_eq!(best.attributes.cluster_list, [cluster(2), cluster(3), cluster(1)]);
    assert_eq!(best.attributes.originator_id, Some([10, 0, 0, 11].into()));
    assert_eq!(best.next_hops, [ip(11)]);
    assert_eq!(clusters(&network, 11, "192.168.12.0/26").unwrap().len(), 3);
    // A ring of reflectors ends at the cluster that has seen the route.
    let ring = vec![client(1, 11), client(1, 2), internal(1, 3)];
    network.set_peers(1, ring);
    network.set_peers(2, vec![client(2, 12), client(2, 1), internal(2, 3)]);
    network.run(MINUTE);
    assert_eq!(clusters(&network, 12, "192.168.11.0/26"), Some(vec![cluster(2), cluster(1)]));
    let paths = |n: u8, leaf: u8| {
        let view = network.speakers[&n].rib().route(&net(&format!("192.168.{leaf}.0/26")));
        view.map_or(0, |v| v.paths.len())
    };
    assert_eq!((paths(1, 11), paths(2, 12)), (1, 1), "nothing comes back to where it was");
    assert_eq!(paths(2, 11), 2, "by 1 and by 3");
    let view = network.speakers[&2].rib().route(&net("192.168.11.0/26")).unwrap();
    assert_eq!(view.paths[0].decided_by, Decision::ClusterListLength);
}

#[test]
fn one_reflector_of_several_clusters() {
    // 11 is in a cluster of its own, which 1 and 2 share; 12 is in that of 1.
    let mut network = Network::new([
        (1, in_cluster(1, 1)),
        (2, in_cluster(2, 2)),
        (11, config(11, AS)),
        (12, config(12, AS)),
    ]);
    network.announce(11, "192.168.11.0/26");
    network.announce(12, "192.168.12.0/26");
    network.set_peers(11, vec![internal(11, 1), internal(11, 2)]);
    network.set_peers(12, vec![internal(12, 1)]);
    let shared = |me| PeerConfig { cluster_id: Some(cluster(9)), ..client(me, 11) };
    network.set_peers(1, vec![shared(1), client(1, 12), internal(1, 2)]);
    network.set_peers(2, vec![shared(2), internal(2, 1)]);
    network.run(MINUTE);
    let both = vec![cluster(1), cluster(9)];
    assert_eq!(clusters(&network, 12, "192.168.11.0/26"), Some(both), "both sides' clusters");
    let turned = vec![cluster(9), cluster(1)];
    assert_eq!(clusters(&network, 11, "192.168.12.0/26"), Some(turned));
    let view = network.speakers[&2].rib().route(&net("192.168.11.0/26")).unwrap();
    assert_eq!(view.paths.len(), 1, "what 1 reflects of the shared cluster, 2 does not take");
    // Another cluster for a client is told without a new session.
    let moved = PeerConfig { cluster_id: Some(cluster(7)), ..client(1, 11) };
    let changes = network.set_peers(1, vec![moved, client(1, 12), internal(1, 2)]);
    assert_eq!((changes.adjusted.len(), changes.restarted.len()), (1, 0));
    network.run(MINUTE);
    let both = vec![cluster(1), cluster(7)];
    assert_eq!(clusters(&network, 12, "192.168.11.0/26"), Some(both));
}

#[test]
fn a_session_that_is_to_end_is_emptied_first() {
    // 4 reaches 1 by 2 and by 3, each an AS of its own; 2 is to be taken down.
    let ases = [65_001, 65_002, 65_003, 65_004];
    let mut network = Network::new((1..=4u8).map(|n| (n, config(n, ases[usize::from(n) - 1]))));
    network.announce(1, "10.1.0.0/16");
    let peer = |n: u8| PeerConfig::new(ip(n), ases[usize::from(n) - 1]);
    network.set_peers(1, vec![peer(2), peer(3)]);
    let ends =
        |graceful_shutdown| [1, 4].map(|n| PeerConfig { graceful_shutdown, ..peer(n) }).to_vec();
    network.set_peers(2, ends(false));
    network.set_peers(3, ends(false));
    network.set_peers(4, vec![peer(2), peer(3)]);
    network.run(MINUTE);
    assert_eq!(network.best(4, "10.1.0.0/16"), Some(vec![ip(2), ip(3)]));
    let changes = network.set_peers(2, ends(true));
    assert_eq!(changes.restarted.len(), 0);
    network.run(MINUTE);
    assert_eq!(network.best(4, "10.1.0.0/16"), Some(vec![ip(3)]));
    let view = network.speakers[&4].rib().route(&net("10.1.0.0/16")).unwrap();
    assert!(view.paths[1].attributes.has_community(Community::GRACEFUL_SHUTDOWN));
    assert_eq!(view.paths[0].decided_by, Decision::LocalPref);
    // If there is nothing else it still serves.
    network.kill(3);
    network.run(5 * MINUTE);
    assert_eq!(network.best(4, "10.1.0.0/16"), Some(vec![ip(2)]));
    // Who does not care sees no difference.
    let careless = PeerConfig { honor_graceful_shutdown: false, ..peer(2) };
    network.set_peers(4, vec![careless]);
    network.run(MINUTE);
    let best = network.speakers[&4].rib().best(&net("10.1.0.0/16")).unwrap();
    assert_eq!(best.attributes.local_pref, None);
}
