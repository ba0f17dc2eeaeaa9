//! What goes wrong in a lab.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::topology::TopologyError;

/// Why a lab could not be built, asked or removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LabError {
    /// The caller's topology.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// The caller named something that the lab does not have, or asks what it cannot do.
    #[error("{0}")]
    Request(String),
    /// The machine lacks something, or forbids it.
    #[error("{0}")]
    Machine(String),
    /// A file or directory of the lab.
    #[error("cannot {action} {path}", path = path.display())]
    File {
        /// What was tried, such as `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A command that ends by itself said no.
    #[error("`{command}` failed: {reason}")]
    Command {
        /// Its command line.
        command: String,
        /// Its exit status and last words.
        reason: String,
    },
    /// A program that must keep running has ended.
    #[error("{program} ended ({status}); the end of {log}:\n{tail}", log = log.display())]
    Died {
        /// The program and where it ran.
        program: String,
        /// How it ended.
        status: String,
        /// Its log.
        log: PathBuf,
        /// The last lines of the log.
        tail: String,
    },
    /// A state of the lab that did not come in time.
    #[error("{what} did not happen within {} s: {last}{logs}", limit.as_secs())]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long.
        limit: Duration,
        /// How things stood at the end.
        last: String,
        /// The last lines of the logs of the programs concerned.
        logs: String,
    },
    /// A CNI plugin answered with an error.
    #[error("CNI {verb} of {pod} by {plugin} failed: {reason}")]
    Cni {
        /// `ADD` or `DEL`, ...
        verb: &'static str,
        /// Namespace and name of the pod.
        pod: String,
        /// Which plugin of the list.
        plugin: String,
        /// Its error object, or what it wrote instead.
        reason: String,
    },
    /// Removing a lab met obstacles; what could be removed is.
    #[error("lab {lab} was not removed whole:\n  {}", .obstacles.join("\n  "))]
    Leftovers {
        /// The lab.
        lab: String,
        /// What is left, and why.
        obstacles: Vec<String>,
    },
}

impl LabError {
    pub(crate) fn file(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { action, path, source }
    }
}

/// An error with all its causes, for people.
#[must_use]
pub fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}
