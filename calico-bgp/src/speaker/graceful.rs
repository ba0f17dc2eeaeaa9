//! Stale routes of one peer: graceful restart, helper side (RFC 4724, section 4.2), its
//! long-lived form (RFC 9494, section 4.2) and refreshes (RFC 7313). Pure: events in, what to do
//! with stale routes out. Each family goes its own way:
//!
//! | state      | event             | stale routes                            | next       |
//! |------------|-------------------|-----------------------------------------|------------|
//! | Fresh      | lost, kept        | are kept                                | Waiting    |
//! | Waiting    | restart time over | become a last resort, or are swept if the peer has no stale time | LongLived or Fresh |
//! | LongLived  | stale time over   | are swept                               | Fresh      |
//! | either     | lost again        | nothing (the table has dropped them)    | Waiting    |
//! | either     | back, state kept  | are kept                                | Receiving  |
//! | either     | back, state lost  | are swept                               | Fresh      |
//! | Fresh      | refresh begins    | are kept                                | Refreshing |
//! | Refreshing | refresh ends      | are swept                               | Fresh      |
//! | Receiving  | all told, or time over | are swept                          | Fresh      |

use std::time::{Duration, Instant};

use crate::wire::{Family, GracefulRestart, LongLivedFamily};

/// Longest time that a peer that is back may take to tell all its routes.
const STALE_TIME: Duration = Duration::from_secs(360);

/// What to do with the stale routes of a family because time is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Expiry {
    /// Drop them.
    Sweep,
    /// Keep them as a last resort (RFC 9494).
    LongLived,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The peer is away; afterwards its routes are kept this much longer.
    Waiting(Duration),
    LongLived,
    /// The peer is back, and has not told all.
    Receiving,
    /// The peer tells all anew.
    Refreshing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stale {
    family: Family,
    phase: Phase,
    until: Instant,
}

/// Which families of a peer hold stale routes, and until when.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RestartHelper {
    stale: Vec<Stale>,
}

impl RestartHelper {
    /// The session was lost and the routes of these families are kept: for a restart time and
    /// then a stale time, both in seconds, the latter no longer than `long_lived_max`.
    pub fn handle_lost(
        &mut self,
        now: Instant,
        kept: &[(Family, u16, u32)],
        long_lived_max: Duration,
    ) {
        let stale = |&(family, restart_time, stale_time): &(Family, u16, u32)| {
            let longer = Duration::from_secs(stale_time.into()).min(long_lived_max);
            let until = now + Duration::from_secs(restart_time.into());
            Stale { family, phase: Phase::Waiting(longer), until }
        };
        self.stale = kept.iter().map(stale).collect();
    }

    /// The peer is back. Returns the families whose stale routes have to go at once: the peer
    /// did not keep forwarding for them.
    pub fn handle_back(
        &mut self,
        now: Instant,
        restart: Option<&GracefulRestart>,
        long_lived: Option<&[LongLivedFamily]>,
    ) -> Vec<Family> {
        let kept = |stale: &Stale| match stale.phase {
            Phase::LongLived => long_lived
                .is_some_and(|all| all.iter().any(|f| f.family == stale.family && f.forwarding)),
            _ => restart
                .is_some_and(|gr| gr.families.iter().any(|(f, kept)| *f == stale.family && *kept)),
        };
        let (stay, go): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.stale).into_iter().partition(kept);
        let receiving = |s: Stale| Stale { phase: Phase::Receiving, until: now + STALE_TIME, ..s };
        self.stale = stay.into_iter().map(receiving).collect();
        go.into_iter().map(|s| s.family).collect()
    }

    /// The peer begins to tell all routes of a family again (RFC 7313); the table marks them.
    pub fn handle_refresh(&mut self, now: Instant, family: Family) {
        self.stale.retain(|s| s.family != family);
        self.stale.push(Stale { family, phase: Phase::Refreshing, until: now + STALE_TIME });
    }

    /// The peer has told all routes of a family again. Returns whether it has to be swept; an end
    /// without a beginning means nothing (RFC 7313, section 4).
    pub fn handle_refresh_end(&mut self, family: Family) -> bool {
        self.end(family, Phase::Refreshing)
    }

    /// The peer that is back has told all routes of a family. Returns whether it has to be swept.
    pub fn handle_end_of_rib(&mut self, family: Family) -> bool {
        self.end(family, Phase::Receiving)
    }

    fn end(&mut self, family: Family, phase: Phase) -> bool {
        let before = self.stale.len();
        self.stale.retain(|s| s.family != family || s.phase != phase);
        self.stale.len() < before
    }

    /// Returns what to do because time is over.
    pub fn handle_timeout(&mut self, now: Instant) -> Vec<(Family, Expiry)> {
        let mut expired = Vec::new();
        self.stale.retain_mut(|s| {
            if s.until > now {
                return true;
            }
            match s.phase {
                Phase::Waiting(longer) if !longer.is_zero() => {
                    s.phase = Phase::LongLived;
                    s.until = now + longer;
                    expired.push((s.family, Expiry::LongLived));
                    true
                }
                _ => {
                    expired.push((s.family, Expiry::Sweep));
                    false
                }
            }
        });
        expired
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.stale.iter().map(|s| s.until).min()
    }

    /// Whether stale routes are kept.
    pub const fn is_active(&self) -> bool {
        !self.stale.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: Family = Family::IPV4_UNICAST;
    const V6: Family = Family::IPV6_UNICAST;
    const DAY: Duration = Duration::from_secs(86_400);

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn lost(now: Instant) -> RestartHelper {
        let mut helper = RestartHelper::default();
        helper.handle_lost(now, &[(V4, 120, 0), (V6, 120, 0)], DAY);
        helper
    }

    fn back(families: &[(Family, bool)]) -> GracefulRestart {
        GracefulRestart { families: families.to_vec(), ..Default::default() }
    }

    #[test]
    fn the_table_above() {
        let now = Instant::now();
        let sweep = [(V4, Expiry::Sweep), (V6, Expiry::Sweep)];

        let mut helper = lost(now);
        assert!(helper.handle_timeout(now + seconds(119)).is_empty());
        assert_eq!(helper.handle_timeout(now + seconds(120)), sweep);
        assert!(!helper.is_active());

        let mut helper = lost(now);
        let kept = back(&[(V4, true), (V6, false)]);
        assert_eq!(helper.handle_back(now, Some(&kept), None), [V6]);
        assert!(helper.handle_end_of_rib(V4));
        assert!(!helper.handle_end_of_rib(V4));
        assert!(!helper.is_active());

        let mut helper = lost(now);
        assert_eq!(helper.handle_back(now, None, None), [V4, V6]);

        let mut helper = lost(now);
        helper.handle_back(now, Some(&back(&[(V4, true), (V6, true)])), None);
        assert_eq!(helper.handle_timeout(now + STALE_TIME), sweep);

        let mut helper = RestartHelper::default();
        assert!(!helper.handle_refresh_end(V4), "an end without a beginning");
        helper.handle_refresh(now, V4);
        assert!(!helper.handle_end_of_rib(V4), "this marks the end of something else");
        assert!(helper.handle_refresh_end(V4));
        helper.handle_refresh(now, V4);
        assert_eq!(helper.handle_timeout(now + STALE_TIME), [(V4, Expiry::Sweep)]);
    }

    #[test]
    fn long_lived_families_outlast_the_restart_time() {
        let now = Instant::now();
        let kept = [(V4, 120, 3600), (V6, 120, 0)];
        let mut helper = RestartHelper::default();
        helper.handle_lost(now, &kept, DAY);
        let at = now + seconds(120);
        assert_eq!(helper.handle_timeout(at), [(V4, Expiry::LongLived), (V6, Expiry::Sweep)]);
        assert_eq!(helper.poll_timeout(), Some(at + seconds(3600)));
        assert_eq!(helper.handle_timeout(at + seconds(3600)), [(V4, Expiry::Sweep)]);

        helper.handle_lost(now, &kept, seconds(60));
        helper.handle_timeout(at);
        assert_eq!(helper.poll_timeout(), Some(at + seconds(60)), "no longer than we allow");

        let f = |forwarding| [LongLivedFamily { family: V4, forwarding, stale_time: 3600 }];
        let mut other = helper.clone();
        assert_eq!(other.handle_back(at, Some(&back(&[])), Some(&f(false))), [V4]);
        assert!(helper.handle_back(at, Some(&back(&[])), Some(&f(true))).is_empty());
        assert!(helper.handle_end_of_rib(V4));
    }
}
