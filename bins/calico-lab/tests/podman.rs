//! A real runtime: podman starts and stops containers in parallel on a node of a lab, over our
//! plugin and Debian's `portmap`, which publishes a port of each. No orchestrator is involved.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use calico_lab::{Lab, programs};
use calico_netlink::netns::Netns;
use common::image::{IMAGE, image};
use common::{Scratch, assert_gone, eventually, lab_name, topology, turn};
use serde_json::json;

/// Containers that are started at the same time.
const CONTAINERS: u16 = 20;
/// Published ports count from here.
const FIRST_PORT: u16 = 18_000;
/// What a lab's own pods have as interfaces on node1.
const OWN: usize = 2;

#[tokio::test]
async fn podman_runs_twenty_containers_at_once_and_publishes_their_ports() {
    let Some(_turn) = turn() else { return };
    for (program, package) in [("podman", "podman"), ("busybox", "busybox-static")] {
        let found = Command::new(program).arg("--help").output();
        assert!(found.is_ok(), "{program} is missing; run `apt-get install {package}`");
    }
    let name = lab_name("podman");
    let (topology, text) = topology("mesh.yaml", &name);
    let lab = Lab::up(topology, &text).await.unwrap();
    let podman = Podman::new(&lab, "node1");

    let started = Instant::now();
    podman.all(|nth| {
        let publish = format!("{}:80", FIRST_PORT + nth);
        let serve = format!("while :; do echo I am {nth} | nc -l -p 80; done");
        let container = format!("c{nth}");
        let run = ["run", "-d", "--name", &container, "--network", "lab", "-p", &publish];
        podman.run(&[&run[..], &[IMAGE, "/bin/busybox", "sh", "-c", &serve]].concat())
    });
    println!("{CONTAINERS} containers in {:?}", started.elapsed());

    // Each has an address of its own, and answers at its port of the node.
    let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
    let addresses: BTreeSet<String> = (0..CONTAINERS)
        .map(|nth| podman.run(&["inspect", "--format", format, &format!("c{nth}")]))
        .map(|text| text.trim().to_owned())
        .collect();
    assert_eq!(addresses.len(), usize::from(CONTAINERS), "{addresses:?}");
    assert!(addresses.iter().all(|address| address.starts_with("10.244.")), "{addresses:?}");
    for nth in 0..CONTAINERS {
        let expected = format!("I am {nth}");
        eventually(&format!("an answer at port {}", FIRST_PORT + nth), || {
            podman.ask("172.30.0.11", FIRST_PORT + nth).trim() == expected
        });
    }
    assert_eq!(podman.interfaces().len(), OWN + usize::from(CONTAINERS));

    let started = Instant::now();
    podman.all(|nth| podman.run(&["rm", "--force", "--time", "0", &format!("c{nth}")]));
    println!("removed in {:?}", started.elapsed());
    assert_eq!(podman.interfaces().len(), OWN, "{:?}", podman.interfaces());
    let endpoints = lab.calicoctl(&["get", "workloadendpoints", "-A", "-o", "yaml"]).await.unwrap();
    assert!(!endpoints.contains("orchestrator: cni"), "{endpoints}");
    for address in addresses {
        let text = lab.calicoctl(&["ipam", "show", &format!("--ip={address}")]).await.unwrap();
        assert!(text.contains("not currently assigned") || text.contains("not assigned"), "{text}");
    }
    assert_eq!(podman.ask("172.30.0.11", FIRST_PORT), "", "the port is closed again");
    drop(podman);
    lab.remove().unwrap();
    assert_gone(&name);
}

/// podman with storage, state and networks of its own, in the namespace of a node.
struct Podman {
    directory: Scratch,
    node: Netns,
}

impl Podman {
    fn new(lab: &Lab, node: &str) -> Self {
        let directory = Scratch::new(&format!("podman-{}", std::process::id()));
        let root = &directory.0;
        let list = json!({
            "name": "lab",
            "cniVersion": "0.4.0",
            "plugins": [
                {
                    "type": "calico", "nodename": node,
                    "agent_socket": lab.run_dir(node).join("cni.sock"),
                    "journal_dir": lab.run_dir(node).join("state/cni-journal"),
                    "ipam": { "type": "calico-ipam" },
                },
                { "type": "portmap", "snat": true, "capabilities": { "portMappings": true } },
            ],
        });
        let (networks, plugins) = (root.join("net.d"), root.join("bin"));
        for directory in [&networks, &plugins] {
            fs::create_dir_all(directory).unwrap();
        }
        fs::write(networks.join("10-lab.conflist"), list.to_string()).unwrap();
        symlink(programs::own("calico-cni").unwrap(), plugins.join("calico")).unwrap();
        symlink("/usr/lib/cni/portmap", plugins.join("portmap")).unwrap();
        // By default podman raises limits above what a machine of tests may allow.
        let settings = format!(
            "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n\
             [network]\nnetwork_backend = \"cni\"\ncni_plugin_dirs = [{plugins:?}]\n\
             network_config_dir = {networks:?}\ndefault_network = \"lab\"\n\
             [engine]\nruntime = \"runc\"\ncgroup_manager = \"cgroupfs\"\n\
             events_logger = \"none\"\nlock_type = \"file\"\n"
        );
        fs::write(root.join("containers.conf"), settings).unwrap();
        image(root);
        let podman = Self { node: Netns::named(&lab.namespace(node)).unwrap(), directory };
        podman.run(&["load", "--input", podman.directory.0.join("image.tar").to_str().unwrap()]);
        podman
    }

    fn command(&self, arguments: &[&str]) -> Output {
        let root = &self.directory.0;
        let work = || {
            Command::new("timeout")
                .args(["120", "podman", "--storage-driver", "vfs"])
                .arg("--root")
                .arg(root.join("root"))
                .arg("--runroot")
                .arg(root.join("run"))
                .arg("--tmpdir")
                .arg(root.join("tmp"))
                .args(arguments)
                .env("CONTAINERS_CONF", root.join("containers.conf"))
                .stdin(Stdio::null())
                .output()
                .unwrap()
        };
        self.node.run(work).unwrap()
    }

    fn run(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "podman {arguments:?}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn all(&self, work: impl Fn(u16) -> String + Sync) {
        thread::scope(|scope| {
            let work = &work;
            let threads: Vec<_> =
                (0..CONTAINERS).map(|nth| scope.spawn(move || work(nth))).collect();
            for thread in threads {
                thread.join().unwrap();
            }
        });
    }

    /// What is said at a port, by somebody on the node; nothing if nobody is there.
    fn ask(&self, address: &str, port: u16) -> String {
        let address = format!("{address}:{port}").parse().unwrap();
        let work = || {
            let wait = Duration::from_secs(2);
            let mut stream = TcpStream::connect_timeout(&address, wait)?;
            stream.set_read_timeout(Some(wait))?;
            stream.write_all(b"\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            std::io::Result::Ok(text)
        };
        self.node.run(work).unwrap().unwrap_or_default()
    }

    fn interfaces(&self) -> Vec<String> {
        let work = || Command::new("ip").args(["-brief", "link"]).output().unwrap();
        let text = String::from_utf8(self.node.run(work).unwrap().stdout).unwrap();
        text.lines().filter(|line| line.starts_with("cali")).map(str::to_owned).collect()
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let _ = self.command(&["rm", "--all", "--force", "--time", "0"]);
        // Storage that podman still has mounted cannot be removed.
        let _ =
            Command::new("umount").arg("--recursive").arg(self.directory.0.join("root")).output();
    }
}
