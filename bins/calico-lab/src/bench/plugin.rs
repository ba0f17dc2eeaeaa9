//! A CNI plugin, called as a runtime calls it.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

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
        Ok(Self { program, directory, node: node.to_owned(), configuration: ours(run_dir) })
    }

    /// A program that does nothing, called as a plugin.
    pub(super) fn empty(node: &str, program: PathBuf) -> Self {
        let directory = program.parent().map(PathBuf::from).unwrap_or_default();
        Self { program, directory, node: node.to_owned(), configuration: String::new() }
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

    /// The namespace of the node that it runs in.
    pub(super) fn node(&self) -> &str {
        &self.node
    }

    /// ADD or DEL for the pod in the namespace `pod`: from program start to reply.
    pub(super) fn call(&self, verb: &str, pod: &str) -> Result<Duration, LabError> {
        netns::enter(&self.node, || self.call_here(verb, pod))?
    }

    /// [`call`](Self::call) by a thread that is in the node's namespace.
    pub(super) fn call_here(&self, verb: &str, pod: &str) -> Result<Duration, LabError> {
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
        let start = Instant::now();
        let output = command.spawn().and_then(|mut child| {
            if let Some(mut stdin) = child.stdin.take() {
                match stdin.write_all(self.configuration.as_bytes()) {
                    // It ended without reading; its exit code says whether that was right.
                    Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
                    written => written?,
                }
            }
            child.wait_with_output()
        });
        let took = start.elapsed();
        let output = output.map_err(LabError::file("run", &self.program))?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let more = String::from_utf8_lossy(&output.stderr).into_owned();
            let program = self.program.display();
            return Err(LabError::Machine(format!("{verb} of {program} failed: {text} {more}")));
        }
        Ok(took)
    }
}

/// The configuration of our plugin, for the agent whose sockets are in `run_dir`.
pub(super) fn ours(run_dir: &Path) -> String {
    configuration(json!({
        "type": "calico",
        "nodename": "node1",
        "mtu": 1500,
        "agent_socket": run_dir.join("cni.sock"),
        "ipam": { "type": "calico-ipam" },
    }))
}

/// The configuration of one plugin call, as JSON text.
fn configuration(fields: Value) -> String {
    let mut all = json!({ "cniVersion": "1.0.0", "name": "bench" });
    if let (Some(all), Value::Object(fields)) = (all.as_object_mut(), fields) {
        all.extend(fields);
    }
    all.to_string()
}

/// An identity as runtimes make them, hexadecimal from the start: host interfaces are named after
/// its beginning.
pub(super) fn container(pod: &str) -> String {
    let fnv = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    format!("{:016x}", pod.bytes().fold(0xcbf2_9ce4_8422_2325, fnv))
}
