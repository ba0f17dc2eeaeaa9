//! What every program tells of its own process, under the names that Prometheus' clients use.

use std::fs;
use std::sync::atomic::AtomicU64;

use crate::metrics::{Gauge, Registry};

/// Numbers of this process, as the kernel has them at [`read`](Self::read).
#[derive(Debug, Clone, Default)]
pub struct Process {
    resident: Gauge,
    virtual_size: Gauge,
    files: Gauge,
    cpu: Gauge<f64, AtomicU64>,
    started: Gauge<f64, AtomicU64>,
}

impl Process {
    /// Adds the numbers to a registry.
    pub fn register(&self, registry: &mut Registry) {
        let memory = "Memory that this process has in RAM, in bytes";
        registry.register("process_resident_memory_bytes", memory, self.resident.clone());
        let memory = "Addresses that this process has mapped, in bytes";
        registry.register("process_virtual_memory_bytes", memory, self.virtual_size.clone());
        registry.register("process_open_fds", "Open files", self.files.clone());
        let cpu = "Processor time of this process, in seconds";
        registry.register("process_cpu_seconds_total", cpu, self.cpu.clone());
        let started = "When this process started, in seconds since 1970";
        registry.register("process_start_time_seconds", started, self.started.clone());
    }

    /// Asks the kernel; what it does not tell stays as it was.
    pub fn read(&self) {
        let Ok(stat) = fs::read_to_string("/proc/self/stat") else { return };
        // The name in brackets may hold anything: fields are counted from its end (proc(5)).
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        // USER_HZ, the same on every architecture.
        let tick = 100.0;
        let set = |gauge: &Gauge, value: Option<u64>| {
            if let Some(value) = value.and_then(|value| i64::try_from(value).ok()) {
                gauge.set(value);
            }
        };
        set(&self.virtual_size, field(23));
        set(&self.resident, resident());
        set(&self.files, fs::read_dir("/proc/self/fd").ok().map(|all| all.count() as u64));
        if let Some(ticks) = field(14).zip(field(15)).map(|(user, system)| user + system) {
            self.cpu.set(to_f64(ticks) / tick);
        }
        if let Some((boot, ticks)) = boot_time().zip(field(22)) {
            self.started.set(to_f64(boot) + to_f64(ticks) / tick);
        }
    }
}

/// From `/proc/self/status`, which knows the unit.
fn resident() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Seconds since 1970.
fn boot_time() -> Option<u64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

#[expect(clippy::cast_precision_loss, reason = "times and counts are far below 2^53")]
const fn to_f64(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::encode;

    #[test]
    fn the_kernel_is_asked() {
        let (process, mut registry) = (Process::default(), Registry::default());
        process.register(&mut registry);
        process.read();
        let text = encode(&registry);
        let value = |name: &str| -> f64 {
            let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
            line.unwrap_or_else(|| panic!("{name}: {text}")).parse().unwrap()
        };
        assert!(value("process_resident_memory_bytes") > 1e6);
        assert!(value("process_virtual_memory_bytes") >= value("process_resident_memory_bytes"));
        assert!(value("process_open_fds") >= 3.0);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let age = now.as_secs_f64() - value("process_start_time_seconds");
        assert!((-5.0..86_400.0).contains(&age), "{age}");
    }
}
