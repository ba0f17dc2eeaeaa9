//! Running a program as a step: announced, timed, bounded.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Why a chore ended early.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The caller's mistake; exit code 2.
    Usage(String),
    /// A check found something, or a step failed; exit code 1.
    Check(String),
}

impl Failure {
    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Self::Usage(text.into())
    }

    pub(crate) fn check(text: impl Into<String>) -> Self {
        Self::Check(text.into())
    }

    pub(crate) fn io(verb: &str, path: &Path, error: &std::io::Error) -> Self {
        Self::Check(format!("cannot {verb} {}: {error}", path.display()))
    }

    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Check(_) => 1,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(text) | Self::Check(text) => f.write_str(text),
        }
    }
}

/// One program to run with the terminal of this one, but without its input.
#[derive(Debug)]
pub(crate) struct Step {
    title: &'static str,
    program: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    directory: Option<PathBuf>,
    deadline: Duration,
}

impl Step {
    pub(crate) fn new(title: &'static str, program: impl Into<OsString>) -> Self {
        Self {
            title,
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            directory: None,
            deadline: Duration::from_secs(600),
        }
    }

    /// The cargo that runs this program.
    pub(crate) fn cargo(title: &'static str) -> Self {
        Self::new(title, std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
    }

    pub(crate) fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    pub(crate) fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Where it runs, instead of here.
    pub(crate) fn directory(mut self, directory: &Path) -> Self {
        self.directory = Some(directory.to_owned());
        self
    }

    pub(crate) fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Runs it, and stops it when the deadline has passed.
    pub(crate) fn run(self) -> Result<(), Failure> {
        eprintln!("xtask: {}: {}", self.title, self.command_line());
        let started = Instant::now();
        let here = Path::new(".");
        let mut child = Command::new(&self.program)
            .current_dir(self.directory.as_deref().unwrap_or(here))
            .args(&self.args)
            .envs(self.env.iter().cloned())
            .stdin(Stdio::null())
            .spawn()
            .map_err(|error| Failure::check(format!("cannot run {:?}: {error}", self.program)))?;
        let status = loop {
            let status = child.try_wait().map_err(|error| {
                Failure::check(format!("cannot wait for {:?}: {error}", self.program))
            })?;
            if let Some(status) = status {
                break status;
            }
            if started.elapsed() > self.deadline {
                // A failed kill means that it just ended by itself.
                let _ = child.kill();
                let _ = child.wait();
                return Err(Failure::check(format!(
                    "{} did not finish within {} s and was stopped",
                    self.title,
                    self.deadline.as_secs()
                )));
            }
            thread::sleep(Duration::from_millis(20));
        };
        if !status.success() {
            return Err(Failure::check(format!("{} failed: {status}", self.title)));
        }
        eprintln!("xtask: {}: done in {:.1} s", self.title, started.elapsed().as_secs_f64());
        Ok(())
    }

    fn command_line(&self) -> String {
        let words = std::iter::once(&self.program).chain(&self.args);
        words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }
}

/// Fails unless this process runs as root.
pub(crate) fn require_root(who: &str) -> Result<(), Failure> {
    let status = std::fs::read_to_string("/proc/self/status")
        .map_err(|error| Failure::check(format!("cannot read /proc/self/status: {error}")))?;
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))
        .and_then(|uids| uids.split_whitespace().nth(1));
    if effective == Some("0") {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "{who} needs root, to make network namespaces. Run it so:\n  sudo -E env \"PATH=$PATH\" cargo xtask ..."
    )))
}

/// Where cargo builds to.
pub(crate) fn target_dir() -> Result<PathBuf, Failure> {
    let metadata = metadata()?;
    metadata["target_directory"]
        .as_str()
        .map(PathBuf::from)
        .ok_or_else(|| Failure::check("cargo metadata names no target directory"))
}

/// `cargo metadata` of the workspace, without its dependencies.
pub(crate) fn metadata() -> Result<serde_json::Value, Failure> {
    let text = output(&["metadata", "--no-deps", "--format-version", "1"])?;
    serde_json::from_str(&text)
        .map_err(|error| Failure::check(format!("cargo metadata is not JSON: {error}")))
}

/// What cargo prints with these arguments.
pub(crate) fn output(args: &[&str]) -> Result<String, Failure> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let what = format!("cargo {}", args.first().copied().unwrap_or_default());
    let output = Command::new(cargo)
        .args(args)
        .output()
        .map_err(|error| Failure::check(format!("cannot run {what}: {error}")))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        return Err(Failure::check(format!("{what} failed: {stderr}")));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
