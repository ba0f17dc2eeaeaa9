//! Graceful restart, helper side (RFC 4724, section 4.2), for one peer. Pure: events in,
//! families to sweep out.
//!
//! | state     | event               | sweeps                             | next      |
//! |-----------|---------------------|------------------------------------|-----------|
//! | Normal    | lost, keeping *F*   | nothing                            | Waiting   |
//! | Waiting   | lost again          | nothing (the table has done it)    | Waiting   |
//! | Waiting   | back                | families whose state was not kept  | Receiving |
//! | Waiting   | restart time over   | all                                | Normal    |
//! | Receiving | End-of-RIB          | that family                        | until none is left |
//! | Receiving | stale time over     | all                                | Normal    |

use std::time::{Duration, Instant};

use crate::wire::{Family, GracefulRestart};

/// Longest time that a peer that is back may take to tell all its routes.
const STALE_TIME: Duration = Duration::from_secs(360);

/// Which families of a peer hold stale routes, and until when.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RestartHelper {
    stale: Vec<Family>,
    until: Option<Instant>,
}

impl RestartHelper {
    /// The session was lost and the routes of `families` are kept.
    pub fn handle_lost(&mut self, now: Instant, families: Vec<Family>, restart_time: u16) {
        self.until = (!families.is_empty()).then(|| now + Duration::from_secs(restart_time.into()));
        self.stale = families;
    }

    /// The peer is back. Returns the families whose stale routes have to go at once: the peer
    /// did not keep forwarding for them.
    pub fn handle_back(&mut self, now: Instant, peer: Option<&GracefulRestart>) -> Vec<Family> {
        let kept = |family: &Family| {
            peer.is_some_and(|gr| gr.families.iter().any(|(f, kept)| f == family && *kept))
        };
        let (stay, go) = std::mem::take(&mut self.stale).into_iter().partition(kept);
        self.stale = stay;
        self.until = (!self.stale.is_empty()).then(|| now + STALE_TIME);
        go
    }

    /// The peer has told all routes of a family. Returns whether it has to be swept.
    pub fn handle_end_of_rib(&mut self, family: Family) -> bool {
        let before = self.stale.len();
        self.stale.retain(|f| *f != family);
        if self.stale.is_empty() {
            self.until = None;
        }
        self.stale.len() < before
    }

    /// Returns the families to sweep because time is over.
    pub fn handle_timeout(&mut self, now: Instant) -> Vec<Family> {
        if self.until.is_none_or(|at| at > now) {
            return Vec::new();
        }
        self.until = None;
        std::mem::take(&mut self.stale)
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called.
    pub const fn poll_timeout(&self) -> Option<Instant> {
        self.until
    }

    /// Whether stale routes are kept.
    pub const fn is_active(&self) -> bool {
        self.until.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: Family = Family::IPV4_UNICAST;
    const V6: Family = Family::IPV6_UNICAST;

    fn lost(now: Instant) -> RestartHelper {
        let mut helper = RestartHelper::default();
        helper.handle_lost(now, vec![V4, V6], 120);
        helper
    }

    #[test]
    fn the_table_above() {
        let now = Instant::now();
        let gr = |families: Vec<(Family, bool)>| GracefulRestart { families, ..Default::default() };

        let mut helper = lost(now);
        assert!(helper.handle_timeout(now + Duration::from_secs(119)).is_empty());
        assert_eq!(helper.handle_timeout(now + Duration::from_secs(120)), [V4, V6]);
        assert!(!helper.is_active());

        let mut helper = lost(now);
        assert_eq!(helper.handle_back(now, Some(&gr(vec![(V4, true), (V6, false)]))), [V6]);
        assert!(helper.handle_end_of_rib(V4));
        assert!(!helper.handle_end_of_rib(V4));
        assert!(!helper.is_active());

        let mut helper = lost(now);
        assert_eq!(helper.handle_back(now, None), [V4, V6]);

        let mut helper = lost(now);
        helper.handle_back(now, Some(&gr(vec![(V4, true), (V6, true)])));
        assert_eq!(helper.handle_timeout(now + STALE_TIME), [V4, V6]);
    }
}
