//! Which number each interface has. Sets of interfaces by number are asked in less time than sets of
//! names, but a name can be spoken of before the interface is there, and numbers come and go.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::flowtable::Devices;

/// What the kernel told of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) index: u32,
    /// Its name by now; `None`: it is gone.
    pub(super) name: Option<Arc<str>>,
}

/// The interfaces there are.
#[derive(Debug, Default)]
pub(super) struct Links {
    names: BTreeMap<u32, Arc<str>>,
    numbers: Devices,
}

impl Links {
    /// The number of this interface, if it is there.
    pub(super) fn number(&self, name: &str) -> Option<u32> {
        self.numbers.get(name).copied()
    }

    /// Takes in what the kernel told; returns the names whose number is another by now.
    pub(super) fn hear(&mut self, told: Told) -> BTreeSet<Arc<str>> {
        let Told { index, name } = told;
        let before = self.names.remove(&index);
        let mut changed = BTreeSet::new();
        // Another interface may have its name by now.
        if let Some(before) = before.filter(|before| self.numbers.get(before) == Some(&index))
            && name.as_ref() != Some(&before)
        {
            self.numbers.remove(&before);
            changed.insert(before);
        }
        if let Some(name) = name {
            if self.numbers.insert(Arc::clone(&name), index) != Some(index) {
                changed.insert(Arc::clone(&name));
            }
            self.names.insert(index, name);
        }
        changed
    }

    /// These are all interfaces; returns the names whose number is another by now.
    pub(super) fn replace(&mut self, numbers: Devices) -> BTreeSet<Arc<str>> {
        let all = numbers.keys().chain(self.numbers.keys());
        let changed = all.filter(|name| numbers.get(*name) != self.numbers.get(*name));
        let changed = changed.cloned().collect();
        self.names = numbers.iter().map(|(name, index)| (*index, Arc::clone(name))).collect();
        self.numbers = numbers;
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_follow_what_was_told() {
        let mut links = Links::default();
        let mut hear = |index, name: Option<&str>| {
            let changed = links.hear(Told { index, name: name.map(Arc::from) });
            let changed: Vec<String> = changed.iter().map(|name| name.to_string()).collect();
            (changed.join(" "), ["a", "b"].map(|name| links.number(name)))
        };
        let is = |changed: &str, a: Option<u32>, b: Option<u32>| (changed.to_owned(), [a, b]);
        assert_eq!(hear(1, Some("a")), is("a", Some(1), None));
        assert_eq!(hear(1, Some("a")), is("", Some(1), None));
        // Renamed.
        assert_eq!(hear(1, Some("b")), is("a b", None, Some(1)));
        // The name went to another one; that the first is gone was told late.
        assert_eq!(hear(2, Some("b")), is("b", None, Some(2)));
        assert_eq!(hear(1, None), is("", None, Some(2)));
        assert_eq!(hear(2, None), is("b", None, None));
        assert_eq!(hear(2, None), is("", None, None));

        let all = |all: &[(&str, u32)]| all.iter().map(|(n, i)| (Arc::from(*n), *i)).collect();
        assert_eq!(links.replace(all(&[("a", 3), ("c", 4)])).len(), 2);
        assert_eq!(links.replace(all(&[("a", 5), ("c", 4)])), BTreeSet::from(["a".into()]));
        assert_eq!(links.hear(Told { index: 5, name: None }), BTreeSet::from(["a".into()]));
    }
}
