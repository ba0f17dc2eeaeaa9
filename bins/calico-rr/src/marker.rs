//! The mark that makes the next start a restart.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A file in the run directory that says that a speaker ran here since the host started: its
/// successor tells the peers that it restarts, and they keep the routes (RFC 4724).
#[derive(Debug)]
pub(crate) struct Marker(PathBuf);

impl Marker {
    /// In a run directory.
    pub(crate) fn in_directory(run_dir: &Path) -> Self {
        Self(run_dir.join("running"))
    }

    /// Whether a predecessor left it.
    pub(crate) fn is_there(&self) -> bool {
        self.0.exists()
    }

    /// Leaves it for a successor.
    pub(crate) fn leave(&self) -> io::Result<()> {
        fs::write(&self.0, [])
    }

    /// Takes it away: the peers have dropped the routes.
    pub(crate) fn remove(&self) -> io::Result<()> {
        match fs::remove_file(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}
