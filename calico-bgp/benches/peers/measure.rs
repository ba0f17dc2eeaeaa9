//! What a process and its children took.

use std::fs;
use std::time::Duration;

/// CPU time and peak resident memory.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    pub(crate) cpu: Duration,
    /// Octets, summed over the processes.
    pub(crate) peak: u64,
}

/// Of a process and all its descendants that live.
pub(crate) fn usage(pid: u32) -> Usage {
    let mut total = Usage::default();
    let mut pending = vec![pid];
    while let Some(pid) = pending.pop() {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
        let peak = peak.and_then(|l| l.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        total.peak += peak.unwrap_or(0) * 1024;
        total.cpu += cpu(pid);
        for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            pending.extend(children.split_whitespace().filter_map(|c| c.parse::<u32>().ok()));
        }
    }
    total
}

/// User and system time of all threads, in nanoseconds where the scheduler keeps them.
fn cpu(pid: u32) -> Duration {
    let mut nanos = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let stat = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        nanos += stat.split(' ').next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
    }
    if nanos > 0 {
        return Duration::from_nanos(nanos);
    }
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
    Duration::from_millis((ticks(11) + ticks(12)) * 10)
}
