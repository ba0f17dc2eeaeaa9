//! A real runtime: containerd starts and stops a container on a node of a lab, over the CNI
//! configuration list of a published Kubernetes set-up (`calico` with `calico-ipam` and
//! `policy: k8s`, then Debian's `portmap`). The image is made here, from Debian's busybox.
//!
//! `CALICO_CONTAINERS` (default 25) containers run at once; `cargo xtask containers` runs a hundred.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use calico_lab::Lab;
use common::image::{IMAGE, image};
use common::{Scratch, assert_gone, eventually, lab_name, topology, turn};
use serde_json::json;

/// Time for many containers to come up, on a machine that has other things to do.
const MANY: Duration = Duration::from_secs(300);

fn require_programs() {
    for (program, package) in
        [("containerd", "containerd"), ("ctr", "containerd"), ("busybox", "busybox-static")]
    {
        let found = Command::new(program).arg("--help").output();
        assert!(found.is_ok(), "{program} is missing; run `apt-get install {package}`");
    }
}

#[tokio::test]
async fn containers_that_start_and_stop_at_once_do_not_disturb_each_other() {
    let Some(_turn) = turn() else { return };
    require_programs();
    let number = std::env::var("CALICO_CONTAINERS").map_or(25, |text| text.parse().unwrap());
    let name = lab_name("many");
    let (topology, text) = topology("mesh.yaml", &name);
    let lab = Lab::up(topology, &text).await.unwrap();
    let runtime = Runtime::start(&lab, "node1");
    let own = runtime.interfaces();

    // Each tells its network, and stays until all are there.
    let shared = runtime.directory.0.join("shared");
    fs::create_dir_all(&shared).unwrap();
    let started = Instant::now();
    let outputs = thread::scope(|scope| {
        let runtime = &runtime;
        let run = |nth: usize| {
            let script = format!(
                "ip -4 addr show eth0; ip route; echo > /shared/up{nth}; \
                 until [ -e /shared/go ]; do busybox sleep 0.2; done"
            );
            scope.spawn(move || runtime.run(&format!("many{nth}"), &script))
        };
        let threads: Vec<_> = (0..number).map(run).collect();
        let up = || fs::read_dir(&shared).unwrap().count();
        while up() < number {
            let failed = threads.iter().any(thread::ScopedJoinHandle::is_finished);
            if failed || started.elapsed() > MANY {
                println!("{} of {number} are up after {:?}", up(), started.elapsed());
                break;
            }
            thread::sleep(Duration::from_millis(100));
        }
        let up = started.elapsed();
        let interfaces = runtime.interfaces();
        fs::write(shared.join("go"), "").unwrap();
        let outputs = threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>();
        println!(
            "{number} containers were up after {up:?}, and gone after {:?}",
            started.elapsed()
        );
        assert_eq!(interfaces.len(), own.len() + number, "at the same time: {interfaces:?}");
        outputs
    });
    let address = |output: &String| {
        let line = output.lines().find_map(|line| line.trim().strip_prefix("inet "));
        line.unwrap_or_else(|| panic!("{output}")).split('/').next().unwrap().to_owned()
    };
    let addresses: BTreeSet<String> = outputs.iter().map(address).collect();
    assert_eq!(addresses.len(), number, "every container has its own: {addresses:?}");
    assert!(outputs.iter().all(|output| output.contains("default via 169.254.1.1 dev eth0")));

    // Nothing of them is left.
    assert_eq!(runtime.interfaces(), own);
    let endpoints = lab.calicoctl(&["get", "workloadendpoints", "-A", "-o", "yaml"]).await.unwrap();
    assert!(!endpoints.contains("many"), "{endpoints}");
    let first = addresses.first().unwrap();
    let text = lab.calicoctl(&["ipam", "show", &format!("--ip={first}")]).await.unwrap();
    assert!(text.contains("not assigned") || text.contains("not currently assigned"), "{text}");
    drop(runtime);
    lab.remove().unwrap();
    assert_gone(&name);
}

#[tokio::test]
async fn containerd_runs_a_container_over_our_plugin() {
    let Some(_turn) = turn() else { return };
    require_programs();
    let name = lab_name("containerd");
    let (topology, text) = topology("mesh.yaml", &name);
    let lab = Lab::up(topology, &text).await.unwrap();
    let runtime = Runtime::start(&lab, "node1");

    // A shell in the container reports its network and reaches a pod of another node, by a
    // route that BGP learned; the pod listens on port 80.
    let web = lab.pod("web").unwrap().address(false).unwrap();
    let script =
        format!("ip -4 addr show eth0; ip route; nc -w 5 {web} 80 </dev/null && echo reached");
    let output = runtime.run("first", &script);
    assert!(output.contains("inet 10.244."), "an address of the pool: {output}");
    assert!(output.contains("default via 169.254.1.1 dev eth0"), "{output}");
    assert!(output.contains("reached"), "{output}");

    // `ctr run --rm` removed the container: nothing of it is left.
    let endpoints = lab.calicoctl(&["get", "workloadendpoints", "-A", "-o", "yaml"]).await.unwrap();
    assert!(!endpoints.contains("first"), "{endpoints}");
    assert_eq!(runtime.interfaces().len(), 2, "the interfaces of the lab's own two pods");

    // Once more, so that nothing of the first is in the way of a second.
    assert!(runtime.run("first", "ip route").contains("169.254.1.1"));
    drop(runtime);
    lab.remove().unwrap();
    assert_gone(&name);
}

/// A containerd of its own: own root, state and socket.
struct Runtime {
    daemon: Child,
    directory: Scratch,
    node: String,
}

impl Runtime {
    fn start(lab: &Lab, node: &str) -> Self {
        let directory = Scratch::new(&format!("containerd-{}", std::process::id()));
        let root = directory.0.clone();
        fs::write(
            root.join("config.toml"),
            format!(
                "version = 2\nroot = {:?}\nstate = {:?}\n\
                 disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = {:?}\n",
                root.join("root"),
                root.join("state"),
                root.join("containerd.sock"),
            ),
        )
        .unwrap();
        let log = fs::File::create(root.join("log")).unwrap();
        let daemon = Command::new("containerd")
            .arg("--config")
            .arg(root.join("config.toml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let runtime = Self { daemon, directory, node: lab.namespace(node) };
        eventually("containerd answers", || runtime.ctr(&["version"]).status.success());
        image(&root);
        fs::create_dir_all(root.join("shared")).unwrap();
        let import = root.join("image.tar");
        let imported = runtime.ctr(&["images", "import", "--no-unpack", import.to_str().unwrap()]);
        assert!(imported.status.success(), "{}", String::from_utf8_lossy(&imported.stderr));
        runtime.network(lab, node);
        runtime
    }

    /// The configuration list, and the plugins where runtimes look for them.
    fn network(&self, lab: &Lab, node: &str) {
        let list = json!({
            "name": "k8s-pod-network",
            "cniVersion": "0.3.0",
            "plugins": [
                {
                    "type": "calico",
                    "etcd_endpoints": "http://10.96.232.136:6666",
                    "log_level": "info",
                    "mtu": 1500,
                    "nodename": node,
                    "agent_socket": lab.run_dir(node).join("cni.sock"),
                    "ipam": { "type": "calico-ipam" },
                    "policy": {
                        "type": "k8s",
                        "k8s_api_root": "https://10.96.0.1:443",
                        "k8s_auth_token": "token",
                    },
                    "kubernetes": { "kubeconfig": "/etc/cni/net.d/calico-kubeconfig" },
                },
                { "type": "portmap", "snat": true, "capabilities": { "portMappings": true } },
            ],
        });
        let configuration = self.directory.0.join("net.d");
        fs::create_dir_all(&configuration).unwrap();
        fs::write(configuration.join("10-calico.conflist"), list.to_string()).unwrap();
        let plugins = self.directory.0.join("bin");
        fs::create_dir_all(&plugins).unwrap();
        let ours = calico_lab::programs::own("calico-cni").unwrap();
        for name in ["calico", "calico-ipam"] {
            symlink(&ours, plugins.join(name)).unwrap();
        }
        symlink("/usr/lib/cni/portmap", plugins.join("portmap")).unwrap();
    }

    fn ctr(&self, arguments: &[&str]) -> Output {
        Command::new("ctr")
            .arg("--address")
            .arg(self.directory.0.join("containerd.sock"))
            .args(arguments)
            .output()
            .unwrap()
    }

    /// Runs `script` in a container, and returns what it printed.
    fn run(&self, name: &str, script: &str) -> String {
        let root = self.directory.0.display();
        // ctr looks for networks in fixed places, and takes its own namespace for the host's.
        let command = format!(
            "mkdir -p /etc/cni /opt/cni && mount -t tmpfs none /etc/cni && mount -t tmpfs none /opt/cni \
             && ln -s {root}/net.d /etc/cni/net.d && ln -s {root}/bin /opt/cni/bin \
             && exec timeout 400 ctr --address {root}/containerd.sock run --rm --cni --snapshotter native \
             --mount type=bind,src={root}/shared,dst=/shared,options=rbind:rw {IMAGE} {name} /bin/busybox sh -c \"$1\""
        );
        let output = Command::new("ip")
            .args(["netns", "exec", &self.node, "unshare", "--mount", "sh", "-c", &command, "sh"])
            .arg(script)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let (out, err) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{out}\n{err}\n{}", self.log());
        out.into_owned()
    }

    fn in_node(&self, command: &[&str]) -> String {
        let output =
            Command::new("ip").args(["netns", "exec", &self.node]).args(command).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    /// Interfaces of pods on the node.
    fn interfaces(&self) -> BTreeSet<String> {
        let links = self.in_node(&["ip", "-brief", "link"]);
        let name = |line: &str| line.split('@').next().unwrap_or_default().to_owned();
        links.lines().map(name).filter(|name| name.starts_with("cali")).collect()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.0.join("log")).unwrap_or_default()
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}
