//! Pods start and stop while agents are killed: from the first instant of its interface on, no pod
//! sends or receives a packet that policy forbids, whether an agent is there or not.
//!
//! In each pod a program sends to a forbidden and to an allowed port, and listens on both, from
//! before the pod has an interface until after it has none; from elsewhere both ports of all
//! addresses are flooded. `CALICO_KILLS` says how many kills there are, instead of a few:
//! `cargo xtask kills`.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use calico_lab::topology::Topology;
use calico_lab::{Lab, programs};
use calico_netlink::netns::Netns;
use calico_netlink::testing::TestNet;
use common::plugin::{Sandbox, start};
use common::{assert_gone, eventually, lab_name, turn};
use serde_json::{Value, json};

/// How many agents are killed, unless `CALICO_KILLS` says otherwise.
const KILLS: u64 = 8;

/// Pods that start at the same time.
const WORKERS: u64 = 3;

/// How long a pod lives at most, which is long enough to be reached.
const LIFE: u64 = 250;

/// What pods may not send to, nor receive on.
const FORBIDDEN: u16 = 7;
/// What they may.
const ALLOWED: u16 = 5300;

/// One block, so that a flood reaches every address that a pod may have.
const TOPOLOGY: &str = "
nodes: [{ name: node1, addresses: [172.30.0.11/24, 'fd30::11/64'] }]
pools:
  - { name: four, cidr: 10.244.0.0/26, blockSize: 26 }
  - { name: six, cidr: 'fd44::/122', blockSize: 122 }
";

const POLICY: &str = "
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: { name: pods }
spec:
  selector: projectcalico.org/namespace == 'default'
  types: [Ingress, Egress]
  ingress:
  - { action: Allow, protocol: UDP, destination: { ports: [5300] } }
  egress:
  - { action: Allow, protocol: UDP, destination: { ports: [5300] } }
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: { name: elsewhere }
spec:
  selector: projectcalico.org/namespace == 'elsewhere'
  types: [Ingress, Egress]
  ingress: [{ action: Allow }]
  egress: [{ action: Allow }]
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_that_start_while_agents_die_obey_policy_from_their_first_packet() {
    let Some(_turn) = turn() else { return };
    let name = lab_name("start");
    let text = format!("name: {name}\n{TOPOLOGY}");
    let mut lab = Lab::create(Topology::parse("start", &text).unwrap(), &text).unwrap();
    lab.start().await.unwrap();
    lab.apply_text(POLICY).await.unwrap();
    let kills = std::env::var("CALICO_KILLS").ok().map(|text| text.parse().expect("a number"));
    let kills: u64 = kills.unwrap_or(KILLS);

    let plugin = Arc::new(Plugin::new(&lab, "node1"));
    let node = Netns::named(&lab.namespace("node1")).unwrap();
    let other = node.run(|| Elsewhere::start(&plugin)).unwrap();
    let (stop, started) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let inside = Arc::new(Heard::default());
    let workers: Vec<_> = (0..WORKERS)
        .map(|worker| {
            let (plugin, targets) = (Arc::clone(&plugin), other.addresses.clone());
            let (stop, started) = (Arc::clone(&stop), Arc::clone(&started));
            let (inside, node) = (Arc::clone(&inside), lab.namespace("node1"));
            let work = move || {
                let mut number = worker;
                while !stop.load(Ordering::Relaxed) {
                    let attached = live(&plugin, number, &targets, &inside);
                    started.fetch_add(u64::from(attached), Ordering::Relaxed);
                    number += WORKERS;
                }
            };
            std::thread::spawn(move || Netns::named(&node).unwrap().run(work).unwrap())
        })
        .collect();
    for kill in 0..kills {
        // Now in the middle of a start, now of a life, now before the agent has read anything.
        tokio::time::sleep(Duration::from_millis(50 + kill * 397 % 1100)).await;
        lab.crash_agent("node1").unwrap();
    }
    // Some must have lived with an agent, or else nothing was tested.
    let deadline = Instant::now() + Duration::from_secs(60);
    let enough = || {
        let heard = [&inside, &other.heard].map(|heard| heard.allowed.load(Ordering::Relaxed));
        started.load(Ordering::Relaxed) > kills && heard.iter().all(|packets| *packets > 0)
    };
    while !enough() && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stop.store(true, Ordering::Relaxed);
    for worker in workers {
        worker.join().unwrap();
    }
    let (started, outside) = (started.load(Ordering::Relaxed), other.stop());
    let [inside, outside] = [&*inside, &*outside].map(Heard::both);
    println!(
        "{kills} kills, {started} pods: received {} and sent {} packets that are allowed",
        inside.1, outside.1
    );
    assert!(started > kills && inside.1 > 0 && outside.1 > 0, "nothing was tested");
    assert_eq!((inside.0, outside.0), (0, 0), "forbidden packets received by pods, and sent");
    lab.remove().unwrap();
    assert_gone(&name);
}

/// Packets that arrived.
#[derive(Debug, Default)]
struct Heard {
    forbidden: AtomicU64,
    allowed: AtomicU64,
}

impl Heard {
    fn both(&self) -> (u64, u64) {
        (self.forbidden.load(Ordering::Relaxed), self.allowed.load(Ordering::Relaxed))
    }
}

/// Sends to every target on both ports, and listens on both, in the namespace that it was made in.
struct Talk {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Talk {
    fn start(targets: Vec<IpAddr>, heard: &Arc<Heard>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for port in [FORBIDDEN, ALLOWED] {
            // Of both families.
            let socket = UdpSocket::bind(("::", port)).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            let (stop, heard) = (Arc::clone(&stop), Arc::clone(heard));
            threads.push(std::thread::spawn(move || {
                let count = if port == FORBIDDEN { &heard.forbidden } else { &heard.allowed };
                while !stop.load(Ordering::Relaxed) {
                    if socket.recv(&mut [0; 16]).is_ok() {
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }));
        }
        let (v4, v6) = (UdpSocket::bind("0.0.0.0:0").unwrap(), UdpSocket::bind("[::]:0").unwrap());
        let stopped = Arc::clone(&stop);
        threads.push(std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                for target in &targets {
                    let socket = if target.is_ipv4() { &v4 } else { &v6 };
                    for port in [FORBIDDEN, ALLOWED] {
                        // There may be no route yet, or no longer.
                        let _ = socket.send_to(b"x", SocketAddr::new(*target, port));
                    }
                }
                std::thread::sleep(Duration::from_micros(500));
            }
        }));
        Self { stop, threads }
    }

    fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
    }
}

/// A pod in another namespace, which may do everything, and floods all addresses of the pools.
struct Elsewhere {
    _net: TestNet,
    addresses: Vec<IpAddr>,
    heard: Arc<Heard>,
    talk: Talk,
}

impl Elsewhere {
    fn start(plugin: &Plugin) -> Self {
        let net = TestNet::new("else").unwrap();
        let sandbox = sandbox(&net, "elsewhere", "flood");
        let mut added = Value::Null;
        eventually("a pod elsewhere", || {
            plugin.call("ADD", &sandbox).is_ok_and(|reply| {
                added = reply;
                true
            })
        });
        let addresses: Vec<IpAddr> = added["ips"]
            .as_array()
            .unwrap()
            .iter()
            .map(|ip| ip["address"].as_str().unwrap().split('/').next().unwrap().parse().unwrap())
            .collect();
        assert_eq!(addresses.len(), 2, "{added}");
        let every = (0..64_u16).flat_map(|n| {
            let v4 = IpAddr::from([10, 244, 0, n as u8]);
            [v4, IpAddr::from([0xfd44, 0, 0, 0, 0, 0, 0, n])]
        });
        let targets = every.filter(|address| !addresses.contains(address)).collect();
        let heard = Arc::default();
        let talk = net.run(|| Talk::start(targets, &heard));
        Self { _net: net, addresses, heard, talk }
    }

    fn stop(self) -> Arc<Heard> {
        self.talk.stop();
        self.heard
    }
}

/// A pod from beginning to end; whether it was attached.
fn live(plugin: &Plugin, number: u64, targets: &[IpAddr], heard: &Arc<Heard>) -> bool {
    let net = TestNet::new("start").unwrap();
    let sandbox = sandbox(&net, "default", &format!("pod-{number}"));
    // Before it has an interface.
    let talk = net.run(|| Talk::start(targets.to_vec(), heard));
    let added = plugin.call("ADD", &sandbox);
    let life = if added.is_ok() { number * 97 % LIFE } else { 1 };
    std::thread::sleep(Duration::from_millis(life));
    // A DEL never waits for anybody, so that it never fails.
    plugin.call("DEL", &sandbox).unwrap_or_else(|error| panic!("DEL of pod {number}: {error}"));
    talk.stop();
    added.is_ok()
}

fn sandbox(net: &TestNet, namespace: &str, pod: &str) -> Sandbox {
    Sandbox {
        id: format!("{namespace}-{pod}-{}", net.name()),
        netns: net.netns().path().to_owned(),
        args: format!("K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={pod}"),
    }
}

/// The CNI plugin, as a container runtime calls it.
struct Plugin {
    program: PathBuf,
    config: Value,
}

impl Plugin {
    fn new(lab: &Lab, node: &str) -> Self {
        let directory = lab.run_dir(node);
        let config = json!({
            "cniVersion": "1.1.0", "name": "start", "type": "calico", "nodename": node,
            "ipam": { "type": "calico-ipam", "assign_ipv6": "true" },
            "agent_socket": directory.join("cni.sock"),
            "journal_dir": directory.join("state/cni-journal"),
        });
        Self { program: programs::own("calico-cni").unwrap(), config }
    }

    /// To be called in the node's namespace.
    fn call(&self, verb: &str, sandbox: &Sandbox) -> Result<Value, String> {
        let child = start(&self.program, &self.config, verb, sandbox);
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        if !output.status.success() {
            return Err(text);
        }
        Ok(serde_json::from_str(&text).unwrap_or(Value::Null))
    }
}
