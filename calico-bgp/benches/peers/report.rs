//! What was measured, as a table with ratios.

use std::time::Duration;

use super::daemon::Daemon;
use super::measure::Usage;

/// One line of the table.
#[derive(Debug)]
struct Row {
    scenario: String,
    daemon: Daemon,
    /// `None` if it was not done in time.
    took: Option<Duration>,
    usage: Usage,
    note: String,
}

#[derive(Debug, Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
}

impl Report {
    pub(crate) fn add(
        &mut self,
        scenario: &str,
        daemon: Daemon,
        took: Option<Duration>,
        usage: Usage,
        note: String,
    ) {
        eprintln!(
            "{scenario:<28} {:<9} {:>9} s {:>8.3} CPU s {:>7.1} MB  {note}",
            daemon.name(),
            seconds(took),
            usage.cpu.as_secs_f64(),
            megabytes(usage)
        );
        self.rows.push(Row { scenario: scenario.to_owned(), daemon, took, usage, note });
    }

    /// Prints the table; ratios are ours to the best of the others.
    pub(crate) fn print(&self) {
        println!("| Scenario | Daemon | Time, s | CPU, s | Peak MB | |");
        println!("|---|---|---|---|---|---|");
        for row in &self.rows {
            println!(
                "| {} | {} | {} | {:.3} | {:.1} | {} |",
                row.scenario,
                row.daemon.name(),
                seconds(row.took),
                row.usage.cpu.as_secs_f64(),
                megabytes(row.usage),
                row.note
            );
        }
        println!("\nOurs against the best of the others (below 1 is less):\n");
        println!("| Scenario | Time | CPU | Memory |\n|---|---|---|---|");
        for ours in self.rows.iter().filter(|r| r.daemon == Daemon::Ours) {
            let others = || {
                let same = |r: &&Row| r.scenario == ours.scenario && r.daemon != Daemon::Ours;
                self.rows.iter().filter(same).filter(|r| r.took.is_some())
            };
            let ratio = |ours: f64, value: &dyn Fn(&Row) -> f64| {
                let best = others().map(value).min_by(f64::total_cmp);
                best.map_or_else(|| "-".to_owned(), |b| format!("{:.2}", ours / b))
            };
            let time = |r: &Row| r.took.map_or(f64::NAN, |t| t.as_secs_f64());
            let cpu = |r: &Row| r.usage.cpu.as_secs_f64();
            let memory = |r: &Row| megabytes(r.usage);
            println!(
                "| {} | {} | {} | {} |",
                ours.scenario,
                ratio(time(ours), &time),
                ratio(cpu(ours), &cpu),
                ratio(memory(ours), &memory)
            );
        }
    }
}

fn seconds(took: Option<Duration>) -> String {
    took.map_or_else(|| "not done".to_owned(), |t| format!("{:.5}", t.as_secs_f64()))
}

fn megabytes(usage: Usage) -> f64 {
    usage.peak as f64 / 1e6
}
