//! A CNI plugin, called as a runtime calls it.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use super::configuration;
use crate::error::LabError;
use crate::{netns, programs};

/// Debian's place for plugins.
const SYSTEM: &str = "/usr/lib/cni";

/// A plugin and its configuration.
#[derive(Debug)]
pub(super) struct Plugin {
    program: PathBuf,
    directory: PathBuf,
    node: String,
    configuration: String,
}

impl Plugin {
    /// Ours, with the agent whose sockets are in `run_dir`.
    pub(super) fn calico(node: &str, run_dir: &Path) -> Result<Self, LabError> {
        let directory = run_dir.join("bench-bin");
        fs::create_dir_all(&directory).map_err(LabError::file("make", &directory))?;
        let program = directory.join("calico");
        symlink(programs::own("calico-cni")?, &program)
            .map_err(LabError::file("link", &program))?;
        let configuration = configuration(json!({
            "type": "calico",
            "nodename": "node1",
            "mtu": 1500,
            "agent_socket": run_dir.join("cni.sock"),
            "ipam": { "type": "calico-ipam" },
        }));
        Ok(Self { program, directory, node: node.to_owned(), configuration })
    }

    /// Debian's `bridge` with `host-local`, which keeps its addresses in `data`.
    pub(super) fn bridge(node: &str, data: &Path) -> Result<Self, LabError> {
        let configuration = configuration(json!({
            "type": "bridge",
            "bridge": "bench0",
            "isGateway": true,
            "mtu": 1500,
            "ipam": {
                "type": "host-local",
                "subnet": "10.99.0.0/16",
                "dataDir": data,
                "routes": [{ "dst": "0.0.0.0/0" }],
            },
        }));
        let directory = PathBuf::from(SYSTEM);
        let program = directory.join("bridge");
        if !program.exists() {
            return Err(LabError::Machine(
                "the peer is missing; run `apt-get install containernetworking-plugins`".to_owned(),
            ));
        }
        Ok(Self { program, directory, node: node.to_owned(), configuration })
    }

    /// ADD for the pod in the namespace `pod`: from program start to reply.
    pub(super) fn add(&self, pod: &str) -> Result<Duration, LabError> {
        self.call("ADD", pod)
    }

    /// DEL for the pod in the namespace `pod`.
    pub(super) fn delete(&self, pod: &str) -> Result<Duration, LabError> {
        self.call("DEL", pod)
    }

    fn call(&self, verb: &str, pod: &str) -> Result<Duration, LabError> {
        let mut command = Command::new(&self.program);
        command
            .env_clear()
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", container(pod))
            .env("CNI_NETNS", netns::path(pod))
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", &self.directory)
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let failed = LabError::file("run", &self.program);
        let (output, took) = netns::enter(&self.node, || {
            let start = Instant::now();
            let output = command.spawn().and_then(|mut child| {
                if let Some(mut stdin) = child.stdin.take() {
                    stdin.write_all(self.configuration.as_bytes())?;
                }
                child.wait_with_output()
            });
            (output, start.elapsed())
        })?;
        let output = output.map_err(failed)?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let more = String::from_utf8_lossy(&output.stderr).into_owned();
            let program = self.program.display();
            return Err(LabError::Machine(format!("{verb} of {program} failed: {text} {more}")));
        }
        Ok(took)
    }
}

/// An identity as runtimes make them, hexadecimal from the start: host interfaces are named after
/// its beginning.
fn container(pod: &str) -> String {
    let fnv = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    format!("{:016x}", pod.bytes().fold(0xcbf2_9ce4_8422_2325, fnv))
}
