//! What a node tells other nodes and a router outside, over real sessions.

use calico_bgp::rib::RouteView;
use calico_bgp::wire::PathAttributes;
use calico_core::kind::Kind;
use serde_json::json;

use super::common::{Cluster, TOR_AS, route};

/// 2147483647 less the usual metric of routes in the kernel, 1024.
const USUAL: u32 = 2_147_482_623;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_hear_of_pods_and_services_and_of_nothing_else() {
    let mut cluster = Cluster::new().await;
    let tor = cluster.tor(|_| {}).await;
    let outside = ["0.0.0.0/0", "198.18.0.0/15", "10.65.200.0/24"];
    let routes = outside.map(|prefix| (prefix.parse().unwrap(), PathAttributes::default()));
    tor.announce(routes.to_vec()).await.unwrap();
    let peer = json!({"node": "a", "peerIP": cluster.tor_peer_ip(), "asNumber": TOR_AS});
    cluster.put(Kind::BgpPeer, "tor", peer).await;
    cluster.put(Kind::IpPool, "pods", json!({"cidr": "10.65.0.0/16"})).await;
    let secret = json!({"cidr": "10.66.0.0/16", "disableBGPExport": true});
    cluster.put(Kind::IpPool, "secret", secret).await;
    let services = json!({"serviceClusterIPs": [{"cidr": "10.96.0.0/12"}],
        "prefixAdvertisements": [{"cidr": "10.65.1.0/24", "communities": ["65000:7"]}]});
    cluster.configure(services).await;
    cluster.put_block("a", "10.65.1.0/26").await;
    cluster.put_block("a", "10.66.1.0/26").await;
    cluster.put_workload("a", "1", "10.65.1.5/32").await;
    cluster.put_workload("a", "2", "10.65.7.7/32").await;
    cluster.put_block("b", "10.65.2.0/26").await;
    cluster.start("a");
    cluster.start("b");
    cluster.established("a", cluster.address("b")).await;
    cluster.established("a", cluster.address("tor")).await;

    let at_tor = async || tor.routes().await.unwrap();
    let at_b = async || match cluster.view("b").report().await {
        Some(report) => report.routes,
        None => Vec::new(),
    };
    // The last of each to come: what is not there then was not told.
    let told = ["10.65.1.0/26", "10.65.7.7/32", "10.65.2.0/26", "10.96.0.0/12"];
    let has = |routes: &[RouteView], prefixes: &[&str]| {
        prefixes.iter().all(|prefix| route(routes, prefix).is_some())
    };
    cluster
        .until("routes at the router outside", async || has(&at_tor().await, &told).then_some(()))
        .await;
    let from_a = ["10.65.1.0/26", "10.65.7.7/32", "10.65.200.0/24"];
    cluster.until("routes at b", async || has(&at_b().await, &from_a).then_some(())).await;

    let routes = at_tor().await;
    for prefix in ["10.65.1.5/32", "10.66.1.0/26"] {
        assert!(route(&routes, prefix).is_none(), "{prefix} was told to the router outside");
    }
    let block = &route(&routes, "10.65.1.0/26").unwrap().paths[0].received;
    assert_eq!(block.local_pref, None);
    assert_eq!(block.communities.iter().map(ToString::to_string).collect::<Vec<_>>(), ["65000:7"]);
    let routes = at_b().await;
    for prefix in ["0.0.0.0/0", "198.18.0.0/15", "10.65.1.5/32", "10.66.1.0/26"] {
        let leaked = route(&routes, prefix).filter(|r| r.paths.iter().any(|p| p.best));
        assert!(leaked.is_none(), "{prefix} was told to b: {leaked:?}");
    }
    let block = &route(&routes, "10.65.1.0/26").unwrap().paths[0].received;
    assert_eq!(block.local_pref, Some(USUAL));
    // `a` itself uses what the router outside told it.
    let routes = cluster.view("a").report().await.unwrap().routes;
    assert!(has(&routes, &outside));

    // A filter lets one of them through, and only there.
    cluster
        .put(
            Kind::BgpFilter,
            "inward",
            json!({"exportV4": [
                {"action": "Accept", "cidr": "10.65.1.5/32", "matchOperator": "Equal"},
                {"action": "Reject", "cidr": "10.65.1.0/24", "matchOperator": "In"}]}),
        )
        .await;
    let peer = json!({"node": "a", "peerIP": cluster.tor_peer_ip(), "asNumber": TOR_AS,
        "filters": ["inward"]});
    cluster.put(Kind::BgpPeer, "tor", peer).await;
    cluster
        .until("the filter to act", async || {
            let routes = at_tor().await;
            let acts = route(&routes, "10.65.1.5/32").is_some()
                && route(&routes, "10.65.1.0/26").is_none();
            acts.then_some(())
        })
        .await;
    assert!(route(&at_b().await, "10.65.1.0/26").is_some());
    cluster.stop().await;
}
