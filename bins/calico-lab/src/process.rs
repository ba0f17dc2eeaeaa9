//! Programs that run in a namespace of the lab for as long as the lab lives.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::error::LabError;

/// How many bytes of the end of a log an error quotes at most.
const TAIL_BYTES: u64 = 4096;
/// How many lines.
const TAIL_LINES: usize = 12;

/// A process, told apart from a later one with the same number by the time it was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) pid: i32,
    /// Clock ticks since boot: field 22 of `/proc/<pid>/stat`, see proc(5).
    pub(crate) started: u64,
}

impl Identity {
    /// Of the process that has this number now; none if there is no such process, or only its
    /// exit status is left.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The second field is the program's name, in parentheses, and may hold anything.
        let (_, rest) = stat.rsplit_once(") ")?;
        let mut fields = rest.split(' ');
        let state = fields.next()?;
        let started = fields.nth(18)?.parse().ok()?;
        (!matches!(state, "Z" | "X")).then_some(Self { pid, started })
    }

    pub(crate) fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    fn signal(self, signal: Signal) {
        if self.is_alive() {
            // It may end by itself in between; that is what was wanted.
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }
}

/// Ends the processes: politely, and after `patience` by force. Answers with those that stay.
pub(crate) fn end(processes: &[Identity], patience: Duration) -> Vec<Identity> {
    for (signal, limit) in [(Signal::SIGTERM, patience), (Signal::SIGKILL, Duration::from_secs(5))]
    {
        for process in processes {
            process.signal(signal);
        }
        let started = Instant::now();
        while started.elapsed() < limit && processes.iter().any(|it| it.is_alive()) {
            thread::sleep(Duration::from_millis(5));
        }
    }
    processes.iter().copied().filter(|process| process.is_alive()).collect()
}

/// A program of the lab. Dropping this leaves it running: [`end`] is for that.
#[derive(Debug)]
pub(crate) struct Program {
    /// Its name and where it runs, such as `calico-agent on node1`.
    pub(crate) title: String,
    pub(crate) log: PathBuf,
    child: Child,
}

impl Program {
    /// Starts it inside the namespace. It gets no input, a process group of its own (so that
    /// Ctrl-C reaches the lab alone, which ends its programs in order), and `/sys` of the
    /// namespace, as `ip netns exec` gives.
    pub(crate) fn start(
        title: impl Into<String>,
        namespace: &str,
        program: &Path,
        args: &[&str],
        log: PathBuf,
    ) -> Result<Self, LabError> {
        let output = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .map_err(LabError::file("open", &log))?;
        let errors = output.try_clone().map_err(LabError::file("open", &log))?;
        let child = Command::new("ip")
            .args(["netns", "exec", namespace])
            .arg(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .process_group(0)
            .spawn()
            .map_err(|error| LabError::Machine(format!("cannot run `ip netns exec`: {error}")))?;
        Ok(Self { title: title.into(), log, child })
    }

    /// `ip netns exec` becomes the program, so this is the program's own.
    pub(crate) fn identity(&self) -> Option<Identity> {
        i32::try_from(self.child.id()).ok().and_then(Identity::of)
    }

    /// An error if it has ended.
    pub(crate) fn check(&mut self) -> Result<(), LabError> {
        let status = match self.child.try_wait() {
            Ok(None) => return Ok(()),
            Ok(Some(status)) => status.to_string(),
            Err(error) => error.to_string(),
        };
        Err(LabError::Died {
            program: self.title.clone(),
            status,
            log: self.log.clone(),
            tail: tail(&self.log),
        })
    }

    /// Takes the exit status of a program that was ended, so that no zombie stays.
    pub(crate) fn reap(&mut self) {
        let _ = self.child.try_wait();
    }

    /// Ends it at once, as a crash or `kill -9` does.
    pub(crate) fn kill(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The last lines of a log.
pub(crate) fn tail(log: &Path) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    match read() {
        Ok(text) if text.trim().is_empty() => "  (empty)".to_owned(),
        Ok(text) => {
            let lines: Vec<&str> = text.lines().collect();
            let start = lines.len().saturating_sub(TAIL_LINES);
            lines[start..].iter().map(|line| format!("  | {line}")).collect::<Vec<_>>().join("\n")
        }
        Err(error) => format!("  (cannot be read: {error})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_number_and_start() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let identity = Identity::of(child.id().try_into().unwrap()).unwrap();
        assert!(identity.is_alive());
        let later = Identity { started: identity.started + 1, ..identity };
        assert!(!later.is_alive());
        assert_eq!(end(&[later], Duration::ZERO), []);
        assert!(identity.is_alive(), "another process with the same number is not ours to end");
        assert_eq!(end(&[identity], Duration::from_secs(5)), []);
        assert!(!identity.is_alive());
        child.wait().unwrap();
    }

    #[test]
    fn the_tail_of_a_long_log_is_its_last_lines() {
        let path = std::env::temp_dir().join(format!("cr-test-{}-tail.log", std::process::id()));
        let lines: Vec<String> = (0..1000).map(|line| format!("line {line}")).collect();
        fs::write(&path, lines.join("\n")).unwrap();
        let tail = tail(&path);
        fs::remove_file(&path).unwrap();
        assert!(tail.ends_with("| line 999"), "{tail}");
        assert_eq!(tail.lines().count(), TAIL_LINES);
    }
}
