//! Many pods at the same time: what a node does when it starts, or is drained.

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use calico_netlink::netns::create_named;

use super::Ways;
use super::process::children_cpu;
use super::times::{goal, millis, ratio};
use crate::error::LabError;
use crate::netns;

/// Rounds of each way; the best of each counts, so that what else the machine does matters less.
const ROUNDS: usize = 5;

/// Ours against Debian's, at least.
const GOAL: f64 = 5.0;

/// Adds `pods` pods at once in each way and deletes them at once, turn by turn.
pub(super) fn measure(lab: &str, ways: &Ways, pods: usize) -> Result<(), LabError> {
    let Ways { plugins: [ours, peer], agent, empty, process } = ways;
    // Of programs, and of the agent.
    let cpu = || Ok::<_, LabError>(children_cpu() + process.cpu()?);
    type Call<'a> = &'a (dyn Fn(&str, &str) -> Result<Duration, LabError> + Sync);
    let ways: [(&str, &str, Call<'_>); 4] = [
        ("calico", ours.node(), &|verb, pod| ours.call_here(verb, pod)),
        ("bridge + host-local", peer.node(), &|verb, pod| peer.call_here(verb, pod)),
        ("calico's agent, without processes", ours.node(), &|verb, pod| {
            agent.call(if verb == "ADD" { "Add" } else { "Del" }, pod)
        }),
        ("processes that do nothing", ours.node(), &|verb, pod| empty.call_here(verb, pod)),
    ];
    let mut best = [[Duration::MAX; 2]; 4];
    let mut work = [[Duration::MAX; 2]; 4];
    for round in 0..ROUNDS {
        // Namespaces come before and stay: the kernel tears them down in the background.
        for (nth, (_, node, call)) in ways.iter().enumerate() {
            let name = |pod| netns::name_of(lab, &format!("burst{round}-{nth}-{pod}"));
            let names: Vec<String> = (0..pods).map(name).collect();
            for name in &names {
                create_named(name).map_err(|error| LabError::Machine(error.to_string()))?;
            }
            for (at, verb) in ["ADD", "DEL"].into_iter().enumerate() {
                let before = cpu()?;
                let took = at_once(node, &names, |pod| call(verb, pod))?;
                best[nth][at] = took.min(best[nth][at]);
                work[nth][at] = (cpu()? - before).min(work[nth][at]);
            }
        }
    }
    println!("\n{pods} pods at once, a second, the best of {ROUNDS} rounds\n");
    let [add, delete, work_add, work_delete] = ["ADD", "DEL", "CPU of ADD", "CPU of DEL"];
    println!("{:<40} {add:>9} {delete:>9} {work_add:>11} {work_delete:>11}", "");
    let rate = |time: Duration| pods as f64 / time.as_secs_f64();
    let each = |work: Duration| millis(work / u32::try_from(pods).unwrap_or(u32::MAX).max(1));
    for ((what, ..), ([add, delete], [work_add, work_delete])) in
        ways.iter().zip(best.iter().zip(&work))
    {
        let (work_add, work_delete) = (each(*work_add), each(*work_delete));
        let (add, delete) = (rate(*add), rate(*delete));
        println!("{what:<40} {add:>9.0} {delete:>9.0} {work_add:>11} {work_delete:>11}");
    }
    println!();
    let [ours, peer, agent, _] = best;
    for (nth, verb) in ["ADD", "DEL"].into_iter().enumerate() {
        let found = ratio(peer[nth], ours[nth]);
        let wanted = format!("at least {GOAL} x");
        goal(&format!("{verb} at once, rate"), &format!("{found:.2} x"), &wanted, found >= GOAL);
        let without = ratio(peer[nth], agent[nth]);
        println!("{:<40} {without:>20.2} x", "  the same without our processes");
    }
    Ok(())
}

/// The time from the first call's start until the last of `names` is served, all being asked for
/// at once by threads that wait for nothing else.
fn at_once(
    node: &str,
    names: &[String],
    call: impl Fn(&str) -> Result<Duration, LabError> + Sync,
) -> Result<Duration, LabError> {
    let ready = Barrier::new(names.len());
    let outcomes: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = names
            .iter()
            .map(|name| {
                let (call, ready) = (&call, &ready);
                scope.spawn(move || {
                    netns::enter(node, || {
                        ready.wait();
                        let start = Instant::now();
                        call(name).map(|_| (start, Instant::now()))
                    })?
                })
            })
            .collect();
        let join = |thread: thread::ScopedJoinHandle<'_, _>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        threads.into_iter().map(join).collect()
    });
    let failed = outcomes.iter().filter(|outcome| outcome.is_err()).count();
    let times: Result<Vec<(Instant, Instant)>, LabError> = outcomes.into_iter().collect();
    let times = times.map_err(|error| {
        LabError::Machine(format!("{failed} of {} calls failed; the first: {error}", names.len()))
    })?;
    let start = times.iter().map(|(start, _)| start).min();
    let end = times.iter().map(|(_, end)| end).max();
    Ok(start.zip(end).map(|(start, end)| *end - *start).unwrap_or_default())
}
