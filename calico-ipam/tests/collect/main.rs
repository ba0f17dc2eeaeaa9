//! What nodes that are gone have left is freed, and nothing that lives: with nodes that pause, come
//! back, change their names, with machines that move, and with looks at outdated copies of the store.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "../common/mod.rs"]
mod common;
mod world;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use calico_core::datastore::{
    Entry, Listing, Revision, StoreError, WatchStream, Write, WriteFailed,
};
use calico_core::key::{Key, Scope};
use calico_core::memory::MemoryStore;
use calico_core::resource::WorkloadEndpoint;
use calico_core::{Datastore, Kind};
use calico_ipam::plan::block::Allocation;
use calico_ipam::plan::collect::{Collector, Doubt, Settings, Verdict};
use calico_ipam::plan::geometry::scramble;
use calico_ipam::{AssignRequest, Collected, Deed, Ipam, Owner};
use common::Cluster;

const POOL: [(&str, &str); 1] = [("p", r#"{"cidr":"10.0.0.0/24","blockSize":29}"#)];

async fn endpoint(store: &MemoryStore, node: &str, container: &str, addresses: &[IpAddr]) {
    let nets: Vec<String> = addresses.iter().map(|ip| format!("{ip}/32")).collect();
    let name = format!("{node}-cni-{container}-eth0");
    let value = serde_json::json!({
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"node": node, "containerID": container, "endpoint": "eth0", "ipNetworks": nets},
    });
    let key = Key::resource(Kind::WorkloadEndpoint, Some("default"), &name);
    store.put(key, value.to_string().into()).await.unwrap();
}

async fn forget_endpoint(store: &MemoryStore, node: &str, container: &str) {
    let name = format!("{node}-cni-{container}-eth0");
    let key = Key::resource(Kind::WorkloadEndpoint, Some("default"), &name);
    let _ = store.delete(key, None).await;
}

async fn forget_node(store: &MemoryStore, node: &str) {
    let _ = store.delete(Key::resource(Kind::Node, None, node), None).await;
}

async fn assign(ipam: &Ipam, node: &str, container: &str) -> Vec<IpAddr> {
    let request = AssignRequest::new(node)
        .handle(format!("net.{container}"))
        .attribute("node", node)
        .attribute("sandbox", container)
        .v4(1);
    let got = ipam.auto_assign(request).await.unwrap();
    got.v4.iter().map(|address| address.ip).collect()
}

async fn tunnel(ipam: &Ipam, node: &str) -> IpAddr {
    let request = AssignRequest::new(node)
        .handle(format!("vxlan-tunnel-addr-{node}"))
        .attribute("node", node)
        .attribute("type", "vxlanTunnelAddress")
        .v4(1)
        .reuse();
    ipam.auto_assign(request).await.unwrap().complete().unwrap().v4[0].ip
}

fn verdicts(collected: Collected) -> Vec<(String, Verdict, Deed)> {
    let Collected::Decided(decided) = collected else { panic!("{collected:?}") };
    decided.into_iter().map(|(d, deed)| (d.subject.to_string(), d.verdict, deed)).collect()
}

fn settings() -> Settings {
    Settings { grace: Duration::from_secs(60), looks: 3, ..Settings::default() }
}

#[tokio::test]
async fn everything_of_a_node_that_is_gone_goes_and_nothing_else() {
    let cluster = Cluster::with(&POOL).await;
    for node in ["me", "gone"] {
        cluster.node(node, "{}").await;
    }
    let (ipam, store) = (cluster.ipam(), &cluster.memory);
    let mine = assign(&ipam, "me", "c-me").await;
    assign(&ipam, "gone", "c-gone").await;
    tunnel(&ipam, "gone").await;
    store.put(Key::IpamHost("gone".into()), "".into()).await.unwrap();
    forget_node(store, "gone").await;

    let mut collector = Collector::new(settings(), Some("me"));
    let mut look = async |seconds, dry_run| {
        let now = Duration::from_secs(seconds);
        verdicts(ipam.collect(&mut collector, now, dry_run).await.unwrap())
    };
    for seconds in [0, 30] {
        let seen = look(seconds, false).await;
        assert_eq!(seen.len(), 3);
        assert!(
            seen.iter().all(|(_, v, deed)| matches!(v, Verdict::Watch(_)) && *deed == Deed::None)
        );
    }
    let before = cluster.assigned().await;
    assert!(look(60, true).await.iter().all(|(_, _, deed)| *deed == Deed::Would));
    assert_eq!(cluster.assigned().await, before, "a dry run changes nothing");
    let seen = look(61, false).await;
    assert!(seen.iter().all(|(_, _, deed)| *deed == Deed::Freed), "{seen:?}");
    assert_eq!(look(62, false).await, []);

    let left = cluster.assigned().await;
    assert_eq!(left, [(mine[0].to_string(), "net.c-me".to_owned())]);
    assert_eq!(ipam.check().await.unwrap(), []);
    assert_eq!(cluster.paths(&Scope::Affinities).await.len(), 1);
    assert_eq!(cluster.paths(&Scope::Handles).await.len(), 1);
    assert!(store.find(&Key::IpamHost("gone".into())).await.unwrap().is_none());
}

#[tokio::test]
async fn a_block_that_others_borrow_from_loses_its_owner_only() {
    let cluster = Cluster::with(&[("p", r#"{"cidr":"10.0.0.0/30","blockSize":30}"#)]).await;
    for node in ["me", "gone"] {
        cluster.node(node, "{}").await;
    }
    let (ipam, store) = (cluster.ipam(), &cluster.memory);
    assign(&ipam, "gone", "c-gone").await;
    let borrowed = assign(&ipam, "me", "c-me").await;
    endpoint(store, "me", "c-me", &borrowed).await;
    forget_node(store, "gone").await;
    let settings = Settings { grace: Duration::ZERO, looks: 1, ..settings() };
    let mut collector = Collector::new(settings, Some("me"));
    ipam.collect(&mut collector, Duration::ZERO, false).await.unwrap();
    let blocks = ipam.blocks().await.unwrap();
    assert_eq!((blocks.len(), &blocks[0].owner, blocks[0].allocations.len()), (1, &None, 1));
    assert_eq!(ipam.lookup(borrowed[0]).await.unwrap().unwrap().address, borrowed[0]);
    assert_eq!(ipam.check().await.unwrap(), []);
}

#[tokio::test]
async fn a_block_that_names_a_node_without_its_claim_is_found_too() {
    let cluster = Cluster::with(&POOL).await;
    for node in ["me", "gone"] {
        cluster.node(node, "{}").await;
    }
    let (ipam, store) = (cluster.ipam(), &cluster.memory);
    ipam.ensure_block("gone").await.unwrap();
    let block = ipam.blocks().await.unwrap()[0].cidr;
    store.delete(Owner::host("gone").affinity_key(block), None).await.unwrap();
    forget_node(store, "gone").await;
    let settings = Settings { grace: Duration::ZERO, looks: 1, ..settings() };
    let mut collector = Collector::new(settings, Some("me"));
    let seen = verdicts(ipam.collect(&mut collector, Duration::ZERO, false).await.unwrap());
    assert_eq!(seen.len(), 1);
    assert_eq!(ipam.blocks().await.unwrap(), []);
}

#[tokio::test]
async fn an_empty_store_or_another_one_proves_nothing() {
    let cluster = Cluster::with(&POOL).await;
    let ipam = cluster.ipam();
    assign(&ipam, "me", "c").await;
    let mut collector = Collector::new(settings(), Some("me"));
    let doubt = ipam.collect(&mut collector, Duration::ZERO, false).await.unwrap();
    assert_eq!(doubt, Collected::Doubtful(Doubt::NoNodes));
    cluster.node("other", "{}").await;
    let doubt = ipam.collect(&mut collector, Duration::ZERO, false).await.unwrap();
    assert_eq!(doubt, Collected::Doubtful(Doubt::WithoutMe));
}

/// A node comes back under its name and takes its tunnel's address up again, just when everybody
/// is about to free it (projectcalico/calico#7192): it has the address, or gets another.
#[tokio::test]
async fn a_node_that_comes_back_while_its_address_is_freed() {
    let cluster = Cluster::with(&POOL).await;
    for node in ["me", "back"] {
        cluster.node(node, "{}").await;
    }
    let (ipam, store) = (cluster.ipam(), cluster.memory.clone());
    let address = tunnel(&ipam, "back").await;
    forget_node(&store, "back").await;

    /// Once nodes were listed, the node is back and has its address confirmed.
    #[derive(Debug)]
    struct Between {
        inner: MemoryStore,
        ipam: Ipam,
        address: IpAddr,
    }
    #[async_trait]
    impl Datastore for Between {
        async fn get(&self, key: &Key) -> Result<Entry, StoreError> {
            self.inner.get(key).await
        }
        async fn list(&self, scope: &Scope) -> Result<Listing, StoreError> {
            let listing = self.inner.list(scope).await;
            if *scope == Scope::Kind(Kind::Node) {
                let handle = "vxlan-tunnel-addr-back";
                let kept = self.ipam.confirm_address(self.address, handle).await.unwrap();
                assert!(kept, "it is still the node's");
            }
            listing
        }
        async fn write(&self, writes: Vec<Write>) -> Result<Vec<Revision>, WriteFailed> {
            self.inner.write(writes).await
        }
        fn watch(&self, scope: Scope, from: Option<Revision>) -> WatchStream {
            self.inner.watch(scope, from)
        }
    }

    let between = Between { inner: store.clone(), ipam: ipam.clone(), address };
    let late = cluster.ipam_on(Arc::new(between));
    let settings = Settings { grace: Duration::ZERO, looks: 1, ..settings() };
    let mut collector = Collector::new(settings, Some("me"));
    let seen = verdicts(late.collect(&mut collector, Duration::ZERO, false).await.unwrap());
    assert!(seen.iter().all(|(_, _, deed)| *deed == Deed::Changed), "{seen:?}");
    assert_eq!(ipam.addresses_by_handle("vxlan-tunnel-addr-back").await.unwrap(), [address]);
    // The other way round: it was freed before, and the node hears of it.
    ipam.release_by_handle("vxlan-tunnel-addr-back").await.unwrap();
    assert!(!ipam.confirm_address(address, "vxlan-tunnel-addr-back").await.unwrap());
}
