//! What a selector is matched against.

use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasher;

/// Labels, wherever they are kept.
pub trait Labels {
    /// The value of label `name`.
    fn get(&self, name: &str) -> Option<&str>;
}

impl Labels for BTreeMap<String, String> {
    fn get(&self, name: &str) -> Option<&str> {
        self.get(name).map(String::as_str)
    }
}

impl<H: BuildHasher> Labels for HashMap<String, String, H> {
    fn get(&self, name: &str) -> Option<&str> {
        self.get(name).map(String::as_str)
    }
}

impl<K: AsRef<str>, V: AsRef<str>> Labels for [(K, V)] {
    /// The first entry counts.
    fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(key, _)| key.as_ref() == name).map(|(_, value)| value.as_ref())
    }
}

impl<T: Labels + ?Sized> Labels for &T {
    fn get(&self, name: &str) -> Option<&str> {
        (**self).get(name)
    }
}
