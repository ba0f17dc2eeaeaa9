//! The root file system of the virtual machine: a few programs and what they are linked with.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::kernel::Kernel;
use crate::run::{Failure, Step};

/// Where the machine has the workspace's programs and tests.
pub(super) const PROGRAMS: &str = "/calico";
/// What the tests run and read of the system, and where the machine has it.
const SYSTEM: &[(&str, &str)] = &[
    ("/bin/busybox", "/bin/busybox"),
    ("/usr/sbin/ip", "/usr/bin/ip"),
    ("/bin/ip", "/usr/bin/ip"),
    ("/usr/sbin/nft", "/usr/bin/nft"),
    ("/usr/lib/cni/portmap", "/usr/lib/cni/portmap"),
];
/// What they read of the workspace, by the path that they were built with.
const FILES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../bins/calico-lab/topologies");
/// Directories that the first process mounts something on.
const EMPTY: &[&str] = &["dev", "etc", "proc", "run", "sys", "tmp", "var/lib", "var/run", "root"];

/// The kernel asks `/sbin/modprobe` for modules; busybox answers.
const PACK: &str = "set -e
cp -r \"$1\" lib/
mkdir -p sbin
ln -sf /bin/busybox sbin/modprobe
find . | busybox cpio --quiet -o -H newc > \"$2\"";

/// Packs `init`, the tests and the programs; gives the archive that the kernel unpacks.
pub(super) fn build(
    directory: &Path,
    kernel: &Kernel,
    init: &str,
    tests: &[PathBuf],
    own: &[PathBuf],
) -> Result<PathBuf, Failure> {
    let root = directory.join("root");
    let _ = fs::remove_dir_all(&root);
    for name in EMPTY {
        make(&root.join(name))?;
    }
    let mut libraries = BTreeSet::new();
    for program in tests.iter().chain(own) {
        let name = program.file_name().unwrap_or_default();
        let place = root.join(&PROGRAMS[1..]).join(name);
        make(&root.join(&PROGRAMS[1..]))?;
        // Without what debuggers read, which is nine tenths of it.
        Step::new("strip", "strip").arg("-o").args([&place, program]).run()?;
        libraries.extend(linked(program)?);
    }
    for (from, to) in SYSTEM {
        if Path::new(from).is_file() {
            copy(Path::new(from), &root, to)?;
            libraries.extend(linked(Path::new(from))?);
        }
    }
    for library in &libraries {
        copy(library, &root, &library.to_string_lossy())?;
    }
    let files = Path::new(FILES);
    let files = files.canonicalize().map_err(|error| Failure::io("read", files, &error))?;
    for entry in fs::read_dir(&files).map_err(|error| Failure::io("read", &files, &error))? {
        let path = entry.map_err(|error| Failure::io("read", &files, &error))?.path();
        copy(&path, &root, &path.to_string_lossy())?;
    }
    let first = root.join("init");
    fs::write(&first, init).map_err(|error| Failure::io("write", &first, &error))?;
    fs::set_permissions(&first, fs::Permissions::from_mode(0o755))
        .map_err(|error| Failure::io("write", &first, &error))?;
    let image = directory.join("root.cpio");
    Step::new("image", "sh")
        .args(["-c", PACK, "pack"])
        .args([&kernel.modules, &image])
        .directory(&root)
        .run()?;
    Ok(image)
}

/// The shared libraries of a program, and its loader.
fn linked(program: &Path) -> Result<Vec<PathBuf>, Failure> {
    let output = Command::new("ldd")
        .arg(program)
        .output()
        .map_err(|error| Failure::check(format!("cannot run ldd: {error}")))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let paths = text.split_whitespace().filter(|word| word.starts_with('/'));
    Ok(paths.map(|word| PathBuf::from(word.trim_end_matches(':'))).collect())
}

fn copy(from: &Path, root: &Path, to: &str) -> Result<(), Failure> {
    let place = root.join(to.trim_start_matches('/'));
    if let Some(parent) = place.parent() {
        make(parent)?;
    }
    fs::copy(from, &place).map(drop).map_err(|error| Failure::io("copy", from, &error))
}

fn make(directory: &Path) -> Result<(), Failure> {
    fs::create_dir_all(directory).map_err(|error| Failure::io("make", directory, &error))
}
