//! CalicoNodeStatus, filled by the agent.

use std::sync::Arc;

use calico_agent::node_status;
use calico_core::Datastore;
use calico_core::key::Key;
use calico_core::kind::Kind;
use calico_core::resource::CalicoNodeStatus;
use serde_json::json;

use super::common::{Cluster, TOR_AS};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_status_of_a_node_follows_its_sessions() {
    let mut cluster = Cluster::new().await;
    let tor = cluster.tor(|_| {}).await;
    let peer = json!({"peerIP": cluster.tor_peer_ip(), "asNumber": TOR_AS});
    cluster.put(Kind::BgpPeer, "tor", peer).await;
    cluster.put(Kind::IpPool, "pods", json!({"cidr": "10.65.0.0/16"})).await;
    cluster.configure(json!({"serviceClusterIPs": [{"cidr": "10.96.0.0/12"}]})).await;
    cluster.put_block("b", "10.65.2.0/26").await;
    cluster.start("a");
    let store = Arc::clone(&cluster.store) as Arc<dyn Datastore>;
    let reporter = tokio::spawn(node_status::run("a".into(), store, cluster.view("a")));
    let request = |node: &str, period: Option<u32>| json!({"node": node, "classes": ["Agent", "BGP", "Routes"], "updatePeriodSeconds": period});
    cluster.put(Kind::CalicoNodeStatus, "mine", request("a", Some(1))).await;
    cluster.put(Kind::CalicoNodeStatus, "once", request("a", Some(0))).await;
    cluster.put(Kind::CalicoNodeStatus, "never", request("a", None)).await;
    cluster.put(Kind::CalicoNodeStatus, "other", request("b", Some(1))).await;
    let store = Arc::clone(&cluster.store);
    let read = async |name: &str| -> CalicoNodeStatus {
        let key = Key::resource(Kind::CalicoNodeStatus, None, name);
        store.get(&key).await.unwrap().decode().unwrap()
    };
    let status = cluster
        .until("a session of two", async || {
            let status = read("mine").await.status?;
            (status.bgp.number_established_v4 == 1).then_some(status)
        })
        .await;
    assert_eq!(status.bgp.number_not_established_v4, 1);
    let shown = |name: &str, status: &calico_core::resource::CalicoNodeStatusStatus| {
        let address = cluster.address(name).to_string();
        let peer = status.bgp.peers_v4.iter().find(|peer| peer.peer_ip == address).unwrap();
        (peer.kind.clone(), peer.state.clone())
    };
    assert_eq!(shown("tor", &status), ("GlobalPeer".to_owned(), "Established".to_owned()));
    assert_eq!(shown("b", &status).0, "NodeMesh");
    assert_ne!(shown("b", &status).1, "Established");
    assert_eq!(status.agent.bird_v4.state, "Ready");
    assert_eq!(status.agent.bird_v4.router_id, cluster.address("a").to_string());
    assert_eq!(status.agent.bird_v6.state, "NotReady");

    cluster.start("b");
    let route = cluster
        .until("the other session, and its route", async || {
            let status = read("mine").await.status?;
            let routes = status.routes.routes_v4;
            let route = routes.into_iter().find(|route| route.destination == "10.65.2.0/26");
            route.filter(|_| status.bgp.number_established_v4 == 2)
        })
        .await;
    assert_eq!((route.kind.as_str(), route.learned_from.source_type.as_str()), ("FIB", "NodeMesh"));
    assert_eq!(route.learned_from.peer_ip, cluster.address("b").to_string());
    assert_eq!(route.gateway, cluster.address("b").to_string());

    let routes = read("mine").await.status.unwrap().routes.routes_v4;
    let service = routes.iter().find(|route| {
        route.destination == "10.96.0.0/12" && route.learned_from.source_type == "Static"
    });
    assert_eq!(service.map(|route| route.interface.as_str()), Some("blackhole"), "{routes:?}");

    let once = read("once").await.status.expect("a report when the resource came");
    assert!(once.bgp.number_established_v4 < 2, "and none after it");
    assert_eq!((read("never").await.status, read("other").await.status), (None, None));
    reporter.abort();
    cluster.stop().await;
    drop(tor);
}
