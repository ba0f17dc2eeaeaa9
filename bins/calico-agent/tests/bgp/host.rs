//! The host's own routes: what peers hear of them, and what becomes of them when a peer tells the
//! same prefix.

use calico_bgp::rib::RouteSource;
use calico_bgp::wire::PathAttributes;
use calico_core::kind::Kind;
use calico_peering::HostRoute;
use serde_json::json;

use super::common::{Cluster, TOR_AS, route};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_hear_of_routes_of_the_host_that_lie_in_a_pool() {
    let mut cluster = Cluster::new().await;
    let tor = cluster.tor(|_| {}).await;
    let peer = json!({"node": "a", "peerIP": cluster.tor_peer_ip(), "asNumber": TOR_AS});
    cluster.put(Kind::BgpPeer, "tor", peer).await;
    cluster.put(Kind::IpPool, "pods", json!({"cidr": "10.65.0.0/16"})).await;
    let host = |prefix: &str, metric| {
        let prefix = prefix.parse().unwrap();
        HostRoute { prefix, interface: Some("eth1".to_owned()), metric }
    };
    let routes = vec![
        host("10.65.7.0/24", None),
        host("10.65.8.0/24", Some(20)),
        host("10.7.0.0/24", Some(20)),
    ];
    cluster.start_with("a", routes);
    cluster.start("b");
    let at_b = async |prefix: &str| {
        let routes = cluster.view("b").report().await?.routes;
        route(&routes, prefix).map(|route| route.paths[0].received.local_pref)
    };
    let preferences = [("10.65.7.0/24", 2_147_482_623), ("10.65.8.0/24", 2_147_483_627)];
    for (prefix, wanted) in preferences {
        let heard = cluster.until("a route of the host at b", async || at_b(prefix).await).await;
        assert_eq!(heard, Some(wanted), "{prefix}");
    }
    assert_eq!(at_b("10.7.0.0/24").await, None, "in no pool");

    // A route of the kernel is where nobody tells one; a subnet is nobody else's.
    let routes = ["10.65.7.0/24", "10.65.8.0/24"]
        .map(|prefix| (prefix.parse().unwrap(), PathAttributes::default()));
    tor.announce(routes.to_vec()).await.unwrap();
    let best_at_a = async |prefix: &str| {
        let routes = cluster.view("a").report().await?.routes;
        let found = route(&routes, prefix)?;
        (found.paths.len() > 1)
            .then(|| found.paths.iter().find(|path| path.best).map(|p| p.source))?
    };
    for (prefix, own) in [("10.65.7.0/24", true), ("10.65.8.0/24", false)] {
        let best = cluster.until("the router outside's", async || best_at_a(prefix).await).await;
        assert_eq!(matches!(best, RouteSource::Local), own, "{prefix}: {best:?}");
    }
    cluster.stop().await;
}
