//! A virtual machine that moves, stops and starts, with a store that fails, loses replies and lets
//! others in between: it keeps its one address, and it is free once the machine ends.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::net::IpAddr;
use std::sync::Arc;

use calico_ipam::plan::geometry::scramble;
use calico_ipam::{AssignRequest, Ipam, Left, OwnerAttributes};
use common::{Chances, Chaos, Cluster};

const VM: &str = "net.vmi.default.vm1";
/// Times that a call is repeated, as runtimes do, before the store is taken for broken.
const TRIES: usize = 500;
/// Machines, each in a cluster of its own, and what each does.
const SEEDS: u64 = 100;
const STEPS: u64 = 60;

fn owner(pod: u64) -> OwnerAttributes {
    let of = |key: &str, value: String| (key.to_owned(), value);
    [of("pod", format!("p{pod}")), of("namespace", "default".into())].into()
}

async fn start(ipam: &Ipam, pod: u64, arriving: bool) -> IpAddr {
    let own = owner(pod);
    for _ in 0..TRIES {
        let Ok(has) = ipam.machine_starts(VM, &own, |other| *other == own, arriving).await else {
            continue;
        };
        if let Some(ip) = has.first() {
            return *ip;
        }
        let mut request = AssignRequest::new(format!("n{pod}")).handle(VM).v4(1).reuse();
        request.attributes.clone_from(&own);
        // Whether or not it was assigned: the next attempt sees.
        drop(ipam.auto_assign(request).await);
    }
    panic!("p{pod} cannot start");
}

async fn stop(ipam: &Ipam, pod: u64, ends: bool) -> Vec<Left> {
    let own = owner(pod);
    for _ in 0..TRIES {
        if let Ok(left) = ipam.machine_stops(VM, |other| *other == own, ends).await {
            return left.into_iter().map(|(_, left)| left).collect();
        }
    }
    panic!("p{pod} cannot stop");
}

#[test]
fn a_machine_keeps_its_address_until_it_ends() {
    for seed in 0..SEEDS {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(live(seed));
    }
}

async fn live(seed: u64) {
    let pool = [("p", r#"{"cidr":"10.0.0.0/29","blockSize":30}"#)];
    let cluster = Cluster::with(&pool).await;
    let chances = Chances { crash: 20, lose: 20, fail: 20 };
    let ipam = |nth: u64| {
        cluster.ipam_on(Arc::new(Chaos::new(cluster.memory.clone(), seed * 3 + nth, chances)))
    };
    let (here, there) = (ipam(0), ipam(1));
    let mut dice = seed;
    let mut draw = |below: u64| {
        dice = scramble(dice);
        dice % below
    };
    let (mut pod, mut next) = (0, 1);
    let ip = start(&here, pod, false).await;
    for step in 0..STEPS {
        let what = format!("seed {seed}, step {step}");
        match draw(4) {
            // It moves, and the source goes; both nodes are at work at the same time.
            0 => {
                let (again, arrived) =
                    tokio::join!(start(&here, pod, false), start(&there, next, true));
                assert_eq!((again, arrived), (ip, ip), "{what}");
                assert_eq!(stop(&here, pod, false).await.len(), 1);
                pod = next;
            }
            // The move fails, while the source starts a new sandbox.
            1 => {
                assert_eq!(start(&there, next, true).await, ip, "{what}");
                let (again, _) = tokio::join!(start(&here, pod, false), stop(&there, next, false));
                assert_eq!(again, ip, "{what}");
            }
            // It stops, and starts again elsewhere.
            2 => {
                stop(&here, pod, false).await;
                assert_eq!(start(&there, next, false).await, ip, "{what}");
                pod = next;
            }
            // A late DEL of a pod that is long gone.
            _ => assert_eq!(stop(&there, 1_000_000, draw(2) == 0).await, [Left::NoOwner], "{what}"),
        }
        next += 1;
        let has = cluster.ipam().allocations_by_handle(VM).await.unwrap();
        assert_eq!(has.iter().map(|a| a.address).collect::<Vec<_>>(), [ip], "{what}");
        assert_eq!(has[0].attributes.secondary, owner(pod), "{what}");
        assert!(has[0].attributes.alternate_owner_attrs.is_empty(), "{what}");
    }
    // Its end comes while it moves: the last of the two takes the address along.
    start(&there, next, true).await;
    stop(&here, pod, true).await;
    assert_eq!(cluster.assigned().await.len(), 1, "seed {seed}");
    stop(&there, next, true).await;
    let ipam = cluster.ipam();
    ipam.release_empty_handles().await.unwrap();
    assert_eq!(cluster.assigned().await, [], "seed {seed}");
    assert_eq!(ipam.addresses_by_handle(VM).await.unwrap(), [] as [IpAddr; 0]);
}
