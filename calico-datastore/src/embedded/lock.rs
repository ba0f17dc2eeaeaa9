//! One process at a time.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use calico_core::datastore::StoreError;

use super::explain::cannot;
use super::file::beside;

/// A holder that is on its way out, such as the program that is being restarted, gets this long.
const LOCK_TRIES: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// Keeps other processes out. The lock has a file of its own because compaction replaces the log.
pub(super) fn lock(path: &Path) -> Result<File, StoreError> {
    let name = beside(path, "lock");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&name)
        .map_err(|error| cannot("open", &name, &error))?;
    let mut patience = LOCK_TRIES;
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) if patience > 0 => {
                patience -= 1;
                thread::sleep(LOCK_PAUSE);
            }
            Err(TryLockError::WouldBlock) => return Err(in_use(path, &mut file)),
            Err(TryLockError::Error(error)) => return Err(cannot("lock", &name, &error)),
        }
    }
    file.set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(|error| cannot("write", &name, &error))?;
    Ok(file)
}

fn in_use(path: &Path, lock: &mut File) -> StoreError {
    let mut text = String::new();
    // The number only makes the message better.
    let _ = lock.take(32).read_to_string(&mut text);
    let holder = match text.trim().parse::<u32>() {
        Ok(pid) => match std::fs::read_to_string(format!("/proc/{pid}/comm")) {
            Ok(name) => format!("process {pid} ({})", name.trim()),
            Err(_) => format!("process {pid}"),
        },
        Err(_) => "another process".to_owned(),
    };
    StoreError::Unavailable {
        reason: format!(
            "{} is in use by {holder}; one process at a time may open it, connect to that \
             process's socket instead",
            path.display()
        ),
    }
}
