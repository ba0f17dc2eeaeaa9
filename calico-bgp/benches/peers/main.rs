//! Our speaker against BIRD 2, FRR, GoBGP and OpenBGPD, in one run.
//!
//! `cargo bench -p calico-bgp --bench peers` starts each of them as a route reflector on loopback
//! addresses of a network namespace of its own, plays the scenarios, and prints what each took:
//! the time from the first UPDATE until every receiver is complete, CPU seconds of the daemon,
//! and its peak resident memory. Arguments after `--` select: names of daemons (`ours`, `bird`,
//! `frr`, `gobgp`, `openbgpd`) and of scenarios (`small`, `wide`, `full`, `churn`, `idle`).
//!
//! It needs root, and the Debian packages bird2, frr, gobgpd and openbgpd. The load comes from
//! one thread of this process, and its CPU is not counted.

#![expect(clippy::unwrap_used, reason = "a bench that cannot go on must stop")]

mod daemon;
mod load;
mod measure;
mod report;
mod routes;
mod scenario;
mod speaker;

use std::process::Command;

use daemon::Daemon;
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use report::Report;
use scenario::Scenario;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [role, clients] = &arguments[..]
        && role == speaker::ROLE
    {
        return speaker::run(clients.parse().unwrap());
    }
    if !arguments.iter().any(|a| a == "--bench") {
        println!("measures only under `cargo bench`");
        return;
    }
    enter_namespace();
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    let asked = |name: &str, all: &[&str]| {
        let any = all.iter().any(|n| arguments.iter().any(|a| a == n));
        !any || arguments.iter().any(|a| a == name)
    };
    let daemon_names: Vec<&str> = Daemon::ALL.iter().map(|d| d.name()).collect();
    let scenario_names: Vec<&str> = Scenario::ALL.iter().map(|s| s.name()).collect();
    let mut report = Report::default();
    for scenario in Scenario::ALL.iter().filter(|s| asked(s.name(), &scenario_names)) {
        for daemon in Daemon::ALL.iter().filter(|d| asked(d.name(), &daemon_names)) {
            scenario.play(*daemon, &mut report);
        }
    }
    report.print();
}

/// Nothing here may touch the host's own network.
fn enter_namespace() {
    unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace needs root");
    for command in ["link set lo up", "addr add 10.0.0.1/8 dev lo"] {
        let status = Command::new("ip").args(command.split(' ')).status();
        assert!(status.is_ok_and(|s| s.success()), "ip {command}: is iproute2 installed?");
    }
}
