//! An allocator with a memory.

use super::*;

/// Counts calls, apart from watches.
fn counted(cluster: &Cluster) -> (Arc<dyn Datastore>, Arc<(AtomicU64, AtomicU64)>) {
    let counts = Arc::new((AtomicU64::new(0), AtomicU64::new(0)));
    let seen = Arc::clone(&counts);
    let store = FaultyStore::new(Arc::new(cluster.memory.clone()), move |_, call| {
        match call {
            Call::Write(_) => seen.1.fetch_add(1, Ordering::Relaxed),
            Call::Get(_) | Call::List(_) => seen.0.fetch_add(1, Ordering::Relaxed),
            _ => 0,
        };
        Fault::None
    });
    (Arc::new(store), counts)
}

fn reset(counts: &(AtomicU64, AtomicU64)) -> (u64, u64) {
    (counts.0.swap(0, Ordering::Relaxed), counts.1.swap(0, Ordering::Relaxed))
}

#[tokio::test]
async fn a_resident_allocator_writes_once_and_reads_nothing() {
    let cluster = Cluster::with(&[MAIN, SIX]).await;
    let (store, counts) = counted(&cluster);
    let allocator = Allocator::new(cluster.ipam_on(store), "n1");
    allocator.auto_assign(request("n1", "first").v4(1).v6(1)).await.unwrap();
    reset(&counts);

    let got = allocator.auto_assign(request("n1", "second").v4(1).v6(1)).await.unwrap();
    assert_eq!(reset(&counts), (0, 1), "reads and writes of an assignment");
    assert_eq!(allocator.release_by_handle("second").await.unwrap().len(), 2);
    assert_eq!(reset(&counts), (0, 1), "reads and writes of a release");
    assert_eq!(got.addresses().count(), 2);

    // 250 pods at once: a claim for each further block, and one write for all addresses.
    let burst: Vec<AssignRequest> =
        (0..250).map(|n| request("n1", &format!("burst{n}")).v4(1)).collect();
    let answers = allocator.assign_many(&burst).await;
    let unique: BTreeSet<_> = answers.iter().map(|a| a.as_ref().unwrap().v4[0].ip).collect();
    assert_eq!(unique.len(), 250);
    let (reads, writes) = reset(&counts);
    assert!(reads <= 4 && writes <= 5, "{reads} reads, {writes} writes");
    assert_eq!(cluster.ipam().check().await.unwrap(), []);
}

#[tokio::test]
async fn handles_that_end_together_are_one_write() {
    let cluster = Cluster::with(&[MAIN, SIX]).await;
    let (store, counts) = counted(&cluster);
    let allocator = Allocator::new(cluster.ipam_on(store), "n1");
    let burst: Vec<AssignRequest> =
        (0..100).map(|n| request("n1", &format!("burst{n}")).v4(1).v6(1)).collect();
    allocator.assign_many(&burst).await;
    let endpoint = Key::resource(Kind::Profile, None, "stands-for-an-endpoint");
    let revision = cluster.memory.put(endpoint.clone(), "{}".into()).await.unwrap();
    let end = |handle: String| Ending { handle, first: Vec::new() };
    let mut endings: Vec<Ending> = (0..99).map(|n| end(format!("burst{n}"))).collect();
    endings.push(end("unknown".into()));
    endings[7].first.push(Write::delete(endpoint.clone(), Some(revision)));
    reset(&counts);
    let released = allocator.release_along(&endings).await.unwrap();
    assert_eq!(reset(&counts), (1, 1), "reads (of the unknown handle) and writes");
    assert!(released[..99].iter().all(|ips| ips.len() == 2) && released[99].is_empty());
    assert!(cluster.memory.find(&endpoint).await.unwrap().is_none());
    assert_eq!(cluster.assigned().await.len(), 2);

    // Somebody else was at the last handle: the error leaves what a repetition can carry out.
    cluster.ipam().release_by_handle("burst99").await.unwrap();
    assert!(allocator.release_along(&[end("burst99".into())]).await.is_err());
    assert_eq!(allocator.release_by_handle("burst99").await.unwrap(), [] as [std::net::IpAddr; 0]);
    assert_eq!(cluster.assigned().await, []);
    assert_eq!(cluster.ipam().check().await.unwrap(), []);
}

#[tokio::test]
async fn a_resident_allocator_notices_what_others_change() {
    let cluster = Cluster::with(&[MAIN]).await;
    let allocator = Allocator::new(cluster.ipam(), "n1");
    let first = allocator.auto_assign(request("n1", "a").v4(1)).await.unwrap();
    // Somebody else releases, assigns in our block, and shuts the pool.
    let other = cluster.ipam();
    other.release_by_handle("a").await.unwrap();
    let next = AssignIp::new("n2", "10.65.0.0".parse().unwrap());
    let stolen = calico_ipam::plan::geometry::nth_address(&first.v4[0].block, 1).unwrap();
    other.assign_ip(AssignIp { address: stolen, ..next }).await.unwrap();
    let second = allocator.auto_assign(request("n1", "b").v4(1)).await.unwrap();
    assert_ne!(second.v4[0].ip, stolen);
    assert!(allocator.release_by_handle("a").await.unwrap().is_empty());

    cluster.resource(Kind::IpPool, "main", r#"{"cidr":"10.65.0.0/16","disabled":true}"#).await;
    let refused = allocator.auto_assign(request("n1", "c").v4(1)).await.unwrap_err();
    assert_eq!(refused.to_string(), "no IPv4 pool serves this request: main is disabled");

    cluster.resource(Kind::IpPool, "new", r#"{"cidr":"10.77.0.0/16"}"#).await;
    let third = allocator.auto_assign(request("n1", "c").v4(1)).await.unwrap();
    assert!(third.v4[0].ip.to_string().starts_with("10.77."));

    // The node is cleaned away and comes back.
    other.release_host("n1").await.unwrap();
    let again = allocator.auto_assign(request("n1", "d").v4(1)).await.unwrap();
    assert_eq!(again.v4.len(), 1);
    assert_eq!(cluster.ipam().check().await.unwrap(), []);
}
