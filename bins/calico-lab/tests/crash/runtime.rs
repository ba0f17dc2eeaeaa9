//! A container runtime that kills the plugins it starts.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use calico_lab::{Lab, programs};
use calico_netlink::netns::Netns;
use calico_netlink::testing::TestNet;
use serde_json::{Value, json};

use crate::common::plugin::{Sandbox, start};

/// Random choices by seed (splitmix64).
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn one_in(&mut self, many: u64) -> bool {
        self.below(many) == 0
    }
}

/// How a call ended.
enum End {
    Answered { failed: bool, text: String },
    Killed,
}

pub(crate) struct Runtime {
    program: PathBuf,
    config: Value,
    journal: PathBuf,
    killed: AtomicUsize,
    attached: AtomicUsize,
}

impl Runtime {
    pub(crate) fn new(lab: &Lab, node: &str) -> Self {
        let journal = lab.run_dir(node).join("state/cni-journal");
        let config = json!({
            "cniVersion": "1.1.0", "name": "crash", "type": "calico", "nodename": node,
            "mtu": 1400, "ipam": { "type": "calico-ipam", "assign_ipv6": "true" },
            "agent_socket": lab.run_dir(node).join("cni.sock"), "journal_dir": journal,
        });
        let program = programs::own("calico-cni").unwrap();
        Self {
            program,
            config,
            journal,
            killed: AtomicUsize::new(0),
            attached: AtomicUsize::new(0),
        }
    }

    /// One pod of each kind, from beginning to end.
    pub(crate) fn warm_up(&self, node: &str) {
        self.wait_for_agent(node);
        let work = || {
            for args in ["", "K8S_POD_NAMESPACE=default;K8S_POD_NAME=warm-up"] {
                let net = TestNet::new("pod").unwrap();
                let netns = net.netns().path().to_owned();
                let sandbox = Sandbox { id: "a".repeat(64), netns, args: args.to_owned() };
                for verb in ["ADD", "DEL"] {
                    let End::Answered { failed, text } = self.call(verb, &sandbox, None) else {
                        unreachable!("nobody killed it")
                    };
                    assert!(!failed, "{verb}: {text}");
                }
            }
        };
        Netns::named(node).unwrap().run(work).unwrap();
    }

    /// A pod comes and goes; answers with its container id if nobody deleted it. To be called in
    /// the node's namespace.
    pub(crate) fn cycle(&self, worker: usize, chance: &mut Chance) -> Option<String> {
        let net = TestNet::new("pod").unwrap();
        let id: String = (0..4).map(|_| format!("{:016x}", chance.next())).collect();
        // Pods keep their name from one container to the next, as those of a StatefulSet.
        let pod = format!("K8S_POD_NAMESPACE=default;K8S_POD_NAME=pod-{worker}");
        let args = if chance.one_in(2) { pod } else { String::new() };
        let sandbox = Sandbox { id, netns: net.netns().path().to_owned(), args };
        let kill = |chance: &mut Chance| {
            chance.one_in(3).then(|| Duration::from_micros(chance.below(20_000)))
        };
        let after = kill(chance);
        if let End::Answered { failed: false, .. } = self.call("ADD", &sandbox, after) {
            self.attached.fetch_add(1, Ordering::Relaxed);
        }
        // A container that ended takes its namespace along, and the interface with it.
        let net = (!chance.one_in(4)).then_some(net);
        if chance.one_in(10) {
            // Its namespace goes as well: the runtime has forgotten it.
            if chance.one_in(2) {
                let after = Duration::from_micros(chance.below(5_000));
                let end = self.call("DEL", &sandbox, Some(after));
                if matches!(end, End::Answered { failed: false, .. }) {
                    return None;
                }
            }
            return Some(sandbox.id);
        }
        for _ in 0..20 {
            let after = kill(chance);
            match self.call("DEL", &sandbox, after) {
                End::Answered { failed: false, .. } => {
                    drop(net);
                    return None;
                }
                End::Answered { text, .. } => panic!("a DEL must never fail: {text}"),
                End::Killed => {}
            }
        }
        panic!("no DEL of 20 came to its end");
    }

    /// Waits until ADDs can be served.
    pub(crate) fn wait_for_agent(&self, node: &str) {
        let nobody = Sandbox::default();
        let node = Netns::named(node).unwrap();
        super::super::common::eventually("the agent answers", || {
            let end = node.run(|| self.call("STATUS", &nobody, None)).unwrap();
            matches!(end, End::Answered { failed: false, .. })
        });
    }

    /// Tells the plugin that no container is left.
    pub(crate) fn collect(&self, node: &str) {
        let mut config = self.config.clone();
        config["cni.dev/valid-attachments"] = json!([]);
        let nobody = Sandbox::default();
        let work = || self.run(&config, "GC", &nobody, None);
        let end = Netns::named(node).unwrap().run(work).unwrap();
        let End::Answered { failed, text } = end else { unreachable!("nobody killed it") };
        assert!(!failed, "{text}");
    }

    /// Everything in the journal's directory, drafts included.
    pub(crate) fn journal(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(&self.journal) else { return Vec::new() };
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// Plugins killed before they answered.
    pub(crate) fn killed(&self) -> usize {
        self.killed.load(Ordering::Relaxed)
    }

    /// ADDs that were answered with an address.
    pub(crate) fn attached(&self) -> usize {
        self.attached.load(Ordering::Relaxed)
    }

    fn call(&self, verb: &str, sandbox: &Sandbox, kill_after: Option<Duration>) -> End {
        let mut config = self.config.clone();
        // One of four has its traffic limited, for which there is a device besides.
        if sandbox.id.starts_with(['0', '1', '2', '3']) {
            let limits = json!({ "ingressRate": 100_000_000, "egressRate": 100_000_000 });
            config["runtimeConfig"] = json!({ "bandwidth": limits });
        }
        self.run(&config, verb, sandbox, kill_after)
    }

    fn run(
        &self,
        config: &Value,
        verb: &str,
        sandbox: &Sandbox,
        kill_after: Option<Duration>,
    ) -> End {
        let mut child = start(&self.program, config, verb, sandbox);
        if let Some(after) = kill_after
            && !ends_within(&mut child, after)
        {
            child.kill().unwrap();
            child.wait().unwrap();
            self.killed.fetch_add(1, Ordering::Relaxed);
            return End::Killed;
        }
        let mut text = String::new();
        child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        let status = child.wait().unwrap();
        End::Answered { failed: !status.success(), text }
    }
}

fn ends_within(child: &mut Child, time: Duration) -> bool {
    let started = Instant::now();
    loop {
        if child.try_wait().unwrap().is_some() {
            return true;
        }
        if started.elapsed() >= time {
            return false;
        }
        thread::sleep(Duration::from_micros(200));
    }
}

/// What a program in a network namespace prints.
pub(crate) fn in_namespace(namespace: &str, command: &[&str]) -> String {
    let output = Command::new("ip").args(["netns", "exec", namespace]).args(command).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Files under `directory`, however deep.
pub(crate) fn files(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![directory.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() { open.push(path) } else { found.push(path.display().to_string()) }
        }
    }
    found.sort();
    found
}
