//! The agent, asked over its socket as the plugin asks it, without a process.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::plugin::{container, ours};
use crate::error::LabError;
use crate::netns;

/// An agent's socket, and a configuration for it.
#[derive(Debug)]
pub(super) struct Agent {
    socket: PathBuf,
    configuration: String,
}

impl Agent {
    pub(super) fn new(run_dir: &Path) -> Self {
        Self { socket: run_dir.join("cni.sock"), configuration: ours(run_dir) }
    }

    /// `Add` or `Del` of the pod in the namespace `pod`: from the connection to the answer.
    pub(super) fn call(&self, verb: &str, pod: &str) -> Result<Duration, LabError> {
        // As `calico_cni::protocol` has it: a length in four bytes, then JSON.
        let request = json!({
            "protocol": 1,
            "plugin": "Main",
            "verb": verb,
            "call": {
                "container": container(pod),
                "netns": netns::path(pod),
                "ifname": "eth0",
                "args": [],
                "path": [],
            },
            "config": self.configuration,
        });
        let request = request.to_string();
        let start = Instant::now();
        let answer = self.exchange(request.as_bytes()).map_err(LabError::file("ask", &self.socket));
        let took = start.elapsed();
        let answer: Value = serde_json::from_slice(&answer?)
            .map_err(|error| LabError::Machine(format!("the agent's answer: {error}")))?;
        if answer["failed"] != false {
            return Err(LabError::Machine(format!("{verb} of {pod}: {answer}")));
        }
        Ok(took)
    }

    fn exchange(&self, request: &[u8]) -> std::io::Result<Vec<u8>> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let length = u32::try_from(request.len()).map_err(std::io::Error::other)?;
        let frame = [&length.to_be_bytes(), request].concat();
        stream.write_all(&frame)?;
        let mut head = [0; 4];
        stream.read_exact(&mut head)?;
        let mut answer = Vec::new();
        stream.take(u32::from_be_bytes(head).into()).read_to_end(&mut answer)?;
        Ok(answer)
    }
}
