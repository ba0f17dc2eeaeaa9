//! Debian's kernel for cloud machines: small, and with every module of the network.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::run::{Failure, Step};

/// Debian's package that depends on the current kernel.
const PACKAGE: &str = "linux-image-cloud-amd64";
const UNPACK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/vm/unpack.sh");

/// Counts how often what the script leaves was changed.
const PARTS: u32 = 2;

/// A kernel that has been unpacked.
pub(super) struct Kernel {
    /// The bootable file.
    pub(super) image: PathBuf,
    /// `lib/modules`, with what `modprobe` reads.
    pub(super) modules: PathBuf,
}

/// Downloads and unpacks the kernel into a directory below `directory`, once.
pub(super) fn fetch(directory: &Path) -> Result<Kernel, Failure> {
    let package = current()?;
    let place = directory.join(format!("{package}-{PARTS}"));
    let kernel =
        Kernel { image: place.join("vmlinuz"), modules: place.join("modules/lib/modules") };
    if kernel.image.is_file() {
        return Ok(kernel);
    }
    // What an interrupted run left is no base to build on.
    let _ = fs::remove_dir_all(&place);
    fs::create_dir_all(&place).map_err(|error| Failure::io("make", &place, &error))?;
    Step::new("kernel", "sh")
        .args([UNPACK, &package])
        .directory(&place)
        .deadline(Duration::from_secs(300))
        .run()?;
    Ok(kernel)
}

/// The package of the kernel that Debian has now.
fn current() -> Result<String, Failure> {
    let output = Command::new("apt-cache")
        .args(["depends", "--important", PACKAGE])
        .output()
        .map_err(|error| Failure::check(format!("cannot run apt-cache: {error}")))?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| name.starts_with("linux-image-"))
        .map(str::to_owned)
        .ok_or_else(|| {
            Failure::check(format!("apt-cache knows no {PACKAGE}; run `apt-get update`"))
        })
}
