//! Several hosts at once, with conflicts, crashes, lost replies and dropped futures: no address is
//! given twice, and none is left once its handle is released.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use calico_core::Datastore;
use calico_core::datastore::WriteFailed;
use calico_core::key::{Key, Scope};
use calico_core::kind::Kind;
use calico_ipam::plan::collect::{Collector, Settings};
use calico_ipam::{
    Allocator, AssignIp, AssignRequest, Finding, Ipam, Release, ServiceWish, Tunnel,
};
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

/// Polls `future` at most `polls` times, then drops it; `true` if it was done.
fn poll_times(future: impl Future<Output = ()>, polls: usize) -> bool {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    (0..polls).any(|_| future.as_mut().poll(&mut context) == Poll::Ready(()))
}

/// What [`operate`] knows.
const OPERATIONS: u32 = 21;

/// Drops the future of each operation at each await.
#[test]
fn an_operation_may_be_dropped_at_every_await() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let _guard = runtime.enter();
    for operation in 0..OPERATIONS {
        let mut completed = false;
        for polls in 1..400 {
            let (cluster, kept) = runtime.block_on(prepared());
            let chaos = Arc::new(Chaos::new(cluster.memory.clone(), 7, Chances::default()));
            let ipam = cluster.ipam_on(chaos);
            let allocator = Allocator::new(ipam.clone(), "n1");
            completed = poll_times(operate(operation, &ipam, &allocator), polls);
            runtime.block_on(async {
                // The allocator is used further, with what it believes to know.
                let got = allocator
                    .auto_assign(AssignRequest::new("n1").handle("after").v4(2))
                    .await
                    .unwrap();
                assert_eq!(got.v4.len(), 2);
                allocator.release_by_handle("dropped").await.unwrap();
                let assigned: BTreeSet<(String, String)> =
                    cluster.assigned().await.into_iter().collect();
                let after = got.v4.iter().map(|a| (a.ip.to_string(), "after".to_owned()));
                let expected: BTreeSet<_> =
                    after.chain([(kept.to_string(), "kept".to_owned())]).collect();
                assert_eq!(assigned, expected, "operation {operation} dropped after {polls}");
                settle(&cluster, &Held::default()).await;
            });
            if completed {
                break;
            }
        }
        assert!(completed, "operation {operation} never came to an end");
    }
}

async fn prepared() -> (Cluster, IpAddr) {
    let cluster = Cluster::with(&POOL).await;
    cluster.node("n2", "{}").await;
    let request = AssignRequest::new("n2").handle("kept").v4(1);
    let kept = cluster.ipam().auto_assign(request).await.unwrap().v4[0].ip;
    (cluster, kept)
}

async fn operate(operation: u32, ipam: &Ipam, allocator: &Allocator) {
    let request = || AssignRequest::new("n1").handle("dropped").attribute("node", "n1");
    let first = async || {
        let got = ipam.auto_assign(request().attribute("pod", "a").v4(1)).await;
        got.ok()?.v4.first().map(|address| address.ip)
    };
    let named = |pod: &str| [("pod".to_owned(), pod.to_owned())].into();
    match operation {
        0 => drop(ipam.auto_assign(request().v4(3)).await),
        // More than a block: claims two.
        1 => drop(allocator.auto_assign(request().v4(6)).await),
        2 => {
            drop(allocator.auto_assign(request().v4(2)).await);
            drop(allocator.release_by_handle("dropped").await);
        }
        3 => {
            let mut wish = AssignIp::new("n1", [10, 0, 0, 30].into());
            wish.handle = Some("dropped".into());
            drop(allocator.assign_ip(&wish).await);
        }
        4 => {
            drop(ipam.auto_assign(request().v4(2)).await);
            let node = calico_ipam::Owner::host("n1");
            for block in ipam.blocks().await.unwrap() {
                drop(ipam.release_affinity(&node, block.cidr, false).await);
            }
        }
        5 => {
            drop(allocator.auto_assign(request().v4(5)).await);
            let ending = calico_ipam::Ending { handle: "dropped".into(), first: Vec::new() };
            drop(allocator.release_along(&[ending]).await);
        }
        6 => {
            drop(allocator.auto_assign(request().v4(1)).await);
            drop(allocator.auto_assign(request().v4(2).reuse()).await);
        }
        7 => {
            drop(ipam.auto_assign(request().v4(6)).await);
            drop(ipam.release_by_handle("dropped").await);
        }
        8 => {
            let Some(ip) = first().await else { return };
            drop(ipam.release_ips(&[Release::of_handle(ip, "dropped")]).await);
        }
        9 => drop(ipam.ensure_block("n1").await),
        10 => drop(allocator.ensure_block().await),
        11 => {
            drop(ipam.auto_assign(request().v4(6)).await);
            drop(ipam.release_host("n1").await);
        }
        12 => {
            let _ = first().await;
            drop(ipam.release_empty_handles().await);
        }
        13 => {
            let Some(ip) = first().await else { return };
            drop(ipam.add_owner(ip, "dropped", &named("b")).await);
            drop(ipam.hand_over(ip, "dropped", &named("b")).await);
            drop(ipam.suspend_owner(ip, "dropped", &named("a")).await);
            drop(ipam.drop_owner(ip, "dropped", &named("b")).await);
        }
        14 => {
            let Some(ip) = first().await else { return };
            drop(ipam.confirm_address(ip, "dropped").await);
        }
        // What a node that is gone has left: `n1` has no Node resource.
        15 => {
            drop(ipam.auto_assign(request().attribute("sandbox", "x").v4(5)).await);
            let settings = Settings { grace: Duration::ZERO, looks: 1, ..Settings::default() };
            let mut collector = Collector::new(settings, None);
            drop(ipam.collect(&mut collector, Duration::ZERO, false).await);
        }
        16 => {
            drop(ipam.ensure_block("n1").await);
            let blocks = ipam.tidy_blocks("n1").await.unwrap_or_default();
            let blocks: Vec<_> = blocks.into_iter().map(|(block, _)| block).collect();
            drop(ipam.give_back("n1", &blocks).await);
        }
        17 => {
            let Some(_) = first().await else { return };
            let is = |pod: &'static str| {
                move |other: &calico_ipam::OwnerAttributes| {
                    other.get("pod").is_some_and(|own| own == pod)
                }
            };
            drop(ipam.machine_starts("dropped", &named("b"), is("b"), true).await);
            drop(ipam.machine_stops("dropped", is("a"), false).await);
            drop(ipam.machine_stops("dropped", is("b"), true).await);
        }
        18 => {
            let pool = r#"{"metadata":{"name":"lb"},"spec":{"cidr":"10.0.1.0/29","blockSize":30,
                "allowedUses":["LoadBalancer"]}}"#;
            let key = Key::resource(Kind::IpPool, None, "lb");
            drop(ipam.store().create(key, pool.into()).await);
            let mut wish =
                ServiceWish { handle: "dropped".into(), v4: true, ..ServiceWish::default() };
            drop(ipam.serve(&wish).await);
            wish.addresses = vec![[10, 0, 1, 7].into()];
            drop(ipam.serve(&wish).await);
            drop(ipam.served().await);
        }
        19 => {
            drop(allocator.auto_assign(Tunnel::Vxlan.request("n1", vec![]).handle("dropped")).await)
        }
        _ => {
            let _ = first().await;
            let pool = "10.0.0.0/27".parse().unwrap();
            drop(ipam.release_pool_affinities(&pool).await);
            drop(ipam.release_unselected("n1").await);
        }
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
