//! Removing a lab, whoever made it and however far it got.
//!
//! The one way to take a lab down: at the end of a demo, on an error, on Ctrl-C, in `down`, and
//! for what a killed lab left. It goes by what exists, namespaces first, not by what a program
//! remembers.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::time::Duration;

use crate::error::LabError;
use crate::process::{self, Identity};
use crate::record::{self, Record, Standing};
use crate::{ip, netns};

/// How long programs may take to end when asked to.
const PATIENCE: Duration = Duration::from_secs(2);

/// What was removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removed {
    /// Processes that were ended.
    pub processes: usize,
    /// Namespaces that were deleted.
    pub namespaces: usize,
}

/// Ends the lab's programs and removes its namespaces and directory. Removing a lab that does
/// not exist removes nothing, and is no error.
///
/// # Errors
///
/// [`LabError::Leftovers`] names what could not be removed; the rest is gone.
pub fn remove(lab: &str) -> Result<Removed, LabError> {
    let mut obstacles = Vec::new();
    let namespaces: Vec<String> =
        netns::list().into_iter().filter(|name| netns::lab_of(name) == Some(lab)).collect();

    let mut processes: BTreeMap<i32, Identity> =
        record::processes(lab).into_iter().map(|process| (process.pid, process)).collect();
    for namespace in &namespaces {
        // One that was left half made has no processes, and `ip` cannot look into it.
        for pid in netns::processes(namespace).unwrap_or_default() {
            processes.extend(Identity::of(pid).map(|process| (pid, process)));
        }
    }
    // A thread of this very process may be inside, to probe.
    processes.remove(&std::process::id().cast_signed());
    let processes: Vec<Identity> = processes.into_values().collect();
    for process in process::end(&processes, PATIENCE) {
        obstacles.push(format!("process {} does not end", process.pid));
    }

    for namespace in &namespaces {
        if let Err(error) = delete_namespace(namespace) {
            obstacles.push(format!("namespace {namespace}: {error}"));
        }
    }
    let directory = record::directory(lab);
    match fs::remove_dir_all(&directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            obstacles.push(format!("{}: {error}", directory.display()));
        }
        _ => {}
    }
    if obstacles.is_empty() {
        return Ok(Removed { processes: processes.len(), namespaces: namespaces.len() });
    }
    Err(LabError::Leftovers { lab: lab.to_owned(), obstacles })
}

/// Names of the labs of which something exists.
#[must_use]
pub fn existing() -> Vec<String> {
    let mut labs: BTreeSet<String> = record::names().into_iter().collect();
    labs.extend(netns::list().iter().filter_map(|name| netns::lab_of(name).map(str::to_owned)));
    labs.into_iter().collect()
}

/// Names of the labs that nobody wants any more: their builder ended without removing them.
#[must_use]
pub fn abandoned() -> Vec<String> {
    existing()
        .into_iter()
        .filter(|lab| !Record::open(lab).is_ok_and(|it| it.standing() != Standing::Abandoned))
        .collect()
}

/// Removes the labs that this very process builds, for where it is about to end without
/// unwinding. Says on stderr what is left, for nobody can be told any more.
pub fn remove_own() {
    let own = |lab: &String| Record::open(lab).is_ok_and(|record| record.is_own());
    for lab in existing().into_iter().filter(own) {
        if let Err(error) = remove(&lab) {
            eprintln!("calico-lab: {error}");
        }
    }
}

fn delete_namespace(namespace: &str) -> Result<(), LabError> {
    ip::output(None, &["netns", "delete", namespace]).map(drop).or_else(|error| {
        // A crash between the making of the file and its mount leaves a plain file.
        fs::remove_file(netns::path(namespace)).map_err(|_plain| error)
    })
}
