//! When the last agent of this node was told to end: a file that upstream's node keeps as well.

use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use calico_ipam::plan::time::rfc3339;
use tracing::{info, warn};

use super::Startup;

impl Startup {
    /// The file: `CALICO_SHUTDOWN_TIMESTAMP_FILE`, else `shutdownTS` in the directory of state.
    fn timestamp(&self, state_dir: &Path) -> PathBuf {
        let own = self.variable("CALICO_SHUTDOWN_TIMESTAMP_FILE");
        own.map_or_else(|| state_dir.join("shutdownTS"), PathBuf::from)
    }

    /// Notes that the agent ends now.
    pub fn note_end(&self, state_dir: &Path, now: SystemTime) {
        let path = self.timestamp(state_dir);
        if let Err(error) = std::fs::write(&path, rfc3339(now)) {
            warn!(path = %path.display(), %error, "cannot write when the agent ended");
        }
    }

    /// The start is complete: the note of the last end has served its purpose.
    pub(super) fn forget_end(&self, state_dir: &Path) {
        let path = self.timestamp(state_dir);
        let ended = std::fs::read_to_string(&path);
        match ended.and_then(|ended| std::fs::remove_file(&path).map(|()| ended)) {
            Ok(ended) => info!(ended, "the agent of before was told to end at that time"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                warn!(path = %path.display(), %error, "cannot remove when the agent ended");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_end_is_noted_until_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let mut started =
            Startup { node: "n1".to_owned(), kubernetes: None, variables: <_>::default() };
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        started.note_end(dir.path(), now);
        let path = dir.path().join("shutdownTS");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "2001-09-09T01:46:40Z");
        started.forget_end(dir.path());
        assert!(!path.exists());
        started.forget_end(dir.path());

        let other = dir.path().join("other");
        let name = "CALICO_SHUTDOWN_TIMESTAMP_FILE".to_owned();
        started.variables.insert(name, other.display().to_string());
        started.note_end(dir.path(), now);
        assert!(other.exists() && !path.exists());
    }
}
