//! Noticing that files change.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Pause between two looks. A look costs a system call for each file; every file system can
/// be looked at, and no move or link in the path is missed.
const PERIOD: Duration = Duration::from_secs(1);

/// What a file looks like from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Look {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Look {
    /// At a file as it is now; `None` if it is not there.
    pub(crate) fn at(path: &Path) -> Option<Self> {
        let meta = fs::metadata(path).ok()?;
        let modified = (meta.mtime(), meta.mtime_nsec());
        Some(Self { device: meta.dev(), inode: meta.ino(), size: meta.size(), modified })
    }
}

/// A file, and what it looked like just before it was read.
pub(crate) type Seen = (PathBuf, Option<Look>);

/// Files to look at.
#[derive(Debug)]
pub(crate) struct Watch(Vec<Seen>);

impl Watch {
    /// Of files that were read. A change since then is noticed, too.
    pub(crate) const fn new(seen: Vec<Seen>) -> Self {
        Self(seen)
    }

    /// They are about to be read.
    pub(crate) fn look(&mut self) {
        self.0.iter_mut().for_each(|(path, look)| *look = Look::at(path));
    }

    /// Ready when a file is another than when it was read, and has been left alone for a moment.
    pub(crate) async fn changed(&mut self) {
        let looks = |seen: &[Seen]| -> Vec<Option<Look>> {
            seen.iter().map(|(path, _)| Look::at(path)).collect()
        };
        let mut before: Vec<Option<Look>> = self.0.iter().map(|(_, look)| *look).collect();
        loop {
            tokio::time::sleep(PERIOD).await;
            let now = looks(&self.0);
            // A file that is away is on its way: nothing could be read now.
            let settled = now == before && now.iter().all(Option::is_some);
            if settled && self.0.iter().zip(&now).any(|((_, read), now)| read != now) {
                return;
            }
            before = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_file_that_is_written_or_replaced_is_noticed_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::write(&path, "one").unwrap();
        let mut watch = Watch::new(vec![(path.clone(), Look::at(&path))]);
        let quiet = Duration::from_secs(10);
        assert!(tokio::time::timeout(quiet, watch.changed()).await.is_err());
        fs::write(&path, "other").unwrap();
        watch.changed().await;
        watch.look();
        assert!(tokio::time::timeout(quiet, watch.changed()).await.is_err());
        fs::remove_file(&path).unwrap();
        assert!(tokio::time::timeout(quiet, watch.changed()).await.is_err(), "it is away");
        fs::write(dir.path().join("b"), "other").unwrap();
        fs::rename(dir.path().join("b"), &path).unwrap();
        watch.changed().await;
    }
}
