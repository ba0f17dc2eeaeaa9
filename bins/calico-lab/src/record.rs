//! What a lab leaves on disk, so that another process can find, ask and remove it.
//!
//! `/run/calico-lab/<lab>/` holds `lab.json` (whose lab it is, and of what), `processes` (one
//! line per program), and a directory per member with its configuration, sockets and log.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::LabError;
use crate::process::Identity;

/// Parent of the directories of all labs.
pub const ROOT: &str = "/run/calico-lab";
/// Start of the names of directories that are being made.
const DRAFT: &str = ".new-";

/// Contents of `lab.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Header {
    /// Process that builds the lab.
    owner: i32,
    /// When that was started.
    owner_started: u64,
    /// Whether the lab is to stay when its builder has ended.
    kept: bool,
    /// The topology file, as it was read.
    topology: String,
    /// Container id of each pod.
    containers: Vec<(String, String)>,
}

/// How things stand with a lab.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Standing {
    /// Its builder is at work.
    Owned,
    /// It is to stay until it is taken down.
    Kept,
    /// Its builder ended without taking it down.
    Abandoned,
}

/// The directory of one lab.
#[derive(Debug)]
pub struct Record {
    directory: PathBuf,
    header: Header,
}

impl Record {
    /// Makes the directory; this process is the lab's owner from now on.
    pub(crate) fn create(lab: &str, topology: &str) -> Result<Self, LabError> {
        let owner = std::process::id().cast_signed();
        let owner_started = Identity::of(owner).map_or(0, |identity| identity.started);
        let header = Header {
            owner,
            owner_started,
            kept: false,
            topology: topology.to_owned(),
            containers: Vec::new(),
        };
        // It appears under its name with its contents: nobody sees a lab without an owner, and
        // of two processes that build the same lab one is first.
        let draft = Path::new(ROOT).join(format!("{DRAFT}{owner}-{lab}"));
        fs::create_dir_all(&draft).map_err(LabError::file("make", &draft))?;
        let mut record = Self { directory: draft, header };
        record.save()?;
        let directory = directory(lab);
        if let Err(error) = fs::rename(&record.directory, &directory) {
            // The draft is of no use any more, and the next `clean` finds it if it stays.
            let _ = fs::remove_dir_all(&record.directory);
            if error.kind() == io::ErrorKind::DirectoryNotEmpty {
                return Err(LabError::Request(format!(
                    "lab {lab} exists already; `calico-lab down {lab}` removes it"
                )));
            }
            return Err(LabError::file("make", &directory)(error));
        }
        record.directory = directory;
        Ok(record)
    }

    /// Reads the record of a lab that exists.
    ///
    /// # Errors
    ///
    /// [`LabError::Request`] if there is no such lab, [`LabError::File`] if it cannot be read.
    pub fn open(lab: &str) -> Result<Self, LabError> {
        let directory = directory(lab);
        let path = directory.join("lab.json");
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let names = names().join(", ");
                let known = if names.is_empty() { "none".to_owned() } else { names };
                return Err(LabError::Request(format!("there is no lab {lab}; labs: {known}")));
            }
            bytes => bytes.map_err(LabError::file("read", &path))?,
        };
        let header = serde_json::from_slice(&bytes)
            .map_err(|error| LabError::file("understand", &path)(error.into()))?;
        Ok(Self { directory, header })
    }

    /// The text of the topology file.
    #[must_use]
    pub fn topology(&self) -> &str {
        &self.header.topology
    }

    /// The container id of a pod (`namespace/name`), if the pod was made.
    #[must_use]
    pub fn container(&self, pod: &str) -> Option<&str> {
        let containers = self.header.containers.iter();
        containers.rev().find(|(id, _)| id == pod).map(|(_, container)| container.as_str())
    }

    /// The lab's directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// How things stand.
    #[must_use]
    pub fn standing(&self) -> Standing {
        let owner = Identity { pid: self.header.owner, started: self.header.owner_started };
        match (self.header.kept, owner.is_alive()) {
            (true, _) => Standing::Kept,
            (false, true) => Standing::Owned,
            (false, false) => Standing::Abandoned,
        }
    }

    /// Whether this process builds the lab.
    pub(crate) fn is_own(&self) -> bool {
        !self.header.kept && self.header.owner.cast_unsigned() == std::process::id()
    }

    /// The directory of a member, made if need be.
    pub(crate) fn member(&self, name: &str) -> Result<PathBuf, LabError> {
        let directory = self.directory.join(name);
        fs::create_dir_all(&directory).map_err(LabError::file("make", &directory))?;
        Ok(directory)
    }

    pub(crate) fn keep(&mut self) -> Result<(), LabError> {
        self.header.kept = true;
        self.save()
    }

    pub(crate) fn add_container(&mut self, pod: &str, container: &str) -> Result<(), LabError> {
        self.header.containers.push((pod.to_owned(), container.to_owned()));
        self.save()
    }

    pub(crate) fn add_process(&self, process: Identity) -> Result<(), LabError> {
        let path = self.directory.join("processes");
        File::options()
            .create(true)
            .append(true)
            .open(&path)
            .and_then(|mut file| writeln!(file, "{} {}", process.pid, process.started))
            .map_err(LabError::file("write", &path))
    }

    /// Replaces the file whole, so that a crash leaves the former one.
    fn save(&self) -> Result<(), LabError> {
        let path = self.directory.join("lab.json");
        let draft = self.directory.join("lab.json.new");
        let text = serde_json::to_vec_pretty(&self.header).map_err(io::Error::from);
        text.and_then(|text| fs::write(&draft, text))
            .and_then(|()| fs::rename(&draft, &path))
            .map_err(LabError::file("write", &path))
    }
}

/// The directory of the lab.
#[must_use]
pub fn directory(lab: &str) -> PathBuf {
    Path::new(ROOT).join(lab)
}

/// Names of the labs that have a directory.
#[must_use]
pub fn names() -> Vec<String> {
    let Ok(entries) = fs::read_dir(ROOT) else {
        return Vec::new();
    };
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.retain(|name| !name.starts_with(DRAFT));
    names.sort();
    names
}

/// Programs of the lab that run; also of one whose `lab.json` was never written.
pub(crate) fn processes(lab: &str) -> Vec<Identity> {
    let text = fs::read_to_string(directory(lab).join("processes")).unwrap_or_default();
    let identity = |line: &str| {
        let (pid, started) = line.split_once(' ')?;
        Some(Identity { pid: pid.parse().ok()?, started: started.parse().ok()? })
    };
    text.lines().filter_map(identity).filter(|process| process.is_alive()).collect()
}
