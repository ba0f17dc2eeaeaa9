//! How a peer's AS numbers are treated beyond RFC 4271: what operators know as local AS,
//! allow-own-AS, AS override and remove-private-AS.

use super::PeerFacts;
use crate::wire::{AsPath, AsPathSegment, PathAttributes};

/// What is done with private AS numbers (RFC 6996) in paths that leave to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum PrivateAs {
    /// They stay.
    #[default]
    Keep,
    /// They are left out.
    Remove,
    /// Each is replaced by this side's AS number, so that paths keep their length.
    Replace,
}

/// Treatment of AS numbers on the session with one peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct AsRules {
    /// How often this side's AS number may be in a received path: 0 refuses any loop.
    pub allow_own: u8,
    /// Replaces the peer's AS number by this side's in paths sent to it, so that two sites with
    /// one AS number accept each other's routes.
    pub override_peer: bool,
    /// Private AS numbers in paths sent to it.
    pub private: PrivateAs,
    /// Behind the AS number of the session, paths sent to it also show this one: the speaker's
    /// own, when the session uses another and does not hide it.
    pub behind: Option<u32>,
    /// Paths received from an external peer show this side's AS number of the session in front:
    /// the speaker's other peers see the AS that the peer believes it is connected to.
    pub prepend_received: bool,
    /// Paths of an external peer must begin with its AS number (RFC 4271, section 6.3); those of a
    /// route server do not.
    pub enforce_first: bool,
}

impl AsRules {
    /// Whether a received path begins where it must.
    pub(super) fn starts_at(&self, from: &PeerFacts, attributes: &PathAttributes) -> bool {
        !self.enforce_first
            || from.kind.is_internal()
            || attributes.as_path.neighbor() == Some(from.asn)
    }

    /// Whether a received path has been here too often.
    pub(super) fn is_loop(&self, from: &PeerFacts, attributes: &PathAttributes) -> bool {
        let allowed = usize::from(self.allow_own);
        let too_often = |asn: u32| attributes.as_path.count(asn) > allowed;
        // The speaker's own number counts too when the session shows another (unless the peer
        // is in that very AS, whose number is in every path it sends).
        too_often(from.local_as)
            || (from.speaker_as != from.local_as
                && from.speaker_as != from.asn
                && too_often(from.speaker_as))
    }

    /// A path as it is taken in from a peer.
    pub(super) fn enter(&self, path: &mut AsPath, from: &PeerFacts) {
        if self.prepend_received && !from.kind.is_internal() {
            *path = path.prepend(from.local_as, 1);
        }
    }

    /// The path as an external peer is told it.
    pub(super) fn leave(&self, path: &AsPath, to: &PeerFacts) -> AsPath {
        let mut path = path.clone();
        if self.override_peer {
            path = map(&path, |asn| Some(if asn == to.asn { to.local_as } else { asn }));
        }
        if self.private != PrivateAs::Keep {
            path = map(&path, |asn| match self.private {
                // The peer's own number stays: it must see its loops.
                _ if !is_private(asn) || asn == to.asn => Some(asn),
                PrivateAs::Replace => Some(to.local_as),
                _ => None,
            });
        }
        if let Some(behind) = self.behind.filter(|asn| *asn != to.local_as) {
            path = path.prepend(behind, 1);
        }
        path.prepend(to.local_as, 1)
    }
}

/// RFC 6996, section 5.
const fn is_private(asn: u32) -> bool {
    matches!(asn, 64_512..=65_534 | 4_200_000_000..=4_294_967_294)
}

fn map(path: &AsPath, to: impl Fn(u32) -> Option<u32>) -> AsPath {
    AsPath::from_segments(path.segments().iter().map(|s| AsPathSegment {
        kind: s.kind,
        asns: s.asns.iter().filter_map(|asn| to(*asn)).collect(),
    }))
}

#[cfg(test)]
mod tests {
    use super::super::PeerKind;
    use super::super::tests::facts;
    use super::*;

    #[test]
    fn paths_as_they_leave() {
        let to = PeerFacts { asn: 65_002, local_as: 65_001, ..facts(2, PeerKind::External) };
        let check = |rules: AsRules, path: &[u32], expected: &str| {
            let sent = rules.leave(&AsPath::sequence(path.iter().copied()), &to);
            assert_eq!(sent.to_string(), expected, "{rules:?}");
        };
        let rules = AsRules::default();
        check(rules, &[65_002, 7], "65001 65002 7");
        check(AsRules { override_peer: true, ..rules }, &[65_002, 7], "65001 65001 7");
        let remove = AsRules { private: PrivateAs::Remove, ..rules };
        check(remove, &[64_512, 7, 4_200_000_000, 65_002], "65001 7 65002");
        check(remove, &[64_512], "65001");
        let replace = AsRules { private: PrivateAs::Replace, ..rules };
        check(replace, &[64_512, 7], "65001 65001 7");
        check(AsRules { behind: Some(64_512), ..rules }, &[7], "65001 64512 7");
        check(AsRules { behind: Some(65_001), ..rules }, &[7], "65001 7");
    }

    #[test]
    fn loops_up_to_a_count() {
        let from = PeerFacts { asn: 7, local_as: 1, speaker_as: 2, ..facts(2, PeerKind::External) };
        let check = |allow_own: u8, path: &[u32], expected: bool| {
            let as_path = AsPath::sequence(path.iter().copied());
            let attributes = PathAttributes { as_path, ..Default::default() };
            let rules = AsRules { allow_own, ..AsRules::default() };
            assert_eq!(rules.is_loop(&from, &attributes), expected, "{allow_own} {path:?}");
        };
        check(0, &[7, 8], false);
        check(0, &[7, 1], true);
        check(0, &[7, 2], true);
        check(1, &[7, 1, 2], false);
        check(1, &[7, 1, 1], true);
        check(2, &[7, 1, 1], false);
    }
}
