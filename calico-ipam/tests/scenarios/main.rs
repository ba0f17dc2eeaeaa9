//! What an assignment does, case by case.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "../common/mod.rs"]
mod common;
mod resident;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use calico_core::datastore::Write;
use calico_core::key::{Key, Scope};
use calico_core::resource::AllowedUse;
use calico_core::testing::{Call, Fault, FaultyStore};
use calico_core::{Datastore, Kind};
use calico_ipam::{
    Allocator, AssignIp, AssignRequest, Ending, Finding, IpamError, Limit, Owner, Release,
};
use common::Cluster;

const MAIN: (&str, &str) = ("main", r#"{"cidr":"10.65.0.0/16"}"#);
const SIX: (&str, &str) = ("six", r#"{"cidr":"fd00:65::/48"}"#);

fn request(node: &str, handle: &str) -> AssignRequest {
    AssignRequest::new(node).handle(handle).attribute("node", node)
}

fn ips(assigned: &calico_ipam::Assigned) -> Vec<String> {
    assigned.addresses().map(|a| a.ip.to_string()).collect()
}

#[tokio::test]
async fn both_families_come_together_and_are_stored_as_upstream_stores_them() {
    let cluster = Cluster::with(&[MAIN, SIX]).await;
    let ipam = cluster.ipam();
    let got = ipam.auto_assign(request("n1", "net.a").v4(1).v6(1)).await.unwrap();
    assert_eq!((got.v4.len(), got.v6.len(), got.short.len()), (1, 1, 0));

    let (four, six) = (got.v4[0].block, got.v6[0].block);
    assert_eq!((four.prefix_len(), six.prefix_len()), (26, 122));
    let affinities = cluster.paths(&Scope::Affinities).await;
    assert_eq!(affinities.len(), 2);
    for (path, value) in &affinities {
        assert!(path.starts_with("/calico/ipam/v2/host/n1/ipv"), "{path}");
        assert_eq!(&**value, r#"{"state":"confirmed","deleted":false}"#);
    }
    let handles = cluster.paths(&Scope::Handles).await;
    let expected = format!(r#"{{"block":{{"{four}":1,"{six}":1}},"deleted":false}}"#);
    assert_eq!(&*handles["/calico/ipam/v2/handle/net.a"], expected);
    assert_eq!(ipam.check().await.unwrap(), []);

    assert_eq!(ipam.release_by_handle("net.a").await.unwrap().len(), 2);
    assert_eq!(ipam.release_by_handle("net.a").await.unwrap().len(), 0);
    assert!(cluster.paths(&Scope::Handles).await.is_empty());
    assert_eq!(cluster.assigned().await, []);
    // The blocks stay with the node.
    assert_eq!(cluster.paths(&Scope::Blocks).await.len(), 2);
}

#[tokio::test]
async fn a_node_fills_its_blocks_before_it_claims_another() {
    let cluster = Cluster::with(&[("p", r#"{"cidr":"10.0.0.0/24","blockSize":30}"#)]).await;
    let ipam = cluster.ipam();
    let mut seen = BTreeSet::new();
    for n in 0..10 {
        let got = ipam.auto_assign(request("n1", &format!("h{n}")).v4(1)).await.unwrap();
        assert!(seen.insert(got.v4[0].ip), "{} twice", got.v4[0].ip);
    }
    assert_eq!(cluster.paths(&Scope::AffinitiesOf("n1".into())).await.len(), 3);
}

#[tokio::test]
async fn nodes_borrow_when_no_block_is_left_unless_affinity_is_strict() {
    let pool = ("p", r#"{"cidr":"10.0.0.0/29","blockSize":30}"#);
    let cluster = Cluster::with(&[pool]).await;
    let ipam = cluster.ipam();
    ipam.auto_assign(request("n1", "a").v4(1)).await.unwrap();
    ipam.auto_assign(request("n2", "b").v4(1)).await.unwrap();
    let third = ipam.auto_assign(request("n3", "c").v4(3)).await.unwrap();
    assert_eq!(third.v4.len(), 3);
    assert!(cluster.paths(&Scope::AffinitiesOf("n3".into())).await.is_empty());

    cluster.config(r#"{"strict_affinity":true,"auto_allocate_blocks":true}"#).await;
    let strict = ipam.auto_assign(request("n4", "d").v4(1)).await.unwrap();
    assert_eq!(strict.v4, []);
    assert_eq!(strict.short[0].limit, Limit::StrictAffinity);
    assert!(cluster.paths(&Scope::Handles).await.keys().all(|path| !path.ends_with("/d")));
}

#[tokio::test]
async fn an_exhausted_pool_says_which_how_full_and_what_to_do() {
    let cluster = Cluster::with(&[("small", r#"{"cidr":"10.0.0.0/30","blockSize":30}"#)]).await;
    let ipam = cluster.ipam();
    let most = ipam.auto_assign(request("n1", "a").v4(6)).await.unwrap();
    assert_eq!((most.v4.len(), most.short[0].wanted, most.short[0].got), (4, 6, 4));
    let error = ipam.auto_assign(request("n2", "b").v4(1)).await.unwrap().complete().unwrap_err();
    assert_eq!(
        error.to_string(),
        "only 0 of 1 IPv4 addresses are left in IP pool small (10.0.0.0/30, 4 of 4 used): add an \
         IP pool or release addresses (`calicoctl ipam check`)"
    );
    // A handle that got nothing is not left behind.
    assert_eq!(cluster.paths(&Scope::Handles).await.len(), 1);
}

#[tokio::test]
async fn without_a_fitting_pool_nothing_is_written() {
    let rack = ("rack", r#"{"cidr":"10.1.0.0/16","nodeSelector":"rack == 'a'"}"#);
    let cluster = Cluster::with(&[rack]).await;
    cluster.node("n1", r#"{"rack":"a"}"#).await;
    let ipam = cluster.ipam();
    assert!(ipam.auto_assign(request("n1", "a").v4(1)).await.is_ok());
    let before = cluster.paths(&Scope::All).await;
    for (request, words) in [
        (request("n2", "b").v4(1), "rack has a nodeSelector that leaves out this node"),
        (request("n1", "b").v4(1).v6(1), "there is no IPv6 pool: create an IPPool"),
        (request("n1", "b/c").v4(1), "has a slash"),
    ] {
        let error = ipam.auto_assign(request).await.unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    let mut named = request("n1", "b").v4(1);
    named.v4_pools = vec!["other".into()];
    let error = ipam.auto_assign(named).await.unwrap_err().to_string();
    assert_eq!(error, "there is no IPv4 pool other: create it first");
    assert_eq!(cluster.paths(&Scope::All).await, before);
}

#[tokio::test]
async fn limits_on_blocks_hold() {
    let cluster = Cluster::with(&[("p", r#"{"cidr":"10.0.0.0/24","blockSize":30}"#)]).await;
    cluster.config(r#"{"strict_affinity":true,"maxBlocksPerHost":2}"#).await;
    let got = cluster.ipam().auto_assign(request("n1", "a").v4(20)).await.unwrap();
    assert_eq!(got.v4.len(), 8);
    assert_eq!(got.short[0].limit, Limit::BlocksPerHost(2));

    cluster.config(r#"{"strict_affinity":true,"auto_allocate_blocks":false}"#).await;
    let none = cluster.ipam().auto_assign(request("n2", "b").v4(1)).await.unwrap();
    assert_eq!(none.short[0].limit, Limit::NoAutoAllocation);
}

#[tokio::test]
async fn reservations_hold_for_automatic_assignment_only() {
    let cluster = Cluster::with(&[("p", r#"{"cidr":"10.0.0.0/29","blockSize":30}"#)]).await;
    let reserved = r#"{"reservedCIDRs":["10.0.0.0/30","10.0.0.4"]}"#;
    cluster.resource(Kind::IpReservation, "r", reserved).await;
    let ipam = cluster.ipam();
    let got = ipam.auto_assign(request("n1", "a").v4(8)).await.unwrap();
    assert_eq!(ips(&got), ["10.0.0.5", "10.0.0.6", "10.0.0.7"]);
    ipam.assign_ip(AssignIp::new("n1", "10.0.0.1".parse().unwrap())).await.unwrap();
    let usage = &ipam.utilization().await.unwrap()[0];
    assert_eq!((usage.capacity, usage.in_use, usage.reserved, usage.available), (8, 4, 5, 0));
}

#[tokio::test]
async fn particular_addresses_are_given_once() {
    let cluster =
        Cluster::with(&[MAIN, ("off", r#"{"cidr":"10.9.0.0/16","disabled":true}"#)]).await;
    let ipam = cluster.ipam();
    let ip = "10.65.3.7".parse().unwrap();
    let mut wish = AssignIp::new("n1", ip);
    wish.handle = Some("net.a".into());
    wish.attributes.insert("pod".into(), "web".into());
    assert_eq!(ipam.assign_ip(wish.clone()).await.unwrap().block, "10.65.3.0/26".parse().unwrap());
    assert_eq!(ipam.lookup(ip).await.unwrap().unwrap().attributes.handle_id.unwrap(), "net.a");
    let error = ipam.assign_ip(wish.clone()).await.unwrap_err();
    assert_eq!(error.to_string(), "10.65.3.7 is in use by handle net.a (pod=web)");
    assert_eq!(ipam.check().await.unwrap(), []);

    for (address, part) in [("10.66.0.1", "in no IP pool"), ("10.9.0.1", "off is disabled")] {
        let wish = AssignIp::new("n1", address.parse().unwrap());
        let error = ipam.assign_ip(wish).await.unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    wish.intended_use = AllowedUse::LoadBalancer;
    assert!(matches!(ipam.assign_ip(wish).await, Err(IpamError::NoPool { .. })));

    cluster.config(r#"{"strict_affinity":true}"#).await;
    let neighbour = AssignIp::new("n2", "10.65.3.8".parse().unwrap());
    let error = ipam.assign_ip(neighbour).await.unwrap_err();
    assert!(matches!(error, IpamError::StrictAffinity { .. }), "{error}");
}

#[tokio::test]
async fn releases_compare_the_owner() {
    let cluster = Cluster::with(&[MAIN]).await;
    let ipam = cluster.ipam();
    let got = ipam.auto_assign(request("n1", "net.a").v4(2)).await.unwrap();
    let (first, second) = (&got.v4[0], &got.v4[1]);
    let wrong = Release::of_handle(first.ip, "net.b");
    let error = ipam.release_ips(&[wrong]).await.unwrap_err().to_string();
    assert!(error.contains("belongs to handle net.a (node=n1), not to handle net.b"), "{error}");

    let right = Release { address: first.ip, handle: None, sequence: first.sequence };
    let freed = ipam.release_ips(std::slice::from_ref(&right)).await.unwrap();
    assert_eq!(freed.released, [first.ip]);
    assert_eq!(ipam.release_ips(&[right]).await.unwrap().unassigned, [first.ip]);
    assert_eq!(ipam.addresses_by_handle("net.a").await.unwrap(), [second.ip]);
    ipam.release_ips(&[Release::any(second.ip)]).await.unwrap();
    assert!(cluster.paths(&Scope::Handles).await.is_empty());
    assert_eq!(ipam.check().await.unwrap(), []);
}

#[tokio::test]
async fn a_repeated_request_gets_the_same_addresses_if_it_wants() {
    let cluster = Cluster::with(&[MAIN, SIX]).await;
    let ipam = cluster.ipam();
    let wish = || request("n1", "net.a").v4(1).v6(1).reuse();
    let first = ipam.auto_assign(wish()).await.unwrap();
    assert_eq!(ipam.auto_assign(wish()).await.unwrap(), first);
    let more = ipam.auto_assign(wish().v4(2)).await.unwrap();
    assert_eq!(more.v4[0], first.v4[0]);
    assert_eq!((more.v4.len(), cluster.assigned().await.len()), (2, 3));
    // Without the wish, each request adds.
    ipam.auto_assign(request("n1", "net.a").v4(1)).await.unwrap();
    assert_eq!(ipam.addresses_by_handle("net.a").await.unwrap().len(), 4);
    assert_eq!(ipam.check().await.unwrap(), []);
}

#[tokio::test]
async fn a_released_address_rests_for_the_cooldown() {
    let cluster = Cluster::with(&[("p", r#"{"cidr":"10.0.0.0/31","blockSize":31}"#)]).await;
    cluster.config(r#"{"strict_affinity":false,"ipCooldownSeconds":60}"#).await;
    let ipam = cluster.ipam();
    ipam.auto_assign(request("n1", "a").v4(2)).await.unwrap();
    ipam.release_by_handle("a").await.unwrap();
    assert_eq!(ipam.auto_assign(request("n1", "b").v4(1)).await.unwrap().v4, []);
    cluster.seconds.fetch_add(60, Ordering::Relaxed);
    assert_eq!(ipam.auto_assign(request("n1", "b").v4(2)).await.unwrap().v4.len(), 2);
}

#[tokio::test]
async fn a_host_that_is_gone_leaves_nothing_but_what_others_borrowed() {
    let cluster = Cluster::with(&[("p", r#"{"cidr":"10.0.0.0/30","blockSize":30}"#)]).await;
    let ipam = cluster.ipam();
    ipam.auto_assign(request("n1", "a").v4(2)).await.unwrap();
    let borrowed = ipam.auto_assign(request("n2", "b").v4(1)).await.unwrap();
    let gone = ipam.release_host("n1").await.unwrap();
    assert_eq!((gone.addresses.len(), gone.blocks.len()), (2, 1));
    assert!(cluster.paths(&Scope::Affinities).await.is_empty());
    assert_eq!(cluster.assigned().await, [(borrowed.v4[0].ip.to_string(), "b".to_owned())]);
    // The last address takes the ownerless block with it.
    ipam.release_by_handle("b").await.unwrap();
    assert!(cluster.paths(&Scope::Blocks).await.is_empty());
}

#[tokio::test]
async fn blocks_are_ensured_and_given_up() {
    let cluster = Cluster::with(&[MAIN, SIX]).await;
    let ipam = cluster.ipam();
    let blocks = ipam.ensure_block("n1").await.unwrap();
    assert_eq!(blocks.len(), 2);
    assert_eq!(ipam.ensure_block("n1").await.unwrap(), blocks);
    ipam.auto_assign(request("n1", "a").v4(1)).await.unwrap();
    let owner = Owner::host("n1");
    let used = *blocks.iter().find(|block| block.addr().is_ipv4()).unwrap();
    assert!(!ipam.release_affinity(&owner, used, true).await.unwrap());
    assert!(ipam.release_affinity(&owner, used, false).await.unwrap());
    assert_eq!(cluster.assigned().await.len(), 1);

    // A pool that no longer selects the node takes its empty blocks back.
    cluster
        .resource(Kind::IpPool, "six", r#"{"cidr":"fd00:65::/48","nodeSelector":"has(x)"}"#)
        .await;
    assert_eq!(ipam.release_unselected("n1").await.unwrap().len(), 1);
    assert!(cluster.paths(&Scope::Affinities).await.is_empty());
}

#[tokio::test]
async fn a_claim_that_stopped_half_way_is_finished_or_dropped() {
    let affinity = |block: &str| Owner::host("n1").affinity_key(block.parse().unwrap());
    let pool = [("p", r#"{"cidr":"10.0.0.0/29","blockSize":30}"#)];
    // Only the claim was written.
    let cluster = Cluster::with(&pool).await;
    let pending = r#"{"state":"pending","deleted":false}"#;
    cluster.memory.put(affinity("10.0.0.0/30"), pending.into()).await.unwrap();
    let got = cluster.ipam().auto_assign(request("n1", "a").v4(1)).await.unwrap();
    assert_eq!(ips(&got), ["10.0.0.0"]);
    assert_eq!(cluster.ipam().check().await.unwrap(), []);

    // Another node was faster with the block.
    for state in [pending, r#"{"state":"confirmed","deleted":false}"#, ""] {
        let cluster = Cluster::with(&pool).await;
        let ipam = cluster.ipam();
        ipam.assign_ip(AssignIp::new("n2", "10.0.0.1".parse().unwrap())).await.unwrap();
        cluster.memory.put(affinity("10.0.0.0/30"), state.into()).await.unwrap();
        let got = ipam.auto_assign(request("n1", "a").v4(1)).await.unwrap();
        assert_eq!(got.v4[0].block, "10.0.0.4/30".parse().unwrap(), "{state}");
        assert_eq!(ipam.check().await.unwrap(), []);
    }
}

#[tokio::test]
async fn check_finds_what_does_not_add_up() {
    let cluster = Cluster::with(&[MAIN]).await;
    let ipam = cluster.ipam();
    let got = ipam.auto_assign(request("n1", "a").v4(1)).await.unwrap();
    let block = got.v4[0].block;
    cluster.memory.delete(Key::Handle("a".into()), None).await.unwrap();
    let stray = format!(r#"{{"block":{{"{block}":3}},"deleted":false}}"#);
    cluster.memory.put(Key::Handle("b".into()), stray.into()).await.unwrap();
    cluster.memory.delete(Owner::host("n1").affinity_key(block), None).await.unwrap();
    let claim = Owner::host("n9").affinity_key("10.65.200.0/26".parse().unwrap());
    cluster.memory.put(claim, r#"{"state":"confirmed"}"#.into()).await.unwrap();
    let findings = ipam.check().await.unwrap();
    assert_eq!(findings.len(), 4, "{findings:?}");
    for (found, expected) in findings.iter().zip([
        |f: &Finding| matches!(f, Finding::NoHandle { .. }),
        |f: &Finding| matches!(f, Finding::CountsTooMuch { counted: 3, found: 0, .. }),
        |f: &Finding| matches!(f, Finding::ClaimWithoutBlock { .. }),
        |f: &Finding| matches!(f, Finding::BlockWithoutClaim { .. }),
    ]) {
        assert!(expected(found), "{found}");
    }
}

#[tokio::test]
async fn endless_conflicts_end_in_an_error() {
    let cluster = Cluster::with(&[MAIN]).await;
    cluster.ipam().auto_assign(request("n1", "a").v4(1)).await.unwrap();
    let memory = cluster.memory.clone();
    let flip = Mutex::new(());
    // Before every write, somebody else writes the block.
    let store = FaultyStore::new(Arc::new(cluster.memory.clone()), move |_, call| {
        let _guard = flip.lock();
        let memory = memory.clone();
        match call {
            Call::Write(_) => Fault::after(async move {
                for entry in memory.list(&Scope::Blocks).await.unwrap().entries {
                    memory.put(entry.key, entry.value).await.unwrap();
                }
            }),
            _ => Fault::None,
        }
    });
    let ipam = cluster.ipam_on(Arc::new(store));
    let error = ipam.auto_assign(request("n1", "b").v4(1)).await.unwrap_err();
    assert!(matches!(error, IpamError::Contention { attempts: 100, .. }), "{error}");
    assert_eq!(cluster.assigned().await.len(), 1);
}
