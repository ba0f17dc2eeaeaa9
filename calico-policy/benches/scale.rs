//! Loads a large cluster and measures what it takes and what one change costs.
//!
//! `cargo bench -p calico-policy` prints one table each for 10,000, 100,000 and 1,000,000 endpoints
//! with 30 labels, 250 of them on this node, and 10,000 policies; arguments after `--` are other
//! numbers of endpoints. The last table holds every selector of the 10,000 policies against every
//! endpoint, as an agent would on a node that has an endpoint of every application. Each change is
//! set against a full computation in the same run.

#![expect(clippy::unwrap_used, reason = "a bench that cannot go on must stop")]

mod cluster;

use std::hint::black_box;
use std::process::Command;
use std::time::{Duration, Instant};

use calico_core::dataplane::Update;
use calico_policy::{Graph, Input};

use cluster::{
    LABELS, LOCAL, NAMESPACES, POLICIES, WIDE, endpoint, is_local, policy, profile, wide_policy,
};

/// Asks for all policies to be active here, whomever they select.
const EVERYWHERE: &str = "everywhere";

/// Name, rounds, and the input of a round.
type Change<'a> = (&'a str, usize, &'a dyn Fn(usize) -> Input);

fn main() {
    if !std::env::args().any(|arg| arg == "--bench") {
        println!("measures only under `cargo bench`");
        return;
    }
    let everywhere = std::env::args().any(|arg| arg == EVERYWHERE);
    let sizes: Vec<usize> = std::env::args().filter_map(|arg| arg.parse().ok()).collect();
    if let [size] = sizes[..] {
        return run(size, everywhere);
    }
    let mut runs: Vec<(usize, bool)> = sizes.iter().map(|size| (*size, everywhere)).collect();
    if runs.is_empty() {
        runs = vec![(10_000, false), (100_000, false), (1_000_000, false), (100_000, true)];
    }
    // A process for each, so that memory freed by one does not hide what the next one takes.
    let program = std::env::current_exe().unwrap();
    for (size, everywhere) in runs {
        let mut command = Command::new(&program);
        command.args(["--bench", &size.to_string()]);
        command.args(everywhere.then_some(EVERYWHERE));
        assert!(command.status().unwrap().success(), "{size} endpoints");
    }
}

fn run(endpoints: usize, everywhere: bool) {
    let active = if everywhere { ", all active" } else { "" };
    println!("{endpoints} endpoints x {LABELS} labels, {LOCAL} local, {POLICIES} policies{active}");
    let before = resident();
    let mut graph = Graph::for_node("n0");
    let load = Instant::now();
    let mut inputs = Duration::ZERO;
    let mut feed = |graph: &mut Graph, make: &dyn Fn() -> Input| {
        // Building the resource is the reader's work, not the graph's.
        let start = Instant::now();
        let input = make();
        inputs += start.elapsed();
        graph.handle(input).unwrap();
    };
    for namespace in 0..NAMESPACES {
        feed(&mut graph, &|| profile(namespace).into());
    }
    for index in 0..WIDE {
        feed(&mut graph, &|| wide_policy(index).into());
    }
    for index in 0..POLICIES - WIDE {
        feed(&mut graph, &|| policy(index, everywhere).into());
    }
    for index in 0..endpoints {
        feed(&mut graph, &|| endpoint(index, endpoints, "v1").into());
    }
    let start = Instant::now();
    let updates = graph.flush();
    let flush = start.elapsed();
    let total = load.elapsed() - inputs;
    println!("  full computation      {total:>12.1?}  (of it the flush {flush:.1?})");
    println!("  {:?}", graph.stats());
    println!("  updates               {:>12}", updates.len());
    drop(updates);
    if let (Some(before), Some(after)) = (before, resident()) {
        let grown = after.saturating_sub(before);
        let each = grown * 1024 / endpoints;
        println!(
            "  memory                {:>9} MiB  ({each} bytes an endpoint, policies included)",
            grown / 1024
        );
    }

    let remote = remote_in_a_set(&mut graph, endpoints);
    let changes: [Change<'_>; 6] = [
        ("label change, to a set", 2000, &|round| {
            endpoint(remote, endpoints, ["v2", "v1"][round % 2]).into()
        }),
        ("label change, elsewhere", 2000, &|round| {
            endpoint(1 + round % 50, endpoints, ["v2", "v1"][round / 50 % 2]).into()
        }),
        ("one comes and goes", 2000, &|round| match round % 2 {
            0 => endpoint(endpoints + 1, endpoints, "v1").into(),
            _ => Input::Remove(
                calico_policy::Object::from(endpoint(endpoints + 1, endpoints, "v1")).key(),
            ),
        }),
        ("label change, here", 2000, &|round| {
            endpoint(0, endpoints, ["v2", "v1"][round % 2]).into()
        }),
        ("policy change", 2000, &|round| {
            let mut policy = policy(0, everywhere);
            policy.spec.order = Some((round % 2) as f64);
            policy.into()
        }),
        ("namespace label change", 200, &|round| {
            let mut profile = profile(1);
            let label = ("pcns.round".to_owned(), (round % 2).to_string());
            profile.spec.labels_to_apply.extend([label]);
            profile.into()
        }),
    ];
    for (name, rounds, change) in changes {
        let inputs: Vec<Input> = (0..rounds).map(change).collect();
        let mut times = Vec::with_capacity(rounds);
        let mut updates = 0;
        for input in inputs {
            let start = Instant::now();
            graph.handle(input).unwrap();
            let out: Vec<Update> = graph.flush();
            times.push(start.elapsed());
            updates += black_box(out).len();
        }
        times.sort_unstable();
        let (median, worst) = (times[times.len() / 2], times[times.len() * 99 / 100]);
        let ratio = total.as_secs_f64() / median.as_secs_f64();
        println!(
            "  {name:<23} {median:>10.1?}  (99 %: {worst:.1?}; full is {ratio:.0} x; \
             {:.2} updates each)",
            updates as f64 / rounds as f64,
        );
    }
    println!();
}

/// An endpoint of another node whose label `version` decides whether it is in a set of this one.
fn remote_in_a_set(graph: &mut Graph, endpoints: usize) -> usize {
    let mut remote = (0..endpoints).filter(|index| !is_local(*index, endpoints));
    let found = remote.find(|index| {
        graph.handle(endpoint(*index, endpoints, "v2")).unwrap();
        let reaches = !graph.flush().is_empty();
        graph.handle(endpoint(*index, endpoints, "v1")).unwrap();
        graph.flush();
        reaches
    });
    found.expect("sources of rules for local endpoints")
}

/// Resident memory of this process in KiB, where the kernel tells.
fn resident() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse().ok()
}
