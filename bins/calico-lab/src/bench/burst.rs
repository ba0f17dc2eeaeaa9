//! Many pods at the same time: what a node does when it starts, or is drained.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use calico_netlink::netns::create_named;

use super::plugin::Plugin;
use super::{goal, ratio};
use crate::error::LabError;
use crate::netns;

/// Rounds of each plugin; the best of each counts, so that what else the machine does matters
/// less.
const ROUNDS: usize = 3;

/// Ours against Debian's, at least.
const GOAL: f64 = 5.0;

/// Adds `pods` pods at once with each plugin and deletes them at once, turn by turn.
pub(super) fn measure(lab: &str, plugins: &[Plugin; 2], pods: usize) -> Result<(), LabError> {
    let mut best = [[Duration::MAX; 2]; 2];
    for round in 0..ROUNDS {
        // Namespaces come before and stay: the kernel tears them down in the background.
        for (nth, (plugin, best)) in plugins.iter().zip(&mut best).enumerate() {
            let name = |pod| netns::name_of(lab, &format!("burst{round}-{nth}-{pod}"));
            let names: Vec<String> = (0..pods).map(name).collect();
            for name in &names {
                create_named(name).map_err(|error| LabError::Machine(error.to_string()))?;
            }
            best[0] = best[0].min(at_once(&names, |pod| plugin.add(pod))?);
            best[1] = best[1].min(at_once(&names, |pod| plugin.delete(pod))?);
        }
    }
    println!("\n{pods} pods at once, the best of {ROUNDS} rounds\n");
    let rate = |time: Duration| pods as f64 / time.as_secs_f64();
    for (what, verb) in [("ADD", 0), ("DEL", 1)] {
        let [ours, peer] = [best[0][verb], best[1][verb]];
        println!(
            "{what}  calico {:>8.0} /s   bridge + host-local {:>8.0} /s",
            rate(ours),
            rate(peer)
        );
        goal(
            &format!("{what} at once, rate"),
            &format!("{:.2} x", ratio(peer, ours)),
            &format!("at least {GOAL} x"),
            ratio(peer, ours) >= GOAL,
        );
    }
    Ok(())
}

/// The time until the last of `names` is served, all being asked for at once.
fn at_once(
    names: &[String],
    call: impl Fn(&str) -> Result<Duration, LabError> + Sync,
) -> Result<Duration, LabError> {
    let failed = AtomicUsize::new(0);
    let start = Instant::now();
    let first = thread::scope(|scope| {
        let threads: Vec<_> = names
            .iter()
            .map(|name| {
                let (call, failed) = (&call, &failed);
                scope.spawn(move || {
                    let outcome = call(name);
                    failed.fetch_add(usize::from(outcome.is_err()), Ordering::Relaxed);
                    outcome.map(drop)
                })
            })
            .collect();
        let mut first = Ok(());
        for thread in threads {
            let outcome = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            first = first.and(outcome);
        }
        first
    });
    let took = start.elapsed();
    match first {
        Ok(()) => Ok(took),
        Err(error) => {
            let count = failed.load(Ordering::Relaxed);
            Err(LabError::Machine(format!(
                "{count} of {} calls failed; the first: {error}",
                names.len()
            )))
        }
    }
}
