//! Random scenarios that can be had again: by their seed, and as small as they go.

use std::time::{Duration, Instant};

use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::random;
use crate::scenario::Scenario;

/// How long a failing scenario is made smaller.
const SHRINKING: Duration = Duration::from_secs(60);

/// A source of random scenarios, as their lines.
#[derive(Debug)]
pub struct Scenarios {
    runner: TestRunner,
    packets: usize,
}

impl Scenarios {
    /// Those of a seed, with so many packets each.
    #[must_use]
    pub fn of(seed: u64, packets: usize) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
        Self { runner: TestRunner::new_with_rng(Config::default(), rng), packets }
    }
}

impl Iterator for Scenarios {
    type Item = Vec<String>;

    /// They never end.
    fn next(&mut self) -> Option<Vec<String>> {
        let tree = random::scenario(self.packets).new_tree(&mut self.runner);
        Some(tree.unwrap().current())
    }
}

/// The seed that is asked for (`CALICO_DIFF_SEED`), or that of the day: each day another one, so
/// that time finds what one run does not.
///
/// # Panics
///
/// If it is no number.
#[must_use]
pub fn seed() -> u64 {
    let of_today = || {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(0, |since| since.as_secs() / 86_400)
    };
    number("CALICO_DIFF_SEED").unwrap_or_else(of_today)
}

/// A number of the environment.
///
/// # Panics
///
/// If it is something else.
#[must_use]
pub fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect(name))
}

/// Reads lines.
///
/// # Panics
///
/// If they are no scenario.
#[must_use]
pub fn scenario(lines: &[String]) -> Scenario {
    lines.join("\n").parse().unwrap_or_else(|error| panic!("{error}"))
}

/// Leaves lines out, fewer and fewer at a time, as long as it `fails`.
#[must_use]
pub fn minimise(mut lines: Vec<String>, mut fails: impl FnMut(&[String]) -> bool) -> Vec<String> {
    let started = Instant::now();
    let mut size = lines.len() / 2;
    while size > 0 && started.elapsed() < SHRINKING {
        let before = lines.len();
        let mut at = 0;
        while at < lines.len() {
            let mut fewer = lines.clone();
            fewer.drain(at..(at + size).min(lines.len()));
            if fails(&fewer) {
                lines = fewer;
            } else {
                at += size;
            }
        }
        // The last round goes on until nothing can be left out any more.
        size = if size == 1 && lines.len() < before { 1 } else { size / 2 };
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_again() {
        let of = |seed| Scenarios::of(seed, 3).take(2).collect::<Vec<_>>();
        assert_eq!(of(7), of(7));
        assert_ne!(of(7), of(8));
    }

    #[test]
    fn what_fails_is_made_small() {
        let lines: Vec<String> = (0..20).map(|n| n.to_string()).collect();
        let small = minimise(lines, |lines| {
            ["3", "17"].iter().all(|wanted| lines.iter().any(|line| line == wanted))
        });
        assert_eq!(small, ["3", "17"]);
    }
}
