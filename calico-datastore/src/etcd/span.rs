//! Which keys of etcd hold a [`Scope`], and what they hold.

use std::sync::Arc;

use bytes::Bytes;
use calico_core::datastore::{Entry, Revision};
use calico_core::key::{Key, Scope, UnknownPath};

use super::stored::from_stored;
use super::wire::StoredObject;

/// What upstream keeps next to the objects: what its agents report, and data of its version 1.
const FOREIGN: [&str; 3] = ["/calico/felix/", "/calico/bgp/", "/calico/v1/"];

/// The keys from `start` to before `end`; `start` alone if `end` is empty.
#[derive(Debug, Clone)]
pub(super) struct Span {
    pub(super) start: Bytes,
    pub(super) end: Bytes,
    scope: Scope,
    prefixes: Vec<String>,
}

/// What was found at a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    Object(Entry),
    /// Nothing that belongs to the scope.
    Other,
    /// Something that nobody understands.
    Bad {
        path: String,
        reason: String,
    },
}

impl Span {
    pub(super) fn of(scope: Scope) -> Self {
        let prefixes = scope.prefixes();
        let start = prefixes.iter().min().cloned().unwrap_or_default();
        let end = match scope {
            Scope::One(_) => Bytes::new(),
            _ => prefixes.iter().max().map(|last| after(last)).unwrap_or_default(),
        };
        Self { start: start.into(), end, scope, prefixes }
    }

    /// The object at a key.
    pub(super) fn read(&self, object: StoredObject<'_>) -> Found {
        match self.key(object.key) {
            Ok(Some(key)) => match std::str::from_utf8(object.value) {
                Ok(value) => {
                    let value: Arc<str> = from_stored(&key, value).into();
                    Found::Object(Entry { key, value, revision: revision(object.mod_revision) })
                }
                Err(error) => bad(object.key, &error),
            },
            Ok(None) => Found::Other,
            Err(found) => found,
        }
    }

    /// The name at a key, if it is of the scope.
    pub(super) fn key(&self, path: &[u8]) -> Result<Option<Key>, Found> {
        let text = std::str::from_utf8(path).map_err(|error| bad(path, &error))?;
        let ours = self.prefixes.iter().any(|prefix| text.starts_with(prefix));
        if !ours || FOREIGN.iter().any(|foreign| text.starts_with(foreign)) {
            return Ok(None);
        }
        let key: Key = text.parse().map_err(|error: UnknownPath| bad(path, &error))?;
        Ok(self.scope.contains(&key).then_some(key))
    }
}

/// A revision of etcd; it never has negative ones.
pub(super) fn revision(number: i64) -> Revision {
    Revision(u64::try_from(number).unwrap_or_default())
}

fn bad(path: &[u8], reason: &dyn std::fmt::Display) -> Found {
    let path = String::from_utf8_lossy(path).into_owned();
    Found::Bad { path, reason: reason.to_string() }
}

/// The first key after all that begin with `prefix`, whose last byte is ASCII.
fn after(prefix: &str) -> Bytes {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end.into()
}

#[cfg(test)]
mod tests {
    use calico_core::kind::Kind;

    use super::*;

    fn at<'a>(key: &'a str, value: &'a [u8]) -> StoredObject<'a> {
        StoredObject { key: key.as_bytes(), mod_revision: 7, value }
    }

    #[test]
    fn a_scope_is_one_range() {
        let check = |scope: Scope, start: &str, end: &str| {
            let span = Span::of(scope);
            assert_eq!((&span.start[..], &span.end[..]), (start.as_bytes(), end.as_bytes()));
        };
        check(Scope::All, "/calico/", "/calico0");
        check(
            Scope::Kind(Kind::Tier),
            "/calico/resources/v3/projectcalico.org/tiers/",
            "/calico/resources/v3/projectcalico.org/tiers0",
        );
        check(Scope::Affinities, "/calico/ipam/v2/host/", "/calico/ipam/v2/virtual0");
        check(Scope::One(Key::IpamConfig), "/calico/ipam/v2/config", "");
    }

    #[test]
    fn what_is_found_is_sorted_out() {
        let all = Span::of(Scope::All);
        let entry =
            Entry { key: Key::Handle("h".into()), value: "{}".into(), revision: Revision(7) };
        assert_eq!(all.read(at("/calico/ipam/v2/handle/h", b"{}")), Found::Object(entry));
        assert_eq!(all.read(at("/calico/felix/v2/no-region/host/n/status", b"{}")), Found::Other);
        for bad in [at("/calico/ipam/v2/handle/", b"{}"), at("/calico/ipam/v2/handle/h", b"\xff")] {
            assert!(matches!(all.read(bad), Found::Bad { .. }), "{bad:?}");
        }
        let affinities = Span::of(Scope::Affinities);
        for other in ["/calico/ipam/v2/host/n", "/calico/ipam/v2/i/x"] {
            assert_eq!(affinities.read(at(other, b"")), Found::Other, "{other}");
        }
    }
}
