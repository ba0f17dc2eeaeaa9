//! What a filter says about a route.

use super::{Action, Condition, Filter, Operation, Otherwise};
use crate::rib::{PeerKind, PolicyReason, PolicyRoute, RoutePolicy, Verdict};
use crate::wire::{AsPath, AsPathSegment, PathAttributes};

impl RoutePolicy for Filter {
    fn evaluate(&self, route: &PolicyRoute<'_>) -> Verdict {
        self.decide(route).0
    }
}

impl Filter {
    /// Which rule decides on a route.
    pub fn reason(&self, route: &PolicyRoute<'_>) -> PolicyReason {
        let rule = self.decide(route).1;
        let label = self.labels.get(rule.unwrap_or(self.rules.len()));
        PolicyReason { rule, label: label.cloned() }
    }

    /// What becomes of a route, and which rule says so.
    fn decide(&self, route: &PolicyRoute<'_>) -> (Verdict, Option<usize>) {
        let mut changed: Option<PathAttributes> = None;
        for (at, rule) in self.rules.iter().enumerate() {
            let attributes = changed.as_ref().unwrap_or(route.attributes);
            let seen = PolicyRoute { attributes, ..*route };
            if !rule.conditions.iter().all(|condition| condition.holds(&seen)) {
                continue;
            }
            match &rule.action {
                Action::Reject => return (Verdict::Reject, Some(at)),
                Action::Accept(operations) => {
                    if !operations.is_empty() {
                        changed = Some(apply(operations, &seen));
                    }
                    return (pass(changed), Some(at));
                }
                Action::Change(operations) => changed = Some(apply(operations, &seen)),
            }
        }
        match self.otherwise {
            Otherwise::Accept => (pass(changed), None),
            Otherwise::Reject => (Verdict::Reject, None),
        }
    }
}

fn apply(operations: &[Operation], route: &PolicyRoute<'_>) -> PathAttributes {
    let mut attributes = route.attributes.clone();
    operations.iter().for_each(|operation| operation.apply(route, &mut attributes));
    attributes
}

fn pass(changed: Option<PathAttributes>) -> Verdict {
    changed.map_or(Verdict::Accept, |attributes| Verdict::Modify(Box::new(attributes)))
}

impl Condition {
    /// Whether it holds for a route.
    pub fn holds(&self, route: &PolicyRoute<'_>) -> bool {
        let attributes = route.attributes;
        let peer = route.to.unwrap_or(route.from);
        let local_pref = attributes.local_pref.or(route.local_pref);
        match self {
            Self::Prefix(prefix) => prefix.matches(route.prefix),
            Self::Prefixes(list) => list.permits(route.prefix),
            Self::Family(family) => crate::wire::Family::of_prefix(route.prefix) == *family,
            Self::Learned => route.from.kind != PeerKind::Local,
            Self::Local => route.from.kind == PeerKind::Local,
            Self::Interface(pattern) => {
                route.from.traits.interface.as_deref().is_some_and(|name| pattern.matches(name))
            }
            Self::ExternalPeer => peer.kind == PeerKind::External,
            Self::InternalPeer => peer.kind.is_internal(),
            Self::Community(community) => community.is_on(attributes),
            Self::AsPathPrefix(wanted) => {
                let mut path = numbers(&attributes.as_path).skip(own_hops(route));
                wanted.iter().all(|asn| path.next() == Some(*asn))
            }
            Self::AsPathContains(asn) => {
                numbers(&attributes.as_path).skip(own_hops(route)).any(|a| a == *asn)
            }
            Self::LocalPref(value) => local_pref == Some(*value),
            Self::LocalPrefAbove(value) => local_pref.is_some_and(|pref| pref > *value),
        }
    }
}

impl Operation {
    fn apply(&self, route: &PolicyRoute<'_>, attributes: &mut PathAttributes) {
        match self {
            Self::AddCommunity(community) => community.put_on(attributes),
            Self::RemoveCommunity(community) => community.take_off(attributes),
            Self::PrependAsPath(asns) => {
                attributes.as_path = insert(&attributes.as_path, own_hops(route), asns);
            }
            Self::SetLocalPref(value) => {
                if route.to.is_none_or(|to| to.kind != PeerKind::External) {
                    attributes.local_pref = Some(*value);
                }
            }
            Self::SetMed(value) => attributes.med = Some(*value),
        }
    }
}

/// How many AS numbers this speaker has put in front of the path itself: its own, on the way to
/// another AS.
fn own_hops(route: &PolicyRoute<'_>) -> usize {
    let to = route.to.filter(|to| to.kind == PeerKind::External);
    usize::from(to.is_some_and(|to| route.attributes.as_path.neighbor() == Some(to.local_as)))
}

fn numbers(path: &AsPath) -> impl Iterator<Item = u32> {
    path.segments().iter().flat_map(|s| s.asns.iter().copied())
}

/// Puts AS numbers into a path behind its first `behind` numbers, which are of a sequence.
fn insert(path: &AsPath, behind: usize, asns: &[u32]) -> AsPath {
    let (head, tail): (Vec<u32>, Vec<AsPathSegment>) = match path.segments().split_first() {
        Some((first, rest)) if behind > 0 => {
            let (head, left) = first.asns.split_at(behind.min(first.asns.len()));
            let left = AsPathSegment { kind: first.kind, asns: left.to_vec() };
            (head.to_vec(), [left].into_iter().chain(rest.iter().cloned()).collect())
        }
        _ => (Vec::new(), path.segments().to_vec()),
    };
    let mut path = AsPath::from_segments(tail);
    for asn in head.iter().chain(asns).rev() {
        path = path.prepend(*asn, 1);
    }
    path
}
