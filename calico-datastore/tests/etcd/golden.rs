//! Keys and values, byte by byte, as upstream writes them.

use std::process::Command;

use calico_core::Datastore;
use calico_core::datastore::Write;
use calico_core::key::{Key, OwnerType, Scope};
use calico_core::kind::Kind;
use calico_core::resource::{
    AffinityState, AllocationAttribute, AllocationBlock, BlockAffinityValue, IpPool, IpPoolSpec,
    IpamConfig, IpamHandle, ObjectMeta,
};
use serde::Serialize;

use super::pool;
use super::server::Cluster;

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap()
}

fn affinity(owner: &str, block: &str) -> Key {
    Key::Affinity {
        owner_type: OwnerType::Host,
        owner: owner.into(),
        block: block.parse().unwrap(),
    }
}

#[tokio::test]
async fn what_is_written_is_what_upstream_writes() {
    let cluster = Cluster::start(1).await;
    let store = cluster.store();
    let check = async |key: Key, value: String, path: &str, stored: &str| {
        store.create(key, value.into()).await.unwrap();
        let found = cluster.etcdctl(&["get", path, "--print-value-only"]);
        assert_eq!(String::from_utf8(found).unwrap(), format!("{stored}\n"), "{path}");
    };

    let metadata = ObjectMeta {
        uid: "11111111-2222-3333-4444-555555555555".into(),
        resource_version: "77".into(),
        self_link: "/apis/x".into(),
        creation_timestamp: Some("2026-01-02T03:04:05Z".into()),
        ..ObjectMeta::named("main")
    };
    let ip_pool = IpPool {
        metadata,
        ..IpPool::new(
            "main",
            IpPoolSpec {
                nat_outgoing: true,
                block_size: 26,
                ..IpPoolSpec::new("10.65.0.0/16".parse().unwrap())
            },
        )
    };
    check(
        pool("main"),
        json(&ip_pool),
        "/calico/resources/v3/projectcalico.org/ippools/main",
        r#"{"kind":"IPPool","apiVersion":"projectcalico.org/v3","metadata":{"name":"main","uid":"11111111-2222-3333-4444-555555555555","creationTimestamp":"2026-01-02T03:04:05Z"},"spec":{"cidr":"10.65.0.0/16","natOutgoing":true,"blockSize":26}}"#,
    )
    .await;
    let policy = r#"{"kind":"NetworkPolicy","apiVersion":"projectcalico.org/v3","metadata":{"name":"web","namespace":"prod"},"spec":{"tier":"default"}}"#;
    check(
        Key::resource(Kind::NetworkPolicy, Some("prod"), "web"),
        policy.into(),
        "/calico/resources/v3/projectcalico.org/networkpolicies/prod/web",
        policy,
    )
    .await;

    let block = AllocationBlock {
        affinity: Some("host:n1".into()),
        allocations: vec![Some(0), None, None, None],
        unallocated: vec![1, 2, 3],
        attributes: vec![AllocationAttribute {
            handle_id: Some("k8s-pod-network.abc".into()),
            secondary: [("node".to_owned(), "n1".to_owned())].into(),
            ..AllocationAttribute::default()
        }],
        sequence_number: 1_700_000_000_000_000_001,
        sequence_number_for_allocation: [("0".to_owned(), 1_700_000_000_000_000_000)].into(),
        ..AllocationBlock::default()
    };
    let block = AllocationBlock { cidr: "10.65.0.0/30".parse().unwrap(), ..block };
    check(
        Key::Block(block.cidr),
        json(&block),
        "/calico/ipam/v2/assignment/ipv4/block/10.65.0.0-30",
        r#"{"cidr":"10.65.0.0/30","affinity":"host:n1","allocations":[0,null,null,null],"unallocated":[1,2,3],"attributes":[{"handle_id":"k8s-pod-network.abc","secondary":{"node":"n1"}}],"sequenceNumber":1700000000000000001,"sequenceNumberForAllocation":{"0":1700000000000000000},"deleted":false}"#,
    )
    .await;
    check(
        affinity("n1", "fd00:65::40/122"),
        json(&BlockAffinityValue {
            state: Some(AffinityState::Confirmed),
            ..BlockAffinityValue::default()
        }),
        "/calico/ipam/v2/host/n1/ipv6/block/fd00:65::40-122",
        r#"{"state":"confirmed","deleted":false}"#,
    )
    .await;
    check(
        Key::Affinity {
            owner_type: OwnerType::Virtual,
            owner: "load-balancer".into(),
            block: "10.65.0.0/30".parse().unwrap(),
        },
        r#"{"state":"confirmed","deleted":false}"#.into(),
        "/calico/ipam/v2/virtual/load-balancer/ipv4/block/10.65.0.0-30",
        r#"{"state":"confirmed","deleted":false}"#,
    )
    .await;
    check(
        Key::Handle("k8s-pod-network.abc".into()),
        json(&IpamHandle {
            block: [("10.65.0.0/30".to_owned(), 1)].into(),
            ..IpamHandle::default()
        }),
        "/calico/ipam/v2/handle/k8s-pod-network.abc",
        r#"{"block":{"10.65.0.0/30":1},"deleted":false}"#,
    )
    .await;
    check(
        Key::IpamConfig,
        json(&IpamConfig {
            auto_allocate_blocks: Some(true),
            max_blocks_per_host: 4,
            ..IpamConfig::default()
        }),
        "/calico/ipam/v2/config",
        r#"{"strict_affinity":false,"auto_allocate_blocks":true,"maxBlocksPerHost":4}"#,
    )
    .await;
    check(Key::IpamHost("n1".into()), String::new(), "/calico/ipam/v2/host/n1", "").await;

    let keys = cluster.etcdctl(&["get", "--prefix", "", "--keys-only"]);
    assert_eq!(String::from_utf8(keys).unwrap().lines().filter(|line| !line.is_empty()).count(), 8);
}

#[tokio::test]
async fn what_upstream_wrote_is_read() {
    let cluster = Cluster::start(1).await;
    let store = cluster.store();
    cluster.etcdctl(&["put", "/calico/ipam/v2/host/n1/ipv4/block/10.65.0.0-30", ""]);
    cluster.etcdctl(&["put", "/calico/ipam/v2/handle/h", r#"{"block":{"10.65.0.0/30":2}}"#]);
    cluster.etcdctl(&["put", "/calico/felix/v2/no-region/host/n1/status", "{}"]);
    cluster.etcdctl(&["put", "/registry/pods/x", "{}"]);

    let entry = store.get(&affinity("n1", "10.65.0.0/30")).await.unwrap();
    assert_eq!(entry.decode::<BlockAffinityValue>().unwrap(), BlockAffinityValue::default());
    let entry = store.get(&Key::Handle("h".into())).await.unwrap();
    assert_eq!(entry.decode::<IpamHandle>().unwrap().block["10.65.0.0/30"], 2);

    // The version of an object is its mod_revision, and etcd's own tools agree.
    let revision = store.put(Key::Handle("h".into()), "{}".into()).await.unwrap();
    let text = cluster.etcdctl(&["get", "/calico/ipam/v2/handle/h", "--write-out=json"]);
    let text: serde_json::Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(text["kvs"][0]["mod_revision"], revision.0);

    let all = store.list(&Scope::All).await.unwrap();
    assert_eq!(all.entries.len(), 2, "what belongs to others is left out: {all:?}");
}

#[tokio::test]
async fn building_needs_no_generator() {
    // The messages are written by hand: this holds them against what etcdctl, which was
    // generated from the definition, puts on the wire and reads from it.
    let cluster = Cluster::start(1).await;
    let store = cluster.store();
    let writes = vec![Write::create(pool("a"), "1"), Write::create(pool("b"), "2")];
    let done = store.write(writes).await.unwrap();
    let output = Command::new("etcdctl")
        .env("ETCDCTL_API", "3")
        .args(["--endpoints", &cluster.members[0].url, "get", "--prefix", "/", "-w", "fields"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    for field in [format!("\"ModRevision\" : {}", done[0]), "\"Count\" : 2".to_owned()] {
        assert!(text.contains(&field), "{field} in {text}");
    }
}
