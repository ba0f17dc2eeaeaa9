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
    let stamp: String = rfc3339(now).chars().filter(|c| c.is_ascii_alphanumeric()).collect();
    let name = format!("calico-node-diags-{stamp}");
    let directory = into.join(&name);
    let write = |path: &Path, bytes: &[u8]| {
        let made = path.parent().map_or(Ok(()), fs::create_dir_all);
        made.and_then(|()| fs::write(path, bytes))
            .map_err(|source| Failure::Write { path: path.to_owned(), source })
    };
    write(&directory.join("status"), status.as_bytes())?;
    let mut missing = Vec::new();
    for (file, program, arguments) in QUESTIONS {
        let answer = ask(program, arguments).unwrap_or_else(|reason| {
            missing.push(*program);
            reason.into_bytes()
        });
        write(&directory.join("commands").join(file), &answer)?;
    }
    for file in FILES {
        if let Ok(bytes) = fs::read(file) {
            let name = file.trim_start_matches('/').replace('/', "-");
            write(&directory.join("files").join(name), &bytes)?;
        }
    }
    let mut logged = 0;
    for path in log_files(logs) {
        let Ok(bytes) = fs::read(&path) else { continue };
        let name = path.file_name().unwrap_or_default();
        write(&directory.join("logs").join(name), &bytes[bytes.len().saturating_sub(MAX_LOG)..])?;
        logged += 1;
    }
    let mut out =
        format!("Collected diagnostics, with {logged} log file(s) of {}\n", logs.display());
    missing.dedup();
    if !missing.is_empty() {
        out.push_str(&format!("Not there or failed: {}\n", missing.join(", ")));
    }
    let archive = into.join(format!("{name}.tar.gz"));
    let packed =
        ask("tar", &["-czf", &archive.to_string_lossy(), "-C", &into.to_string_lossy(), &name]);
    match packed {
        Ok(_) => {
            // The archive has it all.
            let _ = fs::remove_dir_all(&directory);
            out.push_str(&format!("Diags saved to {}\n", archive.display()));
        }
        Err(reason) => {
            out.push_str(&format!(
                "Diags saved to {} (not packed: {reason})\n",
                directory.display()
            ));
        }
    }
    out.push_str("They hold addresses, names and policy of this cluster: look before you share.\n");
    Ok(out)
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
fn ask(program: &str, arguments: &[&str]) -> Result<Vec<u8>, String> {
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
