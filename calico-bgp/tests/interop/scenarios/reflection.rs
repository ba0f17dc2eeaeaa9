//! Route reflection (RFC 4456): we reflect between the daemon and another of our speakers; the
//! daemon reflects between two of ours.

use std::net::{IpAddr, Ipv4Addr};

use calico_bgp::wire::{Aggregator, AsPath, Origin, PathAttributes};

use crate::daemons::{COMMUNITY, EXTENDED, LARGE, Setup, Sign};
use crate::lab::{v4, v6};
use crate::stage::{
    OUR_V4, OUR_V6, PEER, Stage, THEIR_V4, THEIR_V6, announce, config, hop, net, origins, peer,
    peers, sessions, speaker, until_gone, until_learned,
};

/// One AS for all.
const AS: u32 = 64512;

/// Attributes of all kinds that go through unchanged.
fn rich() -> PathAttributes {
    PathAttributes {
        origin: Origin::Incomplete,
        as_path: AsPath::sequence([4_200_000_001, 7]),
        med: Some(77),
        local_pref: Some(150),
        atomic_aggregate: true,
        aggregator: Some(Aggregator { asn: 4_200_000_001, router_id: Ipv4Addr::new(10, 7, 7, 7) }),
        communities: vec![COMMUNITY],
        extended_communities: vec![EXTENDED],
        large_communities: vec![LARGE],
        ..PathAttributes::default()
    }
}

pub(super) async fn we_reflect(mut stage: Stage) {
    const CLUSTER: Ipv4Addr = Ipv4Addr::new(10, 7, 7, 1);
    let routes = origins(&[THEIR_V4, THEIR_V6]);
    stage.start(&Setup { asn: AS, sessions: sessions(1, AS, |_| {}), routes });
    let mut reflector = config(1, AS);
    reflector.cluster_id = Some(CLUSTER);
    let mut clients = peers(1, AS, |_| {});
    clients.extend([peer(1, v4(3), AS), peer(1, v6(3), AS)]);
    clients.iter_mut().for_each(|p| p.rr_client = true);
    let _reflector = speaker(reflector, clients).await;
    let client = speaker(config(3, AS), vec![peer(3, v4(1), AS), peer(3, v6(1), AS)]).await;
    announce(&client, &[OUR_V4, OUR_V6], rich()).await;

    for (prefix, next_hop) in [(THEIR_V4, v4(PEER)), (THEIR_V6, v6(PEER))] {
        let path = until_learned(&client, prefix).await;
        assert_eq!(hop(&path), next_hop, "reflected routes keep their next hop");
        assert_eq!(path.attributes.originator_id, Some(Ipv4Addr::new(10, 9, 0, PEER)));
        assert_eq!(path.attributes.cluster_list, [CLUSTER]);
    }
    for (prefix, next_hop) in [(OUR_V4, v4(3)), (OUR_V6, v6(3))] {
        let signs = [
            Sign::NextHop(next_hop),
            Sign::Originator(v4(3)),
            Sign::Cluster(IpAddr::V4(CLUSTER)),
            Sign::Community,
            Sign::Extended,
            Sign::Large,
            Sign::AsPath(&[4_200_000_001, 7]),
        ];
        stage.until_it_has(prefix, &signs).await;
        client.withdraw(vec![net(prefix)]).await.unwrap();
        stage.until_it_has_not(prefix).await;
    }
    for prefix in [THEIR_V4, THEIR_V6] {
        stage.daemon.withdraw(net(prefix));
        until_gone(&client, prefix).await;
    }
}

pub(super) async fn the_peer_reflects(mut stage: Stage) {
    let mut sessions_ = sessions(1, AS, |s| s.client = true);
    sessions_.extend(sessions(3, AS, |s| s.client = true));
    stage.start(&Setup { asn: AS, sessions: sessions_, routes: origins(&[]) });
    let first = speaker(config(1, AS), peers(1, AS, |_| {})).await;
    let second = speaker(config(3, AS), peers(3, AS, |_| {})).await;
    announce(&first, &[OUR_V4, OUR_V6], rich()).await;
    for (prefix, next_hop) in [(OUR_V4, v4(1)), (OUR_V6, v6(1))] {
        let path = until_learned(&second, prefix).await;
        assert_eq!(hop(&path), next_hop);
        let expected = PathAttributes {
            next_hop: path.attributes.next_hop,
            originator_id: Some(Ipv4Addr::new(10, 9, 0, 1)),
            cluster_list: vec![Ipv4Addr::new(10, 9, 0, PEER)],
            ..rich()
        };
        assert_eq!(*path.attributes, expected, "nothing else changes on the way");
        first.withdraw(vec![net(prefix)]).await.unwrap();
        until_gone(&second, prefix).await;
    }
}
