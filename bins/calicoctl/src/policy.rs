//! `policy`: what becomes of packets, and what a change would do to them.

mod diff;
mod ends;
mod explain;
mod state;

use std::io::Read;

use crate::cli::{PolicyCommand, StateArgs};
use crate::failure::Failure;
use crate::input;
use crate::run::{Open, Said};
use crate::stored::place;
use state::State;

/// How an answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Text,
    Json,
}

/// Carries out a command.
pub(crate) async fn run(
    store: Open<'_>,
    command: PolicyCommand,
    stdin: &mut dyn Read,
) -> Result<Said, Failure> {
    match command {
        PolicyCommand::Explain { from, to, source_port, ipv6, state } => {
            let format = format(&state)?;
            let state = load(store, &state).await?;
            explain::run(state, &ends::Query { from, to, source_port, ipv6 }, format)
        }
        PolicyCommand::Diff { filename, recursive, namespace, state } => {
            let format = format(&state)?;
            let mut changes = input::read(&filename, recursive, false, stdin)?;
            for resource in &mut changes {
                place(resource, namespace.as_deref())?;
            }
            diff::run(load(store, &state).await?, &changes, format)
        }
    }
}

async fn load(store: Open<'_>, args: &StateArgs) -> Result<State, Failure> {
    match &args.offline {
        Some(directory) => {
            let resources = input::read(directory, true, true, &mut std::io::empty())?;
            State::of_files(resources)
        }
        None => State::of_store(&*store()?).await,
    }
}

fn format(args: &StateArgs) -> Result<Format, Failure> {
    match args.output.as_str() {
        "text" => Ok(Format::Text),
        "json" => Ok(Format::Json),
        other => Err(Failure::Usage(format!("unknown output format {other:?}; use text or json"))),
    }
}
