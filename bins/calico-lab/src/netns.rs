//! Named network namespaces, as `ip netns` keeps them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::thread;

use nix::sched::{CloneFlags, setns};

use crate::error::LabError;
use crate::ip;

/// Start of the names of all namespaces of labs: `crl-<lab>-<member>`.
pub const PREFIX: &str = "crl-";

/// Where iproute2 binds named namespaces.
const DIRECTORY: &str = "/run/netns";

/// The namespace of a member of a lab.
#[must_use]
pub fn name_of(lab: &str, member: &str) -> String {
    format!("{PREFIX}{lab}-{member}")
}

/// The lab whose member a namespace is. The name of a lab has no `-`, so this is exact.
#[must_use]
pub fn lab_of(namespace: &str) -> Option<&str> {
    namespace.strip_prefix(PREFIX)?.split_once('-').map(|(lab, _)| lab)
}

/// The file that stands for the namespace, as `CNI_NETNS` has it.
#[must_use]
pub fn path(namespace: &str) -> PathBuf {
    Path::new(DIRECTORY).join(namespace)
}

/// Names of the namespaces of all labs.
#[must_use]
pub fn list() -> Vec<String> {
    let Ok(entries) = fs::read_dir(DIRECTORY) else {
        // iproute2 makes the directory with the first namespace.
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| lab_of(name).is_some())
        .collect();
    names.sort();
    names
}

/// Processes that run in the namespace.
pub(crate) fn processes(namespace: &str) -> Result<Vec<i32>, LabError> {
    let output = ip::output(None, &["netns", "pids", namespace])?;
    Ok(output.split_whitespace().filter_map(|pid| pid.parse().ok()).collect())
}

/// Runs `work` on a thread of its own inside the namespace. Sockets that it opens stay there.
///
/// # Errors
///
/// [`LabError::Machine`] if the namespace cannot be entered.
///
/// # Panics
///
/// As `work` does.
pub fn enter<T: Send>(namespace: &str, work: impl FnOnce() -> T + Send) -> Result<T, LabError> {
    let path = path(namespace);
    let file = File::open(&path).map_err(LabError::file("open", &path))?;
    thread::scope(|scope| {
        let worker = scope.spawn(move || {
            setns(file, CloneFlags::CLONE_NEWNET).map_err(|errno| {
                LabError::Machine(format!("cannot enter network namespace {namespace}: {errno}"))
            })?;
            Ok(work())
        });
        worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lab_of_a_namespace_is_unambiguous() {
        assert_eq!(lab_of(&name_of("mesh_2", "node-1")), Some("mesh_2"));
        assert_eq!(lab_of("crl-mesh"), None);
        assert_eq!(lab_of("cr-test-1-a"), None);
    }
}
