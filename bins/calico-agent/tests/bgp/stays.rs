//! A changed resource disturbs no session that it does not concern.

use calico_core::key::Key;
use calico_core::kind::Kind;
use serde_json::{Value, json};

use super::common::{Cluster, TOR_AS};

/// Resources that are no business of the sessions of `a` with `b` and with the router outside,
/// or change nothing but the routes that go over them.
fn unrelated(tor: &str) -> Vec<(Kind, &'static str, Value)> {
    let policy =
        json!({"selector": "all()", "types": ["Ingress"], "ingress": [{"action": "Deny"}]});
    vec![
        (Kind::Node, "c", json!({})),
        (Kind::Node, "d", json!({"bgp": {"ipv4Address": "192.0.2.200/32"}})),
        (Kind::Node, "d", json!({"bgp": {"ipv4Address": "192.0.2.201/32", "asNumber": 65100}})),
        (Kind::BgpPeer, "of-d", json!({"node": "d", "peerIP": "192.0.2.202", "asNumber": 65101})),
        (
            Kind::BgpPeer,
            "far",
            json!({"peerIP": "192.0.2.203", "asNumber": 65102,
            "reachableBy": "192.0.2.1", "keepaliveTime": "5s"}),
        ),
        (Kind::BgpFilter, "unused", json!({"importV4": [{"action": "Reject"}]})),
        (
            Kind::BgpFilter,
            "used",
            json!({"exportV4": [{"action": "Reject",
            "cidr": "10.99.0.0/16", "matchOperator": "In"}]}),
        ),
        (
            Kind::BgpPeer,
            "tor",
            json!({"peerIP": tor, "asNumber": TOR_AS, "nextHopMode": "Self",
            "filters": ["used", "missing"]}),
        ),
        (Kind::BgpConfiguration, "node.d", json!({"listenPort": 1790})),
        (
            Kind::BgpConfiguration,
            "node.a",
            json!({"logSeverityScreen": "Debug",
            "prefixAdvertisements": [{"cidr": "10.65.0.0/16", "communities": ["1:2"]}]}),
        ),
        (Kind::IpPool, "pods", json!({"cidr": "10.65.0.0/16"})),
        (Kind::IpPool, "pods", json!({"cidr": "10.65.0.0/16", "disableBGPExport": true})),
        (Kind::IpPool, "other", json!({"cidr": "10.66.0.0/16"})),
        (Kind::IpReservation, "some", json!({"reservedCIDRs": ["10.65.0.0/28"]})),
        (Kind::IpamConfiguration, "default", json!({"strictAffinity": true})),
        (Kind::Profile, "prod", json!({"labelsToApply": {"env": "prod"}})),
        (Kind::Tier, "security", json!({"order": 10})),
        (Kind::NetworkPolicy, "default.deny", policy.clone()),
        (Kind::GlobalNetworkPolicy, "default.deny", policy.clone()),
        (Kind::StagedNetworkPolicy, "default.deny", policy.clone()),
        (Kind::StagedGlobalNetworkPolicy, "default.deny", policy),
        (Kind::NetworkSet, "nets", json!({"nets": ["192.0.2.0/24"]})),
        (Kind::GlobalNetworkSet, "nets", json!({"nets": ["192.0.2.0/24"]})),
        (Kind::HostEndpoint, "h", json!({"node": "a", "interfaceName": "eth9"})),
        (Kind::FelixConfiguration, "default", json!({"logSeverityScreen": "Debug"})),
        (Kind::FelixConfiguration, "node.a", json!({"logSeverityScreen": "Info"})),
        (Kind::KubeControllersConfiguration, "default", json!({})),
        (Kind::ClusterInformation, "default", json!({"clusterGUID": "x"})),
        (
            Kind::CalicoNodeStatus,
            "s",
            json!({"node": "a", "classes": ["BGP"],
            "updatePeriodSeconds": 1}),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_concern_a_session_leaves_it_alone() {
    let mut cluster = Cluster::new().await;
    let tor = cluster.tor(|_| {}).await;
    let tor_spec = json!({"peerIP": cluster.tor_peer_ip(), "asNumber": TOR_AS});
    cluster.put(Kind::BgpPeer, "tor", tor_spec).await;
    cluster.start("a");
    cluster.start("b");
    let (b, outside) = (cluster.address("b"), cluster.address("tor"));
    let before = (cluster.established("a", b).await, cluster.established("a", outside).await);
    let same = async |what: &str| {
        let now = (cluster.session("a", b).await, cluster.session("a", outside).await);
        let now = (now.0.expect(what).1, now.1.expect(what).1);
        assert_eq!(now, before, "{what}");
    };

    for (kind, name, spec) in unrelated(&cluster.tor_peer_ip()) {
        let revision = cluster.put(kind, name, spec).await;
        cluster.settle(revision).await;
        same(&format!("{kind} {name}")).await;
    }
    // Labels of a peer, blocks, endpoints; and the global settings that sessions do not have.
    let labelled = json!({"metadata": {"name": "b", "labels": {"rack": "1"}},
        "spec": {"bgp": {"ipv4Address": format!("{b}/24")}}});
    let revision = cluster.put_value(Key::resource(Kind::Node, None, "b"), &labelled).await;
    cluster.settle(revision).await;
    same("labels of b").await;
    cluster.put_block("a", "10.66.1.0/26").await;
    cluster.settle(cluster.put_workload("a", "1", "10.66.1.1/32").await).await;
    same("a block and an endpoint").await;
    let revision = cluster
        .configure(json!({"serviceClusterIPs": [{"cidr": "10.96.0.0/12"}],
            "serviceExternalIPs": [{"cidr": "203.0.113.0/24"}], "logSeverityScreen": "Warning",
            "communities": [{"name": "x", "value": "65000:1"}],
            "prefixAdvertisements": [{"cidr": "10.66.0.0/16", "communities": ["x"]}],
            "ipv4NormalRoutePriority": 100, "ignoredInterfaces": ["eth7"]}))
        .await;
    cluster.settle(revision).await;
    same("settings of all").await;
    for (kind, name, _) in unrelated(&cluster.tor_peer_ip()) {
        if (kind, name) == (Kind::BgpPeer, "tor") {
            continue;
        }
        let namespace = kind.is_namespaced().then_some("default");
        let key = Key::resource(kind, namespace, name);
        if cluster.exists(&key).await {
            let revision = cluster.delete(&key).await;
            cluster.settle(revision).await;
            same(&format!("{kind} {name} went")).await;
        }
    }

    // And what concerns one of them restarts that one alone.
    let spec = json!({"peerIP": cluster.tor_peer_ip(), "asNumber": TOR_AS, "keepaliveTime": "7s"});
    let revision = cluster.put(Kind::BgpPeer, "tor", spec).await;
    cluster.settle(revision).await;
    let restarted = cluster
        .until("the session that concerns", async || {
            let (_, uptime) = cluster.session("a", outside).await?;
            (uptime != before.1).then_some(uptime)
        })
        .await;
    assert_ne!(restarted, before.1);
    let mesh = cluster.session("a", b).await.unwrap().1;
    assert_eq!(mesh, before.0, "the mesh goes on");
    cluster.established("a", outside).await;
    cluster.stop().await;
    drop(tor);
}
