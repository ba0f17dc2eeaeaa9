//! What a process takes, as the kernel counts it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use nix::unistd::{SysconfVar, sysconf};

use crate::error::LabError;

/// A running process.
#[derive(Debug)]
pub(super) struct Process {
    directory: PathBuf,
}

/// Bytes of memory.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Memory {
    pub(super) resident: u64,
    pub(super) peak: u64,
}

impl Process {
    /// The agent that runs with this configuration.
    pub(super) fn of_agent(config: &Path) -> Result<Self, LabError> {
        let config = config.display().to_string();
        let is_agent = |directory: &PathBuf| {
            let line = fs::read(directory.join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            line.contains("calico-agent") && line.contains(&config)
        };
        let processes =
            fs::read_dir("/proc").map_err(LabError::file("list", Path::new("/proc")))?;
        let directory = processes.flatten().map(|entry| entry.path()).find(is_agent);
        let directory =
            directory.ok_or_else(|| LabError::Machine("the agent has gone".to_owned()))?;
        Ok(Self { directory })
    }

    pub(super) fn memory(&self) -> Result<Memory, LabError> {
        let status = self.directory.join("status");
        let text = fs::read_to_string(&status).map_err(LabError::file("read", &status))?;
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib << 10)
        };
        let bytes = |name| field(name).unwrap_or_default();
        Ok(Memory { resident: bytes("VmRSS:"), peak: bytes("VmHWM:") })
    }

    /// The time that processors have worked for it (`proc(5)`: `utime` and `stime` of `stat`).
    pub(super) fn cpu(&self) -> Result<Duration, LabError> {
        let stat = self.directory.join("stat");
        let text = fs::read_to_string(&stat).map_err(LabError::file("read", &stat))?;
        // The second field is a name in brackets, in which anything may be.
        let fields = text.rsplit(')').next().unwrap_or_default().split_whitespace();
        let ticks: u64 =
            fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
        let second = sysconf(SysconfVar::CLK_TCK).ok().flatten();
        let second = second.and_then(|ticks| u64::try_from(ticks).ok()).unwrap_or(100);
        Ok(Duration::from_millis(ticks * 1000 / second.max(1)))
    }
}

/// The time that processors have worked for the children of this process that have ended, and
/// their children.
pub(super) fn children_cpu() -> Duration {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_CHILDREN) else { return Duration::ZERO };
    let duration = |time: TimeVal| {
        let micros = time.tv_sec() * 1_000_000 + time.tv_usec();
        Duration::from_micros(u64::try_from(micros).unwrap_or_default())
    };
    duration(usage.user_time()) + duration(usage.system_time())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_counted() {
        let own = Process { directory: "/proc/self".into() };
        let before = own.cpu().unwrap();
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        while own.cpu().unwrap() < before + Duration::from_millis(20) {
            assert!(std::time::Instant::now() < deadline, "{:?}", own.cpu());
        }
        let Memory { resident, peak } = own.memory().unwrap();
        assert!(0 < resident && resident <= peak, "{resident} {peak}");

        let before = children_cpu();
        let script = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done";
        assert!(std::process::Command::new("sh").args(["-c", script]).status().unwrap().success());
        assert!(children_cpu() > before);
    }
}
