//! Finding the programs that a lab runs.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::error::LabError;

/// Names a directory with the programs of this workspace, instead of the usual places.
pub const BIN_DIR: &str = "CALICO_BIN_DIR";

/// A program of this workspace: from the directory that [`BIN_DIR`] names, beside the running
/// program (also from a test, which cargo puts one directory deeper), or from `PATH`.
///
/// # Errors
///
/// [`LabError::Machine`] says how to build it.
pub fn own(name: &str) -> Result<PathBuf, LabError> {
    let beside = || {
        let directory = env::current_exe().ok()?.parent()?.to_owned();
        match directory.file_name() {
            Some(last) if last == OsStr::new("deps") => directory.parent().map(Path::to_owned),
            _ => Some(directory),
        }
    };
    let directory = env::var_os(BIN_DIR).map(PathBuf::from).or_else(beside);
    directory
        .map(|directory| directory.join(name))
        .filter(|path| path.is_file())
        .or_else(|| in_path(name))
        .ok_or_else(|| {
            LabError::Machine(format!(
                "the program {name} is not built; run `cargo build --workspace`"
            ))
        })
}

/// A program of the system, from `PATH` or the places of system administration.
///
/// # Errors
///
/// [`LabError::Machine`] names the Debian package.
pub fn system(name: &str, package: &str) -> Result<PathBuf, LabError> {
    in_path(name).ok_or_else(|| {
        LabError::Machine(format!("the program {name} is missing; run `apt-get install {package}`"))
    })
}

fn in_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|path| path.is_file())
}
