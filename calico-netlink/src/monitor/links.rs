//! What is known of interfaces, and what a new sight of them changes. Pure.

use std::collections::BTreeMap;

use crate::link::Link;

/// What happened to an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LinkChange {
    /// It is there; up or down, see the interface.
    New,
    /// It was set up.
    Up,
    /// It was set down. The kernel dropped its routes.
    Down,
    /// Something else about it: name, carrier, MTU, bridge.
    Changed,
    /// It is gone, and its index with it.
    Gone,
}

/// An interface and what happened to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkEvent {
    /// What happened.
    pub change: LinkChange,
    /// The interface as it is now, or was before it went.
    pub link: Link,
}

#[derive(Debug, Default)]
pub(super) struct Links {
    known: BTreeMap<u32, Link>,
}

impl Links {
    pub(super) fn seen(&mut self, mut link: Link) -> Option<LinkEvent> {
        // Notifications and lists differ in how much they tell of settings.
        link.settings = Default::default();
        let change = match self.known.insert(link.index, link.clone()) {
            None => LinkChange::New,
            Some(before) if before == link => return None,
            Some(before) if before.up == link.up => LinkChange::Changed,
            Some(_) if link.up => LinkChange::Up,
            Some(_) => LinkChange::Down,
        };
        Some(LinkEvent { change, link })
    }

    pub(super) fn gone(&mut self, index: u32) -> Option<LinkEvent> {
        let link = self.known.remove(&index)?;
        Some(LinkEvent { change: LinkChange::Gone, link })
    }

    /// All interfaces there are: the others have gone.
    pub(super) fn replace(&mut self, all: Vec<Link>) -> Vec<LinkEvent> {
        let mut missing: Vec<u32> = self.known.keys().copied().collect();
        missing.retain(|index| all.iter().all(|link| link.index != *index));
        let gone: Vec<_> = missing.into_iter().filter_map(|index| self.gone(index)).collect();
        gone.into_iter().chain(all.into_iter().filter_map(|link| self.seen(link))).collect()
    }
}
