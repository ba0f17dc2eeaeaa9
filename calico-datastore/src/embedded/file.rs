//! The log file: opening, appending, replacing.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use calico_core::datastore::{Listing, Revision, StoreError};
use calico_core::key::Key;
use calico_core::memory::{Change, Table};

use super::explain::{bad_header, cannot, damaged};
use super::format::{self, HEADER, Header, Record};
use super::lock::lock;
use super::scan::scan;
use super::{Durability, Options};

/// An open log.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    file: File,
    /// Bytes that are written and valid.
    length: u64,
    /// Bytes that are on disk for certain.
    synced: u64,
    /// Length at which compaction is due.
    compact_at: u64,
    options: Options,
    /// Objects under names that this version does not know: kept, not shown.
    foreign: BTreeMap<String, (u64, String)>,
    lock: File,
}

impl Drop for Log {
    fn drop(&mut self) {
        // Closing is not enough: a child that was just forked holds the lock until it executes.
        if let Err(error) = self.lock.unlock() {
            tracing::warn!(path = %self.path.display(), %error, "cannot unlock the store");
        }
    }
}

/// Why an append failed.
#[derive(Debug)]
pub(super) enum AppendError {
    /// The log is as it was; a later append may succeed.
    Refused(io::Error),
    /// What is on disk is not known any more: nothing may be written.
    Broken(io::Error),
}

/// Opens or creates the log at `path`, and reads what it holds.
pub(super) fn open(path: &Path, options: Options) -> Result<(Log, Table), StoreError> {
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        std::fs::create_dir_all(parent).map_err(|error| cannot("create", parent, &error))?;
    }
    let lock = lock(path)?;
    match std::fs::remove_file(beside(path, "new")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(cannot("remove", &beside(path, "new"), &error));
        }
        _ => {}
    }
    let mut file = match open_rw(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            replace(path, &Header { base: 0, count: 0 }.encode())
                .map_err(|failed| cannot("create", path, &failed.into()))?
        }
        other => other.map_err(|error| cannot("open", path, &error))?,
    };
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(|error| cannot("read", path, &error))?;
    let header = Header::decode(&bytes).map_err(|bad| bad_header(path, bad))?;
    let mut table = Table::new(options.history);
    let mut foreign = BTreeMap::new();
    table.forget_history(Revision(if header.count == 0 { header.base } else { 0 }));
    let good = scan(&bytes, header, |record, completes_snapshot| {
        load(record, &mut table, &mut foreign);
        if completes_snapshot {
            // It says nothing about what was deleted before it.
            table.forget_history(Revision(header.base));
        }
    })
    .map_err(|damage| damaged(path, damage.at, damage.what))?;
    if good < bytes.len() {
        cut(path, &file, &bytes, good)?;
    }
    for (path, (revision, _)) in &foreign {
        tracing::warn!(path, revision, "an object of a kind unknown to this version is kept");
    }
    let length = good as u64;
    let mut log = Log {
        path: path.to_owned(),
        file,
        length,
        synced: length,
        compact_at: 0,
        options,
        foreign,
        lock,
    };
    // What the process before left to the kernel is not on disk for certain.
    log.file.sync_all().map_err(|error| cannot("sync", path, &error))?;
    log.compact_at = log.due(log.live(&table));
    Ok((log, table))
}

fn load(record: Record<'_>, table: &mut Table, foreign: &mut BTreeMap<String, (u64, String)>) {
    let revision = Revision(record.revision);
    if let Ok(key) = record.path.parse::<Key>() {
        return table.apply(Change { key, value: record.value.map(Arc::from), revision });
    }
    match record.value {
        Some(value) => {
            foreign.insert(record.path.to_owned(), (record.revision, value.to_owned()));
        }
        None => {
            foreign.remove(record.path);
        }
    }
    // Takes up the revision, which a watcher cannot be told about.
    table.forget_history(revision);
}

impl Log {
    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Appends changes, and waits for the disk if so configured.
    pub(super) fn append(&mut self, changes: &[Change]) -> Result<(), AppendError> {
        let paths: Vec<String> = changes.iter().map(|change| change.key.to_string()).collect();
        let records = changes.iter().zip(&paths).map(|(change, path)| Record {
            path,
            value: change.value.as_deref(),
            revision: change.revision.0,
        });
        let mut frames = Vec::new();
        format::encode(records, self.synced, &mut frames);
        if let Err(error) = self.file.write_all_at(&frames, self.length) {
            return Err(match self.file.set_len(self.length) {
                Ok(()) => AppendError::Refused(error),
                Err(_) => AppendError::Broken(error),
            });
        }
        // After a failed sync the kernel may drop the pages and call the next sync a success, so
        // there is no trying again.
        if self.options.durability == Durability::Disk {
            self.file.sync_data().map_err(AppendError::Broken)?;
            self.synced = self.length + frames.len() as u64;
        }
        self.length += frames.len() as u64;
        Ok(())
    }

    /// Whether half of the log may be garbage.
    pub(super) const fn is_compaction_due(&self) -> bool {
        self.length >= self.compact_at
    }

    /// Replaces the log by a snapshot: `listing` is everything. The old log is in use until the
    /// new one is complete on disk.
    pub(super) fn compact(&mut self, listing: &Listing) -> Result<(), AppendError> {
        let own = listing.entries.iter().map(|entry| {
            let (value, revision) = (Some(&*entry.value), entry.revision.0);
            (entry.key.to_string(), Record { path: "", value, revision })
        });
        let foreign = self.foreign.iter().map(|(path, (revision, value))| {
            (path.clone(), Record { path: "", value: Some(value), revision: *revision })
        });
        let mut records: Vec<(String, Record<'_>)> = own.chain(foreign).collect();
        records.sort_unstable_by_key(|(_, record)| record.revision);
        let header = Header { base: listing.revision.0, count: records.len() as u64 };
        let mut bytes = header.encode().to_vec();
        let snapshot = records.iter().map(|(path, record)| Record { path, ..*record });
        format::encode(snapshot, 0, &mut bytes);

        // If it fails, the next attempt comes after as much again.
        self.compact_at = self.length.saturating_mul(2);
        let file = replace(&self.path, &bytes)?;
        tracing::info!(path = %self.path.display(), from = self.length, to = bytes.len(), "compacted");
        self.file = file;
        self.length = bytes.len() as u64;
        self.synced = self.length;
        self.compact_at = self.due(self.length);
        Ok(())
    }

    fn due(&self, live: u64) -> u64 {
        live.saturating_mul(2).max(self.options.compact_from)
    }

    /// Bytes of a log without garbage, roughly.
    fn live(&self, table: &Table) -> u64 {
        let own = table.entries().map(|entry| entry.key.to_string().len() + entry.value.len() + 15);
        let foreign = self.foreign.iter().map(|(path, (_, value))| path.len() + value.len() + 15);
        (own.chain(foreign).sum::<usize>() + HEADER) as u64
    }
}

/// Why a log could not take its name; the file that has the name is whole in each case.
#[derive(Debug)]
enum ReplaceError {
    /// The old log is in use still.
    Before(io::Error),
    /// Which of the two a crash would leave is not known.
    After(io::Error),
}

impl From<ReplaceError> for io::Error {
    fn from(error: ReplaceError) -> Self {
        match error {
            ReplaceError::Before(error) | ReplaceError::After(error) => error,
        }
    }
}

impl From<ReplaceError> for AppendError {
    fn from(error: ReplaceError) -> Self {
        match error {
            ReplaceError::Before(error) => Self::Refused(error),
            ReplaceError::After(error) => Self::Broken(error),
        }
    }
}

/// Puts `bytes` on disk beside `path`, then in its place.
fn replace(path: &Path, bytes: &[u8]) -> Result<File, ReplaceError> {
    let new = beside(path, "new");
    let written = (|| {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        file.rewind()?;
        std::fs::rename(&new, path)?;
        Ok(file)
    })();
    let file = written.map_err(|error| {
        // Best effort: the next start removes it too.
        let _ = std::fs::remove_file(&new);
        ReplaceError::Before(error)
    })?;
    sync_directory(path).map_err(ReplaceError::After)?;
    Ok(file)
}

fn sync_directory(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or_else(|| Path::new(".")))?.sync_all()
}

/// Cuts an unfinished write off the end, and keeps its bytes in `<file>.torn`.
fn cut(path: &Path, file: &File, bytes: &[u8], good: usize) -> Result<(), StoreError> {
    let torn = beside(path, "torn");
    let kept = (|| {
        let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(&torn)?;
        file.write_all(&bytes[good..])?;
        file.sync_all()
    })();
    kept.map_err(|error| cannot("write", &torn, &error))?;
    file.set_len(good as u64)
        .and_then(|()| file.sync_all())
        .map_err(|error| cannot("cut", path, &error))?;
    tracing::warn!(
        path = %path.display(),
        offset = good,
        bytes = bytes.len() - good,
        kept = %torn.display(),
        "cut off the unfinished write that a crash left at the end of the store"
    );
    Ok(())
}

fn open_rw(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

/// `<path>.<suffix>`.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name: OsString = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_of_a_newer_version_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("calico.db");
        let newer = "/calico/resources/v3/projectcalico.org/gadgets/x";
        let record = |revision, value| Record { path: newer, value: Some(value), revision };
        let mut bytes = Header { base: 0, count: 0 }.encode().to_vec();
        format::encode([record(1, "old"), record(2, "new")], 0, &mut bytes);
        std::fs::write(&path, &bytes).unwrap();

        let (mut log, table) = open(&path, Options::new()).unwrap();
        assert_eq!((table.len(), table.revision()), (0, Revision(2)), "it takes up revisions");
        log.compact(&table.list(&calico_core::key::Scope::All)).unwrap();
        let change = Change { key: Key::IpamConfig, value: None, revision: Revision(3) };
        log.append(&[change]).unwrap();
        drop(log);
        let (log, table) = open(&path, Options::new()).unwrap();
        assert_eq!(table.revision(), Revision(3));
        assert_eq!(log.foreign[newer], (2, "new".to_owned()));
    }
}
