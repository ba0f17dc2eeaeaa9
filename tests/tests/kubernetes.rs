//! Kubernetes' NetworkPolicy, sent as real packets: from each of nine pods in three namespaces, and
//! from two places outside, to each other, on two ports of TCP, UDP and SCTP, over IPv4 and IPv6.
//!
//! The objects are converted as the Kubernetes datastore does it, and go through engine and kernel.
//! Cases are in `kubernetes/`, each with the tables that must come out, in the categories of
//! Kubernetes' own end-to-end suite and of cyclonus. Three must agree: the tables, a reading of
//! Kubernetes' documentation that shares no code with ours, and what the kernel lets through. While
//! policies and labels change, packets under way meet what was before or what is after.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use calico_tests::cluster::{Cluster, Labels, NAMESPACES, PODS};
use calico_tests::lab::Lab;
use calico_tests::reach::Table;
use calico_tests::rig::Rig;
use calico_tests::wire;
use serde::Deserialize;
use serde_json::Value;

/// Packets on their way at the same time: their reports must fit a socket's queue.
const BURST: usize = 200;

/// Categories that there must be a case for.
const CATEGORIES: [&str; 23] = [
    "allow-all",
    "basic",
    "cidr",
    "deny-all",
    "egress",
    "empty-selector",
    "except",
    "expressions",
    "ingress",
    "named-port",
    "namespace",
    "namespace-labels",
    "pod",
    "pod-labels",
    "pod-restart",
    "policy-update",
    "port",
    "port-range",
    "protocol",
    "sctp",
    "stacked",
    "types",
    "udp",
];

/// One story.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    covers: Vec<String>,
    steps: Vec<Step>,
}

/// What changes, and what is true then.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    #[serde(default)]
    does: String,
    /// By namespace and name; null is gone.
    #[serde(default)]
    policies: BTreeMap<String, Option<Value>>,
    #[serde(default)]
    pods: BTreeMap<String, Option<Labels>>,
    #[serde(default)]
    namespaces: BTreeMap<String, Labels>,
    /// In the language of [`Table::expected`].
    expect: Vec<String>,
}

impl Step {
    fn apply(&self, cluster: &mut Cluster) {
        fn change<T: Clone>(
            what: &mut BTreeMap<(String, String), T>,
            changes: &BTreeMap<String, Option<T>>,
        ) {
            for (name, value) in changes {
                let (namespace, name) = name.split_once('/').expect("NAMESPACE/NAME");
                let key = (namespace.to_owned(), name.to_owned());
                match value {
                    Some(value) => {
                        what.insert(key, value.clone());
                    }
                    None => assert!(what.remove(&key).is_some(), "{key:?} is not there"),
                }
            }
        }
        change(&mut cluster.policies, &self.policies);
        change(&mut cluster.pods, &self.pods);
        cluster.namespaces.extend(self.namespaces.clone());
    }
}

fn cases() -> Vec<Case> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("kubernetes");
    let mut paths: Vec<_> =
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let read = |path: &std::path::PathBuf| {
        let text = std::fs::read_to_string(path).unwrap();
        // Or else a namespace `y` is true.
        let options = serde_saphyr::options! { strict_booleans: true };
        let cases: Vec<Case> = serde_saphyr::from_str_with_options(&text, options)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        cases
    };
    paths.iter().flat_map(read).collect()
}

/// Runs `test` with a fresh lab of nine pods, in the namespace of its host.
fn with_rig(test: impl FnOnce(&tokio::runtime::Runtime, &mut Rig<'_>) + Send) {
    let pods = u8::try_from(NAMESPACES.len() * PODS.len()).unwrap();
    let Some(lab) = Lab::with_pods(pods) else { return };
    lab.on_host(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut rig = runtime.block_on(Rig::new(&lab));
        test(&runtime, &mut rig);
        let _entered = runtime.enter();
        drop(rig);
    });
}

/// How often packets are sent during one change, at most.
const ROUNDS: u16 = 40;

/// What is not there by then will not come.
const PATIENCE: Duration = Duration::from_secs(20);

/// Cases in which something changes that was there before.
const CHANGES: [&str; 4] = ["policy-update", "pod-labels", "namespace-labels", "stacked"];

/// What the kernel lets through. Each call sends from a port of its own, so that no packet belongs
/// to a connection of an earlier one.
async fn observed(rig: &mut Rig<'_>, cluster: &Cluster, call: u16) -> Result<Table, String> {
    rig.configure(&cluster.objects()).await?;
    let mut found = Vec::new();
    for burst in Table::probes(20_000 + call).chunks(BURST) {
        let probes: Vec<_> = burst.iter().map(|(_, probe)| *probe).collect();
        let sent = rig.send(&probes).await?;
        found.extend(burst.iter().map(|(way, probe)| (way.clone(), sent.arrived.contains(probe))));
    }
    Ok(Table::found(found))
}

#[test]
fn every_category_has_cases_whose_tables_are_what_the_documentation_says() {
    let mut covered = BTreeSet::new();
    for case in cases() {
        let mut cluster = Cluster::default();
        for (number, step) in case.steps.iter().enumerate() {
            step.apply(&mut cluster);
            let expected = Table::expected(&step.expect)
                .unwrap_or_else(|error| panic!("{}, step {number}: {error}", case.name));
            let difference = expected.difference(&Table::documented(&cluster));
            assert!(
                difference.is_empty(),
                "{}, step {number} {}: the table (-) and the documentation (+) differ\n{difference}",
                case.name,
                step.does
            );
        }
        covered.extend(case.covers);
    }
    assert_eq!(covered, CATEGORIES.iter().map(|name| (*name).to_owned()).collect());
}

#[test]
fn kernel_does_what_the_tables_say() {
    let started = Instant::now();
    let (mut tables, mut ways) = (0, 0);
    with_rig(|runtime, rig| {
        let mut failures = String::new();
        for case in cases() {
            let mut cluster = Cluster::default();
            for (number, step) in case.steps.iter().enumerate() {
                step.apply(&mut cluster);
                let expected = Table::expected(&step.expect).unwrap();
                let found = runtime.block_on(observed(rig, &cluster, tables));
                let difference = match found {
                    Ok(found) => expected.difference(&found),
                    Err(error) => error,
                };
                if !difference.is_empty() {
                    // It is known that something is missing; how much, is soon told.
                    rig.set_patience(Duration::from_millis(500));
                    let (name, does) = (&case.name, &step.does);
                    writeln!(failures, "{name}, step {number} {does}:\n{difference}").unwrap();
                }
                tables += 1;
                ways += expected.counts().1;
            }
        }
        assert!(failures.is_empty(), "+ is open against the table, - is closed\n{failures}");
    });
    println!("{tables} tables, {ways} packets, {:.1} s", started.elapsed().as_secs_f64());
}

/// While policy changes, the verdict of every packet is one of before or of after: a way that is
/// open in both is never shut in between, and one that is shut in both never opens.
#[test]
fn packets_under_way_meet_the_old_policy_or_the_new_one() {
    let pods = u8::try_from(NAMESPACES.len() * PODS.len()).unwrap();
    let Some(lab) = Lab::with_pods(pods) else { return };
    lab.on_host(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut rig = runtime.block_on(Rig::new(&lab));
        let (mut sent, mut arrived, mut port) = (Vec::new(), BTreeSet::new(), 20_000);
        let changes = |case: &Case| case.covers.iter().any(|it| CHANGES.contains(&it.as_str()));
        for case in cases().iter().filter(|case| changes(case)) {
            let mut cluster = Cluster::default();
            runtime.block_on(rig.configure(&cluster.objects())).unwrap();
            for (number, step) in case.steps.iter().enumerate() {
                let before = Table::documented(&cluster);
                step.apply(&mut cluster);
                let steady = before.common(&Table::documented(&cluster));
                let (objects, name) = (cluster.objects(), format!("{}, step {number}", case.name));
                let done = AtomicBool::new(false);
                std::thread::scope(|scope| {
                    scope.spawn(|| send_until(&lab, &steady, &name, port, &mut sent, &done));
                    let configured = runtime.block_on(rig.configure(&objects));
                    done.store(true, Ordering::Release);
                    configured.unwrap();
                });
                port += ROUNDS;
                arrived.extend(lab.received().into_iter().map(|(_, number)| number));
            }
        }
        let started = Instant::now();
        while started.elapsed() < PATIENCE
            && sent.iter().any(|it: &UnderWay| it.open && !arrived.contains(&it.number))
        {
            std::thread::sleep(Duration::from_millis(10));
            arrived.extend(lab.received().into_iter().map(|(_, number)| number));
        }
        let wrong = sent.iter().filter(|it| it.open != arrived.contains(&it.number));
        let wrong: Vec<&str> = wrong.map(|it| it.what.as_str()).take(20).collect();
        assert!(wrong.is_empty(), "while policy changed:\n{}", wrong.join("\n"));
        let (all, open) = (sent.len(), sent.iter().filter(|it| it.open).count());
        // Or else nothing was shown.
        assert!(open > 100 && all - open > 100, "{open} of {all} packets were to arrive");
        println!("{all} packets while policy changed, {open} of them allowed");
        let _entered = runtime.enter();
        drop(rig);
    });
}

/// A packet that was sent while policy changed.
struct UnderWay {
    number: u32,
    /// Whether it must arrive.
    open: bool,
    what: String,
}

/// Sends over ways whose verdict does not change, each round over some of them and from another
/// port, until what changes is `done`.
fn send_until(
    lab: &Lab,
    steady: &Table,
    name: &str,
    port: u16,
    sent: &mut Vec<UnderWay>,
    done: &AtomicBool,
) {
    for round in 0..ROUNDS {
        let probes = Table::probes(port + round).into_iter().enumerate();
        for (_, (way, probe)) in probes.filter(|(at, _)| at % 7 == usize::from(round % 7)) {
            let Some(open) = steady.get(&way) else { continue };
            let number = u32::try_from(sent.len()).unwrap() + 1;
            let word = if open { "open" } else { "closed" };
            sent.push(UnderWay { number, open, what: format!("{name}: {way:?} is {word}") });
            lab.send(probe.from, &probe.packet, number, wire::length(100));
        }
        if done.load(Ordering::Acquire) {
            return;
        }
    }
}
