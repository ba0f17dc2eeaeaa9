//! What is played.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::daemon::{Daemon, Running, client};
use super::load::Load;
use super::measure::{Usage, usage};
use super::report::Report;
use super::routes::{Sharing, announcements, withdrawals};

/// Longest time for sessions to come up.
const SESSIONS: Duration = Duration::from_secs(60);
/// Longest time for one step.
const STEP: Duration = Duration::from_secs(120);
/// Time in which whatever a daemon does after a step is still counted.
const SETTLE: Duration = Duration::from_millis(300);
const HOLD: u16 = 180;
/// Sessions that come up at once where that is not what is measured.
const PACED: usize = 8;

#[derive(Debug, Clone, Copy)]
pub(crate) enum Scenario {
    /// Few sessions, few routes, all to all.
    Small,
    /// Many sessions, few routes, all to all.
    Wide,
    /// Two senders with half a million routes each, to ten clients.
    Full,
    /// One route that changes all the time.
    Churn,
    /// Sessions and no routes.
    Idle,
}

impl Scenario {
    pub(crate) const ALL: [Self; 5] =
        [Self::Small, Self::Wide, Self::Full, Self::Churn, Self::Idle];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Small => "small",
            Self::Wide => "wide",
            Self::Full => "full",
            Self::Churn => "churn",
            Self::Idle => "idle",
        }
    }

    pub(crate) fn play(self, daemon: Daemon, report: &mut Report) {
        match self {
            Self::Small => reflect("100 clients x 10", daemon, report, 100, 100, 10),
            Self::Wide => reflect("1,000 clients x 4", daemon, report, 1000, 1000, 4),
            Self::Full => reflect("2 x 500,000 to 10", daemon, report, 12, 2, 500_000),
            Self::Churn => churn(daemon, report, 100, 300),
            Self::Idle => idle(daemon, report, 1000),
        }
    }
}

/// The first `senders` clients announce `each` prefixes, then withdraw them.
fn reflect(
    name: &str,
    daemon: Daemon,
    report: &mut Report,
    clients: usize,
    senders: usize,
    each: usize,
) {
    let total = senders * each;
    let sharing = if each > 1000 { Sharing::Internet } else { Sharing::One };
    let own = |n: usize| if n < senders { n * each..(n + 1) * each } else { 0..0 };
    let running = daemon.start(clients);
    let mut load = Load::new(clients, total, HOLD, PACED);
    (0..clients).for_each(|n| load.set_own(n, own(n)));
    if load.run(SESSIONS, Load::all_established).is_none() {
        let note = format!("{} of {clients} sessions", load.established());
        report.add(name, daemon, None, usage(running.pid()), note);
        return;
    }
    load.rest(daemon.quiet_time());
    let there: Vec<Arc<[u8]>> =
        (0..senders).map(|n| announcements(own(n), client(n), sharing).into()).collect();
    let done = step(name, daemon, report, &running, &mut load, &there, total);
    if done {
        let gone: Vec<Arc<[u8]>> = (0..senders).map(|n| withdrawals(own(n)).into()).collect();
        let name = format!("{name}, withdrawn");
        step(&name, daemon, report, &running, &mut load, &gone, 0);
    }
}

/// Sends, waits until all clients hold `total` prefixes less their own, and notes what it took.
fn step(
    name: &str,
    daemon: Daemon,
    report: &mut Report,
    running: &Running,
    load: &mut Load,
    bytes: &[Arc<[u8]>],
    total: usize,
) -> bool {
    let before = usage(running.pid());
    let start = Instant::now();
    for (n, bytes) in bytes.iter().enumerate() {
        load.send(n, bytes);
    }
    let losses = load.losses();
    let complete = |l: &Load| match total {
        0 => l.held() == 0,
        _ => l.all_hold(total),
    };
    let done = load.run(STEP, |l| complete(l) || l.losses() > losses).filter(|_| complete(load));
    load.rest(SETTLE);
    let after = usage(running.pid());
    let note = match done {
        Some(_) => String::new(),
        None => format!("{} routes, {} sessions lost", load.held(), load.losses() - losses),
    };
    let took = done.map(|at| at - start);
    let used = Usage { cpu: after.cpu.saturating_sub(before.cpu), peak: after.peak };
    report.add(name, daemon, took, used, note);
    took.is_some()
}

/// A route comes and goes; measured is the time until the last client has heard.
fn churn(daemon: Daemon, report: &mut Report, clients: usize, changes: usize) {
    let name = "Churn to the last of 100";
    let total = clients * 10;
    let running = daemon.start(clients);
    let mut load = Load::new(clients, total, HOLD, PACED);
    (0..clients).for_each(|n| load.set_own(n, n * 10..n * 10 + 10));
    if load.run(SESSIONS, Load::all_established).is_none() {
        return report.add(name, daemon, None, usage(running.pid()), "no sessions".to_owned());
    }
    for n in 0..clients {
        load.send(n, &announcements(n * 10..n * 10 + 10, client(n), Sharing::One).into());
    }
    if load.run(STEP, |l| l.all_hold(total)).is_none() {
        return report.add(name, daemon, None, usage(running.pid()), "no routes".to_owned());
    }
    load.rest(Duration::from_secs(1));
    let there: Arc<[u8]> = announcements(0..1, client(0), Sharing::One).into();
    let gone: Arc<[u8]> = withdrawals(0..1).into();
    let all = load.held();
    load.stay_awake();
    let before = usage(running.pid());
    let mut times = Vec::new();
    for change in 0..changes {
        let withdrawn = change % 2 == 0;
        let start = Instant::now();
        load.send(0, if withdrawn { &gone } else { &there });
        let expected = if withdrawn { all - (clients - 1) } else { all };
        match load.run(Duration::from_secs(5), |l| l.held() == expected) {
            Some(at) => times.push(at - start),
            None => {
                return report.add(name, daemon, None, usage(running.pid()), "lost".to_owned());
            }
        }
        load.rest(Duration::from_millis(10));
    }
    let after = usage(running.pid());
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    let note = format!("p90 {:?}, p99 {:?}, most {:?}", at(0.9), at(0.99), at(1.0));
    let used = Usage { cpu: after.cpu.saturating_sub(before.cpu), peak: after.peak };
    report.add(name, daemon, Some(at(0.5)), used, note);
}

/// All sessions at once, then 9 seconds of KEEPALIVEs every three.
fn idle(daemon: Daemon, report: &mut Report, clients: usize) {
    let running = daemon.start(clients);
    let before = usage(running.pid());
    let mut load = Load::new(clients, 0, 9, clients);
    let start = Instant::now();
    let up = load.run(SESSIONS, Load::all_established);
    let after = usage(running.pid());
    let note = format!("{} sessions", load.established());
    let used = Usage { cpu: after.cpu.saturating_sub(before.cpu), peak: after.peak };
    report.add("1,000 sessions at once", daemon, up.map(|at| at - start), used, note);
    if up.is_none() {
        return;
    }
    let (before, heard) = (usage(running.pid()), load.keepalives());
    load.rest(Duration::from_secs(9));
    let after = usage(running.pid());
    let note = format!("{} KEEPALIVEs received", load.keepalives() - heard);
    let used = Usage { cpu: after.cpu.saturating_sub(before.cpu), peak: after.peak };
    report.add("1,000 sessions idle, 9 s", daemon, Some(Duration::from_secs(9)), used, note);
}
