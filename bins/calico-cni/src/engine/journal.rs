//! Deletions that could not be carried out: one small file each, durable before the runtime is
//! told that the deletion is done.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::naming::container_handle;
use crate::protocol::Request;
use crate::spec::{Call, NetConf};

/// Where the journal is unless the configuration says otherwise.
pub const DEFAULT_DIRECTORY: &str = "/var/lib/calico/cni-journal";

/// Attempts to write a draft that a sweep may take away.
const ATTEMPTS: usize = 100;

/// A directory of deletions to be carried out.
#[derive(Debug, Clone)]
pub struct Journal {
    directory: PathBuf,
}

/// One deletion to be carried out.
#[derive(Debug, Clone)]
pub struct Pending {
    /// Its file.
    path: PathBuf,
    /// The call.
    pub request: Request,
}

impl Journal {
    /// The journal in `directory`, which is made when it is needed.
    #[must_use]
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into() }
    }

    /// The journal that a configuration names.
    #[must_use]
    pub fn of(conf: &NetConf) -> Self {
        Self::new(conf.journal_dir.clone().unwrap_or_else(|| DEFAULT_DIRECTORY.into()))
    }

    /// Notes a deletion. Once this returns, it survives a crash.
    ///
    /// # Errors
    ///
    /// Those of the file system.
    pub fn note(&self, network: &str, request: &Request) -> io::Result<()> {
        fs::create_dir_all(&self.directory)?;
        let path = self.path(network, &request.call);
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let draft = self.directory.join(format!(".{stem}.{}", std::process::id()));
        let contents = serde_json::to_vec(request)?;
        let mut attempts = 0;
        loop {
            attempts += 1;
            let written = write(&draft, &contents).and_then(|()| fs::rename(&draft, &path));
            match written {
                Ok(()) => break,
                // Swept away before it was locked: see `sweep`.
                Err(error) if error.kind() == io::ErrorKind::NotFound && attempts < ATTEMPTS => {}
                Err(error) => {
                    let _ = fs::remove_file(&draft);
                    return Err(error);
                }
            }
        }
        File::open(&self.directory)?.sync_all()
    }

    /// The deletion of this attachment, if one is to be carried out.
    #[must_use]
    pub fn find(&self, network: &str, call: &Call) -> Option<Pending> {
        let path = self.path(network, call);
        let request = serde_json::from_slice(&fs::read(&path).ok()?).ok()?;
        Some(Pending { path, request })
    }

    /// Whether a deletion is still to be carried out.
    #[must_use]
    pub fn holds(&self, pending: &Pending) -> bool {
        pending.path.exists()
    }

    /// Removes drafts whose writer was killed.
    ///
    /// # Errors
    ///
    /// Those of the file system.
    pub fn sweep(&self) -> io::Result<()> {
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let path = entry?.path();
            if !is_draft(&path) {
                continue;
            }
            // Whoever still writes it holds the lock; one that could not take it yet finds its
            // draft gone and begins anew.
            let Ok(draft) = File::open(&path) else { continue };
            if draft.try_lock().is_ok() {
                let _ = fs::remove_file(&path);
            }
        }
        Ok(())
    }

    fn path(&self, network: &str, call: &Call) -> PathBuf {
        // Container and network have safe characters; an interface may have all but '/'.
        let name = format!("{}-{}.json", container_handle(network, &call.container), call.ifname);
        self.directory.join(name)
    }

    /// Every deletion to be carried out, and the files that cannot be read.
    ///
    /// # Errors
    ///
    /// Those of the file system; a directory that does not exist is an empty journal.
    pub fn pending(&self) -> io::Result<(Vec<Pending>, Vec<PathBuf>)> {
        let (mut pending, mut unreadable) = (Vec::new(), Vec::new());
        let entries = match fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok((pending, unreadable));
            }
            Err(error) => return Err(error),
        };
        for entry in entries {
            let path = entry?.path();
            if is_draft(&path) || path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            match fs::read(&path).map(|text| serde_json::from_slice(&text)) {
                Ok(Ok(request)) => pending.push(Pending { path, request }),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                _ => unreadable.push(path),
            }
        }
        pending.sort_by(|a, b| a.path.cmp(&b.path));
        Ok((pending, unreadable))
    }

    /// Forgets a deletion that was carried out. If a crash brings it back, it finds nothing to do.
    ///
    /// # Errors
    ///
    /// Those of the file system.
    pub fn done(&self, pending: &Pending) -> io::Result<()> {
        match fs::remove_file(&pending.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

fn is_draft(path: &Path) -> bool {
    path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."))
}

fn write(path: &Path, contents: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    // Tells `sweep` that somebody is at work, for as long as the file is open.
    file.lock()?;
    file.write_all(contents)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{PROTOCOL, Plugin};
    use crate::spec::{Call, Verb};

    fn request(container: &str) -> Request {
        Request {
            protocol: PROTOCOL,
            plugin: Plugin::Main,
            verb: Verb::Del,
            call: Call { container: container.into(), ifname: "eth0".into(), ..Call::default() },
            config: "{}".into(),
        }
    }

    #[test]
    fn notes_survive_and_garbage_is_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        let journal = Journal::new(directory.path().join("deep/journal"));
        assert!(journal.pending().unwrap().0.is_empty());
        journal.note("net", &request("b")).unwrap();
        journal.note("net", &request("a")).unwrap();
        journal.note("net", &request("a")).unwrap();
        fs::write(directory.path().join("deep/journal/x.json"), "garbage").unwrap();
        fs::write(directory.path().join("deep/journal/.draft.7"), "half").unwrap();

        let (pending, unreadable) = journal.pending().unwrap();
        let containers: Vec<_> =
            pending.iter().map(|p| p.request.call.container.as_str()).collect();
        assert_eq!((containers, unreadable.len()), (vec!["a", "b"], 1));
        journal.done(&pending[0]).unwrap();
        journal.done(&pending[0]).unwrap();
        assert_eq!(journal.pending().unwrap().0.len(), 1);
        assert!(!journal.holds(&pending[0]) && journal.holds(&pending[1]));
        assert!(journal.find("net", &request("a").call).is_none());
        assert_eq!(journal.find("net", &request("b").call).unwrap().request, request("b"));
    }

    #[test]
    fn a_sweep_takes_drafts_that_nobody_writes() {
        let directory = tempfile::tempdir().unwrap();
        let journal = Journal::new(directory.path());
        journal.note("net", &request("a")).unwrap();
        fs::write(directory.path().join(".dead.1"), "half").unwrap();
        let alive = File::create(directory.path().join(".alive.2")).unwrap();
        alive.lock().unwrap();
        journal.sweep().unwrap();
        let entries = fs::read_dir(directory.path()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, [".alive.2", "net.a-eth0.json"]);
    }

    #[test]
    fn notes_survive_sweeps_at_the_same_time() {
        let directory = tempfile::tempdir().unwrap();
        let journal = Journal::new(directory.path());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..200 {
                    journal.sweep().unwrap();
                    std::thread::sleep(std::time::Duration::from_micros(100));
                }
            });
            for nth in 0..50 {
                journal.note("net", &request(&format!("c{nth}"))).unwrap();
            }
        });
        assert_eq!(journal.pending().unwrap().0.len(), 50);
    }
}
