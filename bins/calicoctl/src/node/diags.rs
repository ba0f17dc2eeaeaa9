//! `node diags`: what somebody who was not here needs to see, in one file.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use calico_ipam::plan::time::rfc3339;

use crate::failure::Failure;

/// Time for each program.
const PATIENCE: Duration = Duration::from_secs(20);

/// Longest answer of a program, in bytes.
const MAX_ANSWER: u64 = 256 << 20;

/// Largest log file that is taken, in bytes; of larger ones the end is.
const MAX_LOG: usize = 32 << 20;

/// Programs that are asked: file name, program, arguments. One that is missing says so in its
/// file.
const QUESTIONS: &[(&str, &str, &[&str])] = &[
    ("uname", "uname", &["-a"]),
    ("hostname", "hostname", &[]),
    ("date", "date", &["--utc"]),
    ("uptime", "uptime", &[]),
    ("links", "ip", &["-details", "-statistics", "link"]),
    ("addresses", "ip", &["-details", "address"]),
    ("rules-v4", "ip", &["-4", "rule"]),
    ("rules-v6", "ip", &["-6", "rule"]),
    ("routes-v4", "ip", &["-4", "-details", "route", "show", "table", "all"]),
    ("routes-v6", "ip", &["-6", "-details", "route", "show", "table", "all"]),
    ("neighbours", "ip", &["neigh"]),
    ("tunnels", "ip", &["-details", "tunnel"]),
    ("netns", "ip", &["netns"]),
    ("nftables", "nft", &["-a", "list", "ruleset"]),
    ("iptables-v4", "iptables-save", &["-c"]),
    ("iptables-v6", "ip6tables-save", &["-c"]),
    ("ipsets", "ipset", &["list"]),
    ("wireguard", "wg", &["show", "all", "dump"]),
    ("conntrack-count", "sysctl", &["net.netfilter.nf_conntrack_count"]),
    ("sysctl", "sysctl", &["-a", "--pattern", "^net\\.(ipv4|ipv6|netfilter|core)\\."]),
    ("sockets", "ss", &["--all", "--numeric", "--processes", "--tcp", "--udp"]),
    ("journal-agent", "journalctl", &["--unit", "calico-agent", "--no-pager", "--lines", "20000"]),
    ("kernel-log", "dmesg", &[]),
];

/// Files that are copied as they are.
const FILES: &[&str] =
    &["/proc/modules", "/proc/net/snmp", "/proc/net/softnet_stat", "/etc/os-release"];

/// Collects everything, and returns what to print.
pub(crate) fn collect(
    logs: &Path,
    into: &Path,
    status: &str,
    now: SystemTime,
) -> Result<String, Failure> {
    let mut bundle = Bundle::new(into, "calico-node-diags", now);
    bundle.write("status", status.as_bytes())?;
    for (file, program, arguments) in QUESTIONS {
        bundle.ask(&format!("commands/{file}"), program, arguments)?;
    }
    for file in FILES {
        if let Ok(bytes) = fs::read(file) {
            let name = file.trim_start_matches('/').replace('/', "-");
            bundle.write(&format!("files/{name}"), &bytes)?;
        }
    }
    let mut logged = 0;
    for path in log_files(logs) {
        let Ok(bytes) = fs::read(&path) else { continue };
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let end = &bytes[bytes.len().saturating_sub(MAX_LOG)..];
        bundle.write(&format!("logs/{name}"), end)?;
        logged += 1;
    }
    let said = bundle.pack(false)?;
    Ok(format!(
        "Collected diagnostics, with {logged} log file(s) of {}\n{said}\
         They hold addresses, names and policy of this cluster: look before you share.\n",
        logs.display()
    ))
}

/// Files on their way into an archive.
pub(crate) struct Bundle {
    into: PathBuf,
    name: String,
    missing: Vec<String>,
}

impl Bundle {
    /// Of the time `now`, in the directory `into`.
    pub(crate) fn new(into: &Path, title: &str, now: SystemTime) -> Self {
        let stamp: String = rfc3339(now).chars().filter(|c| c.is_ascii_alphanumeric()).collect();
        Self { into: into.to_owned(), name: format!("{title}-{stamp}"), missing: Vec::new() }
    }

    /// Adds a file.
    pub(crate) fn write(&self, file: &str, bytes: &[u8]) -> Result<(), Failure> {
        let path = self.into.join(&self.name).join(file);
        let made = path.parent().map_or(Ok(()), fs::create_dir_all);
        made.and_then(|()| fs::write(&path, bytes))
            .map_err(|source| Failure::Write { path, source })
    }

    /// Adds what a program says. One that is missing says so in its file.
    pub(crate) fn ask(
        &mut self,
        file: &str,
        program: &str,
        arguments: &[&str],
    ) -> Result<(), Failure> {
        let answer = ask(program, arguments).unwrap_or_else(|reason| {
            self.missing.push(program.to_owned());
            reason.into_bytes()
        });
        self.write(file, &answer)
    }

    /// Packs it, and says where it is; `keep` leaves the files beside it.
    pub(crate) fn pack(mut self, keep: bool) -> Result<String, Failure> {
        let mut out = String::new();
        self.missing.dedup();
        if !self.missing.is_empty() {
            out.push_str(&format!("Not there or failed: {}\n", self.missing.join(", ")));
        }
        let directory = self.into.join(&self.name);
        let archive = self.into.join(format!("{}.tar.gz", self.name));
        let into = self.into.to_string_lossy();
        match ask("tar", &["-czf", &archive.to_string_lossy(), "-C", &into, &self.name]) {
            Ok(_) => {
                if !keep {
                    // The archive has it all.
                    let _ = fs::remove_dir_all(&directory);
                }
                out.push_str(&format!("Diags saved to {}\n", archive.display()));
            }
            Err(reason) => out.push_str(&format!(
                "Diags saved to {} (not packed: {})\n",
                directory.display(),
                reason.trim_end()
            )),
        }
        Ok(out)
    }
}

fn log_files(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut pending = vec![directory.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && pending.len() < 64 => pending.push(entry.path()),
                Ok(kind) if kind.is_file() => files.push(entry.path()),
                _ => {}
            }
        }
    }
    files.sort();
    files
}

/// What a program says, within its time.
pub(crate) fn ask(program: &str, arguments: &[&str]) -> Result<Vec<u8>, String> {
    let fail = |reason: String| format!("{program}: {reason}\n");
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| fail(error.to_string()))?;
    // Read while it runs: a full pipe would stop it.
    let out = child.stdout.take().map(|out| thread::spawn(move || read(out)));
    let err = child.stderr.take().map(|err| thread::spawn(move || read(err)));
    let started = Instant::now();
    let status = loop {
        match child.try_wait().map_err(|error| fail(error.to_string()))? {
            Some(status) => break status,
            None if started.elapsed() > PATIENCE => {
                // It may end by itself in this moment.
                let _ = child.kill();
                let _ = child.wait();
                return Err(fail(format!("no end after {} s", PATIENCE.as_secs())));
            }
            None => thread::sleep(Duration::from_millis(5)),
        }
    };
    let text = |reader: Option<thread::JoinHandle<Vec<u8>>>| {
        reader.and_then(|reader| reader.join().ok()).unwrap_or_default()
    };
    let (out, err) = (text(out), text(err));
    if status.success() {
        return Ok(out);
    }
    Err(fail(format!("{status}: {}", String::from_utf8_lossy(&err).trim())))
}

fn read(mut from: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    // What arrived before a failure is worth having.
    let _ = from.by_ref().take(MAX_ANSWER).read_to_end(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_archive_has_it_all() {
        let dir = tempfile::tempdir().unwrap();
        let logs = dir.path().join("logs");
        fs::create_dir_all(logs.join("cni")).unwrap();
        fs::write(logs.join("cni/cni.log"), "a line").unwrap();
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let said = collect(&logs, dir.path(), "running", now).unwrap();
        let archive = dir.path().join("calico-node-diags-20231114T221320Z.tar.gz");
        assert!(said.contains(&format!("saved to {}", archive.display())), "{said}");
        let list = ask("tar", &["-tzf", &archive.to_string_lossy()]).unwrap();
        let list = String::from_utf8(list).unwrap();
        for part in ["/status\n", "/commands/uname\n", "/logs/cni.log\n", "/files/proc-net-snmp\n"]
        {
            assert!(list.contains(part), "{part} in {list}");
        }
    }
}
