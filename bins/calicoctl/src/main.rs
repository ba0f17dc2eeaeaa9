//! Command line client for Calico: resources, IP addresses, and the state of this node.
//!
//! `cli` says what can be asked, `run` does it, and everything that fails is a `failure`: its
//! text goes to the standard error, and the exit code is 1.

mod cascade;
mod change;
mod cli;
mod failure;
mod get;
mod input;
mod ipam;
mod label;
mod node;
mod output;
mod policy;
mod run;
mod settings;
mod stored;
mod version;

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;

use crate::failure::Failure;

fn main() -> ExitCode {
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way too; nobody is left to tell if it cannot be printed.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        }
    };
    match start(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{}", with_causes(&failure));
            ExitCode::FAILURE
        }
    }
}

fn start(cli: cli::Cli) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let said = runtime.block_on(run::run(cli, &mut io::stdin()))?;
    for warning in said.warnings {
        eprintln!("{warning}");
    }
    let mut out = io::stdout().lock();
    match out.write_all(said.out.as_bytes()).and_then(|()| out.flush()) {
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
