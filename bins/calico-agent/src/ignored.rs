//! Objects of the datastore that have mistakes: told of once, and shown as long as they are there.

use std::collections::{BTreeMap, HashMap};

use calico_core::datastore::WatchEvent;
use calico_core::key::Key;
use tracing::warn;

/// So many are remembered. Of more than these, each is told of at every listing, and shown by
/// nobody.
const REMEMBERED: usize = 1000;

/// What is wrong with which objects.
#[derive(Debug, Default)]
pub(crate) struct Ignored {
    objects: HashMap<Place, Mistake>,
    changed: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Place {
    Key(Key),
    /// Of something that has not even the name of an object.
    Path(String),
}

#[derive(Debug)]
struct Mistake {
    reason: String,
    /// Whether the listing under way has shown it.
    shown: bool,
}

impl Ignored {
    /// An object cannot be read or makes no sense, and this is what follows from it.
    pub(crate) fn note(&mut self, key: &Key, reason: &str, effect: &str) {
        self.note_at(Place::Key(key.clone()), &key.to_string(), reason, effect);
    }

    /// Something is stored at `path` that is no object at all.
    pub(crate) fn note_path(&mut self, path: &str, reason: &str) {
        self.note_at(Place::Path(path.to_owned()), path, reason, "it has no effect");
    }

    /// An object is fine, or gone.
    pub(crate) fn clear(&mut self, key: &Key) {
        // Nearly always there are none.
        if !self.objects.is_empty() && self.objects.remove(&Place::Key(key.clone())).is_some() {
            self.changed = true;
        }
    }

    /// Follows listings: what they do not show any more is gone.
    pub(crate) fn follow(&mut self, event: &WatchEvent) {
        match event {
            WatchEvent::Begin => self.objects.values_mut().for_each(|it| it.shown = false),
            WatchEvent::Ready(_) => {
                let before = self.objects.len();
                self.objects.retain(|_, mistake| mistake.shown);
                self.changed |= self.objects.len() < before;
            }
            _ => {}
        }
    }

    /// All of them by their paths, with what is wrong, if others than at the last call.
    pub(crate) fn news(&mut self) -> Option<BTreeMap<String, String>> {
        std::mem::take(&mut self.changed).then(|| {
            let show = |(place, mistake): (&Place, &Mistake)| {
                let path = match place {
                    Place::Key(key) => key.to_string(),
                    Place::Path(path) => path.clone(),
                };
                (path, mistake.reason.clone())
            };
            self.objects.iter().map(show).collect()
        })
    }

    fn note_at(&mut self, place: Place, path: &str, reason: &str, effect: &str) {
        if let Some(known) = self.objects.get_mut(&place)
            && known.reason == reason
        {
            known.shown = true;
            return;
        }
        warn!(path, reason, "an object in the datastore is ignored: {effect}");
        if self.objects.len() < REMEMBERED || self.objects.contains_key(&place) {
            self.objects.insert(place, Mistake { reason: reason.to_owned(), shown: true });
            self.changed = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use calico_core::datastore::Revision;
    use calico_core::kind::Kind;

    use super::*;

    fn shown(ignored: &mut Ignored) -> Option<String> {
        let news = ignored.news()?;
        Some(news.into_iter().map(|(at, why)| format!("{at}: {why}\n")).collect())
    }

    #[test]
    fn each_is_told_of_once_and_shown_while_it_is_there() {
        let mut ignored = Ignored::default();
        assert_eq!(shown(&mut ignored), None);
        let key = Key::resource(Kind::Tier, None, "t");
        let path = key.to_string();
        ignored.note(&key, "odd", "x");
        assert_eq!(shown(&mut ignored), Some(format!("{path}: odd\n")));
        ignored.note(&key, "odd", "x");
        assert_eq!(shown(&mut ignored), None, "nothing new");
        ignored.note(&key, "odder", "x");
        assert_eq!(shown(&mut ignored), Some(format!("{path}: odder\n")));
        ignored.clear(&Key::resource(Kind::Tier, None, "other"));
        assert_eq!(shown(&mut ignored), None);
        ignored.clear(&key);
        assert_eq!(shown(&mut ignored), Some(String::new()));
    }

    #[test]
    fn a_listing_without_it_forgets_it() {
        let mut ignored = Ignored::default();
        ignored.note_path("nonsense", "no JSON");
        ignored.note(&Key::resource(Kind::Tier, None, "t"), "odd", "x");
        let both = shown(&mut ignored).unwrap();
        assert!(both.contains("tiers/t: odd\n") && both.contains("nonsense: no JSON\n"), "{both}");
        ignored.follow(&WatchEvent::Begin);
        ignored.note_path("nonsense", "no JSON");
        ignored.follow(&WatchEvent::Ready(Revision(2)));
        assert_eq!(shown(&mut ignored).unwrap(), "nonsense: no JSON\n");
        ignored.follow(&WatchEvent::Begin);
        ignored.follow(&WatchEvent::Ready(Revision(3)));
        assert_eq!(shown(&mut ignored).unwrap(), "");
    }
}
