//! `policy`: what becomes of packets, and what a change would do to them.

mod diff;
mod ends;
mod explain;
mod foreign;
mod log;
mod names;
mod parts;
mod services;
mod state;
mod unknown;

use std::io::Read;

use calico_core::dataplane::Verdict;

use crate::cli::{PolicyCommand, StateArgs, VerdictName};
use crate::failure::Failure;
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
            let format = format(&state.output)?;
            let state = load(store, &state).await?;
            explain::run(state, &ends::Query { from, to, source_port, ipv6 }, format)
        }
        PolicyCommand::Diff { filename, recursive, namespace, state } => {
            let format = format(&state.output)?;
            let mut changes = foreign::read(&filename, recursive, false, stdin)?;
            for resource in &mut changes.resources {
                place(resource, namespace.as_deref())?;
            }
            let mut state = load(store, &state).await?;
            state.warnings.extend(changes.notes);
            diff::run(state, &changes.resources, format)
        }
        PolicyCommand::Log { follow, pod, policy, verdict, output, agent } => {
            let verdicts = verdict.into_iter().map(Verdict::from).collect();
            let filter = log::Filter { pods: pod, policies: policy, verdicts };
            let format = format(&output)?;
            let request = log::Request { follow, filter, format, socket: agent.control_socket };
            log::run(store, &request).await.map(|()| Said::default())
        }
    }
}

async fn load(store: Open<'_>, args: &StateArgs) -> Result<State, Failure> {
    match &args.offline {
        Some(directory) => {
            let found = foreign::read(directory, true, true, &mut std::io::empty())?;
            let mut state = State::of_files(found.resources)?;
            state.warnings.extend(found.notes);
            Ok(state)
        }
        None => State::of_store(&*store()?).await,
    }
}

impl From<VerdictName> for Verdict {
    fn from(name: VerdictName) -> Self {
        match name {
            VerdictName::Allowed => Self::Allowed,
            VerdictName::Denied => Self::Denied,
            VerdictName::Logged => Self::Logged,
        }
    }
}

fn format(output: &str) -> Result<Format, Failure> {
    match output {
        "text" => Ok(Format::Text),
        "json" => Ok(Format::Json),
        other => Err(Failure::Usage(format!("unknown output format {other:?}; use text or json"))),
    }
}
