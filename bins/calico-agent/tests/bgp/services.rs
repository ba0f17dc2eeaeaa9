//! Single addresses of services, over real sessions.

use std::net::IpAddr;

use calico_bgp::rib::RouteSource;
use calico_core::key::Key;
use calico_core::kind::Kind;
use serde_json::{Value, json};

use super::common::{Cluster, TOR_AS, route};

fn key(kind: Kind, name: &str) -> Key {
    Key::resource(kind, Some("default"), name)
}

/// Puts the slice of service `web`, with one endpoint on each of `nodes`.
async fn put_slice(cluster: &Cluster, nodes: &[&str]) {
    let endpoint = |node: &&str| json!({"addresses": ["10.65.1.5"], "nodeName": node});
    let endpoints: Vec<Value> = nodes.iter().map(endpoint).collect();
    let labels = json!({"kubernetes.io/service-name": "web"});
    let value = json!({
        "metadata": {"name": "web-x", "namespace": "default", "labels": labels},
        "spec": {"addressType": "IPv4", "endpoints": endpoints, "ports": [{"port": 80}]}});
    cluster.put_value(key(Kind::KubernetesEndpointSlice, "web-x"), &value).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_local_service_is_announced_where_its_endpoints_are() {
    let mut cluster = Cluster::new().await;
    let tor = cluster.tor(|_| {}).await;
    let peer = json!({"peerIP": cluster.tor_peer_ip(), "asNumber": TOR_AS});
    cluster.put(Kind::BgpPeer, "tor", peer).await;
    cluster.configure(json!({"serviceExternalIPs": [{"cidr": "203.0.113.0/24"}]})).await;
    let service = json!({"metadata": {"name": "web", "namespace": "default"},
        "spec": {"type": "NodePort", "clusterIP": "10.96.0.5", "ipFamilies": ["IPv4"],
            "externalTrafficPolicy": "Local", "externalIPs": ["203.0.113.7"]}});
    cluster.put_value(key(Kind::KubernetesService, "web"), &service).await;
    put_slice(&cluster, &["a"]).await;
    cluster.start("a");
    cluster.start("b");
    cluster.established("a", cluster.address("tor")).await;
    cluster.established("b", cluster.address("tor")).await;

    // The nodes that the router outside would send packets to, one octet each.
    let (a, b) = (cluster.address("a").octets()[3], cluster.address("b").octets()[3]);
    let ways = async |prefix: &str| {
        let routes = tor.routes().await.unwrap();
        let paths = route(&routes, prefix).map(|found| found.paths.clone()).unwrap_or_default();
        let mut hops: Vec<u8> = paths
            .iter()
            .filter_map(|path| match path.source {
                RouteSource::Peer { address: IpAddr::V4(address), .. } => Some(address.octets()[3]),
                _ => None,
            })
            .collect();
        hops.sort_unstable();
        hops
    };
    let until = async |what: &str, prefix: &str, expected: &[u8]| {
        cluster.until(what, async || (ways(prefix).await == expected).then_some(())).await;
    };
    until("the range from both", "203.0.113.0/24", &[a, b]).await;
    until("the service from a", "203.0.113.7/32", &[a]).await;
    put_slice(&cluster, &["b", "a", "b"]).await;
    until("the service from both", "203.0.113.7/32", &[a, b]).await;
    put_slice(&cluster, &["b"]).await;
    until("the service from b", "203.0.113.7/32", &[b]).await;
    // The range stays, and addresses of the cluster are not told without a range for them.
    assert_eq!(ways("203.0.113.0/24").await, [a, b]);
    assert_eq!(ways("10.96.0.5/32").await, [0; 0]);
    cluster.delete(&key(Kind::KubernetesService, "web")).await;
    until("the service to go", "203.0.113.7/32", &[]).await;
    cluster.stop().await;
}
