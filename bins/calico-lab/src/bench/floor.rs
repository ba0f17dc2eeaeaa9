//! What no plugin can do without: the bare netlink calls, the start of a process, and one durable
//! write.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use calico_netlink::address;
use calico_netlink::link::{self, MacAddr, VethEnd};
use calico_netlink::netns::Netns;
use calico_netlink::rtnl::Connection;

use crate::error::LabError;
use crate::netns::enter;

const ADDRESS: [u8; 4] = [10, 65, 0, 2];

/// What a pod is on the disk: an endpoint, a handle and a block of addresses.
const RECORD: usize = 4096;

type Outcome = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// Creates the veth with its peer in the pod's namespace at once.
pub(super) fn in_place(host: &str, name: &str, pod: &str) -> Result<Duration, LabError> {
    time(host, pod, |pod| {
        let mut connection = Connection::open()?;
        let mac = Some(MacAddr([0xee; 6]));
        let near = VethEnd { name, mac, up: true, ..VethEnd::default() };
        let far = VethEnd { name: "eth0", netns: Some(pod), ..VethEnd::default() };
        link::create_veth(&mut connection, &near, &far)?;
        inside(pod)
    })
}

/// Creates the veth here and moves its peer, as most plugins do.
pub(super) fn moved(host: &str, name: &str, pod: &str) -> Result<Duration, LabError> {
    time(host, pod, |pod| {
        let mut connection = Connection::open()?;
        let near = VethEnd { name, ..VethEnd::default() };
        let far = VethEnd { name: "temporary", ..VethEnd::default() };
        link::create_veth(&mut connection, &near, &far)?;
        link::move_to(&mut connection, "temporary", pod, Some("eth0"))?;
        link::set_up(&mut connection, name)?;
        inside(pod)
    })
}

fn time(
    host: &str,
    pod: &str,
    way: impl FnOnce(&Netns) -> Outcome + Send,
) -> Result<Duration, LabError> {
    let path = crate::netns::path(pod);
    let timed = enter(host, || -> Result<Duration, Box<dyn std::error::Error + Send + Sync>> {
        let pod = Netns::open(&path)?;
        let start = Instant::now();
        way(&pod)?;
        Ok(start.elapsed())
    })?;
    timed.map_err(|error| LabError::Machine(format!("the bare calls failed: {error}")))
}

fn inside(pod: &Netns) -> Outcome {
    pod.run(|| {
        let mut connection = Connection::open()?;
        let eth0 = link::by_name(&mut connection, "eth0")?.ok_or("no eth0")?;
        let address = std::net::IpAddr::from(ADDRESS);
        address::add(&mut connection, eth0.index, address.into())?;
        link::set_up(&mut connection, "eth0")?;
        Ok(())
    })?
}

/// A file on the disk that the agent's datastore is on, too.
#[derive(Debug)]
pub(super) struct Disk {
    file: File,
    path: PathBuf,
}

impl Disk {
    pub(super) fn new(directory: &Path) -> Result<Self, LabError> {
        let path = directory.join("bench-floor");
        let file = File::create(&path).map_err(LabError::file("make", &path))?;
        Ok(Self { file, path })
    }

    /// Appends a record, and waits until the disk has it.
    pub(super) fn write(&mut self) -> Result<Duration, LabError> {
        let start = Instant::now();
        let written = self.file.write_all(&[7; RECORD]).and_then(|()| self.file.sync_data());
        written.map_err(LabError::file("write", &self.path))?;
        Ok(start.elapsed())
    }
}

/// Writes the smallest program that the kernel starts: one that ends. Whatever a process does
/// beyond that, it could leave out.
pub(super) fn empty_program(directory: &Path) -> Result<PathBuf, LabError> {
    let path = directory.join("bench-empty");
    fs::write(&path, elf()?).map_err(LabError::file("write", &path))?;
    let executable = fs::Permissions::from_mode(0o755);
    fs::set_permissions(&path, executable).map_err(LabError::file("permit", &path))?;
    Ok(path)
}

/// An ELF file: its header, one segment, and `exit(0)` (`elf(5)`).
fn elf() -> Result<Vec<u8>, LabError> {
    // e_machine, and what ends a process.
    let (machine, code): (u16, &[u8]) = match std::env::consts::ARCH {
        // mov eax, 60; xor edi, edi; syscall
        "x86_64" => (62, &[0xb8, 60, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05]),
        // mov x8, 93; mov x0, 0; svc 0
        "aarch64" => (183, &[0xa8, 0x0b, 0x80, 0xd2, 0, 0, 0x80, 0xd2, 0x01, 0, 0, 0xd4]),
        other => {
            return Err(LabError::Machine(format!("no empty program is known for {other}")));
        }
    };
    const BASE: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    let size = HEADERS + code.len() as u64;
    // Magic number, 64 bits, little endian, version 1.
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    for half in [2, machine] {
        file.extend(half.to_le_bytes());
    }
    file.extend(1_u32.to_le_bytes());
    // Where it starts, and where the segments' and sections' headers are.
    for word in [BASE + HEADERS, 64, 0] {
        file.extend(word.to_le_bytes());
    }
    file.extend(0_u32.to_le_bytes());
    for half in [64_u16, 56, 1, 0, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    // One segment to load, to be read and executed.
    for half in [1_u32, 5] {
        file.extend(half.to_le_bytes());
    }
    for word in [0, BASE, BASE, size, size, 0x1000] {
        file.extend(word.to_le_bytes());
    }
    file.extend(code);
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_empty_program_runs() {
        let directory = tempfile::tempdir().unwrap();
        let program = empty_program(directory.path()).unwrap();
        let output = std::process::Command::new(&program).output().unwrap();
        assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
        assert!(Disk::new(directory.path()).unwrap().write().unwrap() > Duration::ZERO);
    }
}
