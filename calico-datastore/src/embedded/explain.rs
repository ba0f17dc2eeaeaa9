//! What is wrong with a file, and what to do about it.

use std::io;
use std::path::Path;

use calico_core::datastore::StoreError;

use super::format::{BadHeader, VERSION};

pub(super) fn bad_header(path: &Path, bad: BadHeader) -> StoreError {
    let shown = path.display();
    match bad {
        BadHeader::Version(version) => StoreError::Unsupported {
            what: format!(
                "{shown} has format version {version}, this program knows version {VERSION}; use \
                 a newer program, the file is left as it is"
            ),
        },
        BadHeader::NotAStore => StoreError::Corrupt {
            reason: format!(
                "{shown} does not start as a Calico store does; name another file, or move this \
                 one away"
            ),
        },
        BadHeader::Damaged => damaged(path, 0, "the header is damaged"),
    }
}

pub(super) fn damaged(path: &Path, at: usize, what: &str) -> StoreError {
    StoreError::Corrupt { reason: format!("{}: {what} at offset {at}; {REMEDY}", path.display()) }
}

const REMEDY: &str = "the file is left as it is. Check the disk, then restore the file from a \
                      backup, or move it away to start with an empty store";

pub(super) fn cannot(verb: &str, path: &Path, error: &io::Error) -> StoreError {
    let advice = match error.kind() {
        io::ErrorKind::PermissionDenied => "; run as root, or choose a path that you may write",
        io::ErrorKind::StorageFull => "; free some space",
        io::ErrorKind::IsADirectory => "; give the path of a file",
        _ => "",
    };
    StoreError::Unavailable { reason: format!("cannot {verb} {}: {error}{advice}", path.display()) }
}
