//! Prefix limits: a peer that tells too much is warned about, or loses its session.

use std::time::Duration;

/// How many prefixes a peer may have in the table, all families together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PrefixLimit {
    /// Most prefixes.
    pub max: usize,
    /// From how many on a warning is given; [`max`](Self::max) to have none before that.
    pub warn_at: usize,
    /// What happens above `max`.
    pub action: LimitAction,
}

/// What happens to a peer above its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LimitAction {
    /// Nothing but an event.
    Warn,
    /// The session ends (RFC 4486, Cease subcode 1), its routes go, and there is no other for
    /// this time, unless the peer is reset by hand.
    Cease {
        /// How long.
        idle: Duration,
    },
}

impl PrefixLimit {
    /// At most `max` prefixes, a warning at 75 %, and 15 minutes without a session above.
    pub const fn new(max: usize) -> Self {
        let action = LimitAction::Cease { idle: Duration::from_secs(15 * 60) };
        Self { max, warn_at: max - max / 4, action }
    }

    /// How far a count is.
    pub(super) const fn level(&self, count: usize) -> LimitLevel {
        if count > self.max {
            LimitLevel::Exceeded
        } else if count >= self.warn_at && self.warn_at < self.max {
            LimitLevel::Near
        } else {
            LimitLevel::Fine
        }
    }
}

/// How far a peer is from its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum LimitLevel {
    /// Below the warning.
    #[default]
    Fine,
    /// At the warning or above.
    Near,
    /// Above the limit.
    Exceeded,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels() {
        let check = |limit: PrefixLimit, count, expected| assert_eq!(limit.level(count), expected);
        let limit = PrefixLimit::new(100);
        check(limit, 74, LimitLevel::Fine);
        check(limit, 75, LimitLevel::Near);
        check(limit, 100, LimitLevel::Near);
        check(limit, 101, LimitLevel::Exceeded);
        check(PrefixLimit { warn_at: 100, ..limit }, 100, LimitLevel::Fine);
        check(PrefixLimit::new(0), 1, LimitLevel::Exceeded);
    }
}
