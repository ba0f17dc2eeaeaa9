//! Comparing a route's prefix with another.

use std::ops::RangeInclusive;

use ipnet::IpNet;

/// A comparison with one prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PrefixMatch {
    prefix: IpNet,
    min_len: u8,
    max_len: u8,
    negated: bool,
}

impl PrefixMatch {
    /// The same prefix.
    pub fn exactly(prefix: IpNet) -> Self {
        let len = prefix.prefix_len();
        Self { prefix, min_len: len, max_len: len, negated: false }
    }

    /// The same prefix or one inside of it.
    pub fn within(prefix: IpNet) -> Self {
        let (min_len, max_len) = (prefix.prefix_len(), prefix.max_prefix_len());
        Self { prefix, min_len, max_len, negated: false }
    }

    /// Only prefixes of these lengths ("ge" and "le" of others).
    #[must_use]
    pub fn lengths(self, lengths: RangeInclusive<u8>) -> Self {
        Self { min_len: *lengths.start(), max_len: *lengths.end(), ..self }
    }

    /// The opposite: of either family, all that did not match.
    #[must_use]
    pub const fn negated(self) -> Self {
        Self { negated: !self.negated, ..self }
    }

    /// Whether a route's prefix matches.
    pub fn matches(&self, prefix: &IpNet) -> bool {
        let inside = (self.min_len..=self.max_len).contains(&prefix.prefix_len())
            && self.prefix.contains(prefix);
        inside != self.negated
    }
}
