//! What the parts of a program say of themselves.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use crate::Page;

/// What a part says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// It makes progress; if not, it helps to start the program anew.
    pub live: bool,
    /// It does what it is for.
    pub ready: bool,
    /// For people.
    pub detail: String,
}

impl Report {
    /// Everything is as it should be.
    #[must_use]
    pub const fn ready() -> Self {
        Self { live: true, ready: true, detail: String::new() }
    }

    /// It is on its way, or waits for something.
    pub fn not_ready(detail: impl Into<String>) -> Self {
        Self { live: true, ready: false, detail: detail.into() }
    }
}

/// The parts of a program, and what they said last.
#[derive(Debug, Default)]
pub struct Health {
    parts: BTreeMap<String, Part>,
}

#[derive(Debug)]
struct Part {
    timeout: Duration,
    said: Option<Report>,
    at: Instant,
}

/// The state of all parts at one moment, for one question.
#[derive(Debug, Clone)]
pub struct Verdict {
    good: bool,
    rows: Vec<[String; 5]>,
}

impl Health {
    /// A part reports at least once within `timeout`, beginning at `now`; zero is no limit.
    pub fn register(&mut self, name: &str, timeout: Duration, now: Instant) {
        self.parts.insert(name.to_owned(), Part { timeout, said: None, at: now });
    }

    /// A part has another time to report within, from now on.
    pub fn set_timeout(&mut self, name: &str, timeout: Duration) {
        if let Some(part) = self.parts.get_mut(name) {
            part.timeout = timeout;
        }
    }

    /// What a part says. One that is not registered is ignored.
    pub fn report(&mut self, name: &str, report: Report, now: Instant) {
        if let Some(part) = self.parts.get_mut(name) {
            (part.said, part.at) = (Some(report), now);
        }
    }

    /// Whether the program makes progress. A part that has yet to report does, until it is late.
    #[must_use]
    pub fn liveness(&self, now: Instant) -> Verdict {
        self.verdict(now, |part| !part.late(now) && part.said.as_ref().is_none_or(|said| said.live))
    }

    /// Whether the program does what it is for.
    #[must_use]
    pub fn readiness(&self, now: Instant) -> Verdict {
        self.verdict(now, |part| {
            !part.late(now) && part.said.as_ref().is_some_and(|said| said.ready)
        })
    }

    fn verdict(&self, now: Instant, is_good: impl Fn(&Part) -> bool) -> Verdict {
        let rows = self.parts.iter().map(|(name, part)| part.row(name, now)).collect();
        Verdict { good: self.parts.values().all(is_good), rows }
    }
}

impl Part {
    fn late(&self, now: Instant) -> bool {
        !self.timeout.is_zero() && now.saturating_duration_since(self.at) > self.timeout
    }

    fn row(&self, name: &str, now: Instant) -> [String; 5] {
        let say = |is: fn(&Report) -> bool, yes: &str, no: &str| match &self.said {
            _ if self.late(now) => "timed out".to_owned(),
            None => "no report yet".to_owned(),
            Some(said) => format!("reporting {}", if is(said) { yes } else { no }),
        };
        let timeout = match self.timeout {
            Duration::ZERO => "-".to_owned(),
            timeout => format!("{timeout:?}"),
        };
        [
            name.to_owned(),
            timeout,
            say(|said| said.live, "live", "non-live"),
            say(|said| said.ready, "ready", "non-ready"),
            self.said.as_ref().map(|said| said.detail.clone()).unwrap_or_default(),
        ]
    }
}

impl Verdict {
    /// Whether all is well.
    #[must_use]
    pub const fn is_good(&self) -> bool {
        self.good
    }

    /// As upstream: 200, 204 if there are no parts, 503 if something is wrong.
    #[must_use]
    pub const fn status(&self) -> u16 {
        match (self.good, self.rows.is_empty()) {
            (false, _) => 503,
            (true, true) => 204,
            (true, false) => 200,
        }
    }

    /// As an answer to a probe.
    #[must_use]
    pub fn page(&self) -> Page {
        Page::text(self.status(), self.to_string())
    }
}

/// A table, as upstream's.
impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.rows.is_empty() {
            return Ok(());
        }
        let head = ["COMPONENT", "TIMEOUT", "LIVENESS", "READINESS", "DETAIL"].map(str::to_owned);
        let rows = || std::iter::once(&head).chain(&self.rows);
        let widths: [usize; 5] = std::array::from_fn(|column| {
            rows().map(|row| row[column].chars().count()).max().unwrap_or_default()
        });
        let rule = |f: &mut fmt::Formatter<'_>| {
            widths.iter().try_for_each(|width| write!(f, "+{:-<1$}", "", width + 2))?;
            writeln!(f, "+")
        };
        rule(f)?;
        for (index, row) in rows().enumerate() {
            for (cell, width) in row.iter().zip(widths) {
                write!(f, "| {cell:width$} ")?;
            }
            writeln!(f, "|")?;
            if index == 0 {
                rule(f)?;
            }
        }
        rule(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn one_bad_part_decides() {
        let (now, mut health) = (Instant::now(), Health::default());
        assert_eq!(health.liveness(now).status(), 204);
        health.register("A", 10 * SECOND, now);
        health.register("B", Duration::ZERO, now);
        health.report("A", Report::ready(), now);
        health.report("nobody", Report::default(), now);
        assert_eq!((health.liveness(now).status(), health.readiness(now).status()), (200, 503));
        health.report("B", Report::not_ready("waits for A"), now);
        assert_eq!((health.liveness(now).status(), health.readiness(now).status()), (200, 503));
        health.report("B", Report::ready(), now);
        assert_eq!(health.readiness(now).status(), 200);
        assert_eq!(health.readiness(now + 10 * SECOND).status(), 200);
        assert_eq!(health.liveness(now + 11 * SECOND).status(), 503, "A is late");
    }

    #[test]
    fn the_table_is_for_people() {
        let (now, mut health) = (Instant::now(), Health::default());
        health.register("Datastore", 90 * SECOND, now);
        health.register("Graph", Duration::ZERO, now);
        health.report("Graph", Report::not_ready("lists the datastore"), now);
        let expected = "\
+-----------+---------+----------------+---------------------+---------------------+
| COMPONENT | TIMEOUT | LIVENESS       | READINESS           | DETAIL              |
+-----------+---------+----------------+---------------------+---------------------+
| Datastore | 90s     | no report yet  | no report yet       |                     |
| Graph     | -       | reporting live | reporting non-ready | lists the datastore |
+-----------+---------+----------------+---------------------+---------------------+
";
        assert_eq!(health.readiness(now).to_string(), expected);
    }
}
