//! Felix' calculation graph and ours, on the same cluster: from nothing to in-sync, what memory is
//! taken then, and what one change costs.
//!
//! `cargo bench -p calico-felix-tests` loads 10,000 policies and 100,000 endpoints with 30 labels, 250 of
//! them local; an argument after `--` is another number of endpoints. Each graph runs in a process
//! of its own, and gets resources that are decoded already:
//!
//! - ours compiles them and takes them in (`Graph::handle`), and says what changed (`flush`);
//! - Felix' has its syncer's update processors make its own values of them ("conversion"; where
//!   there is a Typha, that does it); then its validation filter, its graph and its event sequencer
//!   come up to the last message ("graph"). What the messages cost on their way is not counted.
//!
//! For the time all resources are decoded before, for the memory one by one, so that what they take
//! does not count. Wall-clock time, and time of processors, to which Go's garbage collector adds
//! that works on another one meanwhile.

#![expect(clippy::unwrap_used, reason = "a bench that cannot go on must stop")]

#[path = "../../../calico-policy/benches/cluster/mod.rs"]
mod cluster;

use std::collections::BTreeMap;
use std::hint::black_box;
use std::process::Command;
use std::time::Instant;

use calico_core::resource::{AnyResource, EndpointName, Spec, Tier, WorkloadEndpoint};
use calico_felix_tests::play::Felix;
use calico_policy::{Graph, Input, Object};
use calico_test_servers::programs;
use serde_json::{Value, json};

use cluster::{LABELS, LOCAL, NAMESPACES, POLICIES, WIDE};

/// How often each is loaded; the best counts.
const ROUNDS: usize = 3;

/// Rounds of each change.
const CHANGES: usize = 1000;

/// What a graph took.
type Figures = BTreeMap<&'static str, f64>;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if !args.iter().any(|arg| arg == "--bench") {
        println!("measures only under `cargo bench`");
        return;
    }
    let size = args.iter().find_map(|arg| arg.parse().ok()).unwrap_or(100_000);
    if args.iter().any(|arg| arg == "ours") {
        println!("{}", serde_json::to_string(&ours(size)).unwrap());
        return;
    }
    let program = programs::find_felix(|text| println!("{text}")).unwrap();
    println!("{size} endpoints x {LABELS} labels, {LOCAL} local, {POLICIES} policies");
    // By turns, so that what else the machine does meets both.
    let (mut our_best, mut felix_best) = (Figures::new(), Figures::new());
    for _ in 0..ROUNDS {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let output = command.args(["--bench", "ours", &size.to_string()]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let read: BTreeMap<String, f64> = serde_json::from_slice(&output.stdout).unwrap();
        let named = |name: &'static str| read.get(name).map(|value| (name, *value));
        keep(&mut our_best, ROWS.iter().filter_map(|row| named(row.name)));
        keep(&mut felix_best, theirs(&program, size).into_iter());
    }
    println!("  best of {ROUNDS:<34} {:>12} {:>12} {:>8}", "Felix", "ours", "ratio");
    for row in ROWS {
        let (Some(felix), Some(ours)) = (felix_best.get(row.name), our_best.get(row.name)) else {
            let only = felix_best.get(row.name).map(|felix| (row.show)(*felix)).unwrap_or_default();
            println!("  {:<42} {only:>12}", row.name);
            continue;
        };
        println!(
            "  {:<42} {:>12} {:>12} {:>8.1}",
            row.name,
            (row.show)(*felix),
            (row.show)(*ours),
            felix / ours
        );
    }
}

struct Row {
    name: &'static str,
    show: fn(f64) -> String,
}

const ROWS: [Row; 19] = [
    Row { name: "load", show: seconds },
    Row { name: "  of it the graph, without conversion", show: seconds },
    Row { name: "load, processors' time", show: seconds },
    Row { name: "  of it the graph, without conversion (CPU)", show: seconds },
    Row { name: "messages or updates", show: number },
    Row { name: "memory once loaded", show: mebibytes },
    Row { name: "  after a garbage collection", show: mebibytes },
    Row { name: "  live objects", show: mebibytes },
    Row { name: "  at most", show: mebibytes },
    Row { name: LABEL_SET, show: micros },
    Row { name: "  99 %", show: micros },
    Row { name: LABEL_ELSEWHERE, show: micros },
    Row { name: "  99 % (elsewhere)", show: micros },
    Row { name: LABEL_HERE, show: micros },
    Row { name: "  99 % (here)", show: micros },
    Row { name: POLICY, show: micros },
    Row { name: "  99 % (policy)", show: micros },
    Row { name: NAMESPACE, show: micros },
    Row { name: "  99 % (namespace)", show: micros },
];

const LABEL_SET: &str = "label change, to a set";
const LABEL_ELSEWHERE: &str = "label change, elsewhere";
const LABEL_HERE: &str = "label change, here";
const POLICY: &str = "policy change";
const NAMESPACE: &str = "namespace label change";

/// Names of a change's median and of what 99 % of the rounds take.
const TIMES: [(&str, &str); 5] = [
    (LABEL_SET, "  99 %"),
    (LABEL_ELSEWHERE, "  99 % (elsewhere)"),
    (LABEL_HERE, "  99 % (here)"),
    (POLICY, "  99 % (policy)"),
    (NAMESPACE, "  99 % (namespace)"),
];

fn keep(best: &mut Figures, found: impl Iterator<Item = (&'static str, f64)>) {
    for (name, value) in found {
        let best = best.entry(name).or_insert(value);
        *best = best.min(value);
    }
}

fn seconds(value: f64) -> String {
    format!("{value:.2} s")
}

fn micros(value: f64) -> String {
    format!("{:.1} us", value * 1e6)
}

fn mebibytes(value: f64) -> String {
    format!("{:.0} MiB", value / 1024.0)
}

fn number(value: f64) -> String {
    format!("{value:.0}")
}

/// Under the name that upstream demands.
fn endpoint(index: usize, size: usize, version: &str) -> WorkloadEndpoint {
    let mut endpoint = cluster::endpoint(index, size, version);
    endpoint.spec.pod = format!("pod-{index}");
    endpoint.spec.endpoint = "eth0".to_owned();
    endpoint.metadata.name = EndpointName::of(&endpoint.spec).to_string();
    endpoint
}

/// The cluster, one resource at a time.
fn cluster_of(size: usize) -> impl Iterator<Item = Object> {
    let tiers = Tier::built_in().into_iter().map(Object::from);
    let profiles = (0..NAMESPACES).map(|namespace| cluster::profile(namespace).into());
    let wide = (0..WIDE).map(|index| cluster::wide_policy(index).into());
    let policies = (0..POLICIES - WIDE).map(|index| cluster::policy(index, false).into());
    let endpoints = (0..size).map(move |index| endpoint(index, size, "v1").into());
    tiers.chain(profiles).chain(wide).chain(policies).chain(endpoints)
}

/// The rounds of a change. `remote` is an endpoint of another node that is in a set of this one.
fn changes(name: &str, size: usize, remote: usize) -> Vec<Object> {
    let version = |round: usize| ["v2", "v1"][round % 2];
    let one = |round: usize| -> Object {
        match name {
            LABEL_SET => endpoint(remote, size, version(round)).into(),
            LABEL_ELSEWHERE => endpoint(1 + round % 50, size, version(round / 50)).into(),
            LABEL_HERE => endpoint(0, size, version(round)).into(),
            POLICY => {
                let mut policy = cluster::policy(0, false);
                policy.spec.order = Some((round % 2) as f64);
                policy.into()
            }
            _ => {
                let mut profile = cluster::profile(1);
                let label = ("pcns.round".to_owned(), (round % 2).to_string());
                profile.spec.labels_to_apply.extend([label]);
                profile.into()
            }
        }
    };
    (0..if name == NAMESPACE { CHANGES / 10 } else { CHANGES }).map(one).collect()
}

/// An endpoint of another node whose label `version` decides whether it is in a set of this one.
fn remote_in_a_set(graph: &mut Graph, size: usize) -> usize {
    let mut remote = (0..size).filter(|index| !cluster::is_local(*index, size));
    let found = remote.find(|index| {
        graph.handle(endpoint(*index, size, "v2")).unwrap();
        let reaches = !graph.flush().is_empty();
        graph.handle(endpoint(*index, size, "v1")).unwrap();
        graph.flush();
        reaches
    });
    found.expect("sources of rules for local endpoints")
}

fn ours(size: usize) -> Figures {
    let before = resident("VmRSS:");
    let mut graph = Graph::for_node("n0");
    let mut figures = Figures::new();
    let (mut wall, mut cpu) = (0.0, 0.0);
    let mut timed = |what: &mut dyn FnMut()| {
        let (start, busy) = (Instant::now(), processors());
        what();
        wall += start.elapsed().as_secs_f64();
        cpu += processors() - busy;
    };
    // A few at a time, so that looking at clocks costs nothing, nor what waits takes memory.
    let mut objects = cluster_of(size);
    loop {
        let some: Vec<Object> = objects.by_ref().take(1000).collect();
        if some.is_empty() {
            break;
        }
        let mut some = some.into_iter();
        timed(&mut || some.by_ref().for_each(|object| graph.handle(object).unwrap()));
    }
    let mut updates = Vec::new();
    timed(&mut || updates = graph.flush());
    figures.extend([("load", wall), ("load, processors' time", cpu)]);
    figures.insert("messages or updates", updates.len() as f64);
    drop(updates);
    figures.insert("memory once loaded", resident("VmRSS:") - before);
    figures.insert("  at most", resident("VmHWM:") - before);
    let remote = remote_in_a_set(&mut graph, size);
    for (name, worst) in TIMES {
        let mut times = Vec::new();
        for object in changes(name, size, remote) {
            let input = Input::Put(object);
            let start = Instant::now();
            graph.handle(input).unwrap();
            let updates = graph.flush();
            times.push(start.elapsed().as_secs_f64());
            black_box(updates);
        }
        times.sort_by(f64::total_cmp);
        figures.insert(name, times[times.len() / 2]);
        figures.insert(worst, times[times.len() * 99 / 100]);
    }
    // The parent has to tell Felix, too.
    figures.insert("remote", remote as f64);
    figures
}

fn theirs(program: &std::path::Path, size: usize) -> Figures {
    let mut figures = Figures::new();
    let ask = |felix: &mut Felix,
               op: &str,
               name: &str,
               objects: &mut dyn Iterator<Item = Object>|
     -> Value {
        for object in objects {
            felix.tell(&json!({"op": op, "object": value(object)})).unwrap();
        }
        felix.tell(&json!({"op": "measure", "name": name})).unwrap();
        felix.answer().unwrap()
    };
    let mut felix = Felix::start(program).unwrap();
    let told = ask(&mut felix, "load", "load", &mut cluster_of(size));
    let of = |phase: &str, unit: &str| told[phase][unit].as_f64().unwrap();
    for (whole, part, unit) in [
        ("load", "  of it the graph, without conversion", "wall"),
        ("load, processors' time", "  of it the graph, without conversion (CPU)", "cpu"),
    ] {
        figures.insert(whole, of("conversion", unit) + of("graph", unit));
        figures.insert(part, of("graph", unit));
    }
    figures.insert("messages or updates", told["messages"].as_f64().unwrap());
    let mut graph = Graph::for_node("n0");
    cluster_of(size).for_each(|object| graph.handle(object).unwrap());
    graph.flush();
    let remote = remote_in_a_set(&mut graph, size);
    drop(graph);
    for (name, worst) in TIMES {
        let told = ask(&mut felix, "change", name, &mut changes(name, size, remote).into_iter());
        figures.insert(name, told["median"].as_f64().unwrap());
        figures.insert(worst, told["worst"].as_f64().unwrap());
    }
    let mut felix = Felix::start(program).unwrap();
    let told = ask(&mut felix, "stream", "stream", &mut cluster_of(size));
    for (name, field) in [
        ("memory once loaded", "kib"),
        ("  after a garbage collection", "kib_after_gc"),
        ("  live objects", "kib_live"),
        ("  at most", "kib_at_most"),
    ] {
        figures.insert(name, told[field].as_f64().unwrap());
    }
    figures
}

/// As a datastore has it.
fn value(object: Object) -> Value {
    fn plain<S: Spec>(resource: calico_core::resource::Resource<S>) -> Value {
        AnyResource::from(resource).to_value()
    }
    match object {
        Object::Tier(it) => plain(*it),
        Object::Profile(it) => plain(*it),
        Object::GlobalNetworkPolicy(it) => plain(*it),
        Object::NetworkPolicy(it) => plain(*it),
        Object::WorkloadEndpoint(it) => plain(*it),
        other => panic!("{:?} is not in the cluster", other.key()),
    }
}

/// Memory of this process in KiB.
fn resident(name: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// Seconds of processors that this process took.
fn processors() -> f64 {
    // Nanoseconds on a processor; the bench has one thread.
    let text = std::fs::read_to_string("/proc/self/schedstat").unwrap();
    text.split_whitespace().next().unwrap().parse::<f64>().unwrap() / 1e9
}
