//! What a pod's network costs: our plugin, Debian's `bridge` with `host-local`, and the bare
//! netlink calls that none can do without, turn by turn in one run.

mod burst;
mod floor;
mod plugin;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{env, fs};

use calico_netlink::netns::create_named;
use serde_json::json;

use self::plugin::Plugin;
use crate::error::LabError;
use crate::topology::Topology;
use crate::{Lab, netns, programs};

/// One node with an embedded datastore, and no pods yet.
const TOPOLOGY: &str = "
name: bench
nodes:
  - { name: node1, addresses: [172.30.0.11/24] }
pools:
  - { name: pods-v4, cidr: 10.244.0.0/16, blockSize: 26, natOutgoing: true }
";

/// Goals: the plugin against the bare calls, its size, the agent's memory, and the demo.
const GOAL_RATIO: f64 = 2.0;
const GOAL_SIZE: u64 = 4 << 20;
const GOAL_MEMORY: u64 = 20 << 20;
const GOAL_DEMO: Duration = Duration::from_secs(15);

/// Times of one way to do it.
#[derive(Debug, Default)]
struct Times(Vec<Duration>);

impl Times {
    fn quantile(&self, part: f64) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        // A position inside of the list, so neither truncation nor sign can bite.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "see above")]
        let at = (sorted.len().saturating_sub(1) as f64 * part) as usize;
        sorted.get(at).copied().unwrap_or_default()
    }
}

/// Runs the bench with `pods` pods and prints what it found.
///
/// # Errors
///
/// As of the lab, and if a plugin refuses.
pub async fn run(pods: usize) -> Result<(), LabError> {
    let bins = programs::own("calico-cni")?;
    if !bins.components().any(|part| part.as_os_str() == "release") {
        println!("note: these programs are not release builds; see `cargo xtask bench`\n");
    }
    let topology =
        Topology::parse("bench", TOPOLOGY).map_err(|error| LabError::Request(error.to_string()))?;
    let mut lab = Lab::create(topology, TOPOLOGY)?;
    lab.start().await?;
    lab.wait_for_sessions().await?;

    let measured = measure(&lab, pods)?;
    report(&measured, pods);
    sizes(&bins)?;
    memory(&lab, pods)?;
    let removed = measured.remove()?;
    println!();
    line("DEL  calico", &removed.ours, &removed.peer, "of bridge + host-local");
    line("DEL  bridge + host-local", &removed.peer, &removed.peer, "");
    let (ours, peer) = (removed.ours.quantile(0.5), removed.peer.quantile(0.5));
    goal(
        "DEL against bridge + host-local",
        &format!("{:.2} x", ratio(ours, peer)),
        "less than 1 x",
        ours < peer,
    );
    burst::measure(&lab.topology().name, &measured.plugins, pods)?;
    lab.remove()?;
    demo()
}

/// What was measured while pods came.
struct Measured {
    pods: Vec<String>,
    in_place: Times,
    moved: Times,
    ours: Times,
    peer: Times,
    plugins: [Plugin; 2],
}

struct Removed {
    ours: Times,
    peer: Times,
}

fn measure(lab: &Lab, pods: usize) -> Result<Measured, LabError> {
    let lab_name = &lab.topology().name;
    let (node, peer_node) = (lab.namespace("node1"), netns::name_of(lab_name, "peer"));
    let machine = |error: &dyn std::fmt::Display| LabError::Machine(error.to_string());
    create_named(&peer_node).map_err(|error| machine(&error))?;
    let ours = Plugin::calico(&node, &lab.run_dir("node1"))?;
    let peer = Plugin::bridge(&peer_node, &lab.run_dir("node1").join("host-local"))?;
    let mut measured = Measured {
        pods: Vec::new(),
        in_place: Times::default(),
        moved: Times::default(),
        ours: Times::default(),
        peer: Times::default(),
        plugins: [ours, peer],
    };
    // Namespaces come before and go after: the kernel tears them down in the background, with
    // locks that everything measured here needs.
    let floor_host = netns::name_of(lab_name, "floor");
    let namespace =
        |what: &str, number: usize| netns::name_of(lab_name, &format!("{what}-{number}"));
    create_named(&floor_host).map_err(|error| machine(&error))?;
    for number in 0..=pods {
        for what in ["in-place", "moved", "pod", "other"] {
            create_named(&namespace(what, number)).map_err(|error| machine(&error))?;
        }
    }
    for number in 0..=pods {
        let [in_place, moved, pod, other] =
            ["in-place", "moved", "pod", "other"].map(|what| namespace(what, number));
        let in_place = floor::in_place(&floor_host, &format!("in{number}"), &in_place)?;
        let moved = floor::moved(&floor_host, &format!("mv{number}"), &moved)?;
        let ours = measured.plugins[0].add(&pod)?;
        let peer = measured.plugins[1].add(&other)?;
        // The first of each makes blocks, bridges and the like.
        if number > 0 {
            measured.in_place.0.push(in_place);
            measured.moved.0.push(moved);
            measured.ours.0.push(ours);
            measured.peer.0.push(peer);
        }
        measured.pods.extend([pod, other]);
    }
    Ok(measured)
}

impl Measured {
    fn remove(&self) -> Result<Removed, LabError> {
        let mut removed = Removed { ours: Times::default(), peer: Times::default() };
        for pair in self.pods.chunks(2) {
            removed.ours.0.push(self.plugins[0].delete(&pair[0])?);
            removed.peer.0.push(self.plugins[1].delete(&pair[1])?);
        }
        Ok(removed)
    }
}

fn report(measured: &Measured, pods: usize) {
    println!("{pods} pods one after the other: IPv4, from program start to reply\n");
    println!("{:<34} {:>9} {:>9}", "", "p50", "p99");
    let floor = &measured.moved;
    line("bare: veth in place, address, up", &measured.in_place, floor, "of create and move");
    line("bare: create, move, address, up", &measured.moved, floor, "");
    line("ADD  calico, policy in force", &measured.ours, floor, "of create and move");
    line("ADD  bridge + host-local", &measured.peer, floor, "of create and move");
    let (ours, peer) = (measured.ours.quantile(0.5), measured.peer.quantile(0.5));
    println!();
    goal(
        "ADD against create and move",
        &format!("{:.2} x", ratio(ours, floor.quantile(0.5))),
        &format!("at most {GOAL_RATIO} x"),
        ratio(ours, floor.quantile(0.5)) <= GOAL_RATIO,
    );
    let in_place = measured.in_place.quantile(0.5);
    goal(
        "ADD against veth made in place",
        &format!("{:.2} x", ratio(ours, in_place)),
        &format!("at most {GOAL_RATIO} x"),
        ratio(ours, in_place) <= GOAL_RATIO,
    );
    goal(
        "ADD against bridge + host-local",
        &format!("{:.2} x", ratio(ours, peer)),
        "less than 1 x",
        ours < peer,
    );
}

fn sizes(cni: &Path) -> Result<(), LabError> {
    let size = fs::metadata(cni).map_err(LabError::file("read", cni))?.len();
    goal("calico-cni, bytes on disk", &mib(size), "at most 4 MiB", size <= GOAL_SIZE);
    Ok(())
}

fn memory(lab: &Lab, pods: usize) -> Result<(), LabError> {
    let config = lab.run_dir("node1").join("agent.toml").display().to_string();
    let is_agent = |directory: &PathBuf| {
        let line = fs::read(directory.join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        line.contains("calico-agent") && line.contains(&config)
    };
    let processes = fs::read_dir("/proc").map_err(LabError::file("list", Path::new("/proc")))?;
    let agent = processes.flatten().map(|entry| entry.path()).find(is_agent);
    let agent = agent.ok_or_else(|| LabError::Machine("the agent has gone".to_owned()))?;
    let status = agent.join("status");
    let text = fs::read_to_string(&status).map_err(LabError::file("read", &status))?;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib << 10)
    };
    let resident = field("VmRSS:").unwrap_or_default();
    let peak = field("VmHWM:").unwrap_or_default();
    let found = format!("{}, peak {}", mib(resident), mib(peak));
    let what = format!("agent, resident with {} pods", pods + 1);
    goal(&what, &found, "at most 20 MiB", resident <= GOAL_MEMORY);
    Ok(())
}

fn demo() -> Result<(), LabError> {
    let program = env::current_exe().map_err(LabError::file("find", Path::new("calico-lab")))?;
    let start = Instant::now();
    let output = std::process::Command::new(&program)
        .arg("demo")
        .output()
        .map_err(LabError::file("run", &program))?;
    let took = start.elapsed();
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(LabError::Machine(format!("the demo failed: {text}")));
    }
    println!();
    let found = format!("{:.1} s", took.as_secs_f64());
    goal("demo, from start to end", &found, "at most 15 s", took <= GOAL_DEMO);
    Ok(())
}

fn line(what: &str, times: &Times, base: &Times, of: &str) {
    let (p50, p99) = (times.quantile(0.5), times.quantile(0.99));
    let ratio = if of.is_empty() {
        String::new()
    } else {
        format!("{:>7.2} x {of}", ratio(p50, base.quantile(0.5)))
    };
    println!("{what:<34} {:>9} {:>9} {ratio}", millis(p50), millis(p99));
}

fn goal(what: &str, found: &str, wanted: &str, met: bool) {
    let verdict = if met { "met" } else { "MISSED" };
    println!("{what:<34} {found:>22}   goal: {wanted}: {verdict}");
}

fn millis(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1e3)
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

fn ratio(a: Duration, b: Duration) -> f64 {
    a.as_secs_f64() / b.as_secs_f64()
}

/// The configuration of one plugin call, as JSON text.
fn configuration(fields: serde_json::Value) -> String {
    let mut all = json!({ "cniVersion": "1.0.0", "name": "bench" });
    if let (Some(all), serde_json::Value::Object(fields)) = (all.as_object_mut(), fields) {
        all.extend(fields);
    }
    all.to_string()
}
