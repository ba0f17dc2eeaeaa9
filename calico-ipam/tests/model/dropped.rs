//! Futures that are dropped at each await: nothing is lost, and nothing is given twice.

use std::collections::BTreeSet;
use std::future::Future;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use calico_core::key::Key;
use calico_core::kind::Kind;
use calico_ipam::plan::collect::{Collector, Settings};
use calico_ipam::{Allocator, AssignIp, AssignRequest, Ipam, Release, ServiceWish, Tunnel};

use super::common::{Chances, Chaos, Cluster};
use super::{Held, POOL, settle};

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
