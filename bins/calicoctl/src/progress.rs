//! A line that tells how far long work is: on a terminal, and only there.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

/// Work shorter than this is not worth a line.
const QUIET: Duration = Duration::from_millis(300);
const PAUSE: Duration = Duration::from_millis(100);

/// Tells how far some work is, on the standard error.
#[derive(Debug)]
pub(crate) struct Progress {
    what: &'static str,
    enabled: bool,
    last: Instant,
    shown: bool,
}

impl Progress {
    pub(crate) fn new(what: &'static str) -> Self {
        let enabled = io::stderr().is_terminal();
        Self { what, enabled, last: Instant::now() + QUIET, shown: false }
    }

    /// `done` of `all` are done.
    pub(crate) fn at(&mut self, done: usize, all: usize) {
        if self.enabled && Instant::now() >= self.last {
            self.last = Instant::now() + PAUSE;
            self.shown = true;
            // Nothing depends on it.
            let _ = write!(io::stderr(), "\r{}: {done} of {all}\x1b[K", self.what);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}
