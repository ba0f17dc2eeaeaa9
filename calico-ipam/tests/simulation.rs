//! Simulated hosts on one store, moved one step at a time by seed: operations and their order,
//! conflicts, crashes at any step, lost replies, failing stores and jumps of the clock are all
//! drawn. No address is ever given twice, a resting one is not given at all, and what crashes left
//! behind is gone after each host has compared the store with what it really runs.
//!
//! A step is one move of one host: it starts an operation, a call reaches the store, or its answer
//! comes back. `CALICO_SIMULATION_STEPS` (default 1,000,000) says how many are made, and
//! `CALICO_SIMULATION_SEED` (default 0) with which seed the first cluster begins: each next has the
//! next one. One that fails is repeated with its seed, which is printed, and 1 step. `cargo xtask
//! simulate` runs nothing else.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;
mod simulation {
    pub(crate) mod host;
    pub(crate) mod store;
}

use std::io::Write as _;
use std::sync::atomic::Ordering;

use common::Cluster;
use simulation::host::{Host, Truth};
use simulation::store::{Dice, Faults, Steps};

/// Steps of one cluster, before it is looked at as a whole.
const RUN: u64 = 4000;
/// Threads that simulate clusters.
const THREADS: u64 = 2;

#[test]
fn a_million_steps_give_no_address_twice_and_leak_none() {
    let number = |name: &str, usual: u64| {
        std::env::var(name).map_or(usual, |text| text.parse::<u64>().expect(name))
    };
    let total = number("CALICO_SIMULATION_STEPS", 1_000_000);
    let first = number("CALICO_SIMULATION_SEED", 0);
    let started = std::time::Instant::now();
    let seen: Vec<Seen> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                scope.spawn(move || {
                    let mut seen = Seen::default();
                    let mut seed = first + thread;
                    while seen.steps < total.div_ceil(THREADS) {
                        simulate(seed, &mut seen);
                        seed += THREADS;
                    }
                    seen
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let sum = |of: fn(&Seen) -> u64| seen.iter().map(of).sum::<u64>();
    assert!(sum(|s| s.steps) >= total);
    // Not by `println!`, which nobody sees of a test that passes.
    let mut out = std::io::stderr();
    let clusters = sum(|s| s.clusters);
    let _ = writeln!(
        out,
        "simulated {} steps in {clusters} clusters, seeds from {first} on: {} operations, \
         {} crashes, {} conflicts, {} lost replies, {} addresses given, {} found by reconcile; {:?}",
        sum(|s| s.steps),
        sum(|s| s.operations),
        sum(|s| s.crashes),
        sum(|s| s.conflicts),
        sum(|s| s.lost),
        sum(|s| s.given),
        sum(|s| s.reclaimed),
        started.elapsed()
    );
    // A simulation without what it is about would prove nothing.
    let events: [fn(&Seen) -> u64; 5] =
        [|s| s.crashes, |s| s.conflicts, |s| s.lost, |s| s.given, |s| s.reclaimed];
    for of in events {
        assert!(sum(of) >= total / 10_000, "{seen:?}");
    }
}

/// What happened, to see that something did.
#[derive(Debug, Default)]
struct Seen {
    clusters: u64,
    steps: u64,
    operations: u64,
    crashes: u64,
    conflicts: u64,
    lost: u64,
    given: u64,
    reclaimed: u64,
}

/// Says how to repeat a cluster that went wrong.
struct OnPanic(u64);

impl Drop for OnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self(seed) = self;
            println!("again: CALICO_SIMULATION_STEPS=1 CALICO_SIMULATION_SEED={seed}");
        }
    }
}

/// One cluster, from its first step to the proof that nothing leaked.
fn simulate(seed: u64, seen: &mut Seen) {
    let _seed = OnPanic(seed);
    let mut dice = Dice::new(seed);
    let size = 29 + dice.below(2);
    let cooldown = dice.below(2) * 30;
    let backwards = dice.one_in(3);
    let strict = dice.one_in(3);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let _guard = runtime.enter();
    let cluster = runtime.block_on(async {
        let pool = format!(r#"{{"cidr":"10.0.0.0/27","blockSize":{size}}}"#);
        let cluster = Cluster::with(&[("p", &pool)]).await;
        let config = serde_json::json!({
            "autoAllocateBlocks": true, "strictAffinity": strict, "ipCooldownSeconds": cooldown,
        });
        cluster.config(&config.to_string()).await;
        cluster
    });
    let truth = Truth::new(seed, if backwards { 0 } else { cooldown });
    let faults = Faults { crash: 40, lose: 40, fail: 60 };
    let mut hosts: Vec<Host> = (0..2 + dice.below(4))
        .map(|nth| {
            let store = Steps::new(cluster.memory.clone(), seed ^ (nth << 32), faults);
            Host::new(format!("n{nth}"), store, &cluster, &truth)
        })
        .collect();
    for _ in 0..RUN {
        seen.steps += 1;
        // Time goes on; now and then it jumps.
        let jump = match dice.below(2000) {
            0 => 3600,
            1 if backwards => -7200,
            n => i64::from(n < 500),
        };
        let now = cluster.seconds.load(Ordering::Relaxed).saturating_add_signed(jump);
        cluster.seconds.store(now, Ordering::Relaxed);
        let nth = dice.below(hosts.len() as u64) as usize;
        let host = &mut hosts[nth];
        if host.is_busy() && dice.one_in(150) {
            host.crash();
            seen.crashes += 1;
        } else {
            seen.operations += u64::from(host.step(&mut dice, now));
        }
    }
    runtime.block_on(async {
        for host in &mut hosts {
            host.come_to_rest().await;
            seen.reclaimed += host.reclaimed();
            let (conflicts, lost) = host.store().counts();
            seen.conflicts += conflicts;
            seen.lost += lost;
        }
        truth.assert_is(&cluster).await;
    });
    seen.given += truth.given();
    seen.clusters += 1;
}
