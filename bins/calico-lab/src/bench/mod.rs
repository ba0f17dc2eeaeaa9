//! What a pod's network costs: our plugin, Debian's `bridge` with `host-local`, and what none can do
//! without (the bare netlink calls, the start of a process, a durable write), turn by turn in one
//! run.

mod agent;
mod burst;
mod floor;
mod plugin;
mod process;
mod times;

use std::path::Path;
use std::time::{Duration, Instant};
use std::{env, fs};

use calico_netlink::netns::create_named;

use self::agent::Agent;
use self::floor::Disk;
use self::plugin::Plugin;
use self::process::{Memory, Process};
use self::times::{Times, at_most, goal, line, ratio};
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

/// Goals: half of them against what cannot be left out, the plugin's size, the agent's memory, and
/// the demo.
const GOAL_P50: f64 = 1.5;
const GOAL_P99: f64 = 3.0;
const GOAL_SIZE: u64 = 4 << 20;
const GOAL_MEMORY: u64 = 20 << 20;
const GOAL_DEMO: Duration = Duration::from_secs(15);

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

    let ways = Ways::new(&lab)?;
    let mut measured = Measured::default();
    measured.add(&lab, &ways, pods)?;
    measured.report(pods);
    sizes(&bins)?;
    measured.report_memory();
    measured.remove(&ways)?;
    measured.report_removal();
    burst::measure(&lab.topology().name, &ways, pods)?;
    lab.remove()?;
    demo()
}

/// Who is measured.
struct Ways {
    /// Ours, and Debian's.
    plugins: [Plugin; 2],
    agent: Agent,
    empty: Plugin,
    /// The agent's.
    process: Process,
}

impl Ways {
    fn new(lab: &Lab) -> Result<Self, LabError> {
        let (node, run_dir) = (lab.namespace("node1"), lab.run_dir("node1"));
        let peer_node = netns::name_of(&lab.topology().name, "peer");
        create_named(&peer_node).map_err(|error| LabError::Machine(error.to_string()))?;
        let empty = floor::empty_program(&run_dir)?;
        Ok(Self {
            plugins: [
                Plugin::calico(&node, &run_dir)?,
                Plugin::bridge(&peer_node, &run_dir.join("host-local"))?,
            ],
            agent: Agent::new(&run_dir),
            empty: Plugin::empty(&node, empty),
            process: Process::of_agent(&run_dir.join("agent.toml"))?,
        })
    }
}

/// What was measured while pods came and went.
#[derive(Default)]
struct Measured {
    /// Ours, asked of the agent alone, and the peer's.
    pods: Vec<[String; 3]>,
    process: Times,
    in_place: Times,
    write: Times,
    /// The sum of the three before, pod by pod.
    floor: Times,
    moved: Times,
    ours: Times,
    asked: Times,
    peer: Times,
    /// The agent's, and with how many pods.
    memory: (Memory, usize),
    /// DEL.
    removed: [Times; 3],
}

impl Measured {
    fn add(&mut self, lab: &Lab, ways: &Ways, pods: usize) -> Result<(), LabError> {
        let lab_name = &lab.topology().name;
        let mut disk = Disk::new(&lab.run_dir("node1"))?;
        let make = |name: &str| {
            create_named(name).map_err(|error| LabError::Machine(error.to_string())).map(drop)
        };
        // Namespaces come before and go after: the kernel tears them down in the background, with
        // locks that everything measured here needs.
        let floor_host = netns::name_of(lab_name, "floor");
        let namespace =
            |what: &str, number: usize| netns::name_of(lab_name, &format!("{what}-{number}"));
        make(&floor_host)?;
        for number in 0..=pods {
            for what in ["in-place", "moved", "pod", "asked", "other"] {
                make(&namespace(what, number))?;
            }
        }
        for number in 0..=pods {
            let [in_place, moved, pod, asked, other] =
                ["in-place", "moved", "pod", "asked", "other"].map(|what| namespace(what, number));
            let process = ways.empty.call("ADD", &pod)?;
            let in_place = floor::in_place(&floor_host, &format!("in{number}"), &in_place)?;
            let write = disk.write()?;
            let moved = floor::moved(&floor_host, &format!("mv{number}"), &moved)?;
            let ours = ways.plugins[0].call("ADD", &pod)?;
            let peer = ways.plugins[1].call("ADD", &other)?;
            let alone = ways.agent.call("Add", &asked)?;
            // The first of each makes blocks, bridges and the like.
            if number > 0 {
                self.process.0.push(process);
                self.in_place.0.push(in_place);
                self.write.0.push(write);
                self.floor.0.push(process + in_place + write);
                self.moved.0.push(moved);
                self.ours.0.push(ours);
                self.asked.0.push(alone);
                self.peer.0.push(peer);
            }
            self.pods.push([pod, asked, other]);
            // Two of ours at a time.
            if number == pods / 2 {
                self.memory = (ways.process.memory()?, 2 * self.pods.len());
            }
        }
        Ok(())
    }

    fn remove(&mut self, ways: &Ways) -> Result<(), LabError> {
        for [pod, asked, other] in &self.pods {
            self.removed[0].0.push(ways.plugins[0].call("DEL", pod)?);
            self.removed[1].0.push(ways.agent.call("Del", asked)?);
            self.removed[2].0.push(ways.plugins[1].call("DEL", other)?);
        }
        Ok(())
    }

    fn report(&self, pods: usize) {
        println!("{pods} pods one after the other: IPv4, from program start to reply\n");
        let columns = ["p50", "p99", "of floor", "of in place", "of moved"];
        let [p50, p99, floor, in_place, moved] = columns;
        println!("{:<40} {p50:>9} {p99:>9} {floor:>10} {in_place:>10} {moved:>10}", "");
        let bases = [&self.floor, &self.in_place, &self.moved];
        for (what, times) in [
            ("start of a process that does nothing", &self.process),
            ("bare: veth in place, address, up", &self.in_place),
            ("durable write of 4 KiB", &self.write),
            ("floor: the three before", &self.floor),
            ("bare: create, move, address, up", &self.moved),
            ("ADD  calico, policy in force", &self.ours),
            ("ADD  calico's agent, without the process", &self.asked),
            ("ADD  bridge + host-local", &self.peer),
        ] {
            line(what, times, &bases);
        }
        println!();
        let (ours, floor) = (&self.ours, &self.floor);
        at_most("ADD against the floor, p50", ours.p50(), floor.p50(), GOAL_P50);
        at_most("ADD against the floor, p99", ours.p99(), floor.p99(), GOAL_P99);
        at_most("ADD against veth made in place", ours.p50(), self.in_place.p50(), GOAL_P50);
        at_most("ADD against create and move", ours.p50(), self.moved.p50(), GOAL_P50);
        faster("ADD against bridge + host-local", ours, &self.peer);
    }

    fn report_memory(&self) {
        let (Memory { resident, peak }, pods) = self.memory;
        let found = format!("{}, peak {}", mib(resident), mib(peak));
        let what = format!("agent, resident with {pods} pods");
        goal(&what, &found, "at most 20 MiB", resident <= GOAL_MEMORY);
    }

    fn report_removal(&self) {
        let [ours, asked, peer] = &self.removed;
        println!("\n{:<40} {:>9} {:>9} {:>10}", "", "p50", "p99", "of bridge");
        line("DEL  calico", ours, &[peer]);
        line("DEL  calico's agent, without the process", asked, &[peer]);
        line("DEL  bridge + host-local", peer, &[peer]);
        println!();
        faster("DEL against bridge + host-local", ours, peer);
    }
}

fn faster(what: &str, ours: &Times, peer: &Times) {
    let found = ratio(ours.p50(), peer.p50());
    goal(what, &format!("{found:.2} x"), "less than 1 x", found < 1.0);
}

fn sizes(cni: &Path) -> Result<(), LabError> {
    let size = fs::metadata(cni).map_err(LabError::file("read", cni))?.len();
    goal("calico-cni, bytes on disk", &mib(size), "at most 4 MiB", size <= GOAL_SIZE);
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

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
