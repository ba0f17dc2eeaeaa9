//! Deletions that could not be carried out: one small file each, durable before the runtime is
//! told that the deletion is done.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::naming::handle;
use crate::protocol::Request;
use crate::spec::NetConf;

/// Where the journal is unless the configuration says otherwise.
pub const DEFAULT_DIRECTORY: &str = "/var/lib/calico/cni-journal";

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
        let call = &request.call;
        // Container and network have safe characters; an interface may have all but '/'.
        let name = format!("{}-{}", handle(network, &call.container), call.ifname);
        let draft = self.directory.join(format!(".{name}.{}", std::process::id()));
        let written = write(&draft, &serde_json::to_vec(request)?)
            .and_then(|()| fs::rename(&draft, self.directory.join(format!("{name}.json"))));
        if written.is_err() {
            let _ = fs::remove_file(&draft);
        }
        written?;
        File::open(&self.directory)?.sync_all()
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
            let draft = path.file_name().is_none_or(|name| name.as_encoded_bytes()[0] == b'.');
            if draft || path.extension().is_none_or(|extension| extension != "json") {
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

fn write(path: &Path, contents: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
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
    }
}
