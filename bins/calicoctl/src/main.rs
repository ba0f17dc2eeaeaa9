//! Command line client for Calico: resources, IP addresses, and the state of this node.
//!
//! `cli` says what can be asked, `run` does it, and everything that fails is a `failure`: its
//! text goes to the standard error, and the exit code is 1 (of `diff`: 2, where 1 is a difference; of
//! `endpoint wait`: 2 if time is up).

mod admit;
mod bgp;
mod cascade;
mod change;
mod cli;
mod cluster;
mod cluster_diags;
mod datastore;
mod diff;
mod dry_run;
mod endpoint;
mod failure;
mod get;
mod input;
mod ipam;
mod label;
mod node;
mod output;
mod patch;
mod policy;
mod progress;
mod run;
mod settings;
mod shell;
mod stored;
mod version;

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};

use crate::failure::Failure;

/// `diff` found a difference.
const DIFFERS: u8 = 1;
/// `diff` failed; for every other command a failure is 1.
const DIFF_FAILED: u8 = 2;
/// Time was up before what was waited for came.
const NOT_IN_TIME: u8 = 2;

fn main() -> ExitCode {
    let command = cli::Cli::command().bin_name(shell::own_name());
    let cli = command.try_get_matches().and_then(|matches| cli::Cli::from_arg_matches(&matches));
    let cli = match cli {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way too; nobody is left to tell if it cannot be printed.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        }
    };
    let failed = match cli.command {
        cli::Command::Diff { .. } => ExitCode::from(DIFF_FAILED),
        _ => ExitCode::FAILURE,
    };
    match start(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Differs(text)) => match print(&text) {
            Ok(()) => ExitCode::from(DIFFERS),
            Err(_) => failed,
        },
        Err(failure) => {
            let failure = match failure {
                Failure::Rest { out, source } => print(&out).err().unwrap_or(*source),
                other => other,
            };
            eprintln!("{}", with_causes(&failure));
            if matches!(failure, Failure::NotInTime(_)) { NOT_IN_TIME.into() } else { failed }
        }
    }
}

fn start(cli: cli::Cli) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let said = runtime.block_on(run::run(cli, &mut io::stdin()))?;
    for warning in said.warnings {
        eprintln!("{warning}");
    }
    print(&said.out)
}

fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // The reader has seen enough, as `head` has.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}

/// The failure and, after colons, what caused it.
fn with_causes(failure: &Failure) -> String {
    let mut text = failure.to_string();
    // A partial success says its cause itself.
    let mut cause = match failure {
        Failure::Partial { source, .. } => source.source(),
        other => other.source(),
    };
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
