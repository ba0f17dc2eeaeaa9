//! A cluster of one node: a real control plane, containerd and a kubelet, in namespaces and control
//! groups of their own. Nothing of it touches the machine's network, directories or other groups.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use calico_test_servers::ADMIN;
use calico_test_servers::api::Api;
use calico_test_servers::control_plane::ControlPlane;
use calico_test_servers::programs;
use serde_json::json;

use crate::common::image::image;

/// Its name.
pub(crate) const NODE: &str = "node1";
/// Its address, and that of what is outside.
const ADDRESS: (Ipv4Addr, Ipv4Addr) =
    (Ipv4Addr::new(172, 30, 9, 1), Ipv4Addr::new(172, 30, 9, 254));
/// Address of the API server as a service.
pub(crate) const API_SERVICE: &str = "10.0.0.1";
/// What the kubelet is known by.
const KUBELET: &str = "kubelet-token";
/// What containerd has for sandboxes.
const PAUSE: &str = "lab.test/busybox:1";
/// Hierarchies of control groups that the machine may have.
const CONTROLLERS: [&str; 9] =
    ["cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "hugetlb"];

/// The node and all that runs on it; ends with this.
pub(crate) struct Cluster {
    /// What it was started with, and its logs.
    pub(crate) dir: PathBuf,
    /// Its network namespace; the one outside has `-out` behind it.
    pub(crate) name: String,
    plane: ControlPlane,
    init: Option<Child>,
}

impl Cluster {
    /// Writes what everything is started with; `own` is where the workspace's programs are.
    pub(crate) fn prepare(dir: &Path, name: &str, own: &Path) -> Self {
        let servers = programs::find(|what| println!("{what}")).unwrap();
        let node = programs::find_node(|what| println!("{what}")).unwrap();
        let addresses = vec![IpAddr::from(ADDRESS.0), API_SERVICE.parse().unwrap()];
        let plane = ControlPlane {
            dir: dir.join("plane"),
            addresses,
            port: 6443,
            etcd_ports: [2379, 2380],
        };
        let cluster = Self { dir: dir.to_owned(), name: name.to_owned(), plane, init: None };
        for part in ["plane", "args", "images", "logs"] {
            fs::create_dir_all(dir.join(part)).unwrap();
        }
        cluster.plane.prepare().unwrap();
        let tokens = cluster.plane.dir.join("tokens.csv");
        let text = fs::read_to_string(&tokens).unwrap();
        let account = format!("{KUBELET},system:node:{NODE},3,system:nodes\n");
        fs::write(&tokens, text + &account).unwrap();
        cluster.settings();
        let program = |path: &Path, args: &[&str]| {
            let first = path.display().to_string();
            std::iter::once(first).chain(args.iter().map(ToString::to_string)).collect::<Vec<_>>()
        };
        let at = |name: &str| cluster.plane.dir.join(name).display().to_string();
        let key = format!("--service-account-private-key-file={}", at("account-key.pem"));
        let root = format!("--root-ca-file={}", at("ca.pem"));
        let admin = format!("--kubeconfig={}", at("admin.kubeconfig"));
        let alone = "--leader-elect=false";
        let host = format!("--hostname-override={NODE}");
        let mut etcd = program(&servers.etcd, &[]);
        etcd.extend(cluster.plane.etcd_args());
        let mut apiserver = program(&servers.apiserver, &[]);
        apiserver.extend(cluster.apiserver_args());
        for (number, (name, args)) in [
            ("etcd", etcd),
            ("apiserver", apiserver),
            ("controllers", program(&node.controllers, &[&admin, &root, &key, alone])),
            ("scheduler", program(&node.scheduler, &[&admin, alone])),
            // The machine's settings of connection tracking are not this namespace's to change.
            (
                "proxy",
                program(
                    &node.proxy,
                    &[
                        &admin,
                        &host,
                        "--proxy-mode=nftables",
                        "--conntrack-max-per-core=0",
                        "--conntrack-min=0",
                        "--conntrack-tcp-timeout-established=0",
                        "--conntrack-tcp-timeout-close-wait=0",
                    ],
                ),
            ),
            ("containerd", program(Path::new("containerd"), &["--config", &at("containerd.toml")])),
            (
                "kubelet",
                program(
                    &node.kubelet,
                    &[
                        &format!("--config={}", at("kubelet.json")),
                        &format!("--kubeconfig={}", at("kubelet.kubeconfig")),
                        &host,
                    ],
                ),
            ),
        ]
        .into_iter()
        .enumerate()
        {
            fs::write(dir.join(format!("args/{number}-{name}")), args.join("\n") + "\n").unwrap();
        }
        // Sandboxes and pods are of the same image: busybox sleeps as well as `pause` does.
        image(&dir.join("plane"));
        fs::rename(dir.join("plane/image.tar"), dir.join("images/busybox.tar")).unwrap();
        // The image of the DaemonSet, by the script that users have.
        let script = calico_test_servers::workspace().unwrap().join("deploy/kubernetes/image.sh");
        succeed(Command::new("sh").args([&script, own, &dir.join("images/calico.tar")]));
        cluster
    }

    /// Starts everything.
    pub(crate) fn start(&mut self) {
        let (node, outside) = (self.name.clone(), format!("{}-out", self.name));
        let (address, gateway) = ADDRESS;
        let (address, around) = (format!("{address}/24"), format!("{gateway}/24"));
        for words in [
            &["netns", "add", &node][..],
            &["netns", "add", &outside],
            &[
                "link", "add", "eth0", "netns", &node, "type", "veth", "peer", "name", "eth0",
                "netns", &outside,
            ],
            &["-n", &node, "link", "set", "lo", "up"],
            &["-n", &node, "link", "set", "eth0", "up"],
            &["-n", &node, "address", "add", &address, "dev", "eth0"],
            &["-n", &outside, "link", "set", "eth0", "up"],
            &["-n", &outside, "address", "add", &around, "dev", "eth0"],
            &["-n", &node, "route", "add", "default", "via", &gateway.to_string()],
        ] {
            succeed(Command::new("ip").args(words));
        }
        let groups = groups();
        let names: Vec<&str> = groups.iter().map(|(name, _)| *name).collect();
        fs::write(self.dir.join("controllers"), names.join("\n") + "\n").unwrap();
        let mut join = String::new();
        for (controller, root) in &groups {
            let group = root.join(&self.name);
            fs::create_dir(&group).unwrap();
            if *controller == "cpuset" {
                for file in ["cpuset.cpus", "cpuset.mems"] {
                    fs::write(group.join(file), fs::read(root.join(file)).unwrap()).unwrap();
                }
            }
            join += &format!("echo $$ > {}/cgroup.procs; ", group.display());
        }
        let script = self.dir.join("node.sh");
        fs::write(&script, include_str!("node.sh")).unwrap();
        let run = format!(
            "set -e; {join} exec ip netns exec {node} unshare --mount --pid --cgroup --uts --fork \
             --kill-child --propagation private sh {} {} {NODE}",
            script.display(),
            self.dir.display()
        );
        let log = fs::File::create(self.dir.join("logs/node")).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", &run]).stdin(Stdio::null()).stdout(log.try_clone().unwrap());
        self.init = Some(command.stderr(log).spawn().unwrap());
    }

    /// Runs a program on the node.
    pub(crate) fn on_node(&self, words: &[&str]) -> Output {
        let outer = self.init.as_ref().unwrap().id();
        // What unshare started is the first process of the node.
        let first = fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
            let status = fs::read_to_string(entry.path().join("status")).ok()?;
            let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
            (parent.trim() == outer.to_string()).then(|| entry.file_name())
        });
        let first = first.expect("the node runs").into_string().unwrap();
        Command::new("timeout")
            .args(["60", "nsenter", "-t", &first, "-m", "-p", "-n", "-u", "-C"])
            .args(words)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// The ends of the logs.
    pub(crate) fn logs(&self) -> String {
        let mut text = String::new();
        let agent = fs::read_dir(self.dir.join("var-log/pods")).into_iter().flatten().flatten();
        let agent = agent.filter(|dir| dir.file_name().to_string_lossy().contains("calico-node"));
        let mut files: Vec<PathBuf> = agent
            .flat_map(|dir| {
                ["install-cni/0.log", "calico-node/0.log"].map(|log| dir.path().join(log))
            })
            .collect();
        files.extend(
            ["node", "import", "containerd", "kubelet"].map(|log| self.dir.join("logs").join(log)),
        );
        for file in files {
            let log = fs::read_to_string(&file).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            text += &format!("== {}\n", file.display());
            for line in &lines[lines.len().saturating_sub(12)..] {
                text += &format!("{}\n", line.chars().take(400).collect::<String>());
            }
        }
        text
    }

    fn settings(&self) {
        let write = |name: &str, text: String| fs::write(self.plane.dir.join(name), text).unwrap();
        write("admin.kubeconfig", self.api().kubeconfig());
        let kubelet = Api { token: KUBELET.to_owned(), ..self.api() };
        write("kubelet.kubeconfig", kubelet.kubeconfig());
        let config = json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
            "authentication": {"anonymous": {"enabled": false}, "webhook": {"enabled": true}},
            "authorization": {"mode": "Webhook"},
            "cgroupDriver": "cgroupfs", "failCgroupV1": false, "failSwapOn": false,
            "makeIPTablesUtilChains": false, "resolvConf": "",
            "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
            "volumePluginDir": "/var/lib/kubelet-plugins",
            "nodeStatusUpdateFrequency": "2s",
            // A full disk of this machine is not what is tested.
            "evictionHard": {"memory.available": "1Mi", "nodefs.available": "0%",
                "imagefs.available": "0%", "nodefs.inodesFree": "0%"},
            "imageGCHighThresholdPercent": 100,
        });
        write("kubelet.json", config.to_string());
        // A machine may not allow to shield a process from being killed for want of memory.
        write(
            "containerd.toml",
            format!(
                "version = 2\nroot = \"/var/lib/containerd\"\nstate = \"/run/containerd\"\n\
                 [grpc]\naddress = \"/run/containerd/containerd.sock\"\n\
                 [plugins.\"io.containerd.grpc.v1.cri\"]\n\
                 sandbox_image = {PAUSE:?}\nrestrict_oom_score_adj = true\n"
            ),
        );
    }

    fn apiserver_args(&self) -> Vec<String> {
        // What has no place where there are no pods.
        let without = [
            "--disable-admission-plugins=ServiceAccount",
            "--authorization-mode=RBAC",
            "--endpoint-reconciler-type=none",
        ];
        let mut args = self.plane.apiserver_args();
        args.retain(|arg| !without.contains(&arg.as_str()));
        args.push("--authorization-mode=Node,RBAC".to_owned());
        args.push("--enable-admission-plugins=NodeRestriction".to_owned());
        args
    }

    /// The API server, for who may do everything.
    pub(crate) fn api(&self) -> Api {
        Api { url: self.plane.url(), ca: self.plane.ca(), token: ADMIN.to_owned() }
    }

    /// Runs `work` where the API server is reached.
    pub(crate) fn ask<T: Send>(&self, work: impl AsyncFnOnce(&Api) -> T + Send) -> T {
        let api = self.api();
        calico_lab::netns::enter(&self.name, || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(work(&api))
        })
        .unwrap()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}", self.logs());
        }
        if let Some(mut init) = self.init.take() {
            // With the first process of its namespace of processes, all others end.
            let _ = init.kill();
            let _ = init.wait();
        }
        let started = Instant::now();
        for (_, root) in groups() {
            let group = root.join(&self.name);
            while group.exists() && started.elapsed() < Duration::from_secs(20) {
                remove_group(&group);
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        for name in [self.name.clone(), format!("{}-out", self.name)] {
            let _ = Command::new("ip").args(["netns", "delete", &name]).status();
        }
    }
}

/// Groups go from the leaves on; one that has processes stays.
fn remove_group(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_group(&entry.path());
        }
    }
    let _ = fs::remove_dir(group);
}

/// Hierarchies of control groups, and where they are mounted.
fn groups() -> Vec<(&'static str, PathBuf)> {
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let of = |controller: &'static str| {
        let found = mounts.lines().find_map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            let [_, place, "cgroup", options, ..] = words[..] else { return None };
            options.split(',').any(|option| option == controller).then(|| PathBuf::from(place))
        });
        found.map(|place| (controller, place))
    };
    let found: Vec<_> = CONTROLLERS.into_iter().filter_map(of).collect();
    assert!(
        found.iter().any(|(name, _)| *name == "memory"),
        "this machine has no control groups of version 1, which this test is written for"
    );
    found
}

/// Runs a program, which must succeed.
fn succeed(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
}
