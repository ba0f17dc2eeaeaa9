//! The CNI plugin, as a container runtime starts it.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

/// One container, as calls name it.
#[derive(Default)]
pub(crate) struct Sandbox {
    pub(crate) id: String,
    pub(crate) netns: PathBuf,
    pub(crate) args: String,
}

/// Starts `program` for a call, with its configuration told; its answer is still to be read.
pub(crate) fn start(program: &Path, config: &Value, verb: &str, sandbox: &Sandbox) -> Child {
    let mut child = Command::new(program)
        .env_clear()
        .env("CNI_COMMAND", verb)
        .env("CNI_CONTAINERID", &sandbox.id)
        .env("CNI_NETNS", &sandbox.netns)
        .env("CNI_ARGS", &sandbox.args)
        .envs([("CNI_IFNAME", "eth0"), ("CNI_PATH", "/usr/lib/cni")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // One that fails early does not read its input.
    let _ = child.stdin.take().unwrap().write_all(config.to_string().as_bytes());
    child
}
