//! Times of many calls, and how they are printed.

use std::time::Duration;

/// Times of one way to do it.
#[derive(Debug, Default)]
pub(super) struct Times(pub(super) Vec<Duration>);

impl Times {
    pub(super) fn quantile(&self, part: f64) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        // A position inside of the list, so neither truncation nor sign can bite.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "see above")]
        let at = (sorted.len().saturating_sub(1) as f64 * part) as usize;
        sorted.get(at).copied().unwrap_or_default()
    }

    pub(super) fn p50(&self) -> Duration {
        self.quantile(0.5)
    }

    pub(super) fn p99(&self) -> Duration {
        self.quantile(0.99)
    }
}

/// One way, and how many times as long it takes as `base` and as the `floor`.
pub(super) fn line(what: &str, times: &Times, bases: &[&Times]) {
    print!("{what:<40} {:>9} {:>9}", millis(times.p50()), millis(times.p99()));
    for base in bases {
        print!(" {:>8.2} x", ratio(times.p50(), base.p50()));
    }
    println!();
}

pub(super) fn goal(what: &str, found: &str, wanted: &str, met: bool) {
    let verdict = if met { "met" } else { "MISSED" };
    println!("{what:<40} {found:>22}   goal: {wanted}: {verdict}");
}

/// A goal of at most so many times as long.
pub(super) fn at_most(what: &str, found: Duration, base: Duration, limit: f64) {
    let found = ratio(found, base);
    goal(what, &format!("{found:.2} x"), &format!("at most {limit} x"), found <= limit);
}

pub(super) fn millis(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1e3)
}

pub(super) fn ratio(a: Duration, b: Duration) -> f64 {
    a.as_secs_f64() / b.as_secs_f64()
}
