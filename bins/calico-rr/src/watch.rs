//! Noticing that files change.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

/// Pause between two looks. A look costs a system call for each file; every file system can
/// be looked at, and no move or link in the path is missed.
const PERIOD: Duration = Duration::from_secs(1);

/// What a file looks like from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Look {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

/// Files to look at.
#[derive(Debug)]
pub(crate) struct Watch {
    files: Vec<PathBuf>,
    /// When they were read.
    read: Vec<Option<Look>>,
}

impl Watch {
    /// Of files that have just been read.
    pub(crate) fn new(files: Vec<PathBuf>) -> Self {
        let read = looks(&files);
        Self { files, read }
    }

    /// Ready when a file is another than when it was read, and has been left alone for a moment.
    pub(crate) async fn changed(&mut self) {
        let mut before = self.read.clone();
        loop {
            tokio::time::sleep(PERIOD).await;
            let now = looks(&self.files);
            // A file that is away is on its way: nothing could be read now.
            let settled = now == before && now.iter().all(Option::is_some);
            if settled && now != self.read {
                self.read = now;
                return;
            }
            before = now;
        }
    }
}

fn looks(files: &[PathBuf]) -> Vec<Option<Look>> {
    let look = |path: &PathBuf| {
        let meta = fs::metadata(path).ok()?;
        let modified = (meta.mtime(), meta.mtime_nsec());
        Some(Look { device: meta.dev(), inode: meta.ino(), size: meta.size(), modified })
    };
    files.iter().map(look).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_file_that_is_written_or_replaced_is_noticed_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::write(&path, "one").unwrap();
        let mut watch = Watch::new(vec![path.clone()]);
        let quiet = Duration::from_secs(10);
        assert!(tokio::time::timeout(quiet, watch.changed()).await.is_err());
        fs::write(&path, "other").unwrap();
        watch.changed().await;
        assert!(tokio::time::timeout(quiet, watch.changed()).await.is_err());
        fs::remove_file(&path).unwrap();
        assert!(tokio::time::timeout(quiet, watch.changed()).await.is_err(), "it is away");
        fs::write(dir.path().join("b"), "other").unwrap();
        fs::rename(dir.path().join("b"), &path).unwrap();
        watch.changed().await;
    }
}
