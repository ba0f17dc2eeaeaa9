//! A real runtime: containerd starts and stops a container on a node of a lab, over the CNI
//! configuration list of a published Kubernetes set-up (`calico` with `calico-ipam` and
//! `policy: k8s`, then Debian's `portmap`). The image is made here, from Debian's busybox.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Child, Command, Output, Stdio};

use calico_lab::Lab;
use common::image::{IMAGE, image};
use common::{Scratch, assert_gone, eventually, lab_name, topology, turn};
use serde_json::json;

#[tokio::test]
async fn containerd_runs_a_container_over_our_plugin() {
    let Some(_turn) = turn() else { return };
    for (program, package) in
        [("containerd", "containerd"), ("ctr", "containerd"), ("busybox", "busybox-static")]
    {
        let found = Command::new(program).arg("--help").output();
        assert!(found.is_ok(), "{program} is missing; run `apt-get install {package}`");
    }
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
    let links = runtime.in_node(&["ip", "-brief", "link"]);
    let cali = links.lines().filter(|line| line.starts_with("cali")).count();
    assert_eq!(cali, 2, "the interfaces of the lab's own two pods: {links}");

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
             && exec timeout 60 ctr --address {root}/containerd.sock run --rm --cni --snapshotter native \
             {IMAGE} {name} /bin/busybox sh -c \"$1\""
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
