//! What is told of objects.

use calico_core::datastore::{Entry, Revision, WatchEvent};

use super::super::reading::Read;
use super::Watch;

/// Malformed objects that are remembered as reported.
const REPORTED: usize = 1_000;

impl Watch {
    /// An object of a listing, or with `at` one that was written then.
    pub(super) fn found(&mut self, what: Read, at: Option<Revision>) {
        match what {
            Read::Object(entry) if self.scope.contains(&entry.key) => {
                self.ready.push_back(match at {
                    None => WatchEvent::Item(entry),
                    Some(_) => WatchEvent::Put(entry),
                });
            }
            Read::Hidden(key) if self.scope.contains(&key) => {
                if let Some(revision) = at {
                    self.ready.push_back(WatchEvent::Gone { key, revision });
                }
            }
            Read::Bad { path, reason, key } => {
                if let (Some(key), Some(revision)) = (key, at) {
                    self.ready.push_back(WatchEvent::Gone { key, revision });
                }
                self.report(path, reason);
            }
            Read::Object(_) | Read::Hidden(_) | Read::Other => {}
        }
    }

    pub(super) fn gone(&mut self, what: Read, revision: Revision) {
        let key = match what {
            Read::Object(Entry { key, .. }) | Read::Hidden(key) => key,
            Read::Bad { path, key: Some(key), .. } => {
                self.reported.remove(&path);
                key
            }
            Read::Bad { path, .. } => {
                self.reported.remove(&path);
                return;
            }
            Read::Other => return,
        };
        if self.scope.contains(&key) {
            self.ready.push_back(WatchEvent::Gone { key, revision });
        }
    }

    /// Tells of a malformed object, once until it is deleted.
    fn report(&mut self, path: String, reason: String) {
        if self.reported.len() >= REPORTED {
            self.reported.clear();
        }
        if self.reported.insert(path.clone()) {
            self.ready.push_back(WatchEvent::Bad { path, reason });
        }
    }
}
