//! Plays all scenarios with a daemon, once, however many tests ask for the results.

use std::sync::{Condvar, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use super::daemons::Kind;
use super::feature::Feature;
use super::scenarios::{SCENARIOS, Scenario};
use super::stage::Stage;

/// Scenarios that are played at a time: they mostly wait for each other's timers.
const AT_ONCE: usize = 8;

/// What came out with one daemon.
pub(crate) struct Results {
    pub(crate) version: String,
    /// Scenarios that failed: name and last words.
    failed: Vec<(&'static Scenario, String)>,
}

impl Results {
    pub(crate) fn failures(&self) -> Vec<String> {
        self.failed.iter().map(|(s, why)| format!("{}: {why}", s.name)).collect()
    }

    /// Whether a scenario that vouches for a feature failed.
    pub(crate) fn failed(&self, feature: Feature) -> bool {
        self.failed.iter().any(|(s, _)| s.features.contains(&feature))
    }
}

/// The results with a daemon; plays all scenarios if nobody has yet.
pub(crate) fn results(kind: Kind) -> &'static Results {
    static RESULTS: [OnceLock<Results>; Kind::ALL.len()] =
        [const { OnceLock::new() }; Kind::ALL.len()];
    let at = Kind::ALL.iter().position(|k| *k == kind).expect("one of them");
    RESULTS[at].get_or_init(|| play_all(kind))
}

fn play_all(kind: Kind) -> Results {
    let version = kind.version_family();
    let only = std::env::var("SCENARIO").ok();
    let wanted = |s: &&'static Scenario| {
        let possible = s.features.iter().any(|f| kind.support(*f).is_there());
        (possible || s.even_if_lacking) && only.as_ref().is_none_or(|o| s.name.contains(o.as_str()))
    };
    let start = |scenario: &'static Scenario| {
        let name = format!("{}: {}", kind.name(), scenario.name);
        let thread = std::thread::Builder::new().name(name);
        (scenario, thread.spawn(move || play(kind, scenario)).expect("start a thread"))
    };
    let threads: Vec<_> = SCENARIOS.iter().filter(wanted).map(start).collect();
    let failed = threads.into_iter().filter_map(|(scenario, thread)| {
        let panic = thread.join().err()?;
        let words = panic.downcast_ref::<String>().cloned();
        let words = words.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        let words = words.unwrap_or_default();
        Some((scenario, words.lines().next().unwrap_or_default().to_owned()))
    });
    Results { version, failed: failed.collect() }
}

fn play(kind: Kind, scenario: &Scenario) {
    let _turn = Turn::take();
    let start = Instant::now();
    let stage = Stage::enter(kind);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on((scenario.play)(stage));
    println!("{}: {}: {:.1} s", kind.name(), scenario.name, start.elapsed().as_secs_f64());
}

/// A place among those that are played at once.
struct Turn;

static FREE: Mutex<usize> = Mutex::new(AT_ONCE);
static FREED: Condvar = Condvar::new();

impl Turn {
    fn take() -> Self {
        let free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        let free = FREED.wait_while(free, |free| *free == 0);
        *free.unwrap_or_else(PoisonError::into_inner) -= 1;
        Self
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *FREE.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        FREED.notify_one();
    }
}
