//! Updates written at a pace, and when a watcher sees them.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::resource::{Usage, UsageWho, getrusage};

use super::Result;

/// What a watcher tells of: how many changes it saw just now.
pub(crate) struct Seen {
    times: Vec<Instant>,
    wanted: usize,
    /// CPU of the watcher's thread when it saw the first change, which only says that it watches.
    since: Duration,
    begun: mpsc::Sender<()>,
}

impl Seen {
    /// Notes changes; whether these were all.
    pub(crate) fn saw(&mut self, count: usize) -> bool {
        let now = Instant::now();
        if self.times.is_empty() && count > 0 {
            let _ = self.begun.send(());
            self.since = cpu(UsageWho::RUSAGE_THREAD);
        }
        self.times.extend(std::iter::repeat_n(now, count));
        self.times.len() >= self.wanted
    }
}

/// How a run went.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    /// From the first write to the last change seen.
    pub(crate) time: Duration,
    /// CPU of the watcher's thread.
    pub(crate) watcher: Duration,
    /// CPU of this process, the writer's too.
    pub(crate) process: Duration,
    /// From a write that was handed in to its change.
    lags: Vec<Duration>,
}

impl Run {
    /// The lag that this share of the changes stays below, in milliseconds.
    fn lag(&self, share: f64) -> f64 {
        self.lags[(self.lags.len() as f64 * share) as usize].as_secs_f64() * 1e3
    }
}

/// How fast to write: so many changes in each write, and the time from write to write.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    pub(crate) writes: usize,
    pub(crate) changes: usize,
    pub(crate) every: Duration,
}

/// Has `watch` watch on a thread and a runtime of its own while `write` is called at a pace. Its
/// argument counts the writes; the first, of one change, only shows that the watch is there.
pub(crate) async fn run(
    pace: Pace,
    watch: impl AsyncFnOnce(&mut Seen) -> Result<()> + Send + 'static,
    mut write: impl AsyncFnMut(usize) -> Result<()>,
) -> Result<Run> {
    let wanted = pace.writes * pace.changes + 1;
    let (begun, begins) = mpsc::channel();
    let watcher = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let mut seen =
            Seen { times: Vec::with_capacity(wanted), wanted, since: Duration::ZERO, begun };
        let runtime = runtime.map_err(|error| error.to_string())?;
        runtime.block_on(watch(&mut seen)).map_err(|error| error.to_string())?;
        Ok::<_, String>((seen.times, cpu(UsageWho::RUSAGE_THREAD) - seen.since))
    });
    // The watch may not be open yet, but it goes on from a revision before.
    write(0).await?;
    while begins.try_recv().is_err() {
        if watcher.is_finished() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // etcd and others sort out what came late; the pace begins in quiet.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let (mut written, process) = (Vec::new(), cpu(UsageWho::RUSAGE_SELF));
    let start = Instant::now();
    for n in 0..pace.writes {
        let due = start + pace.every * n as u32;
        tokio::time::sleep_until(due.into()).await;
        written.push(Instant::now());
        write(n + 1).await?;
    }
    while !watcher.is_finished() {
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
    let process = cpu(UsageWho::RUSAGE_SELF) - process;
    let (times, watcher) = watcher.join().map_err(|_panic| "the watcher panicked")??;
    let lag = |(n, seen): (usize, &Instant)| seen.duration_since(written[n / pace.changes]);
    let mut lags: Vec<_> = times[1..].iter().take(wanted - 1).enumerate().map(lag).collect();
    lags.sort_unstable();
    let time = times[wanted - 1].duration_since(start);
    Ok(Run { time, watcher, process, lags })
}

/// Prints a line for each, and what is between them.
pub(crate) fn print(what: &str, runs: &[Run; 2], cpu_of: fn(&Run) -> Duration) {
    for (name, run) in ["raw", "ours"].iter().zip(runs) {
        let rate = run.lags.len() as f64 / run.time.as_secs_f64();
        let share = cpu_of(run).as_secs_f64() / run.time.as_secs_f64() * 100.0;
        println!(
            "{what}, {name:<4} {rate:>6.0}/s, lag p50 {:>6.2} ms, p99 {:>6.2} ms, CPU {share:>5.1} %",
            run.lag(0.5),
            run.lag(0.99),
        );
    }
    let [raw, ours] = runs.each_ref().map(|run| cpu_of(run).as_secs_f64());
    println!("{what}: CPU {:.2} of raw", ours / raw);
}

pub(crate) fn cpu(who: UsageWho) -> Duration {
    let usage = getrusage(who).expect("a process may ask for its usage");
    let of = |time: fn(&Usage) -> nix::sys::time::TimeVal| {
        let time = time(&usage);
        Duration::new(time.tv_sec() as u64, time.tv_usec() as u32 * 1_000)
    };
    of(Usage::user_time) + of(Usage::system_time)
}
