//! Plugin and agent are killed at random points while pods come and go: afterwards nothing of any
//! pod is left in the kernel, in the datastore or on disk.
//!
//! `CALICO_CRASH_CYCLES` (default 1000) and `CALICO_CRASH_SECONDS` (default 60, whichever comes
//! first) make it a soak test; `CALICO_CRASH_SEED` repeats the choices, though not the timing, of
//! an earlier run.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;
mod crash {
    pub(crate) mod leftovers;
    pub(crate) mod runtime;
}

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use calico_lab::Lab;
use calico_lab::topology::Topology;
use calico_netlink::netns::Netns;
use common::{assert_gone, lab_name, turn};
use crash::leftovers::Leftovers;
use crash::runtime::{Chance, Runtime};

/// Pods that come and go at the same time.
const WORKERS: usize = 6;

const TOPOLOGY: &str = "
nodes: [{ name: node1, addresses: [172.30.0.11/24, 'fd30::11/64'] }]
pools:
  - { name: four, cidr: 10.244.0.0/20, blockSize: 26 }
  - { name: six, cidr: 'fd44::/112', blockSize: 122 }
";

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect(name))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_stays_of_a_thousand_pods_whose_programs_are_killed() {
    let Some(_turn) = turn() else { return };
    let clock = std::time::UNIX_EPOCH.elapsed().unwrap();
    let seed = setting("CALICO_CRASH_SEED", u64::from(clock.subsec_nanos()));
    let cycles = setting("CALICO_CRASH_CYCLES", 1000) as usize;
    let patience = Duration::from_secs(setting("CALICO_CRASH_SECONDS", 60));
    println!("CALICO_CRASH_SEED={seed}");

    let name = lab_name("crash");
    let text = format!("name: {name}\n{TOPOLOGY}");
    let topology = Topology::parse("crash", &text).unwrap();
    let mut lab = Lab::create(topology, &text).unwrap();
    lab.start().await.unwrap();
    let runtime = Arc::new(Runtime::new(&lab, "node1"));
    // The profiles of the first pods stay by design: they are there before the comparison.
    runtime.warm_up(&lab.namespace("node1"));
    let before = Leftovers::look(&lab, "node1").await;

    let started = Instant::now();
    let (next, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let abandoned: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    let workers: Vec<_> = (0..WORKERS)
        .map(|worker| {
            let (runtime, next, done) =
                (Arc::clone(&runtime), Arc::clone(&next), Arc::clone(&done));
            let abandoned = Arc::clone(&abandoned);
            let node = Netns::named(&lab.namespace("node1")).unwrap();
            let mut chance = Chance::new(seed.wrapping_add(worker as u64));
            let work = move || {
                while next.fetch_add(1, Ordering::Relaxed) < cycles && started.elapsed() < patience
                {
                    let lost = runtime.cycle(worker, &mut chance);
                    abandoned.lock().unwrap().extend(lost);
                    done.fetch_add(1, Ordering::Relaxed);
                }
            };
            thread::spawn(move || node.run(work).unwrap())
        })
        .collect();

    let mut chance = Chance::new(!seed);
    let mut crashes = 0;
    while workers.iter().any(|worker| !worker.is_finished()) {
        tokio::time::sleep(Duration::from_millis(chance.below(1500))).await;
        lab.crash_agent("node1").unwrap();
        crashes += 1;
    }
    for worker in workers {
        worker.join().unwrap();
    }
    let done = done.load(Ordering::Relaxed);
    let abandoned = abandoned.lock().unwrap().clone();
    println!(
        "{done} cycles in {:?}: {} pods were attached, {crashes} agents and {} plugins killed, \
         {} containers never deleted",
        started.elapsed(),
        runtime.attached(),
        runtime.killed(),
        abandoned.len()
    );
    assert!(
        crashes > 0 && runtime.killed() > 0 && runtime.attached() > done / 10,
        "nothing was tested"
    );

    // The agent carries out what plugins could only note.
    runtime.wait_for_agent(&lab.namespace("node1"));
    common::eventually("an empty journal", || runtime.journal().is_empty());
    let after = Leftovers::look(&lab, "node1").await;
    after.assert_only(&before, &abandoned, &format!("seed {seed}, before GC"));

    // What the runtime forgot, its GC finds.
    runtime.collect(&lab.namespace("node1"));
    let after = Leftovers::look(&lab, "node1").await;
    after.assert_only(&before, &BTreeSet::new(), &format!("seed {seed}, after GC"));
    assert_eq!(runtime.journal(), [""; 0], "seed {seed}");
    lab.remove().unwrap();
    assert_gone(&name);
}
