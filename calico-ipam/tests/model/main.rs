//! Several hosts at once, with conflicts, crashes, lost replies and dropped futures: no address is
//! given twice, and none is left once its handle is released.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "../common/mod.rs"]
mod common;
mod dropped;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use calico_core::Datastore;
use calico_core::datastore::WriteFailed;
use calico_core::key::Scope;
use calico_ipam::{Allocator, AssignIp, AssignRequest, Finding, Ipam, Release};
use common::{Chances, Chaos, Cluster};
use proptest::prelude::*;

/// What a host does. Handles are the host's own, by number.
#[derive(Debug, Clone)]
enum Step {
    Assign { handle: u8, count: u8 },
    Reuse { handle: u8 },
    Particular { handle: u8, last: u8 },
    ReleaseHandle { handle: u8 },
    ReleaseOne { handle: u8 },
    GiveUpBlocks,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let handle = 0..4_u8;
    prop_oneof![
        6 => (handle.clone(), 1..4_u8).prop_map(|(handle, count)| Step::Assign { handle, count }),
        2 => handle.clone().prop_map(|handle| Step::Reuse { handle }),
        1 => (handle.clone(), 0..32_u8).prop_map(|(handle, last)| Step::Particular { handle, last }),
        4 => handle.clone().prop_map(|handle| Step::ReleaseHandle { handle }),
        2 => handle.prop_map(|handle| Step::ReleaseOne { handle }),
        1 => Just(Step::GiveUpBlocks),
        1 => Just(Step::Restart),
    ]
}

/// Who believes to have which address, over all hosts.
type Held = Arc<Mutex<BTreeMap<IpAddr, String>>>;

/// Notes that `handle` was given `ip`.
///
/// # Panics
///
/// If another handle has it: the very thing that must not happen.
fn give(held: &Held, ip: IpAddr, handle: &str) {
    let before = held.lock().unwrap().insert(ip, handle.to_owned());
    assert!(before.as_deref().is_none_or(|b| b == handle), "{ip}: {handle} and {before:?}");
}

fn of(held: &Held, handle: &str) -> Vec<IpAddr> {
    held.lock().unwrap().iter().filter(|(_, h)| *h == handle).map(|(ip, _)| *ip).collect()
}

fn forget(held: &Held, handle: &str) {
    held.lock().unwrap().retain(|_, h| h != handle);
}

async fn host(nth: usize, steps: Vec<Step>, ipam: Ipam, resident: bool, held: Held) {
    let node = format!("n{nth}");
    let mut allocator = Allocator::new(ipam.clone(), &node);
    let name = |handle: u8| format!("net.{nth}-{handle}");
    for step in steps {
        match step {
            Step::Assign { handle, count } => {
                let handle = name(handle);
                let request = AssignRequest::new(&node).handle(&handle).v4(count.into());
                let got = if resident {
                    allocator.auto_assign(request).await
                } else {
                    ipam.auto_assign(request).await
                };
                for address in got.iter().flat_map(|got| &got.v4) {
                    give(&held, address.ip, &handle);
                }
            }
            Step::Reuse { handle } => {
                let handle = name(handle);
                let request = AssignRequest::new(&node).handle(&handle).v4(2).reuse();
                if let Ok(got) = allocator.auto_assign(request).await {
                    got.v4.iter().for_each(|address| give(&held, address.ip, &handle));
                }
            }
            Step::Particular { handle, last } => {
                let handle = name(handle);
                let mut wish = AssignIp::new(&node, [10, 0, 0, last].into());
                wish.handle = Some(handle.clone());
                if let Ok(address) = ipam.assign_ip(wish).await {
                    give(&held, address.ip, &handle);
                }
            }
            Step::ReleaseHandle { handle } => {
                let handle = name(handle);
                // Whatever comes of it, the addresses are nobody's from now on.
                forget(&held, &handle);
                let _ = if resident {
                    allocator.release_by_handle(&handle).await
                } else {
                    ipam.release_by_handle(&handle).await
                };
            }
            Step::ReleaseOne { handle } => {
                let handle = name(handle);
                let Some(ip) = of(&held, &handle).into_iter().next() else { continue };
                held.lock().unwrap().remove(&ip);
                let _ = ipam.release_ips(&[Release::of_handle(ip, &handle)]).await;
            }
            Step::GiveUpBlocks => {
                let owner = calico_ipam::Owner::host(&node);
                for cidr in ["10.0.0.0/30", "10.0.0.4/30", "10.0.0.8/30", "10.0.0.12/30"] {
                    let _ = ipam.release_affinity(&owner, cidr.parse().unwrap(), false).await;
                }
            }
            Step::Restart => allocator = Allocator::new(ipam.clone(), &node),
        }
    }
}

const POOL: [(&str, &str); 1] = [("p", r#"{"cidr":"10.0.0.0/27","blockSize":30}"#)];

/// Everything that must hold when nobody is at work.
async fn settle(cluster: &Cluster, held: &Held) {
    let ipam = cluster.ipam();
    let believed = held.lock().unwrap().clone();
    for (ip, handle) in believed {
        let owner = ipam.lookup(ip).await.unwrap().and_then(|a| a.attributes.handle_id);
        assert_eq!(owner.as_deref(), Some(handle.as_str()), "{ip} was taken away");
    }
    let findings = ipam.check().await.unwrap();
    let uncovered: Vec<_> =
        findings.iter().filter(|f| matches!(f, Finding::NoHandle { .. })).collect();
    assert!(uncovered.is_empty(), "{uncovered:?}");
    for (path, _) in cluster.paths(&Scope::Handles).await {
        ipam.release_by_handle(path.rsplit('/').next().unwrap()).await.unwrap();
    }
    assert_eq!(cluster.assigned().await, [], "left after every handle was released");
    assert!(cluster.paths(&Scope::Handles).await.is_empty());
    // What crashes left is no obstacle: the whole pool can still be had.
    let all = ipam.auto_assign(AssignRequest::new("n0").handle("all").v4(32)).await.unwrap();
    assert_eq!(all.v4.len(), 32, "{:?}", all.short);
}

fn run(seed: u64, hosts: Vec<Vec<Step>>, chances: Chances, resident: bool) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let cluster = Cluster::with(&POOL).await;
        let held = Held::default();
        let tasks = hosts.into_iter().enumerate().map(|(nth, steps)| {
            let seed = seed.wrapping_add(nth as u64);
            let store = Arc::new(Chaos::new(cluster.memory.clone(), seed, chances));
            host(nth, steps, cluster.ipam_on(store), resident, Arc::clone(&held))
        });
        futures_util::future::join_all(tasks).await;
        settle(&cluster, &held).await;
    });
}

/// More cases than usual, and as many as `PROPTEST_CASES` asks for.
fn config() -> ProptestConfig {
    let usual = ProptestConfig::default();
    ProptestConfig { cases: usual.cases.max(400), failure_persistence: None, ..usual }
}

fn hosts() -> impl Strategy<Value = Vec<Vec<Step>>> {
    prop::collection::vec(prop::collection::vec(step(), 1..12), 2..5)
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn hosts_that_race_never_share_or_lose_an_address(
        seed in any::<u64>(), hosts in hosts(), resident in any::<bool>(),
    ) {
        run(seed, hosts, Chances::default(), resident);
    }

    #[test]
    fn nor_do_they_when_stores_fail_and_hosts_crash(
        seed in any::<u64>(), hosts in hosts(), resident in any::<bool>(),
    ) {
        run(seed, hosts, Chances { crash: 12, lose: 12, fail: 12 }, resident);
    }
}

/// Two hosts ask for the address of one machine, again and again, as when it moves: it has one.
#[test]
fn hosts_that_share_a_handle_share_its_address() {
    for seed in 0..300 {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let cluster = Cluster::with(&POOL).await;
            let chances = if seed % 2 == 0 {
                Chances::default()
            } else {
                Chances { crash: 15, lose: 15, fail: 15 }
            };
            let hosts = (0..3_u64).map(|nth| {
                let store = Arc::new(Chaos::new(cluster.memory.clone(), seed * 7 + nth, chances));
                let ipam = cluster.ipam_on(store);
                async move {
                    let node = format!("n{nth}");
                    let allocator = Allocator::new(ipam.clone(), &node);
                    let mut got = BTreeSet::new();
                    for _ in 0..4 {
                        let request = AssignRequest::new(&node).handle("net.vmi.a.b").v4(1).reuse();
                        let answer = allocator.auto_assign(request).await;
                        got.extend(answer.iter().flat_map(|got| &got.v4).map(|address| address.ip));
                    }
                    got
                }
            });
            let got = futures_util::future::join_all(hosts).await;
            let all: BTreeSet<IpAddr> = got.into_iter().flatten().collect();
            let assigned = cluster.assigned().await;
            assert!(all.len() <= 1, "seed {seed}: {all:?}");
            assert!(assigned.len() <= 1, "seed {seed}: {assigned:?}");
            cluster.ipam().release_by_handle("net.vmi.a.b").await.unwrap();
            settle(&cluster, &Held::default()).await;
        });
    }
}

/// The race behind the rule that a release writes every block of its handle: an assignment has
/// written the handle, a release sees it and finds nothing to release, the assignment goes on.
#[tokio::test]
async fn a_release_between_handle_and_block_defeats_the_assignment() {
    let cluster = Cluster::with(&POOL).await;
    cluster.ipam().ensure_block("n1").await.unwrap();

    #[derive(Debug)]
    struct Between(Cluster);
    #[async_trait::async_trait]
    impl Datastore for Between {
        async fn get(
            &self,
            key: &calico_core::key::Key,
        ) -> Result<calico_core::datastore::Entry, calico_core::datastore::StoreError> {
            self.0.memory.get(key).await
        }
        async fn list(
            &self,
            scope: &Scope,
        ) -> Result<calico_core::datastore::Listing, calico_core::datastore::StoreError> {
            self.0.memory.list(scope).await
        }
        async fn write(
            &self,
            mut writes: Vec<calico_core::datastore::Write>,
        ) -> Result<Vec<calico_core::datastore::Revision>, WriteFailed> {
            let rest = writes.split_off(1);
            let mut done = self.0.memory.write(writes).await?;
            if !rest.is_empty() {
                self.0.ipam().release_by_handle("a").await.unwrap();
            }
            match self.0.memory.write(rest).await {
                Ok(more) => done.extend(more),
                Err(failed) => return Err(WriteFailed { done, error: failed.error }),
            }
            Ok(done)
        }
        fn watch(
            &self,
            scope: Scope,
            from: Option<calico_core::datastore::Revision>,
        ) -> calico_core::datastore::WatchStream {
            self.0.memory.watch(scope, from)
        }
    }

    let memory = cluster.memory.clone();
    let seconds = Arc::clone(&cluster.seconds);
    let ipam = cluster.ipam_on(Arc::new(Between(Cluster { memory, seconds })));
    assert!(ipam.auto_assign(AssignRequest::new("n1").handle("a").v4(1)).await.is_err());
    assert_eq!(cluster.assigned().await, []);
}
